"""The model as the pipeline sees it: what predict returns, and what load_model refuses."""

from pathlib import Path

import model_zoo
import numpy as np
import pytest

from transforms.models import load_model
from transforms.settings import ModelSettings, PreprocessSettings


@pytest.fixture(scope="module")
def pooled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 6 x 8 pixels and 4 classes that returns logits."""
    return model_zoo.pooled_model(tmp_path_factory.mktemp("models") / "pooled")


def test_saved_model_returns_the_numbers_of_its_matrix(pooled: Path) -> None:
    """A SavedModel's logits are what NumPy reckons from the declared range."""
    model = load_model(ModelSettings(path=str(pooled)), PreprocessSettings(value_range="-1_1"))
    pixels = model_zoo.photos(5)
    np.testing.assert_allclose(model.predict(pixels), model_zoo.expected_logits(pixels / 127.5 - 1), atol=1e-5)
    assert (model.height, model.width, model.num_classes) == (6, 8, 4)
    assert model.description.frozen
    assert model.model_id == f"pooled@{model.fingerprint[:12]}"
