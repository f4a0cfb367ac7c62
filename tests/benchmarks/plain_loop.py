"""What the pipeline is measured against: decode an image, decode the next, call the model, in one thread."""

import sys
from pathlib import Path

import numpy as np

from pipeline.config import load_config
from transforms.loading import load_one
from transforms.models import load_model
from transforms.probabilities import softmax
from transforms.records import ImageRef


def main(config_path: str, folder: str) -> None:
    """Score a folder with the same decoder and the same frozen model, and keep nothing but the sum of a column."""
    config = load_config(config_path)
    model = load_model(config.model, config.preprocess)
    plan = config.load_plan(model.height, model.width)
    waiting, total, images = [], 0.0, 0
    for path in sorted(Path(folder).iterdir()):
        image = load_one(ImageRef(str(path), None, None), plan)
        if image.pixels is None:
            continue
        waiting.append(image.pixels)
        if len(waiting) == plan.batch_size:
            total += float(softmax(model.predict(np.stack(waiting))).max(axis=1).sum())
            images += len(waiting)
            waiting = []
    if waiting:
        total += float(softmax(model.predict(np.stack(waiting))).max(axis=1).sum())
        images += len(waiting)
    print(f"{images} images, mean confidence {total / images:.3f}")  # noqa: T201  a program of its own


if __name__ == "__main__":
    main(*sys.argv[1:])
