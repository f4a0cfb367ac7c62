"""Compare two published runs: two nights of one model, or two models on the same images, those of one run included.

On the images that both have scored: how many answers differ, and which. On all images: how far class mix and
confidence have moved. The images that moved furthest are found in two passes: the narrow columns name candidates, and
only of those are the probabilities read. So each movement is exact, and their order is; that no other image has moved
further is certain only where all are candidates. Certainty would cost the probabilities of all images, in two orders.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.after.compare_join import Names, Shared, join_runs, match_names
from pipeline.after.published import PublishedRun, matrix
from transforms import storage
from transforms.distributions import Distributions, Histogram, measure, probability_edges
from transforms.divergence import Divergence, compare_classes, compare_levels, diverge
from transforms.errors import InputError
from transforms.probabilities import top_k

VERSION = 1
"""Of the JSON."""
CANDIDATES = 4
"""Candidates for each image that is shown in the end."""
_TOP = 3
_Float = npt.NDArray[np.float64]

Measure = Literal["total variation", "largest change of a label's probability"]


class Side(NamedTuple):
    """One of the two runs."""

    run_id: str
    """The run."""
    table: str
    """Of the run: scores, or scores_challenger."""
    name: str
    """What a person calls it: not that of the other."""
    output: str
    """The folder of all runs that it lies in."""
    model_id: str
    """What scored it."""
    published_at: str
    """When; empty where its manifest does not say."""
    fingerprints: dict[str, str]
    """What makes its scores what they are."""
    images: int
    """Scored ones."""
    failed: int
    """Images that could not be scored."""
    since_run: str | None
    """The run that it is a delta of: it holds the images that are new or changed since, and no others."""


class Flip(NamedTuple):
    """Images whose answer has changed from one class to another."""

    before: str
    """The label in the first run."""
    now: str
    """The label in the second."""
    images: int
    """How many."""


class Shift(NamedTuple):
    """The images of one label in both runs."""

    label: str
    """The class, or all classes of that label."""
    before: int
    """In the first run."""
    now: int
    """In the second."""


class Answer(NamedTuple):
    """One label and its probability."""

    label: str
    """The class."""
    probability: float
    """In [0, 1]."""


class Movement(NamedTuple):
    """An image whose probabilities have moved far."""

    image_path: str
    """The image."""
    change: float
    """How far, in [0, 1]; Comparison.movement says what is measured."""
    before: tuple[Answer, ...]
    """The three strongest in the first run."""
    now: tuple[Answer, ...]
    """The three strongest in the second."""
    new_version: bool
    """Whether the image itself had changed."""
    label: str | None
    """Of independent labels the one that moved furthest, by `change`; None where all probabilities count."""
    label_before: float | None
    """Its probability in the first run."""
    label_now: float | None
    """Its probability in the second."""


class Population(NamedTuple):
    """Two sets of images, compared by their distributions."""

    class_mix: Divergence | None
    """Of the answers, by label; None where a set is empty."""
    confidence: Divergence | None
    """Of the top-1 probabilities; None where a set is empty."""
    shifts: tuple[Shift, ...]
    """Labels that either has, those first whose share has changed most."""
    confidences: tuple[Histogram, Histogram]
    """Of the top-1 probabilities."""
    paired: bool
    """Whether both are of the same images: then nothing in their difference comes from sampling."""

    def to_json(self) -> dict[str, Any]:
        """Return everything as what json.dumps takes."""
        return {
            "class_mix": self._told(self.class_mix),
            "confidence": self._told(self.confidence),
            "shifts": [shift._asdict() for shift in self.shifts],
            "confidences": [histogram.to_json() for histogram in self.confidences],
        }

    def _told(self, found: Divergence | None) -> dict[str, Any] | None:
        if found is None or not self.paired:
            return found and found.to_json()
        return {"psi": found.psi, "js": found.js, "js_distance": found.js_distance, "groups": found.groups}


@dataclass(frozen=True)
class Comparison:
    """What has changed from one run to another."""

    sides: tuple[Side, Side]
    """The first run and the second."""
    names: Names
    """Of the classes of both."""
    joined: Shared
    """The images that both have scored."""
    all_images: Population
    """All that each run has scored."""
    shared_images: Population
    """Those that both have."""
    movement: Measure
    """What `change` means."""
    movements: tuple[Movement, ...]
    """The furthest first of the candidates."""

    @property
    def candidates(self) -> int:
        """Of how many images the probabilities were read: those whose strongest answers have moved most."""
        return len(self.joined.candidates.score)

    @property
    def searched(self) -> str:
        """Among which images those that moved furthest were looked for, for a person; empty for all of them."""
        if self.candidates == self.joined.images:
            return ""
        return f"among the {self.candidates} images whose strongest answers moved most"

    @property
    def flip_rate(self) -> float | None:
        """Share of the shared images with another answer; None where none is shared."""
        return self.joined.flips / self.joined.images if self.joined.images else None

    @property
    def flips(self) -> tuple[Flip, ...]:
        """Kinds of flips, the most frequent first, then by label."""
        labels = self.names.labels
        found = [Flip(labels[old], labels[new], images) for (old, new), images in self.joined.pairs.items()]
        return tuple(sorted(found, key=lambda flip: (-flip.images, flip.before, flip.now)))

    def to_json(self) -> dict[str, Any]:
        """Return everything as what json.dumps takes."""
        joined, rate = self.joined, self.flip_rate
        unchanged = joined.images - joined.changed
        return {
            "version": VERSION,
            "runs": [side._asdict() for side in self.sides],
            "images": {
                "shared": joined.images,
                "shared_new_version": joined.changed,
                "only_first": joined.only_first,
                "only_first_failed_in_second": joined.only_first_failed,
                "only_second": joined.only_second,
                "only_second_failed_in_first": joined.only_second_failed,
            },
            "labels": {"only_first": list(self.names.only_first), "only_second": list(self.names.only_second)},
            "flip_rate": rate,
            "agreement": None if rate is None else 1 - rate,
            "flip_rate_same_version": (joined.flips - joined.changed_flips) / unchanged if unchanged else None,
            "mean_confidence_change": joined.confidence_change / joined.images if joined.images else None,
            "flips": [flip._asdict() for flip in self.flips],
            "all_images": self.all_images.to_json(),
            "shared_images": self.shared_images.to_json(),
            "movement": self.movement,
            "movement_candidates": self.candidates,
            "movements": [
                {
                    **moved._asdict(),
                    "before": [answer._asdict() for answer in moved.before],
                    "now": [answer._asdict() for answer in moved.now],
                }
                for moved in self.movements
            ],
        }


def compare(first: PublishedRun, second: PublishedRun, most: int = 24) -> Comparison:
    """Compare two runs.

    Args:
        first: The run that is compared with: the earlier night, or the model in use. From find_run.
        second: The run that is compared. From find_run.
        most: How many of the images that moved furthest to name.

    Raises:
        InputError: They are the same run, have no label in common, or a file is missing or damaged.
    """
    if (first.layout, first.table) == (second.layout, second.table):
        raise InputError(
            f"run {first.name} cannot be compared with itself; give two runs, <output>/runs/<id> each, or the models "
            "of one, <output>/scores/run_id=<id> and <output>/scores_challenger/run_id=<id>"
        )
    names = match_names(first.labels, second.labels)
    try:
        joined = join_runs(first, second, names, most * CANDIDATES)
        spreads = _distributions(first), _distributions(second)
    except (OSError, ValueError) as error:
        raise InputError(f"the runs cannot be compared: {str(error).splitlines()[0]}") from error
    mixes = [_by_name(spread.class_counts, places, names) for spread, places in zip(spreads, names[1:3], strict=True)]
    shared = [Histogram(probability_edges(), counts) for counts in joined.confidences]
    called = _names(first, second)
    movement: Measure = "total variation"
    if first.independent or second.independent:
        movement = "largest change of a label's probability"
    moved = sorted(_movements(first, second, joined, movement), key=lambda found: -found.change)
    return Comparison(
        (_side(first, called[0]), _side(second, called[1])),
        names,
        joined,
        _population(names, (mixes[0], mixes[1]), (spreads[0].confidence, spreads[1].confidence), paired=False),
        _population(names, joined.mixes, (shared[0], shared[1]), paired=True),
        movement,
        tuple(moved[:most]),
    )


def _names(first: PublishedRun, second: PublishedRun) -> tuple[str, str]:
    """Return what to call them: nights of two outputs may have one id."""
    if first.name == second.name:
        return f"{first.name} (first)", f"{second.name} (second)"
    return first.name, second.name


def _side(run: PublishedRun, name: str) -> Side:
    manifest = run.manifest
    ledger = manifest.get("ledger") or {}
    followed = manifest.get("since_run") or {}
    failed = int(ledger.get("failed", 0))
    scored = int(ledger.get("scored", 0))
    if run.table != "scores":
        scored = int(ledger.get("challenger_scored", 0))
        failed += int(ledger.get("challenger_failed", 0))
    return Side(
        run.layout.run_id,
        run.table,
        name,
        run.layout.output,
        str(manifest.get("model_id", "") if run.table == "scores" else run.model_id),
        str(manifest.get("published_at", "")),
        run.fingerprints,
        scored,
        failed,
        followed.get("run_id"),
    )


def _distributions(run: PublishedRun) -> Distributions:
    """Return how the answers of a run are distributed, from its manifest where that says it of this table."""
    told = run.manifest.get("distributions")
    if told is not None and run.table == "scores":
        return Distributions.from_json(told)
    files = [storage.join(run.layout.output, e["path"]) for e in run.manifest["files"] if e["table"] == run.table]
    return measure(files, run.labels, independent=run.independent)


def _by_name(counts: npt.NDArray[np.int64], places: npt.NDArray[np.intp], names: Names) -> npt.NDArray[np.int64]:
    return np.bincount(places, counts, len(names.labels)).astype(np.int64)


def _population(
    names: Names,
    mixes: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]],
    confidences: tuple[Histogram, Histogram],
    *,
    paired: bool,
) -> Population:
    rows = [int(mix.sum()) for mix in mixes]
    if not all(rows):
        return Population(None, None, (), confidences, paired)
    before, now = mixes
    change = now / rows[1] - before / rows[0]
    held = np.flatnonzero((before > 0) | (now > 0))
    order = held[np.lexsort((held, -np.abs(change[held])))]
    return Population(
        # Of the same images nothing is chance: no class has to be put together with others.
        diverge(before[held], now[held]) if paired else compare_classes(before, now),
        compare_levels(confidences[0].counts, confidences[1].counts),
        tuple(Shift(names.labels[place], int(before[place]), int(now[place])) for place in order.tolist()),
        confidences,
        paired,
    )


class _Vectors(NamedTuple):
    """What was read of one candidate in one run."""

    path: str
    version: str | None
    probabilities: npt.NDArray[np.float32]


def _movements(first: PublishedRun, second: PublishedRun, joined: Shared, movement: Measure) -> Iterator[Movement]:
    """Read the probabilities of the candidates, and measure how far they have moved."""
    candidates, names = joined.candidates, joined.names
    old = _read_rows(first, candidates.first)
    new = _read_rows(second, candidates.second)
    for there, here in zip(candidates.first.tolist(), candidates.second.tolist(), strict=True):
        before, now = old[there], new[here]
        if before.path != now.path:
            continue  # two paths of one hash: not one image
        p = np.bincount(names.first, before.probabilities, len(names.labels))
        q = np.bincount(names.second, now.probabilities, len(names.labels))
        difference = np.abs(p - q)
        whole = movement == "total variation"
        change = difference.sum() / 2 if whole else difference.max()
        most = int(np.argmax(difference))
        yield Movement(
            before.path,
            min(float(change), 1.0),
            _answers(before.probabilities, first.labels),
            _answers(now.probabilities, second.labels),
            before.version != now.version,
            *((None, None, None) if whole else (names.labels[most], float(p[most]), float(q[most]))),
        )


def _read_rows(run: PublishedRun, places: npt.NDArray[np.int64]) -> dict[int, _Vectors]:
    """Read some rows, named by their places in the run: only the row groups that hold them."""
    found: dict[int, _Vectors] = {}
    wanted = np.unique(places)
    start = 0
    for group in run.row_groups(run.table):
        if start > wanted.max(initial=-1):
            break
        end = start + group.file.metadata.row_group(group.number).num_rows
        mine = wanted[(wanted >= start) & (wanted < end)]
        if len(mine):
            rows = group.read(["image_path", "image_version", "probabilities"]).take(mine - start)
            columns = rows["image_path"].to_pylist(), rows["image_version"].to_pylist(), matrix(rows["probabilities"])
            for place, path, version, p in zip(mine.tolist(), *columns, strict=True):
                found[place] = _Vectors(path, version, p)
        start = end
    return found


def _answers(p: npt.NDArray[np.float32], labels: Sequence[str]) -> tuple[Answer, ...]:
    best = top_k(p[np.newaxis], min(_TOP, len(p)))
    return tuple(
        Answer(labels[index], float(value)) for index, value in zip(best.index[0], best.probability[0], strict=True)
    )
