"""Make docs/report.png anew: `python -m tests.report_picture`, from a real run over parts of the demo's photos."""

from pathlib import Path

from pipeline.config import load_config
from pipeline.demo.show import demo_config
from pipeline.run import run
from pipeline.run_records import RunRequest
from tests.browser import DESKTOP, opened
from tests.pictures import demo_night

PICTURE = Path(__file__).parent.parent / "docs" / "report.png"
_HEIGHT = 1672
"""Pixels of the page that the picture shows."""


def main() -> None:
    """Score, open the report, and keep what it looks like."""
    with demo_night() as folder:
        request = RunRequest(load_config(demo_config()), [str(folder / "photos")], str(folder / "scores"), "2026-11-22")
        report = run(request).report
        if report is None:
            raise RuntimeError("the run has left no report; the log says why")
        with opened(Path(report), DESKTOP) as seen:
            seen.cut(PICTURE, _HEIGHT)
            seen.keep("picture.png")


if __name__ == "__main__":
    main()
