"""A model says what it is before it is loaded, and its fingerprint is that of its content."""

import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.model_zoo import pooled_model
from transforms.errors import ModelError
from transforms.model_descriptions import describe_model, fingerprint_model
from transforms.models import load_model
from transforms.settings import ModelSettings, PreprocessSettings


@pytest.fixture(scope="module")
def pooled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 6 x 8 pixels and 4 classes that returns logits."""
    return pooled_model(tmp_path_factory.mktemp("models") / "pooled")


def test_description_before_and_after_loading_differ_only_in_freezing(pooled: Path) -> None:
    """describe_model sees what load_model sees, except whether the graph could be frozen."""
    described = describe_model(ModelSettings(path=str(pooled)))
    loaded = load_model(ModelSettings(path=str(pooled)), PreprocessSettings(value_range="0_255")).description
    assert described.frozen is None
    assert loaded.frozen is True
    assert {**vars(described), "frozen": True, "frozen_reason": loaded.frozen_reason} == vars(loaded)
    assert str(described.outputs[0]) == "logits float32[?, 4]"
    assert (described.input_name, described.input_dtype, described.input_shape, described.layout) == (
        "images",
        "float32",
        (None, 6, 8, 3),
        "NHWC",
    )


def test_description_travels_between_processes(pooled: Path) -> None:
    """A description is plain data."""
    described = describe_model(ModelSettings(path=str(pooled)))
    assert pickle.loads(pickle.dumps(described)) == described  # noqa: S301 - our own bytes


def test_fingerprint_is_of_the_content_and_not_of_the_place(pooled: Path, tmp_path: Path) -> None:
    """A copy has the same fingerprint, in another process too; a file beside the model does not count."""
    copy = shutil.copytree(pooled, tmp_path / "copy")
    (copy / "README.md").write_text("ours")
    first = fingerprint_model(pooled)
    code = (
        "import sys; from transforms.model_descriptions import fingerprint_model; print(fingerprint_model(sys.argv[1]))"
    )
    other = subprocess.run([sys.executable, "-c", code, copy], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == first
    assert len(first) == 64
    with next((copy / "variables").glob("*.data*")).open("r+b") as file:
        file.seek(3)
        file.write(b"\xff")
    assert fingerprint_model(copy) != first


def test_fingerprint_of_a_missing_model_is_refused(tmp_path: Path) -> None:
    """There is no fingerprint of nothing."""
    with pytest.raises(ModelError, match=r"model.path .*/none does not exist"):
        fingerprint_model(tmp_path / "none")
