"""The reference for what comes out, not for time: full decode, crop, resize, the SavedModel as it is, one thread."""

from pathlib import Path

import numpy as np

from tests.benchmarks.peers.common import RowGroups, load_classifier, photo_paths, prepare, read_job, to_table


def main() -> None:
    """Score a folder."""
    job = read_job(__doc__)
    classify = load_classifier(job.model)
    writer = RowGroups(job.output)
    for path in photo_paths(job):
        writer.write(to_table([path], classify(prepare(Path(path).read_bytes(), job.interpolation)[np.newaxis])))
    writer.close()


if __name__ == "__main__":
    main()
