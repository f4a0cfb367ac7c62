"""The model limit: our frozen model on pixels in memory, one call after the other, at its best batch."""

import argparse
import time

import numpy as np

from pipeline.config import load_config
from tests.benchmarks.limits.common import say
from transforms.models import load_model


def main() -> None:
    """Try batches of 1, 2, 4, ... a few seconds each, twice over, so that a neighbour's noise meets all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True)
    parser.add_argument("--largest", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each batch size, in each of two passes")
    parser.add_argument("--report", required=True)
    arguments = parser.parse_args()
    config = load_config(arguments.config)
    model = load_model(config.model, config.preprocess)
    sizes = [2**power for power in range(arguments.largest.bit_length()) if 2**power <= arguments.largest]
    shape = (sizes[-1], model.height, model.width, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    rates: dict[int, float] = {}
    for _ in range(2):
        for size in sizes:
            batch = pixels[:size]
            model.predict(batch)  # memory for this size
            calls, started = 0, time.perf_counter()
            while (spent := time.perf_counter() - started) < arguments.seconds:
                model.predict(batch)
                calls += 1
            rates[size] = max(rates.get(size, 0.0), size * calls / spent)
    best = max(rates, key=lambda size: rates[size])
    say(arguments.report, batch=best, images_per_second=rates[best], by_batch=rates)


if __name__ == "__main__":
    main()
