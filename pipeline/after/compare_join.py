"""Find the images that two runs share, and count on the way how their answers differ.

Of the first run about 40 bytes a row are held: 64-bit hashes of path and version, answer, confidence and place; the
second is read as a stream. A hundred million images take 4 GB. Two paths of a hundred million that share
a hash, which happens about once in four thousand comparisons of that size, would be taken for one image; those that are
shown are compared letter for letter.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.after.published import PublishedRun
from transforms import distributions
from transforms.errors import InputError

_COLUMNS = ("image_path", "image_version", "predicted_index", "predicted_probability")
_Int = npt.NDArray[np.int64]
_Float = npt.NDArray[np.float32]
_Bool = npt.NDArray[np.bool_]


class Names(NamedTuple):
    """The labels of two runs, brought together by their names."""

    labels: tuple[str, ...]
    """U names: those of the first run, then what only the second has."""
    first: npt.NDArray[np.intp]
    """intp[C], for each class of the first run its place among them."""
    second: npt.NDArray[np.intp]
    """intp[C'], for each class of the second run."""
    only_first: tuple[str, ...]
    """Labels that the second run does not have."""
    only_second: tuple[str, ...]
    """Labels that the first run does not have."""


def match_names(first: Sequence[str], second: Sequence[str]) -> Names:
    """Bring the labels of two runs together.

    Equal lists are taken class by class, though two classes may share a name; else a name is what counts.

    Raises:
        InputError: They have no label in common.
    """
    if tuple(first) == tuple(second):
        places = np.arange(len(first))
        return Names(tuple(first), places, places, (), ())
    place: dict[str, int] = {}
    for label in (*first, *second):
        place.setdefault(label, len(place))
    mine, other = set(first), set(second)
    if not mine & other:
        raise InputError(
            f"the runs have no label in common: the first has {first[0]!r}, the second {second[0]!r} and so on; give "
            "two runs of models that tell the same classes apart, or give both the same names in labels.path"
        )
    return Names(
        tuple(place),
        np.array([place[label] for label in first], np.intp),
        np.array([place[label] for label in second], np.intp),
        tuple(label for label in dict.fromkeys(first) if label not in other),
        tuple(label for label in dict.fromkeys(second) if label not in mine),
    )


class Candidates(NamedTuple):
    """Images whose answers have moved far, by what the strongest answers alone say; the furthest first."""

    score: npt.NDArray[np.float64]
    """float64[K]."""
    first: _Int
    """int64[K], the row in the first run, counted over all of its files."""
    second: _Int
    """int64[K], in the second run."""


@dataclass
class Shared:
    """What the images say that both runs have scored."""

    names: Names
    """Of all classes."""
    images: int = 0
    """Scored by both."""
    changed: int = 0
    """Of them, those whose file was another version."""
    flips: int = 0
    """Of images, those with another answer."""
    changed_flips: int = 0
    """Of changed, those with another answer."""
    only_first: int = 0
    """Scored by the first run only."""
    only_first_failed: int = 0
    """Of them, those that the second run could not score."""
    only_second: int = 0
    """Scored by the second run only."""
    only_second_failed: int = 0
    """Of them, those that the first run could not score."""
    confidence_change: float = 0.0
    """Sum over images of the absolute change of the top-1 probability."""
    pairs: Counter[tuple[int, int]] = field(default_factory=Counter)
    """Flips by the places of both answers among the names."""
    mixes: tuple[_Int, _Int] = field(init=False)
    """int64[U] each: images by answer, of the first run and of the second."""
    confidences: tuple[_Int, _Int] = field(init=False)
    """int64[B] each: images by top-1 probability."""
    candidates: Candidates = field(init=False)
    """Those that have moved furthest."""

    def __post_init__(self) -> None:
        zeros = np.zeros(len(self.names.labels), np.int64)
        self.mixes = zeros, zeros.copy()
        bins = np.zeros(distributions.BINS, np.int64)
        self.confidences = bins, bins.copy()
        none = np.zeros(0, np.int64)
        self.candidates = Candidates(np.zeros(0), none, none)


def join_runs(first: PublishedRun, second: PublishedRun, names: Names, most: int) -> Shared:
    """Compare the answers of two runs on the images that both have scored.

    Args:
        first: The run that is compared with.
        second: The run that is compared.
        names: Of their classes.
        most: How many candidates to keep.

    Raises:
        InputError: A file of a run is missing or damaged.
    """
    held = _Held.read(first)
    found = Shared(names)
    exclusive = not (first.independent or second.independent)
    unmatched = []
    ordinal = 0
    for group in second.row_groups(second.table):
        rows = _Rows.of(group.read(_COLUMNS), second)
        places, hit = held.find(rows.paths)
        unmatched.append(rows.paths[~hit])
        _add(found, held, rows, places[hit], np.flatnonzero(hit), ordinal, exclusive=exclusive, most=most)
        ordinal += len(hit)
    rest = np.concatenate(unmatched) if unmatched else np.zeros(0, np.int64)
    found.only_second, found.only_first = len(rest), int((~held.matched).sum())
    found.only_second_failed = int(np.isin(rest, _failed(first)).sum())
    found.only_first_failed = int(np.isin(held.paths[~held.matched], _failed(second)).sum())
    return found


class _Rows(NamedTuple):
    """The narrow columns of N rows."""

    paths: _Int
    versions: _Int
    answers: npt.NDArray[np.int32]
    confidence: _Float

    @classmethod
    def of(cls, table: pa.Table, run: PublishedRun) -> "_Rows":
        index, confidence = (np.asarray(table[name]) for name in _COLUMNS[2:])
        if len(index) and (index.min() < 0 or index.max() >= len(run.labels)):
            raise InputError(
                f"run {run.layout.run_id}: a predicted_index is that of none of its {len(run.labels)} labels; "
                "score-images verify says what is wrong"
            )
        return cls(_hashes(table["image_path"]), _hashes(table["image_version"]), index, confidence)


class _Held(NamedTuple):
    """The rows of the first run, in the order of the hashes of their paths."""

    paths: _Int
    versions: _Int
    answers: npt.NDArray[np.int32]
    confidence: _Float
    place: _Int
    """Of each row in the run."""
    matched: _Bool
    """Whether the second run has it."""

    @classmethod
    def read(cls, run: PublishedRun) -> "_Held":
        total = sum(entry["rows"] for entry in run.manifest["files"] if entry["table"] == run.table)
        paths, versions = np.empty(total, np.int64), np.empty(total, np.int64)
        index, confidence = np.empty(total, np.int32), np.empty(total, np.float32)
        start = 0
        for group in run.row_groups(run.table):
            rows = _Rows.of(group.read(_COLUMNS), run)
            end = start + len(rows.paths)
            if end > total:
                break
            paths[start:end], versions[start:end], index[start:end], confidence[start:end] = rows
            start = end
        if start != total:
            raise InputError(
                f"run {run.layout.run_id}: its files do not hold the {total} rows that its manifest says; score-images "
                "verify says what is wrong"
            )
        order = np.argsort(paths)
        # One after the other: a second copy of all of them at once would double what is held.
        for column in (paths, versions, index, confidence):
            column[:] = column[order]
        return cls(paths, versions, index, confidence, order, np.zeros(total, np.bool_))

    def find(self, paths: _Int) -> tuple[npt.NDArray[np.intp], _Bool]:
        """Return for each path its place here, and whether it is here; note which were found."""
        if not len(self.paths):
            return np.zeros(len(paths), np.intp), np.zeros(len(paths), np.bool_)
        places = np.minimum(np.searchsorted(self.paths, paths), len(self.paths) - 1)
        hit: _Bool = self.paths[places] == paths
        self.matched[places[hit]] = True
        return places, hit


def _hashes(column: pa.ChunkedArray) -> _Int:
    # Python's own hash of a text is of 64 bits, and salted: nobody can name files so that they collide.
    return np.fromiter(map(hash, column.to_pylist()), np.int64, len(column))


def _failed(run: PublishedRun) -> _Int:
    found = [
        _hashes(group.read(["image_path"])["image_path"])
        for table in run.failures_tables
        for group in run.row_groups(table)
    ]
    return np.concatenate(found) if found else np.zeros(0, np.int64)


def _add(
    found: Shared,
    held: _Held,
    rows: _Rows,
    there: npt.NDArray[np.intp],
    here: npt.NDArray[np.intp],
    ordinal: int,
    *,
    exclusive: bool,
    most: int,
) -> None:
    """Add the images of one row group that both runs have: there in the first, here in the second."""
    names = found.names
    old, new = names.first[held.answers[there]], names.second[rows.answers[here]]
    before, now = held.confidence[there].astype(np.float64), rows.confidence[here].astype(np.float64)
    flipped = old != new
    changed = held.versions[there] != rows.versions[here]
    found.images += len(here)
    found.changed += int(changed.sum())
    found.flips += int(flipped.sum())
    found.changed_flips += int((flipped & changed).sum())
    found.confidence_change += float(np.abs(now - before).sum())
    edges = distributions.probability_edges()
    for mix, answers, histogram, confidence in zip(
        found.mixes, (old, new), found.confidences, (held.confidence[there], rows.confidence[here]), strict=True
    ):
        mix += np.bincount(answers, minlength=len(mix))
        histogram += distributions.fill(edges, confidence, "predicted_probability").counts
    keys, counts = np.unique(old[flipped] * len(names.labels) + new[flipped], return_counts=True)
    for key, count in zip(keys.tolist(), counts.tolist(), strict=True):
        found.pairs[divmod(key, len(names.labels))] += count
    score = movement_bound(before, now, flipped, exclusive=exclusive)
    found.candidates = _best(found.candidates, Candidates(score, held.place[there], here + ordinal), most)


def movement_bound(
    before: npt.NDArray[np.float64], now: npt.NDArray[np.float64], flipped: _Bool, *, exclusive: bool
) -> npt.NDArray[np.float64]:
    """Return how far each image has moved at least, by its strongest answers alone.

    Args:
        before: float64[N], the top-1 probability in the first run.
        now: float64[N], in the second.
        flipped: bool[N], whether the answers differ.
        exclusive: The probabilities of an image sum to 1.

    Returns:
        float64[N]. For exclusive classes a lower bound of the total variation: where the answer is the same it has
        moved by the difference; another answer leaves the old one what is left beside the new one, and no more than
        that. Independent labels have no such bound: those that flip count with the weaker of both answers.
    """
    same = np.abs(now - before)
    if exclusive:
        lost = np.maximum(before - np.minimum(now, 1 - now), now - np.minimum(before, 1 - before))
        return np.where(flipped, np.maximum(lost, 0.0), same)
    return np.where(flipped, np.minimum(before, now), same)


def _best(one: Candidates, other: Candidates, most: int) -> Candidates:
    joined = [np.concatenate(parts) for parts in zip(one, other, strict=True)]
    # Equal ones in the order of the first run: the same runs give the same page.
    order = np.lexsort((joined[1], -joined[0]))[:most]
    return Candidates(*(part[order] for part in joined))
