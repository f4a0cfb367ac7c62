"""The demo's model: EfficientNet-Lite0 as a SavedModel with its labels, built once and kept in the user's cache."""

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from pipeline.demo.efficientnet_lite0 import IMAGE_SIZE, WEIGHTS_SHA256, build_keras_model
from transforms.errors import ConfigError

SIGNATURE = "serving_default"
OUTPUT = "logits"


def labels_path() -> Path:
    """Return the file of the 1000 ImageNet class names, one a line in index order, without a background class."""
    return _packaged("imagenet_labels.txt")


def build_model(directory: Path) -> Path:
    """Write EfficientNet-Lite0 as a SavedModel that carries its labels in `assets/labels.txt`.

    The signature `serving_default` maps images float32[N, 224, 224, 3], RGB, (pixel - 127) / 128, to
    logits float32[N, 1000].

    Args:
        directory: Where to write; made where absent.

    Returns:
        The directory.

    Raises:
        ConfigError: if the package that holds the weights is not installed.
        ModelError: if its file is damaged.
    """
    import tensorflow as tf

    model = build_keras_model()
    images = tf.TensorSpec((None, IMAGE_SIZE, IMAGE_SIZE, 3), tf.float32, name="images")
    with tempfile.TemporaryDirectory() as scratch:
        # An asset keeps the name of the file that it was made from.
        labels = Path(scratch, "labels.txt")
        shutil.copyfile(labels_path(), labels)
        module = tf.Module(name="efficientnet_lite0")
        # The plain variables, not the Keras model: whoever loads the directory then needs no Keras.
        module.model_variables = [variable.value for variable in model.variables]
        module.labels = tf.saved_model.Asset(str(labels))
        module.serve = tf.function(lambda images: {OUTPUT: model(images, training=False)}, input_signature=[images])
        tf.saved_model.save(module, str(directory), signatures={SIGNATURE: module.serve})
    return directory


def model_directory(cache: Path | None = None) -> Path:
    """Return the directory of the demo's model; the first call builds it.

    The directory appears in one rename, when it is complete: a build that is killed leaves nothing that a later call
    could take for a model, and of two processes at once the second finds the model of the first.

    Args:
        cache: The folder to keep the model in; left out, `score-images` in XDG_CACHE_HOME or in ~/.cache.

    Raises:
        ConfigError: if the package that holds the weights is not installed, or the cache cannot be written.
        ModelError: if the package's file is damaged.
    """
    cache = _user_cache() if cache is None else cache
    directory = cache / f"efficientnet-lite0-{_recipe()}"
    if directory.is_dir():
        return directory
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=f"{directory.name}.building-") as scratch:
            built = build_model(Path(scratch, "model"))
            try:
                built.rename(directory)
            except OSError:
                # A directory is only renamed onto an empty one: another process was first, its model is the same.
                if not directory.is_dir():
                    raise
    except OSError as error:
        raise ConfigError(
            f"the demo's model cannot be kept in {cache}: {error.strerror or error}; "
            "set XDG_CACHE_HOME to a folder that can be written"
        ) from error
    return directory


def _user_cache() -> Path:
    # The XDG base directory specification: a path that is not absolute is to be ignored.
    root = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (root if root.is_absolute() else Path.home() / ".cache") / "score-images"


def _recipe() -> str:
    """Name what the model is made of, so that a changed recipe is built anew and no number needs raising by hand."""
    digest = hashlib.sha256(WEIGHTS_SHA256.encode())
    for name in ("efficientnet_lite0.py", "model.py", "unpickle.py", "imagenet_labels.txt"):
        digest.update(_packaged(name).read_bytes())
    return digest.hexdigest()[:12]


def _packaged(name: str) -> Path:
    return Path(__file__).with_name(name)
