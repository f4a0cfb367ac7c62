"""A model's input is read from its signature, and the declared normalisation is folded for it."""

from typing import Any

import numpy as np
import pytest

from transforms.errors import ModelError
from transforms.model_inputs import read_layout, scale_and_offset
from transforms.model_interface import OpenModel, TensorDescription
from transforms.settings import PreprocessSettings


@pytest.mark.parametrize(
    ("shape", "dtype", "said"),
    [
        ((None, 6, 8, 4), "float32", "input images float32[?, 6, 8, 4] has 4 channels; models of 3 channels, or of 1"),
        ((6, 8, 3), "float32", "input images float32[6, 8, 3] is no batch of images: expected [N, H, W, 3] or"),
        ((None, 6, 8, 3), "complex64", "input images complex64[?, 6, 8, 3] is no image: its dtype is complex64"),
        ((), "string", "input images string[] takes encoded images one by one; export a signature with a string input"),
    ],
)
def test_input_that_is_no_batch_of_images_is_refused(shape: Any, dtype: str, said: str) -> None:
    """What is no batch of grey or RGB images is refused with its shape."""
    tensor = TensorDescription("images", dtype, shape)
    model = OpenModel("savedmodel", (), None, tensor, (tensor,), tensor, lambda x: x, None, None)
    with pytest.raises(ModelError) as caught:
        read_layout(model)
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    ("preprocess", "scale", "offset"),
    [
        ({"value_range": "0_255"}, 1.0, 0.0),
        ({"value_range": "0_1"}, 1 / 255, 0.0),
        ({"value_range": "-1_1"}, 2 / 255, -1.0),
        # EfficientNet-Lite's is exact in binary
        ({"value_range": "0_255", "mean": (127,) * 3, "std": (128,) * 3}, 1 / 128, -127 / 128),
        ({"value_range": "-1_1", "mean": (0.5,) * 3, "std": (0.5,) * 3}, 4 / 255, -3.0),
    ],
)
def test_scale_and_offset_fold_the_declaration(preprocess: dict[str, Any], scale: float, offset: float) -> None:
    """Range, mean and std are one multiplication and one addition."""
    got = scale_and_offset(PreprocessSettings(**preprocess))
    np.testing.assert_allclose(got[0], np.full(3, scale, np.float32), rtol=1e-7)
    np.testing.assert_allclose(got[1], np.full(3, offset, np.float32), rtol=1e-7)
