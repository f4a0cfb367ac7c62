"""The demo's photos: byte for byte those of their packages, the damaged one truncated, and nothing overwritten."""

from pathlib import Path

import pytest
from PIL import Image

from pipeline.demo import photos
from pipeline.demo.packages import packaged_file
from pipeline.demo.photos import DAMAGED_NAME, PHOTOS, Photo, gather_photos
from transforms.errors import ConfigError


def test_photos_are_copied_byte_for_byte(tmp_path: Path) -> None:
    """All 11 photos and the damaged one come back, sorted by name, and nothing else lies in the folder."""
    paths = gather_photos(tmp_path / "new" / "photos")

    assert [path.name for path in paths] == [
        "astronaut.png",
        "camera.png",
        "chelsea.png",
        "china.jpg",
        "coffee.png",
        "coins.png",
        "damaged.jpg",
        "flower.jpg",
        "grace_hopper.jpg",
        "hubble_deep_field.jpg",
        "motorcycle_left.png",
        "rocket.jpg",
    ]
    assert sorted((tmp_path / "new" / "photos").iterdir()) == paths
    originals = {Path(photo.path).name: packaged_file(*photo).read_bytes() for photo in PHOTOS}
    assert {path.name: path.read_bytes() for path in paths if path.name != DAMAGED_NAME} == originals


def test_every_photo_decodes_but_the_damaged_one(tmp_path: Path) -> None:
    """The damaged photo has a whole header and too few pixels: it is found out only by decoding it."""
    for path in gather_photos(tmp_path):
        with Image.open(path) as image:
            if path.name == DAMAGED_NAME:
                assert image.size == (640, 427)
                with pytest.raises(OSError, match="image file is truncated"):
                    image.load()
            else:
                image.load()


def test_a_second_call_changes_nothing(tmp_path: Path) -> None:
    """Modification times stay, so that a second run sees the same versions and has nothing to score."""
    first = {path: path.stat().st_mtime_ns for path in gather_photos(tmp_path)}
    second = {path: path.stat().st_mtime_ns for path in gather_photos(tmp_path)}

    assert first == second


def test_a_photo_that_is_missing_is_added_again(tmp_path: Path) -> None:
    """What an interrupted call has not written, the next one writes; other files are left alone."""
    (tmp_path / "holiday.jpg").write_bytes(b"mine")
    expected = gather_photos(tmp_path)
    (tmp_path / "china.jpg").unlink()

    assert gather_photos(tmp_path) == expected
    assert (tmp_path / "china.jpg").is_file()
    assert (tmp_path / "holiday.jpg").read_bytes() == b"mine"


def test_another_photo_of_the_same_name_is_never_overwritten(tmp_path: Path) -> None:
    """A user's own rocket.jpg survives a demo that is started in the wrong folder."""
    mine = tmp_path / "rocket.jpg"
    mine.write_bytes(b"mine")

    with pytest.raises(ConfigError) as caught:
        gather_photos(tmp_path)

    assert str(caught.value) == f"{mine} exists and is not the demo's photo of that name; choose an empty folder"
    assert mine.read_bytes() == b"mine"


def test_a_folder_that_cannot_be_made_is_a_config_error(tmp_path: Path) -> None:
    """The operating system's reason is passed on."""
    (tmp_path / "file").touch()

    with pytest.raises(ConfigError, match=r"photos cannot be written to .*file: File exists"):
        gather_photos(tmp_path / "file")


def test_without_a_package_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All files are found before the first is copied."""
    absent = Photo("no_such_package_anywhere", "cat.png", "no-such-package")
    monkeypatch.setattr(photos, "PHOTOS", (*PHOTOS, absent))

    with pytest.raises(
        ConfigError, match=r"no-such-package, which is not installed; pip install 'score-images\[demo\]'"
    ):
        gather_photos(tmp_path / "photos")

    assert not (tmp_path / "photos").exists()
