"""What was moved or deleted before a kill is found so by whoever repeats it; test_storage.py asks stores the same."""

import os
from pathlib import Path

import pytest

from transforms import moving, storage


class TestMoveFiles:
    def test_interrupted_moves_can_be_repeated(self, tmp_path: Path) -> None:
        """What has moved already counts as moved; what lies at the new place is replaced."""
        pairs = [(str(tmp_path / "old" / name), str(tmp_path / "new" / name)) for name in ("a", "b b#1", "c")]
        for source, _ in pairs:
            storage.write_bytes(source, source.encode())
        storage.write_bytes(pairs[2][1], b"from an earlier night")
        moving.move_files(pairs[:1])  # as far as the first attempt came
        for _ in range(2):
            moving.move_files(pairs)
            assert [storage.read_bytes(target) for _, target in pairs] == [source.encode() for source, _ in pairs]
        assert os.listdir(tmp_path / "old") == []

    def test_lost_file_is_an_error(self, tmp_path: Path) -> None:
        """At neither place: nothing is published without it."""
        pair = (f"{tmp_path}/none", f"{tmp_path}/new/none")
        with pytest.raises(FileNotFoundError, match="neither at its old place nor at its new one.*none"):
            moving.move_files([pair])


class TestExchangeFolder:
    def test_old_content_goes_to_its_place(self, tmp_path: Path) -> None:
        """And a repetition changes nothing."""
        new, place, old = (str(tmp_path / name) for name in ("staging/new", "place", "staging/old"))
        storage.write_bytes(f"{new}/part", b"new")
        storage.write_bytes(f"{place}/part", b"old")
        storage.write_bytes(f"{old}/leftover", b"older")  # of an attempt that was killed
        for _ in range(2):
            moving.exchange_folder(new, place, old)
            assert storage.read_bytes(f"{place}/part") == b"new"
            assert os.listdir(old) == ["part"]
        assert storage.read_bytes(f"{old}/part") == b"old"

    def test_kill_between_the_two_renames_is_completed(self, tmp_path: Path) -> None:
        """The place is empty, the new folder waits: the next call puts it there."""
        new, place, old = (str(tmp_path / name) for name in ("new", "deep/place", "old"))
        storage.write_bytes(f"{new}/part", b"new")
        storage.write_bytes(f"{old}/part", b"old")
        moving.exchange_folder(new, place, old)
        assert storage.read_bytes(f"{place}/part") == b"new"
        assert storage.read_bytes(f"{old}/part") == b"old"


def test_deleting_what_is_not_there_is_no_error(tmp_path: Path) -> None:
    """Repeatable, like everything that publishing does."""
    storage.write_bytes(f"{tmp_path}/a/b/c", b"x")
    for _ in range(2):
        moving.delete_file(f"{tmp_path}/a/b/c")
        assert os.listdir(tmp_path / "a" / "b") == []
    for _ in range(2):
        moving.delete_folder(f"{tmp_path}/a")
        assert os.listdir(tmp_path) == []
