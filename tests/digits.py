"""Three small Keras models trained on scikit-learn's handwritten digits, and a published run of each.

Real data and real mistakes: one model for ten classes (logits), one with a single sigmoid unit (is it an 8?) and one
for three labels that do not exclude each other (sigmoid).
"""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.config import RunConfig
from tests.runs import run_quietly
from transforms.layout import RunLayout

TRAINED, SCORED = 600, 240
LABELS = ("even", "round", "over four")
KINDS = ("ten", "eight", "labels")


class Digits(NamedTuple):
    """Images that no model was trained on, what they show, and a run of each model over them."""

    photos: tuple[Path, ...]
    """SCORED PNG files."""
    numbers: npt.NDArray[np.int64]
    """int64[SCORED], the digit on each."""
    holds: npt.NDArray[np.bool_]
    """bool[SCORED, 3], which of LABELS hold."""
    configs: dict[str, RunConfig]
    """By KINDS."""
    layouts: dict[str, RunLayout]
    """By KINDS: published runs, all in one output folder."""


def make_digits(folder: Path) -> Digits:
    """Train the models, write the images, and score them."""
    from sklearn.datasets import load_digits

    data = load_digits()
    grey = np.round(data.images * (255 / 16)).astype(np.uint8)
    pixels = np.repeat(grey[..., None], 3, axis=3)
    numbers = data.target.astype(np.int64)
    holds = np.stack([numbers % 2 == 0, np.isin(numbers, (0, 6, 8, 9)), numbers > 4], axis=1)
    photos = []
    (folder / "photos").mkdir()
    for i in range(TRAINED, TRAINED + SCORED):
        photos.append(folder / "photos" / f"digit-{i}.png")
        Image.fromarray(pixels[i]).save(photos[-1])
    (folder / "labels.txt").write_text("\n".join(LABELS))
    values = pixels[:TRAINED].astype(np.float32) / 255
    heads: dict[str, tuple[int, str | None, str, Any]] = {
        "ten": (10, None, "sparse_categorical_crossentropy", numbers),
        "eight": (1, "sigmoid", "binary_crossentropy", numbers == 8),
        "labels": (3, "sigmoid", "binary_crossentropy", holds),
    }
    configs, layouts = {}, {}
    for kind, (units, activation, loss, truth) in heads.items():
        path = _train(folder / kind, values, truth[:TRAINED], units, activation, loss)
        configs[kind] = _config(path, kind, folder)
        layouts[kind] = run_quietly(configs[kind], list(photos), folder / "out", run_id=kind).layout
    scored = slice(TRAINED, TRAINED + SCORED)
    return Digits(tuple(photos), numbers[scored], holds[scored], configs, layouts)


def _train(path: Path, values: Any, truth: Any, units: int, activation: str | None, loss: str) -> Path:
    import keras

    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3), name="images"),
            keras.layers.Flatten(),
            keras.layers.Dense(12, activation="relu"),
            keras.layers.Dense(units, activation=activation, name="scores"),
        ]
    )
    measure = keras.losses.SparseCategoricalCrossentropy(from_logits=True) if activation is None else loss
    model.compile(keras.optimizers.Adam(0.01), measure)
    # Long enough to be overconfident, short enough to be wrong at times.
    model.fit(values, np.asarray(truth, np.float32), epochs=12, batch_size=32, verbose=0)
    model.export(path, verbose=False)
    return path


def _config(path: Path, kind: str, folder: Path) -> RunConfig:
    output = {"output": "logits", "activation": "softmax"} if kind == "ten" else {"output": "probabilities"}
    return RunConfig.model_validate(
        {
            "model": {"path": str(path), "activation": "sigmoid", **output},
            "labels": {"path": str(folder / "labels.txt")} if kind == "labels" else {},
            "preprocess": {"value_range": "0_1", "resize": "exact", "height": 8, "width": 8},
            "results": {"top_k": 2, "logits": kind != "eight"},
            "batch": {"size": 64},
        }
    )


def write_truth(path: Path, rows: Iterable[Sequence[object]], header: Sequence[str] = ("image_path", "label")) -> Path:
    """Write a CSV file of paths and labels."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    return path
