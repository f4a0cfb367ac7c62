"""Whatever address pixels lie at and whatever form an answer has, a call gives one row an image or says why not."""

from pathlib import Path

import numpy as np
import pytest

from tests.model_zoo import photos, pooled_model
from transforms.errors import ModelError
from transforms.model_calls import as_rows
from transforms.models import load_model
from transforms.settings import ModelSettings, PreprocessSettings


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((4, 5), (4, 5)),
        ((4, 1, 1, 5), (4, 5)),
        # A convolution as head, channels first
        ((4, 5, 1, 1), (4, 5)),
        # One-unit heads
        ((4,), (4, 1)),
        ((4, 1), (4, 1)),
        ((4, 1, 1, 1), (4, 1)),
        # One class a unit, and one image
        ((1, 1), (1, 1)),
    ],
)
def test_output_becomes_one_row_an_image(shape: tuple[int, ...], expected: tuple[int, int]) -> None:
    """Axes of length 1 are dropped, the values keep their order."""
    raw = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    rows = as_rows(raw, shape[0])
    assert rows.shape == expected
    np.testing.assert_array_equal(rows.ravel(), raw.ravel())


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ((2, 5), "the model returned 2 rows for 4 images (shape (2, 5)); it has to return one row an image"),
        ((), "the model returned a single number for 4 images (shape ()); it has to return one row an image"),
        (
            (4, 7, 7, 5),
            "the model returns [N, 7, 7, 5]: a map or a sequence, not one score a class; choose another output with "
            "model.output_name, or export the model with global pooling before its head",
        ),
        (
            (4, 3, 5),
            "the model returns [N, 3, 5]: a map or a sequence, not one score a class; choose another output with "
            "model.output_name, or export the model with global pooling before its head",
        ),
    ],
)
def test_output_of_another_form_is_refused(shape: tuple[int, ...], said: str) -> None:
    """A number of rows that is not the number of images, and maps of scores, stop the run."""
    with pytest.raises(ModelError) as caught:
        as_rows(np.zeros(shape, np.float32), 4)
    assert str(caught.value) == said


@pytest.mark.parametrize("offset", [0, 1, 63, 64])
def test_pixels_at_any_address_are_scored(tmp_path: Path, offset: int) -> None:
    """Memory that TensorFlow would not read in place is copied: it ends the process over a crooked address."""
    model = load_model(ModelSettings(path=str(pooled_model(tmp_path / "m"))), PreprocessSettings(value_range="0_1"))
    wanted = photos(5)
    memory = np.empty(wanted.nbytes + 128, np.uint8)
    start = -memory.ctypes.data % 64 + offset
    pixels = memory[start : start + wanted.nbytes].reshape(wanted.shape)
    pixels[:] = wanted
    np.testing.assert_array_equal(model.predict(pixels), model.predict(wanted))
    pixels.flags.writeable = False
    np.testing.assert_array_equal(model.predict(pixels), model.predict(wanted))
