"""ScoreBatches: from batches of pixels to rows of the scores table, with one shared model a process."""

from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal

import apache_beam as beam
import pyarrow as pa
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.shared import Shared
from apache_beam.utils.windowed_value import WindowedValue

from transforms import coders
from transforms.errors import ExitCode, RunError
from transforms.observe import Capacity, Count
from transforms.records import Failure, ImageBatch
from transforms.scoring import PredictedBatch, ScoredBatch, Scorer, ScorerPlan
from transforms.versions import check_versions

FAILURES = "failures"
SCORES = "scores"


@dataclass
class ScoreBatches(beam.PTransform):
    """Score batches; PCollection[ImageBatch] in.

    The result has two outputs: `scores`, PCollection[pa.RecordBatch], and `failures`, PCollection[Failure].
    """

    plan: ScorerPlan
    """Which model, and how to read it."""
    model_fingerprint: str | None = None
    """What the launcher saw; a worker that finds another model stops the run. None takes any."""
    shared: Shared = field(default_factory=Shared)
    """Holds the one model of a process; the launcher that has loaded it hands over its own."""
    versions: Mapping[str, str] | None = None
    """What the launcher has installed; a worker that has other versions stops the run. None takes any."""

    def __post_init__(self) -> None:
        super().__init__()
        coders.register()

    @beam.typehints.no_annotations  # Beam knows no hint for several outputs and warns of it
    def expand(self, batches: beam.PCollection[ImageBatch]) -> beam.pvalue.DoOutputsTuple:
        """Score each batch in one call, or in as few as its images allow."""
        if not batches.windowing.is_default():
            raise ValueError(
                "ScoreBatches needs globally windowed batches, for their rows come out later than they go in: apply "
                "beam.WindowInto(beam.window.GlobalWindows()) before it"
            )
        score = _ScoreDoFn(self.plan, self.model_fingerprint, self.shared, self.versions)
        return batches | "Score" >> beam.ParDo(score).with_output_types(pa.RecordBatch, failures=Failure).with_outputs(
            FAILURES, main=SCORES
        )


class _ScoreDoFn(beam.DoFn):
    """Hands batches to the devices, and makes rows of the one before while they compute."""

    def __init__(
        self,
        plan: ScorerPlan,
        model_fingerprint: str | None,
        shared: Shared,
        versions: Mapping[str, str] | None = None,
    ) -> None:
        self._versions = versions
        self._plan = plan
        self._model_fingerprint = model_fingerprint
        self._shared = shared
        self._scored = Count("scored_images")
        self._failed = Count("score_failed_images")
        self._model_ms = Count("model_ms")
        self._capacity = Capacity("model_capacity_ms")
        self._out_of_memory = Count("score_out_of_memory_calls")

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
        self._scorer: Scorer = self._shared.acquire(lambda: Scorer(self._plan))
        found = self._scorer.classifier.fingerprint
        if self._model_fingerprint not in (None, found):
            raise RunError(
                ExitCode.WRONG_INPUT,
                f"model {self._plan.model.path} is not the same everywhere: the launcher read fingerprint "
                f"{self._model_fingerprint}, this worker {found}; publish models under a new name, never in place",
            )
        self._pool = ThreadPoolExecutor(self._scorer.calls_in_flight, thread_name_prefix="model")
        self._under_way: deque[Future[PredictedBatch]] = deque()

    def process(
        self, batch: ImageBatch
    ) -> Iterator[pa.RecordBatch | beam.pvalue.TaggedOutput[Literal["failures"], Failure]]:
        self._under_way.append(self._pool.submit(self._scorer.predict, batch))
        # One more than there are calls in flight, so that a device that is done finds the next batch.
        while len(self._under_way) > self._scorer.calls_in_flight or (self._under_way and self._under_way[0].done()):
            scored = self._finish()
            for failure in scored.failures:
                yield beam.pvalue.TaggedOutput(FAILURES, failure)
            if scored.rows.num_rows:
                yield scored.rows

    def finish_bundle(self) -> Iterator[WindowedValue | beam.pvalue.TaggedOutput[Literal["failures"], Failure]]:
        window = GlobalWindow()
        while self._under_way:
            scored = self._finish()
            for failure in scored.failures:
                value = WindowedValue(failure, window.max_timestamp(), (window,))
                yield beam.pvalue.TaggedOutput(FAILURES, value)
            if scored.rows.num_rows:
                yield WindowedValue(scored.rows, window.max_timestamp(), (window,))
        self._capacity.stop(self._scorer.calls_in_flight)

    def teardown(self) -> None:
        if self._is_ready:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _finish(self) -> ScoredBatch:
        """Wait for the oldest batch under way; what its call has raised is raised here, in the bundle's own thread."""
        scored = self._scorer.finish(self._under_way.popleft().result())
        self._model_ms.add(scored.model_ms)
        self._scored.add(scored.rows.num_rows)
        self._failed.add(len(scored.failures))
        self._out_of_memory.add(scored.out_of_memory)
        return scored
