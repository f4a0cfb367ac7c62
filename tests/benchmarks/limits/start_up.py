"""The start-up limit: import TensorFlow, load the SavedModel, nothing else."""

import argparse
import time

from tests.benchmarks.limits.common import say


def main() -> None:
    """Load a model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--report", required=True)
    arguments = parser.parse_args()
    started = time.perf_counter()
    import tensorflow as tf

    imported = time.perf_counter()
    tf.saved_model.load(arguments.model)
    say(arguments.report, import_seconds=imported - started, load_seconds=time.perf_counter() - imported)


if __name__ == "__main__":
    main()
