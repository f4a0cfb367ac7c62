"""Which loader a model on the local disk gets.

    a directory              saved_models.py   SavedModel of TensorFlow 1 or 2, TF Hub module
    .keras, .h5, .hdf5       keras_files.py    safe mode, without training state

Whatever the format, the result is an OpenModel.
"""

from pathlib import Path

from transforms.errors import ModelError
from transforms.keras_files import KERAS_SUFFIXES, open_keras_file
from transforms.model_interface import OpenModel
from transforms.saved_models import open_saved_model
from transforms.settings import ModelSettings


def open_model(path: Path, settings: ModelSettings) -> OpenModel:
    """Load a model from the local disk and choose its signature and output.

    Args:
        path: A SavedModel directory or a Keras file.
        settings: Signature, output_name, tags and trust are read, not path.

    Raises:
        ModelError: The model cannot be read, or the choice is not unique.
    """
    if not path.exists():
        raise ModelError(
            f"model.path {path} does not exist; give a SavedModel directory, a TF Hub handle (https://...), "
            "or a .keras, .h5 or .hdf5 file"
        )
    if path.is_dir():
        return open_saved_model(path, settings)
    if path.suffix.lower() in KERAS_SUFFIXES:
        return open_keras_file(path, settings)
    if path.name in ("saved_model.pb", "saved_model.pbtxt"):
        raise ModelError(f"model.path {path} is one file of a SavedModel; give its directory {path.parent}")
    raise ModelError(
        f"model.path {path} is a file of an unknown kind; give a SavedModel directory, a TF Hub handle (https://...), "
        "or a .keras, .h5 or .hdf5 file"
    )
