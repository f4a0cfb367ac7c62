"""What is measured with: photos under many names, a model that costs nearly nothing, configurations."""

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import yaml

CLASSES = 1000
SIZE = 224


def find_photos(given: Path | None, root: Path) -> Path:
    """Return the folder of sample photos.

    Raises:
        FileNotFoundError: There is none.
    """
    folder = given or Path(os.environ.get("IMAGE_DATA_DIR", root.parent / "shared" / "data"), "photos")
    if not folder.is_dir() or not any(folder.iterdir()):
        raise FileNotFoundError(
            f"no photos in {folder}: give a folder of JPEG files with --photos, or set IMAGE_DATA_DIR to the folder "
            "that holds photos/"
        )
    return folder.resolve()


def link_photos(source: Path, target: Path, count: int) -> Path:
    """Fill a folder with links to the photos of another, each under as many names as it takes.

    Args:
        source: A folder of photos.
        target: Made anew.
        count: How many names.

    Returns:
        The target. Its names are `<number>_<photo>`; photo_of tells which photo a path shows.
    """
    photos = sorted(source.iterdir())
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for number in range(count):
        photo = photos[number % len(photos)]
        (target / f"{number:07}_{photo.name}").symlink_to(photo)
    return target


def photo_of(path: str) -> str:
    """Tell the name of the photo that a linked name shows.

    >>> photo_of("file:/photos/0000203_n02099601_dog.JPEG")
    'n02099601_dog.JPEG'
    """
    return path.rpartition("/")[2].partition("_")[2]


def free_model(folder: Path) -> Path:
    """Save a model of 1,000 outputs that costs next to nothing: the mean of each channel times a matrix.

    Args:
        folder: Where to save it; made where absent.

    Returns:
        The folder. Its serving_default maps images float32[N, 224, 224, 3] to logits float32[N, 1000].
    """
    import tensorflow as tf

    class Pooled(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            weights = np.random.default_rng(7).normal(size=(3, CLASSES)).astype(np.float32)
            self.matrix = tf.Variable(weights)

        @tf.function(input_signature=[tf.TensorSpec((None, SIZE, SIZE, 3), tf.float32, name="images")])
        def serve(self, images: Any) -> Any:
            return {"logits": tf.reduce_mean(images, [1, 2]) @ self.matrix}

    module = Pooled()
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.serve})
    return folder


def write_config(file: Path, model: Path, interpolation: str) -> Path:
    """Write our own configuration: the demo's preprocessing, everything else at its default."""
    config = {
        "model": {"path": str(model), "name": model.name, "output": "logits", "activation": "softmax"},
        "preprocess": {
            "height": SIZE,
            "width": SIZE,
            "resize": "shortest_edge",
            "crop_pct": 0.875,
            "crop_order": "before_resize",
            "interpolation": interpolation,
            "value_range": "0_255",
            "mean": [127, 127, 127],
            "std": [128, 128, 128],
        },
        "results": {"top_k": 5},
    }
    # 0_255 in quotes: to YAML 1.1 it would be a number.
    file.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return file


def build_model(name: str, folder: Path) -> None:
    """Build `free`, or link the demo's model as `lite0`."""
    if name == "free":
        free_model(folder)
        return
    from pipeline.demo.model import model_directory

    folder.symlink_to(model_directory())


if __name__ == "__main__":
    build_model(sys.argv[1], Path(sys.argv[2]))
