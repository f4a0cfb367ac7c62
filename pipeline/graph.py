"""The one page on which the data's way is read from top to bottom.

inputs -> ListImages -> SkipScored -> LoadBatches -> ScoreBatches -> WriteTables -> PublishRun
             |                            |              |               |
             +---------- failures --------+--------------+---------------+

In a delta, StatImages stands beside the way from SkipScored to LoadBatches. Where the runner has workers of its own,
ListImages takes the inputs apart, and GroupUnits stands before LoadBatches and before the writing of failures. With a
challenger, ScoreBatches asks both models, and WriteGroups stands where WriteTables writes the scores: the rows of both
travel together.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import apache_beam as beam
import pyarrow as pa
from apache_beam.utils.shared import Shared

from pipeline.config import RunConfig
from transforms.contest import Contest
from transforms.earlier_runs import EarlierFile
from transforms.group_units import GroupUnits
from transforms.inputs import BadName, InputSource, resolve
from transforms.layout import CHALLENGER_TABLES, Table
from transforms.list_images import ListImages
from transforms.load_batches import LoadBatches
from transforms.outcomes import Outcome
from transforms.part_groups import TableFiles
from transforms.publish_run import Counted, PublishRun
from transforms.publishing import RunFacts
from transforms.records import Failure, ImageRef, RivalRows, WrittenFile
from transforms.score_batches import ScoreBatches
from transforms.scoring import Scorer
from transforms.skip_scored import SkipScored
from transforms.stat_images import StatImages
from transforms.tables import failures_batch
from transforms.units import FAILURE_BYTES, plan_units, score_row_bytes
from transforms.versions import read_versions
from transforms.write_groups import WriteGroups
from transforms.write_tables import WriteTables


class LoadedModel(NamedTuple):
    """The model of a pipeline, or both of its models, loaded where the pipeline is built."""

    contest: Contest
    """Ready for work."""
    shared: Shared
    """Holds it in this process: workers that live here take this one and load none."""

    @property
    def scorer(self) -> Scorer:
        """The first model."""
        return self.contest.champion

    @property
    def challenger(self) -> Scorer | None:
        """The second model; None where there is none."""
        return self.contest.challenger


def load(config: RunConfig, loading: Callable[[], Contest] | None = None) -> LoadedModel:
    """Load the model of a configuration, to find every contradiction before the first image is read.

    Args:
        config: The configuration.
        loading: Gives the models of this very configuration, where they are being loaded already.

    Raises:
        ConfigError: Model, labels and settings do not fit each other.
    """
    shared = Shared()
    plan = config.contest_plan()
    return LoadedModel(shared.acquire(loading or (lambda: Contest(plan))), shared)


class Scored(NamedTuple):
    """What ScoreImages gives back."""

    scores: beam.PCollection[pa.RecordBatch]
    """Rows of the scores table."""
    failures: beam.PCollection[Failure]
    """One for each image that has no row, with its reason."""
    todo: beam.PCollection[ImageRef | Failure]
    """Every path once, without those of done_files and without what is skipped."""
    duplicates: beam.PCollection[int]
    """How often a path was listed again."""
    unlisted: beam.PCollection[int]
    """A 1 for each row of done_files whose path is not listed."""
    skipped: beam.PCollection[int]
    """A 1 for each image that a row of earlier_files stands for: the newest one of its path, of the same version."""
    rivals: beam.PCollection[RivalRows] | None = None
    """Rows of both models, batch by batch; None without a challenger. `scores` holds those of the first alone."""


@dataclass
class ScoreImages(beam.PTransform):
    """Score images anywhere in a pipeline: paths in, rows and failures out.

    Takes a PCollection of paths (str), ImageRefs, or Failures of a listing, which pass through. A path that comes
    twice is scored once.

    >>> scored = paths | ScoreImages(load_config("configs/local.yaml"))  # doctest: +SKIP
    >>> scored.scores, scored.failures  # doctest: +SKIP
    """

    config: RunConfig
    """As in a run."""
    model: LoadedModel | None = None
    """From `load`; left out, the constructor loads it: whatever does not fit is found where the pipeline is built."""
    done_files: Sequence[str] = ()
    """Parquet files whose images are not scored again."""
    earlier_files: Sequence[EarlierFile] = ()
    """Scores of earlier runs, whose images are scored again only where they have changed."""
    slots: int | None = None
    """How many bundles a runner with workers of its own works on at a time, or about how many: images are shuffled into
    work units, so that what is written is cut by bytes. None leaves bundles as they come: of a runner in this process,
    they are as large as can be."""

    def __post_init__(self) -> None:
        super().__init__()
        self._model = self.model or load(self.config)

    def __getstate__(self) -> dict[str, Any]:
        # A loaded model cannot be pickled; it is loaded again where this is unpickled.
        names = ("config", "done_files", "earlier_files", "slots")
        return {name: getattr(self, name) for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    @beam.typehints.no_annotations  # Beam knows no hint for several outputs and warns of it
    def expand(self, paths: beam.PCollection) -> Scored:
        """Shuffle paths, then load and score in one fused stage: pixels are never shuffled."""
        unique = paths | "AsRefs" >> beam.Map(_as_listed) | SkipScored(self.done_files, self.earlier_files)
        todo, skipped = unique.todo, unique.skipped
        if self.earlier_files:
            # Only what has a row is asked for, once a path and on all workers; the rest is read anyway.
            asked = unique.unasked | StatImages(self.config.load)
            todo = (todo, asked.todo) | "AllTodo" >> beam.Flatten()
            skipped = (skipped, asked.skipped) | "AllSkipped" >> beam.Flatten()
        refs = todo | "OnlyRefs" >> beam.Filter(_is_ref).with_output_types(ImageRef)
        list_failures = todo | "OnlyFailures" >> beam.Filter(_is_failure).with_output_types(Failure)
        model, classifier = self._model, self._model.scorer.classifier
        if self.slots is not None:
            row_bytes = score_row_bytes(
                model.scorer.meaning.num_classes, self.config.results.top_k, logits=self.config.results.logits
            )
            units = plan_units(self.config.write, row_bytes, self.slots)
            refs = refs | "GroupImages" >> GroupUnits(units, _path_of_ref)
        plan = self.config.load_plan(
            classifier.height, classifier.width, encoded=classifier.takes_bytes, second=model.contest.second_input
        )
        loaded = refs | LoadBatches(plan)
        scored = loaded.batches | ScoreBatches(
            self.config.scorer_plan(),
            classifier.fingerprint,
            model.shared,
            read_versions(),
            self.config.challenger_plan(),
            model.challenger and model.challenger.classifier.fingerprint,
        )
        failures = (list_failures, loaded.failures, scored.failures) | "AllFailures" >> beam.Flatten()
        scores, rivals = scored.scores, None
        if model.challenger is not None:
            rivals = scores
            scores = rivals | "OnlyScores" >> beam.Map(_scores_of).with_output_types(pa.RecordBatch)
        return Scored(scores, failures, todo, unique.duplicates, unique.unlisted, skipped, rivals)


def build(
    pipeline: beam.Pipeline,
    config: RunConfig,
    sources: Sequence[InputSource],
    facts: RunFacts,
    model: LoadedModel,
    adopted: Sequence[WrittenFile] = (),
    earlier: Sequence[EarlierFile] = (),
    slots: int | None = None,
) -> beam.PCollection[Outcome]:
    """Put a whole run into a pipeline.

    Args:
        pipeline: An empty pipeline.
        config: The configuration.
        sources: What to list.
        facts: Where and how to publish.
        model: The loaded model.
        adopted: Files of an earlier attempt of the same run.
        earlier: Scores of earlier runs, for a delta.
        slots: How many bundles a runner with workers of its own works on at a time; None for one in this process.

    Returns:
        One Outcome.
    """
    listed = pipeline | ListImages(tuple(sources), config.input, spread=slots is not None)
    done = [file.path for file in adopted if file.table == "scores"]
    scored = listed | ScoreImages(config, model, done, earlier, slots)
    staged = facts.layout.staged_table
    if scored.rivals is None:
        scores = scored.scores | "WriteScores" >> WriteTables(
            staged("scores"), "scores", facts.schemas["scores"], config.write, facts.file_metadata, facts.layout
        )
    else:
        together: tuple[Table, ...] = ("scores", *CHALLENGER_TABLES)
        scores = scored.rivals | "WriteScores" >> WriteGroups(
            [TableFiles(name, staged(name), facts.schemas[name], facts.metadata.get(name, {})) for name in together],
            config.write,
            facts.layout,
        )
    failed = scored.failures
    if slots is not None:
        # Of many bundles each has a few, and would write a file of its own.
        failed = failed | "GroupFailures" >> GroupUnits(plan_units(config.write, FAILURE_BYTES, 0), _path_of_failure)
    failures = (
        failed
        | "FailureRows" >> beam.Map(_failure_row).with_output_types(pa.RecordBatch)
        | "WriteFailures" >> WriteTables(staged("failures"), "failures", facts.schemas["failures"], config.write)
    )
    counted = Counted(
        listed=listed | "CountListed" >> beam.combiners.Count.Globally(),
        duplicates=scored.duplicates | "SumDuplicates" >> beam.CombineGlobally(sum),
        unique=scored.todo | "CountUnique" >> beam.combiners.Count.Globally(),
        unlisted=scored.unlisted | "SumUnlisted" >> beam.CombineGlobally(sum),
        skipped=scored.skipped | "SumSkipped" >> beam.CombineGlobally(sum),
    )
    return (scores, failures) | "Written" >> beam.Flatten() | PublishRun(facts, counted, adopted)


def _scores_of(rows: RivalRows) -> pa.RecordBatch:
    return rows.scores


def _as_listed(entry: str | ImageRef | Failure) -> ImageRef | Failure:
    found = resolve(entry) if isinstance(entry, str) else entry
    return found.failure() if isinstance(found, BadName) else found


def _is_ref(entry: ImageRef | Failure) -> bool:
    return isinstance(entry, ImageRef)


def _is_failure(entry: ImageRef | Failure) -> bool:
    return isinstance(entry, Failure)


def _path_of_ref(ref: ImageRef) -> str:
    return ref.path


def _path_of_failure(failure: Failure) -> str:
    return failure.ref.path


def _failure_row(failure: Failure) -> pa.RecordBatch:
    return failures_batch([failure])
