"""How a challenger's answers differ from the model's, for the report: agreement, flips by label, and confidence.

Both tables hold the same images in whatever order. Of the model's table hash, class and place are held, the
challenger's is read as a stream. Beyond some millions of images the paths are sampled by their hash, which gives a
share within a thousandth, so that memory does not grow with the night. `score-images compare` compares all of them.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from transforms import storage
from transforms.distributions import measure

MOST_IMAGES = 2_000_000
"""Images that are compared at most, about: 16 bytes each."""
_MOST_FLIPS = 12
_BATCH_ROWS = 65_536


class Answers(NamedTuple):
    """A table of scores, as far as it is compared."""

    paths: Sequence[str]
    """Its files."""
    labels: tuple[str, ...]
    """C names."""
    rows: int
    """In all files."""


def compare_answers(model: Answers, challenger: Answers, most: int = MOST_IMAGES) -> dict[str, Any]:
    """Compare what two models say of the same images, by the names of their classes.

    Args:
        model: The table `scores`.
        challenger: The table `scores_challenger`.
        most: How many images are compared at most, about.

    Returns:
        What json.dumps takes: compared and agreeing images, and the most frequent flips.

    Raises:
        OSError: A file is missing, or the storage does not give it.
        pa.ArrowException: A file is no Parquet file, or lacks a column.
    """
    every = max(1, -(-max(model.rows, challenger.rows) // most))
    names = {label: place for place, label in enumerate(dict.fromkeys((*model.labels, *challenger.labels)))}
    mine = list(_sampled(model, names, every))
    hashes = np.concatenate([part for part, _ in mine]) if mine else np.zeros(0, np.int64)
    classes = np.concatenate([part for _, part in mine]) if mine else np.zeros(0, np.int64)
    order = np.argsort(hashes, kind="stable")
    hashes, classes = hashes[order], classes[order]
    compared = agreeing = 0
    flips: Counter[tuple[int, int]] = Counter()
    for keys, theirs in _sampled(challenger, names, every):
        places = np.minimum(np.searchsorted(hashes, keys), max(len(hashes) - 1, 0))
        found = hashes[places] == keys if len(hashes) else np.zeros(len(keys), bool)
        first, second = classes[places[found]], theirs[found]
        compared += len(first)
        agreeing += int((first == second).sum())
        other = first != second
        pairs, counts = np.unique(np.stack([first[other], second[other]]), axis=1, return_counts=True)
        flips.update(dict(zip(map(tuple, pairs.T.tolist()), counts.tolist(), strict=True)))
    label = list(names)
    return {
        "compared_images": compared,
        "agreeing_images": agreeing,
        "flips": [
            {"label": label[one], "challenger_label": label[two], "images": count}
            for (one, two), count in sorted(flips.items(), key=lambda item: (-item[1], item[0]))[:_MOST_FLIPS]
        ],
    }


def _sampled(
    answers: Answers, names: dict[str, int], every: int
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Yield hashes and classes of the rows whose path is in the sample: int64[N], int64[N]."""
    places = np.array([names[label] for label in answers.labels], np.int64)
    for path in answers.paths:
        filesystem, inner = storage.filesystem(path)
        with filesystem.open_input_file(inner) as stream:
            for batch in pq.ParquetFile(stream).iter_batches(_BATCH_ROWS, columns=["image_path", "predicted_index"]):
                # Python's own hash of a text has 64 bits.
                keys = np.fromiter(map(hash, batch.column("image_path").to_pylist()), np.int64, batch.num_rows)
                kept = keys % every == 0
                yield keys[kept], places[np.asarray(batch.column("predicted_index"))[kept]]


def challenge(model: Answers, challenger: Answers, *, independent: bool, **told: Any) -> dict[str, Any]:
    """Return what the report tells of a challenger.

    Args:
        model: The table `scores`.
        challenger: The table `scores_challenger`.
        independent: Whether the challenger's labels do not exclude each other.
        **told: What else is told of it.
    """
    answers = measure(challenger.paths, challenger.labels, independent=independent)
    return {**told, **compare_answers(model, challenger), "distributions": answers.to_json()}
