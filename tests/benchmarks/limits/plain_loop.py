"""What a pipeline is worth over a loop: our decoder and our frozen model in one thread, and nothing kept."""

import argparse
from pathlib import Path

import numpy as np

from pipeline.config import load_config
from tests.benchmarks.limits.common import say
from transforms.loading import load_one
from transforms.models import load_model
from transforms.probabilities import softmax
from transforms.records import ImageRef


def main() -> None:
    """Score a folder and keep nothing but the sum of the confidences."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True)
    parser.add_argument("--photos", required=True, type=Path)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--report", required=True)
    arguments = parser.parse_args()
    config = load_config(arguments.config)
    model = load_model(config.model, config.preprocess)
    plan = config.load_plan(model.height, model.width)
    waiting, total, images = [], 0.0, 0
    paths = sorted(arguments.photos.iterdir())
    for number, path in enumerate(paths, 1):
        image = load_one(ImageRef(str(path), None, None), plan)
        if image.pixels is not None:
            waiting.append(image.pixels)
        if waiting and (len(waiting) == arguments.batch or number == len(paths)):
            total += float(softmax(model.predict(np.stack(waiting))).max(axis=1).sum())
            images += len(waiting)
            waiting = []
    say(arguments.report, images=images, mean_confidence=total / images)


if __name__ == "__main__":
    main()
