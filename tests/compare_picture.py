"""Make docs/compare.png anew: `python -m tests.compare_picture`, from two real runs over parts of the demo's photos."""

from pathlib import Path

from pipeline.after.compare import compare
from pipeline.after.compare_page import comparison_page
from pipeline.after.published import find_run
from pipeline.config import load_config
from pipeline.demo.show import demo_config
from pipeline.run import run
from pipeline.run_records import RunRequest
from tests.browser import DESKTOP, opened
from tests.pictures import demo_night

PICTURE = Path(__file__).parent.parent / "docs" / "compare.png"
_PARTS = 40
"""Of each photo."""
_HEIGHT = 1310
"""Pixels of the page that the picture shows."""
_OTHER_FAMILY = (
    "preprocess.value_range=0_1",
    "preprocess.mean=[0.485, 0.456, 0.406]",
    "preprocess.std=[0.229, 0.224, 0.225]",
)
"""What the second night does wrong: the mean and std of another family of models."""


def main() -> None:
    """Score twice, open the comparison, and keep what it looks like."""
    with demo_night(_PARTS) as folder:
        for run_id, overrides in (("2026-11-22", ()), ("2026-11-23", _OTHER_FAMILY)):
            config = load_config(demo_config(), ["report.enabled=false", *overrides])
            run(RunRequest(config, [str(folder / "photos")], str(folder / "scores"), run_id))
        first, second = (find_run(f"{folder}/scores/runs/{run_id}") for run_id in ("2026-11-22", "2026-11-23"))
        file = folder / "compare.html"
        file.write_text(comparison_page(compare(first, second), second), encoding="utf-8")
        with opened(file, DESKTOP) as seen:
            seen.cut(PICTURE, _HEIGHT, colours=128)
            seen.keep("compare_picture.png")


if __name__ == "__main__":
    main()
