"""Pictures of a page: the image as displayed, within the run's limits, or the reason why there is none."""

import base64
import io
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.pages.thumbnails import Thumbnail, encode_thumbnail, thumbnails
from tests.runs import make_photo
from transforms.loading import load_one
from transforms.settings import DecodeSettings


def pixels_of(thumbnail: Thumbnail) -> np.ndarray:
    """Decode a picture as a browser does."""
    assert thumbnail.uri is not None, thumbnail.reason
    kind, _, data = thumbnail.uri.partition(",")
    assert kind == "data:image/jpeg;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def halves(path: Path, width: int, height: int, **saved: object) -> Path:
    """An image whose left half is red and whose right half is blue."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2, 0] = 255
    pixels[:, width // 2 :, 2] = 255
    Image.fromarray(pixels).save(path, **saved)
    return path


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        ((320, 240), (160, 120)),
        ((240, 320), (120, 160)),
        ((1000, 3), (160, 1)),  # at least a line
        ((7, 5), (160, 114)),  # a small image is made larger
        ((3001, 2003), (160, 107)),  # a JPEG of this size is scaled down while it is decoded
    ],
)
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_picture_is_the_whole_image_without_bars(
    tmp_path: Path, size: tuple[int, int], shown: tuple[int, int], suffix: str
) -> None:
    """Its longer side is 160 pixels, its edges are those of the image."""
    path = str(halves(tmp_path / f"x.{suffix}", *size))
    (found,) = thumbnails([path], DecodeSettings()).values()
    assert (found.path, found.width, found.height, found.reason) == (path, *shown, None)
    pixels = pixels_of(found).astype(int)
    assert pixels.shape[:2] == shown[::-1]
    assert (pixels[:, :4, 0] > pixels[:, :4, 2] + 100).all()
    assert (pixels[:, -4:, 2] > pixels[:, -4:, 0] + 100).all()


def test_a_picture_is_turned_as_the_camera_was(tmp_path: Path) -> None:
    """EXIF orientation 6: what lies left in the file is on top."""
    exif = Image.Exif()
    exif[0x0112] = 6
    path = str(halves(tmp_path / "x.jpg", 200, 100, exif=exif))
    found = thumbnails([path], DecodeSettings())[path]
    pixels = pixels_of(found).astype(int)
    assert pixels.shape[:2] == (160, 80)
    assert (pixels[:20, :, 0] > 150).all()
    assert (pixels[-20:, :, 2] > 150).all()


def test_what_cannot_be_shown_says_why(tmp_path: Path) -> None:
    """One sentence each, with the code that a run would give; what was asked for twice is there once."""
    make_photo(tmp_path / "whole.jpg", 1)
    whole = make_photo(tmp_path / "whole.png", 1)
    (tmp_path / "cut.png").write_bytes(whole.read_bytes()[:-40])
    (tmp_path / "text.jpg").write_text("no image")
    large = make_photo(tmp_path / "large.png", 2, (400, 400))
    names = ["whole.jpg", "cut.png", "text.jpg", "gone.jpg", "large.png", "whole.jpg"]
    paths = [str(tmp_path / name) for name in names]
    found = thumbnails(paths, DecodeSettings(max_file_bytes=large.stat().st_size - 1))
    assert list(found) == paths[:-1]
    reasons = [(thumbnail.reason or "shown").partition(":")[0] for thumbnail in found.values()]
    assert reasons == ["shown", "truncated_image", "unsupported_format", "not_found", "too_large_file"]


def test_a_damaged_jpeg_is_shown_as_far_as_it_goes(tmp_path: Path) -> None:
    """Half of the bytes are the upper half of the picture; within the limits of the run, and not in quarantine."""
    whole = halves(tmp_path / "whole.jpg", 320, 320, quality=95)
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    found = thumbnails([str(cut)], DecodeSettings())[str(cut)]
    pixels = pixels_of(found).astype(int)
    assert pixels.shape[:2] == (160, 160)
    assert (pixels[:60, :70, 0] > pixels[:60, :70, 2] + 100).all()
    small = thumbnails([str(cut)], DecodeSettings(max_decode_bytes=100_000))[str(cut)]
    assert small.reason is not None
    assert small.reason.startswith(("too_many_pixels", "truncated_image"))
    strange = thumbnails([str(cut)], DecodeSettings(quarantine=True), seconds=60)[str(cut)]
    assert strange.reason is not None
    assert strange.reason.startswith("truncated_image")


def test_images_of_strangers_are_decoded_by_workers(tmp_path: Path) -> None:
    """With decode.quarantine the page is no way around it: the picture is the same."""
    path = str(halves(tmp_path / "x.png", 64, 48))
    (plain,) = thumbnails([path], DecodeSettings()).values()
    decoded_by: list[str] = []

    def load(*args: object, prepare_with: object, **kwargs: object) -> object:
        decoded_by.append(type(getattr(prepare_with, "__self__", None)).__name__)
        return load_one(*args, prepare_with=prepare_with, **kwargs)  # type: ignore[arg-type]

    (found,) = thumbnails([path], DecodeSettings(quarantine=True), load=load, seconds=60).values()  # type: ignore[arg-type]
    assert found == plain
    assert decoded_by == ["Quarantine"]


def test_an_image_that_hangs_costs_its_own_picture(tmp_path: Path) -> None:
    """A named pipe would be refused at once; here loading itself hangs: the others are shown, in time."""
    paths = [str(make_photo(tmp_path / f"{name}.png", 1)) for name in range(6)]
    release = threading.Event()

    def load(ref: object, **kwargs: object) -> object:
        if ref.path == paths[0]:  # type: ignore[attr-defined]
            release.wait(30)
        return load_one(ref, **kwargs)  # type: ignore[arg-type]

    started = time.monotonic()
    found = thumbnails(paths, DecodeSettings(), seconds=0.5, load=load)  # type: ignore[arg-type]
    assert time.monotonic() - started < 5
    release.set()
    assert found[paths[0]].reason == "there was no time left: all pictures of a page have 0.5 s together"
    assert [found[path].reason for path in paths[1:]] == [None] * 5


def test_a_name_that_no_store_takes_is_a_reason() -> None:
    """A NUL byte, a scheme that is not known: no crash."""
    found = thumbnails(["/x\0.jpg", "s4://x/y.jpg"], DecodeSettings())
    assert all(thumbnail.uri is None and thumbnail.reason for thumbnail in found.values())


def test_pixels_become_a_picture() -> None:
    """As they are, whatever their strides."""
    pixels = np.zeros((4, 6, 3), np.uint8)[::-1]
    found = encode_thumbnail("what the model sees", pixels)
    assert (found.width, found.height) == (6, 4)
    assert pixels_of(found).max() < 4


def test_no_paths_no_threads() -> None:
    """A page without images starts nothing."""
    before = threading.active_count()
    assert thumbnails([], DecodeSettings()) == {}
    assert threading.active_count() == before
