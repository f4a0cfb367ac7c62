"""Score a sample once, as a run would: what its images are, which fail, and what the model really sees of them."""

import time
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.before.pace import open_loader
from transforms.contest import Contest
from transforms.errors import Stage
from transforms.inputs import BadName
from transforms.load_plan import LoadPlan
from transforms.records import Failure, ImageBatch, ImageRef

TOP = 3
"""Classes that are told of each image."""


class Answer(NamedTuple):
    """One class of an image."""

    label: str
    """Its name."""
    probability: float
    """0 to 1."""


class Seen(NamedTuple):
    """One image as the model sees it, and what it says."""

    path: str
    """The image."""
    pixels: npt.NDArray[np.uint8] | None
    """uint8[H, W, 3], before the graph scales its values; None for a model that is given encoded bytes."""
    top: tuple[Answer, ...]
    """The strongest classes; of a model of independent labels, too."""


class Trial(NamedTuple):
    """What became of a sample."""

    scores: pa.Table
    """Rows of the scores table."""
    failures: tuple[Failure, ...]
    """Images without a row."""
    seen: tuple[Seen, ...]
    """Some that have one, spread over the sample and in its order."""
    challenger_scores: pa.Table | None
    """Rows of its table; None where there is no challenger."""
    challenger_failures: tuple[Failure, ...]
    """What only the challenger could not score: it costs no image its row, and counts for no limit."""
    read_ms: float
    """Mean thread time of reading an image for the first time, in milliseconds."""
    read_bytes: float
    """Mean size of an image that could be read, in bytes."""
    seconds: float
    """That all of it took."""

    @property
    def images(self) -> int:
        """How many were tried."""
        return self.scores.num_rows + len(self.failures)

    @property
    def failures_by_code(self) -> Counter[str]:
        """Failed images by code, the most frequent first."""
        return Counter(failure.code.value for failure in self.failures)


def try_sample(sample: Sequence[ImageRef | BadName], plan: LoadPlan, contest: Contest, pictures: int) -> Trial:
    """Score each image of a sample once.

    Args:
        sample: As listed.
        plan: As of a run.
        contest: Loaded; what is told of an image is what its first model says.
        pictures: How many images to keep as the model sees them.

    Raises:
        RunError: What the model returns contradicts what it is declared to return.
    """
    started = time.perf_counter()
    failures = [entry.failure() for entry in sample if isinstance(entry, BadName)]
    refs = [entry for entry in sample if isinstance(entry, ImageRef)]
    rows: list[pa.RecordBatch] = []
    rival_rows: list[pa.RecordBatch] = []
    rival_failures: list[Failure] = []
    # Threads finish in any order: which images are shown must not depend on it.
    places = {ref.path: place for place, ref in enumerate(refs)}
    ranks = {refs[place].path: rank for rank, place in enumerate(_spread(len(refs), pictures))}
    seen: dict[str, Seen] = {}
    read_ms, read_bytes = 0.0, 0

    def score(batch: ImageBatch) -> None:
        contested = contest.score(batch)
        scored = contested.champion
        if contested.challenger is not None:
            rival_rows.append(contested.challenger.rows)
            rival_failures.extend(contested.challenger.failures)
        failures.extend(scored.failures)
        rows.append(scored.rows)
        answers = dict(zip(scored.rows["image_path"].to_pylist(), scored.rows["top_k"].to_pylist(), strict=True))
        for ref, pixels in zip(batch.refs, batch.pixels, strict=True):
            if ref.path in answers:
                kept = None if plan.encoded else pixels.copy()
                top = tuple(Answer(entry["label"], entry["probability"]) for entry in answers[ref.path][:TOP])
                seen[ref.path] = Seen(ref.path, kept, top)
        for path in sorted(seen, key=ranks.__getitem__)[pictures:]:
            del seen[path]

    if refs:
        with open_loader(refs, plan) as loader:
            for ref in (*refs, None):
                for loaded in loader.finish() if ref is None else loader.add(ref):
                    if isinstance(loaded, Failure):
                        failures.append(loaded)
                    else:
                        score(loaded)
            tally = loader.take_tally()
        read = sum(failure.stage in (Stage.DECODE, Stage.SCORE) for failure in failures)
        read += sum(batch.num_rows for batch in rows)
        read_ms, read_bytes = tally.read_ms / max(1, tally.images), tally.read_bytes / max(1, read)
    return Trial(
        scores=pa.Table.from_batches(rows, schema=contest.champion.schema),
        challenger_scores=(
            None if contest.challenger is None else pa.Table.from_batches(rival_rows, schema=contest.challenger.schema)
        ),
        challenger_failures=tuple(rival_failures),
        failures=tuple(sorted(failures, key=lambda failure: (failure.code, places.get(failure.ref.path, -1)))),
        seen=tuple(sorted(seen.values(), key=lambda one: places[one.path])),
        read_ms=read_ms,
        read_bytes=read_bytes,
        seconds=time.perf_counter() - started,
    )


def _spread(count: int, wanted: int) -> list[int]:
    """Return 0 to count - 1, first so many as are wanted that lie as far apart as they can.

    >>> _spread(7, 3)
    [0, 3, 6, 1, 2, 4, 5]
    """
    first = [round(place) for place in np.linspace(0, count - 1, min(wanted, count))]
    return [*first, *sorted(set(range(count)) - set(first))]
