"""The demo's table: names of photos and labels are shown as they are, and cannot act."""

from pathlib import Path

import pytest

from pipeline.demo.show import _show
from pipeline.run_records import RunResult
from tests.published_runs import publish_scores
from transforms.layout import RunLayout


def test_names_are_neither_markup_nor_escapes_in_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rich would colour [red], and a terminal obey ESC."""
    outcome = publish_scores(
        tmp_path, ["/photos/[red]a\x1b[2J.png"], [[0.75, 0.25]], labels=["[bold]cat\n", "dog"],
        failed=["/photos/[link=x]b\u202e.png"],
    )  # fmt: skip
    _show(RunResult(RunLayout(str(tmp_path), "night"), outcome, None, 0, 0.0, 0.0, {}))
    out = capsys.readouterr().out
    assert "[red]a\\x1b[2J.png" in out
    assert "[bold]cat\\n 75%" in out
    assert "failed: [link=x]b\\u202e.png: not_found: gone" in out
    assert not {"\x1b", "\u202e"} & set(out)
