"""Pixels for two models from one decode: each gets, to the last bit, what it would have been given alone."""

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from transforms import images
from transforms.errors import ImageError
from transforms.images import Fitting, load_image, load_image_twice
from transforms.load_plan import LoadPlan, SecondInput
from transforms.loading import BatchLoader, load_one, prepare, to_batch
from transforms.memory import ByteBudget
from transforms.quarantine import Quarantine
from transforms.records import Failure, ImageBatch, ImageRef
from transforms.settings import DecodeSettings, LoadSettings, PreprocessSettings
from transforms.threads import LoadThreads

SQUASHED = PreprocessSettings(value_range="0_1", resize="exact", interpolation="bilinear")
CROPPED = PreprocessSettings(value_range="-1_1", crop_pct=0.875)


def jpeg(width: int, height: int, orientation: int = 1) -> bytes:
    """Encode soft noise."""
    noise = np.random.default_rng(width * height).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(noise).resize((width, height)).save(buffer, "JPEG", quality=85, exif=exif)
    return buffer.getvalue()


def plan(**changes: object) -> LoadPlan:
    """Return a plan of two inputs."""
    made = LoadPlan(
        decode=DecodeSettings(),
        preprocess=SQUASHED,
        height=6,
        width=8,
        load=LoadSettings(threads=2),
        batch_size=3,
        second=SecondInput(CROPPED, 10, 12),
    )
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


@given(
    width=st.integers(1, 420),
    height=st.integers(1, 420),
    orientation=st.integers(1, 8),
    side=st.sampled_from([6, 10, 24, 40]),
    scaling=st.sampled_from(["auto", "off"]),
)
@settings(max_examples=120, deadline=None)
def test_both_have_the_pixels_that_they_have_alone(
    width: int, height: int, orientation: int, side: int, scaling: str
) -> None:
    """Scaled alike, by two factors, by none; turned and mirrored."""
    data, decode = jpeg(width, height, orientation), DecodeSettings(jpeg_scaling=scaling)
    first, second = Fitting(SQUASHED, 6, 8), Fitting(CROPPED, side, side)
    both = load_image_twice(data, decode, first, second)
    for pixels, fitting in ((both.pixels, first), (both.second, second)):
        alone = load_image(data, decode, *fitting)
        np.testing.assert_array_equal(pixels, alone.pixels)
        assert both.info == alone.info


def test_an_image_is_decoded_once_unless_it_is_scaled_by_two_factors(monkeypatch: pytest.MonkeyPatch) -> None:
    """A photo of most sizes has one factor for both models, or none."""
    calls: list[int] = []
    decode = images._decode_simplejpeg

    def count(data: bytes, header: images.ImageHeader, factor: int = 1) -> images.Pixels | None:
        calls.append(factor)
        return decode(data, header, factor)

    monkeypatch.setattr(images, "_decode_simplejpeg", count)
    first = Fitting(CROPPED, 10, 10)
    for size, side, factors in ((400, 12, [4]), (40, 12, [1]), (400, 40, [4, 2]), (120, 40, [2, 1])):
        calls.clear()
        load_image_twice(jpeg(size, size), DecodeSettings(), first, Fitting(CROPPED, side, side))
        assert calls == factors, (size, side)


@pytest.mark.parametrize("data", [b"", b"no image", jpeg(40, 30)[:300]])
def test_what_is_no_image_fails_as_for_one_model(data: bytes) -> None:
    """With the same code and the same words."""
    with pytest.raises(ImageError) as alone:
        load_image(data, DecodeSettings(), *Fitting(SQUASHED, 6, 8))
    with pytest.raises(ImageError) as both:
        load_image_twice(data, DecodeSettings(), Fitting(SQUASHED, 6, 8), Fitting(CROPPED, 10, 12))
    assert (both.value.code, both.value.message) == (alone.value.code, alone.value.message)


def test_batches_of_threads_hold_both(tmp_path: Path) -> None:
    """Each image in the same row of both, also in the last batch, and again when memory is used again."""
    for number in range(8):
        (tmp_path / f"{number}.jpg").write_bytes(jpeg(30 + number, 20))
    (tmp_path / "bad.jpg").write_bytes(b"x")
    refs = [ImageRef(str(path), None, None) for path in sorted(tmp_path.iterdir())]
    pool = LoadThreads(2)
    loader = BatchLoader(plan(), pool, 2)
    out: list[ImageBatch | Failure] = []
    for ref in refs:
        out += loader.add(ref)
    out += loader.finish()
    pool.close()
    batches = [batch for batch in out if isinstance(batch, ImageBatch)]
    assert [len(batch) for batch in batches] == [3, 3, 2]
    assert len(out) == 4
    for batch in batches:
        assert batch.second is not None
        for row, ref in enumerate(batch.refs):
            alone = prepare(Path(ref.path).read_bytes(), plan(second=None))
            rival = prepare(Path(ref.path).read_bytes(), plan(second=None, preprocess=CROPPED, height=10, width=12))
            np.testing.assert_array_equal(batch.pixels[row], alone[0])
            np.testing.assert_array_equal(batch.second[row], rival[0])
    plain = to_batch([load_one(refs[0], plan())], plan())
    assert plain.second is not None
    assert plain.second.shape == (1, 10, 12, 3)


def test_worker_processes_send_both() -> None:
    """Bit for bit what threads make; one that sends too little is not believed."""
    data = jpeg(64, 48)
    with Quarantine(plan()) as quarantine:
        got = quarantine.prepare(data, plan())
    expected = prepare(data, plan())
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_second_pixels_count_as_memory(tmp_path: Path) -> None:
    """Of what is under way."""
    held: list[int] = []

    class Budget(ByteBudget):
        def acquire(self, amount: int) -> None:
            held.append(amount)
            super().acquire(amount)

    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg(64, 48))
    for each in (plan(second=None), plan()):
        load_one(ImageRef(str(path), None, None), each, Budget(2**30))
    assert held[1] - held[0] == 10 * 12 * 3 == plan().second_bytes


def test_a_batch_whose_second_pixels_do_not_fit_is_refused() -> None:
    """As many rows as images."""
    batch = to_batch([], plan(second=None))
    with pytest.raises(ValueError, match="a batch of 0 images has 1 rows of second pixels"):
        dataclasses.replace(batch, second=np.zeros((1, 10, 12, 3), np.uint8))
