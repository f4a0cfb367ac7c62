"""A run as an operator sees it in a terminal, and how it is stopped there."""

import os
import shlex
from pathlib import Path

import pytest

from pipeline.cli import main
from tests.model_zoo import pooled_model
from tests.runs import make_photo, read_table, small_config, write_config
from tests.terminal import Terminal
from transforms.layout import RunLayout


def test_ctrl_c_in_the_live_view_stops_the_run_and_says_the_command_that_finishes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a real terminal: the view stands there, Ctrl-C wipes it, and the line that is told is pasted."""
    photos = tmp_path / "it's my photos"
    first = make_photo(photos / "0000.jpg", 0, (600, 600))
    for number in range(1, 1500):
        os.link(first, photos / f"{number:04}.jpg")
    (photos / "0000 bad.jpg").write_text("no picture")
    write_config(small_config(pooled_model(tmp_path / "model")), tmp_path / "night.yaml")
    monkeypatch.chdir(tmp_path)
    terminal = Terminal(
        ["run", "--config", "night.yaml", "--input", photos.name, "--output", "out", "--set", "load.threads=1",
         "--set", "write.rows_per_file=64"]
    )  # fmt: skip

    shown = terminal.wait(lambda text: "images/s" in text and "1 unsupported_format" in text)
    lines = [line.split(None, 1) for line in shown.splitlines()]
    view = {line[0]: line[1] for line in lines if len(line) == 2}
    assert view["images"].endswith(" scored, 1 failed, 0 skipped of 1,501 listed")
    assert view["pace"].endswith(" left")
    assert view["failures"] == "1 unsupported_format"
    assert view["threads"].startswith("read ")
    assert view["run"].endswith(f" to {tmp_path}/out")
    run_id = view["run"].split(" to ")[0]
    assert list((tmp_path / "out" / "runs").iterdir()) == [tmp_path / "out" / "runs" / run_id]

    staged = tmp_path / "out" / "runs" / run_id / "_staging" / "scores"
    terminal.wait(lambda _: any(staged.glob("*.parquet")))
    terminal.press(b"\x03")
    assert terminal.end() == 130
    *_, told, resume = terminal.text.splitlines()
    assert told == (
        f"score-images: run {run_id} was interrupted; finished files are kept, run again with --run-id {run_id} to "
        "continue"
    )
    assert "listed" not in terminal.text
    assert terminal.shows_cursor
    assert not (tmp_path / "out" / "scores").exists()

    words = shlex.split(resume.removeprefix("  run again: "))
    assert words[1:3] == ["-m", "pipeline"]
    assert words[-2:] == ["--run-id", run_id]
    assert main(words[3:]) == 0
    assert "come from an earlier attempt" in capsys.readouterr().out
    assert read_table(RunLayout("out", run_id), "scores").num_rows == 1500
