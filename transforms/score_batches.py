"""ScoreBatches: from batches of pixels to rows of the scores table, with one shared model a process."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import apache_beam as beam
import pyarrow as pa
from apache_beam.utils.shared import Shared

from transforms import coders
from transforms.errors import ExitCode, RunError
from transforms.observe import Count
from transforms.records import Failure, ImageBatch
from transforms.scoring import Scorer, ScorerPlan

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

    def __post_init__(self) -> None:
        super().__init__()
        coders.register()

    @beam.typehints.no_annotations  # Beam knows no hint for several outputs and warns of it
    def expand(self, batches: beam.PCollection[ImageBatch]) -> beam.pvalue.DoOutputsTuple:
        """Score each batch in one call, or in as few as its images allow."""
        score = _ScoreDoFn(self.plan, self.model_fingerprint, self.shared)
        return batches | "Score" >> beam.ParDo(score).with_outputs(FAILURES, main=SCORES)


class _ScoreDoFn(beam.DoFn):
    def __init__(self, plan: ScorerPlan, model_fingerprint: str | None, shared: Shared) -> None:
        self._plan = plan
        self._model_fingerprint = model_fingerprint
        self._shared = shared
        self._scored = Count("scored_images")
        self._failed = Count("score_failed_images")
        self._model_ms = Count("model_ms")
        self._out_of_memory = Count("score_out_of_memory_calls")

    def setup(self) -> None:
        # Never released in teardown: Beam tears an idle DoFn down after a minute, and the model took longer to load.
        self._scorer: Scorer = self._shared.acquire(lambda: Scorer(self._plan))
        found = self._scorer.classifier.fingerprint
        if self._model_fingerprint not in (None, found):
            raise RunError(
                ExitCode.WRONG_INPUT,
                f"model {self._plan.model.path} is not the same everywhere: the launcher read fingerprint "
                f"{self._model_fingerprint}, this worker {found}; publish models under a new name, never in place",
            )

    def process(
        self, batch: ImageBatch
    ) -> Iterator[pa.RecordBatch | beam.pvalue.TaggedOutput[Literal["failures"], Failure]]:
        scored = self._scorer.score(batch)
        self._model_ms.add(scored.model_ms)
        self._scored.add(scored.rows.num_rows)
        self._failed.add(len(scored.failures))
        self._out_of_memory.add(scored.out_of_memory)
        for failure in scored.failures:
            yield beam.pvalue.TaggedOutput(FAILURES, failure)
        if scored.rows.num_rows:
            yield scored.rows
