"""Files that commands write where they are told to."""

import os
from pathlib import Path

import pytest

from pipeline.cli import main
from pipeline.commands.written_file import check_file
from transforms.errors import ConfigError


def test_places_that_may_be_written_pass(tmp_path: Path) -> None:
    """One in a folder that does not exist yet, too; of URLs only writing tells."""
    check_file(None)
    check_file(str(tmp_path / "page.html"))
    check_file(str(tmp_path / "new" / "folder" / "page.html"))
    check_file("s3://no-such-bucket/page.html")

    assert list(tmp_path.iterdir()) == []


def test_places_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    """A folder, and what would lie below a file."""
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(ConfigError, match=f"{tmp_path} is a folder; give a file in it"):
        check_file(str(tmp_path))
    with pytest.raises(ConfigError, match=f"{file}/sub/page.html cannot be written: {file} is no folder; give another"):
        check_file(f"{file}/sub/page.html")


def test_folders_of_others_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may write everywhere, so the system's answer is given here."""
    monkeypatch.setattr(os, "access", lambda folder, _mode: folder != str(tmp_path))
    with pytest.raises(ConfigError, match=f"page.html cannot be written: {tmp_path} is not this user's to write to"):
        check_file(str(tmp_path / "page.html"))


@pytest.mark.parametrize(
    "words",
    [["preflight", "--config", "none.yaml", "--input", "none"], ["compare", "none", "none"]],
    ids=lambda w: w[0],
)
def test_commands_refuse_them_before_they_work(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before they read the configuration or the runs, which are not there."""
    output = ["--output", str(tmp_path / "out")] if words[0] == "preflight" else []

    assert main([*words, *output, "--html", str(tmp_path)]) == 2
    assert f"{tmp_path} is a folder; give a file in it" in capsys.readouterr().err
