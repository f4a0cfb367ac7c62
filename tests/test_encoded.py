"""What a model that decodes images itself is given, and that its rows come through both roads."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.in_memory import score_in_memory
from tests.model_zoo import bytes_model
from tests.runs import bytes_config, make_photos, read_table, run_quietly
from transforms.encoded import encode_image
from transforms.errors import FailureCode, ImageError
from transforms.images import decode_image
from transforms.ledger import Ledger
from transforms.settings import DecodeSettings

PIXELS = np.random.default_rng(3).integers(0, 256, (20, 30, 3), np.uint8)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    """The image as a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def turned_exif() -> Image.Exif:
    """EXIF that says: lies on its side."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


RGB = Image.fromarray(PIXELS)


@pytest.mark.parametrize(
    ("data", "passes"),
    [
        (saved(RGB, "JPEG"), True),
        (saved(RGB, "JPEG", progressive=True), True),
        (saved(RGB.convert("L"), "JPEG"), True),
        (saved(RGB, "PNG"), True),
        (saved(RGB.convert("L"), "PNG"), True),
        (saved(RGB.convert("P"), "PNG"), True),
        (saved(RGB, "JPEG", exif=turned_exif()), False),  # the graph does not turn
        (saved(RGB.convert("CMYK"), "JPEG"), False),  # decoders disagree about its colours
        (saved(RGB.convert("RGBA"), "PNG"), False),  # has to be composed on the background
        (saved(RGB.convert("P"), "PNG", transparency=0), False),
        (saved(RGB.convert("I;16"), "PNG"), False),
        (saved(RGB, "GIF"), False),
        (saved(RGB, "BMP"), False),
        (saved(RGB, "WEBP"), False),  # TensorFlow's decoder corrupts memory on some
    ],
)
def test_only_plain_jpeg_and_png_pass_as_they_are(data: bytes, passes: bool) -> None:
    """Everything else is decoded here, and handed over as a PNG of exactly those pixels."""
    encoded = encode_image(data, DecodeSettings())
    assert (encoded.data is data) == passes
    assert (encoded.info.decoder == "model") == passes
    shown = decode_image(data, DecodeSettings())
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(encoded.data)).convert("RGB")), shown.pixels)
    assert encoded.info[:4] == shown.info[:4]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", FailureCode.EMPTY_FILE),
        (b"no picture", FailureCode.UNSUPPORTED_FORMAT),
        (saved(RGB, "BMP")[:500], FailureCode.TRUNCATED_IMAGE),
    ],
)
def test_the_probe_admits_nothing_else(data: bytes, code: FailureCode) -> None:
    """The same codes as for any model."""
    with pytest.raises(ImageError) as caught:
        encode_image(data, DecodeSettings())
    assert caught.value.code == code


def test_a_model_that_takes_bytes_is_scored_on_both_roads(tmp_path: Path) -> None:
    """JPEG, PNG and GIF become rows; a cut JPEG costs only itself."""
    model = bytes_model(tmp_path / "bytes")
    photos = tmp_path / "photos"
    make_photos(photos, 3)
    make_photos(photos, 2, ".jpg")
    RGB.save(photos / "z.gif")
    whole = saved(Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 90, 3), np.uint8)), "JPEG")
    (photos / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    config = bytes_config(model, limits={"max_failure_rate": 0.5})
    result = run_quietly(config, [photos], tmp_path / "out")
    assert result.outcome.ledger == Ledger(7, 0, 7, 6, 1, 0)
    assert result.outcome.failures_by_code == {"model_error": 1}
    rows = read_table(result.layout, "scores")
    assert rows["image_decoder"].to_pylist() == ["model"] * 5 + ["pillow"]
    plain = score_in_memory([str(path) for path in sorted(photos.iterdir())], config)
    assert rows.drop_columns(["scored_at"]).to_pylist() == plain.scores.drop_columns(["scored_at"]).to_pylist()
    assert plain.failures["code"].to_pylist() == ["model_error"]
