"""Walking local folders: the rules that hold for every listing are tested with storage.list_folder."""

import os
from pathlib import Path

import pytest

from transforms import folders


def test_walk_tells_of_each_file_what_the_system_does(tmp_path: Path) -> None:
    """A folder's entries by name, what lies in a folder in the folder's place; a link as what it points to."""
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x.jpg").write_bytes(b"xyz")
    (tmp_path / "a.jpg").symlink_to(tmp_path / "b" / "x.jpg")
    (tmp_path / "c.jpg").touch()
    found = [(os.path.relpath(path, tmp_path), status.st_size) for path, status in folders.walk(str(tmp_path))]
    assert found == [("a.jpg", 3), ("b/x.jpg", 3), ("c.jpg", 0)]
    assert [path for path, _ in folders.walk(str(tmp_path), recursive=False)] == [
        f"{tmp_path}/a.jpg",
        f"{tmp_path}/c.jpg",
    ]


def test_walk_of_no_folder_is_an_error(tmp_path: Path) -> None:
    """A file is none either."""
    (tmp_path / "x.jpg").touch()
    for name, error in (("none", FileNotFoundError), ("x.jpg", NotADirectoryError)):
        with pytest.raises(error):
            list(folders.walk(str(tmp_path / name)))


@pytest.mark.parametrize("name", ["none", "x.jpg/below", "n" * 300, "a\0b", "\ud83d", "loop"])
def test_status_of_what_cannot_be_is_none(tmp_path: Path, name: str) -> None:
    """Names that no file can have are names of nothing."""
    (tmp_path / "x.jpg").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert folders.status(f"{tmp_path}/{name}") is None


def test_status_is_that_of_the_file(tmp_path: Path) -> None:
    """Not UTF-8 is a name, too."""
    path = f"{tmp_path}/{os.fsdecode(bytes([255]))}.jpg"
    Path(path).write_bytes(b"x")
    found = folders.status(path)
    assert found is not None
    assert found.st_size == 1
