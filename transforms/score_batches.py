"""ScoreBatches: from batches of pixels to rows of the scores table, with one shared model a process, or two."""

from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

import apache_beam as beam
import pyarrow as pa
from apache_beam.utils.shared import Shared
from apache_beam.utils.windowed_value import WindowedValue

from transforms import coders
from transforms.bundles import at_end, check_windows
from transforms.contest import AnsweredBatch, Contest, ContestedBatch, ContestPlan
from transforms.errors import ExitCode, RunError
from transforms.observe import Capacity, Count, CountFailures
from transforms.records import Failure, ImageBatch, RivalRows
from transforms.scoring import ScoredBatch, ScorerPlan
from transforms.versions import check_versions

FAILURES = "failures"
SCORES = "scores"


@dataclass
class ScoreBatches(beam.PTransform):
    """Score batches; PCollection[ImageBatch] in.

    The result has two outputs: `scores`, PCollection[pa.RecordBatch], with a challenger PCollection[RivalRows], and
    `failures`, PCollection[Failure].
    """

    plan: ScorerPlan
    """Which model, and how to read it."""
    model_fingerprint: str | None = None
    """What the launcher saw; a worker that finds another model stops the run. None takes any."""
    shared: Shared = field(default_factory=Shared)
    """Holds the one Contest of a process; the launcher that has loaded it hands over its own."""
    versions: Mapping[str, str] | None = None
    """What the launcher has installed; a worker that has other versions stops the run. None takes any."""
    challenger: ScorerPlan | None = None
    """A second model, for the images that the first one scores."""
    challenger_fingerprint: str | None = None
    """As model_fingerprint."""

    def __post_init__(self) -> None:
        super().__init__()
        coders.register()

    @beam.typehints.no_annotations  # Beam knows no hint for several outputs and warns of it
    def expand(self, batches: beam.PCollection[ImageBatch]) -> beam.pvalue.DoOutputsTuple:
        """Score each batch in one call, or in as few as its images allow."""
        check_windows(
            batches, "ScoreBatches needs globally windowed batches, for their rows come out later than they go in"
        )
        fingerprints = (self.model_fingerprint, self.challenger_fingerprint)
        score = _ScoreDoFn(ContestPlan(self.plan, self.challenger), fingerprints, self.shared, self.versions)
        rows: Any = pa.RecordBatch if self.challenger is None else RivalRows
        return batches | "Score" >> beam.ParDo(score).with_output_types(rows, failures=Failure).with_outputs(
            FAILURES, main=SCORES
        )


class _ScoreDoFn(beam.DoFn):
    """Hands batches to the devices, and makes rows of the one before while they compute."""

    def __init__(
        self,
        plan: ContestPlan,
        fingerprints: tuple[str | None, str | None],
        shared: Shared,
        versions: Mapping[str, str] | None = None,
    ) -> None:
        self._versions = versions
        self._plan = plan
        self._fingerprints = fingerprints
        self._shared = shared
        self._champion = _Counts("score", "scored_images", "model_ms")
        self._challenger = _Counts("challenge", "challenged_images", "challenge_model_ms", "challenge_")
        self._capacity = Capacity("model_capacity_ms")

    def setup(self) -> None:
        self._is_ready = False

    def start_bundle(self) -> None:
        # Not in setup: a worker opens its data channel after it. Flink's runner waits three minutes for that channel,
        # too short for a large model, and never learns what setup has raised.
        if not self._is_ready:
            self._get_ready()
            self._is_ready = True
        # Of a bundle that failed: it comes again as a whole.
        while self._under_way:
            self._under_way.popleft().cancel()
        self._capacity.start()

    def _get_ready(self) -> None:
        if self._versions is not None:
            check_versions(self._versions)
        # Never released in teardown: Beam tears an idle DoFn down after a minute, and the model took longer to load.
        self._contest: Contest = self._shared.acquire(lambda: Contest(self._plan))
        scorers = (self._contest.champion, self._contest.challenger)
        for scorer, expected in zip(scorers, self._fingerprints, strict=True):
            if scorer is not None and expected not in (None, found := scorer.classifier.fingerprint):
                raise RunError(
                    ExitCode.WRONG_INPUT,
                    f"model {scorer.plan.model.path} is not the same everywhere: the launcher read fingerprint "
                    f"{expected}, this worker {found}; publish models under a new name, never in place",
                )
        self._pool = ThreadPoolExecutor(self._contest.calls_in_flight, thread_name_prefix="model")
        self._under_way: deque[Future[AnsweredBatch]] = deque()

    def process(
        self, batch: ImageBatch
    ) -> Iterator[pa.RecordBatch | RivalRows | beam.pvalue.TaggedOutput[Literal["failures"], Failure]]:
        self._under_way.append(self._pool.submit(self._contest.predict, batch))
        # One more than there are calls in flight, so that a device that is done finds the next batch.
        while len(self._under_way) > self._contest.calls_in_flight or (self._under_way and self._under_way[0].done()):
            contested = self._finish()
            for failure in contested.champion.failures:
                yield beam.pvalue.TaggedOutput(FAILURES, failure)
            if contested.champion.rows.num_rows:
                yield _rows(contested)

    def finish_bundle(self) -> Iterator[WindowedValue | beam.pvalue.TaggedOutput[Literal["failures"], Failure]]:
        while self._under_way:
            contested = self._finish()
            for failure in contested.champion.failures:
                yield beam.pvalue.TaggedOutput(FAILURES, at_end(failure))
            if contested.champion.rows.num_rows:
                yield at_end(_rows(contested))
        self._capacity.stop(self._contest.calls_in_flight)

    def teardown(self) -> None:
        if self._is_ready:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _finish(self) -> ContestedBatch:
        """Wait for the oldest batch under way; what its call has raised is raised here, in the bundle's own thread."""
        contested = self._contest.finish(self._under_way.popleft().result())
        self._champion.add(contested.champion)
        if contested.challenger is not None:
            self._challenger.add(contested.challenger)
        return contested


class _Counts:
    """What a model has done."""

    def __init__(self, verb: str, scored: str, model_ms: str, prefix: str = "") -> None:
        self._scored = Count(scored)
        self._failed = CountFailures(f"{verb}_failed_images", prefix)
        self._model_ms = Count(model_ms)
        self._out_of_memory = Count(f"{verb}_out_of_memory_calls")

    def add(self, scored: ScoredBatch) -> None:
        self._model_ms.add(scored.model_ms)
        self._scored.add(scored.rows.num_rows)
        for failure in scored.failures:
            self._failed.add(failure.code)
        self._out_of_memory.add(scored.out_of_memory)


def _rows(contested: ContestedBatch) -> pa.RecordBatch | RivalRows:
    return contested.champion.rows if contested.challenger is None else contested.together()
