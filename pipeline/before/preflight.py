"""Before the night: try everything that a run needs, score a sample, and say what the night will be like.

Nothing is published, and nothing stays. Each check goes on where another has failed, so that all reasons are told at
once; what needs the model is left out where there is none.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import pyarrow as pa

from pipeline.before.findings import Check, Prediction, Preflight, State
from pipeline.before.golden import check_golden
from pipeline.before.pace import SECONDS, Pace, measure_pace
from pipeline.before.places import describe_run_id, free_bytes, try_output
from pipeline.before.prediction import (
    Duration,
    Outlook,
    Volume,
    costs,
    judge_failures,
    table_bytes,
)
from pipeline.before.sampling import Listing, list_and_sample
from pipeline.before.table_sizes import measure_table
from pipeline.before.trial import Trial, try_sample
from pipeline.config import RunConfig
from pipeline.pages.page import images_text, size_text
from transforms import storage
from transforms.baselines import open_baseline
from transforms.contest import Contest
from transforms.errors import ConfigError, ScoreImagesError
from transforms.inputs import DEFAULT_PATH_COLUMN, InputSource, check_not_empty, parse_input
from transforms.layout import RunLayout, absolute_folder, check_run_id
from transforms.load_plan import LoadPlan, thread_count
from transforms.records import Failure, ImageRef
from transforms.redaction import redact
from transforms.settings import InputSettings
from transforms.tables import failures_batch

T = TypeVar("T")

SAMPLES = 100
MOST_SAMPLES = 10_000
PICTURES = 24
LIST_SECONDS = 60.0
_REHEARSED = 8
_UNNAMED = "preflight"
_TROUBLES = (ScoreImagesError, OSError, pa.ArrowException)


@dataclass(frozen=True)
class PreflightRequest:
    """What a user asks for."""

    config: Callable[[], RunConfig]
    """Reads the configuration; what is wrong with it is one reason among others."""
    inputs: Sequence[str]
    """Files, folders, globs, manifests."""
    output: str
    """Folder or URL that holds all runs."""
    run_id: str | None = None
    """The run's name, where it is known already."""
    path_column: str = DEFAULT_PATH_COLUMN
    """The column of manifests that holds the paths."""
    samples: int = SAMPLES
    """How many images to try."""
    pictures: int = PICTURES
    """How many of them to show as the model sees them."""
    seed: int = 0
    """Of the sample."""
    seconds: float = SECONDS
    """For how long the pace is measured."""
    list_seconds: float = LIST_SECONDS
    """What listing may take."""
    imports_seconds: float = 0.0
    """What importing libraries has taken, which a run does, too."""
    check_runner: Callable[[RunConfig], tuple[RunConfig, str | None]] = lambda config: (config, None)
    """Returns the configuration by which this machine loads the model, and what has to be known of the runner; or
    raises ConfigError."""
    rehearse: Callable[[RunConfig, Contest, Sequence[str]], tuple[int, float]] | None = None
    """Carries a small run out; returns how many images it had and how many seconds it took."""


def preflight(request: PreflightRequest, clock: Callable[[], float] = time.monotonic) -> Preflight:
    """Check, sample and predict a night; whatever is wrong becomes a check of the result."""
    return _Preflight(request, clock).go()


class _Preflight:
    def __init__(self, request: PreflightRequest, clock: Callable[[], float]) -> None:
        self._request = request
        self._clock = clock
        self._found = Preflight()

    def go(self) -> Preflight:
        request, found = self._request, self._found
        config = found.config = self._attempt("configuration", request.config)
        if config is not None:
            self._say("configuration", "ok", "valid")
            config = self._check_runner(config)
        layout = self._layout()
        if layout is not None:
            self._try_output(layout)
        listing = found.listing = self._list(config)
        if config is None:
            return found
        started = self._clock()
        contest = self._attempt("model", lambda: self._load(config))
        if contest is not None:
            self._attempt("golden images", lambda: self._check_golden(contest, config))
        start_seconds = request.imports_seconds + self._clock() - started
        if layout is not None and config.health.baseline is not None:
            labels = None if contest is None else contest.champion.labels
            self._attempt("baseline", lambda: self._check_baseline(layout, config, labels))
        if contest is not None and listing is not None and listing.sample:
            self._attempt("sample", lambda: self._try(config, contest, listing, layout, start_seconds))
        return found

    def _say(self, name: str, state: State, text: str) -> None:
        # An error of a storage may quote a signed URL, and the JSON is as public as the page.
        self._found.checks.append(Check(name, state, redact(text)))

    def _attempt(self, name: str, action: Callable[[], T]) -> T | None:
        try:
            return action()
        except _TROUBLES as error:
            self._say(name, "bad", str(error) or type(error).__name__)
            return None

    def _check_runner(self, config: RunConfig) -> RunConfig:
        found = self._attempt("runner", lambda: self._request.check_runner(config))
        if found is None:
            return config
        config, note = found
        if note is not None:
            self._say("runner", "note", note)
        return config

    def _layout(self) -> RunLayout | None:
        request = self._request

        def name() -> RunLayout:
            if not request.output.strip():
                raise ConfigError("output is empty: give the folder or URL that holds all runs")
            run_id = _UNNAMED if request.run_id is None else check_run_id(request.run_id)
            return RunLayout(absolute_folder(request.output), run_id)

        return self._attempt("output", name)

    def _try_output(self, layout: RunLayout) -> None:
        try:
            self._say("output", "ok", try_output(layout))
        except ConfigError as error:
            self._say("output", "bad", str(error))
        except OSError as error:
            self._say(
                "output",
                "bad",
                f"output {layout.output} cannot be written: {error}; give a folder or bucket that this process may "
                "write",
            )
        if self._request.run_id is not None:
            described = self._attempt("run id", lambda: describe_run_id(layout))
            if described is not None:
                free, text = described
                self._say("run id", "ok" if free else "note", text)

    def _list(self, config: RunConfig | None) -> Listing | None:
        request = self._request
        # With a configuration that is wrong, inputs are looked at as if it said nothing of them.
        settings = config.input if config is not None else InputSettings()
        sources: list[InputSource] = []
        for text in request.inputs:

            def look(text: str = text) -> InputSource:
                source = parse_input(text, request.path_column)
                check_not_empty(source, settings)
                return source

            source = self._attempt("input", look)
            if source is not None:
                sources.append(source)
        if not sources:
            return None
        listing = self._attempt(
            "input",
            lambda: list_and_sample(sources, settings, request.samples, request.seed, request.list_seconds),
        )
        if listing is not None:
            twice = f", {listing.duplicates:,} duplicates" if listing.duplicates else ""
            text = f"{images_text(listing.images)}{twice}, {listing.how}; {len(listing.sample):,} sampled"
            self._say("input", "ok" if listing.exact else "note", text)
        return listing

    def _load(self, config: RunConfig) -> Contest:
        contest = Contest(config.contest_plan())
        for name, scorer in (("model", contest.champion), ("challenger", contest.challenger)):
            if scorer is not None:
                labels = ", ".join(scorer.labels[:3]) + (", ..." if len(scorer.labels) > 3 else "")
                reasons = f"{scorer.meaning.reason}; {scorer.batch_choice.reason}"
                self._say(name, "ok", f"{scorer.classifier.model_id}: {reasons}")
                self._say("labels", "ok", f"{len(scorer.labels):,}: {labels}")
        return contest

    def _check_golden(self, contest: Contest, config: RunConfig) -> None:
        result = check_golden(contest.champion, config)
        if result is None:
            self._say("golden images", "note", "none are configured: golden.path is left out")
        else:
            text = f"{result.images} photos, largest difference {result.largest_difference:.2g}"
            self._say("golden images", "ok", text)

    def _check_baseline(self, layout: RunLayout, config: RunConfig, labels: Sequence[str] | None) -> None:
        baseline, without = open_baseline(layout, config.health, labels)
        if baseline is None:
            self._say("baseline", "note", without)
        else:
            said = f"run {baseline.run_id}, {baseline.distributions.rows:,} images"
            self._say("baseline", "note" if baseline.note else "ok", f"{said}; {baseline.note}".removesuffix("; "))

    def _try(
        self, config: RunConfig, contest: Contest, listing: Listing, layout: RunLayout | None, start_seconds: float
    ) -> None:
        request, found = self._request, self._found
        classifier = contest.champion.classifier
        plan = config.load_plan(
            classifier.height, classifier.width, encoded=classifier.takes_bytes, second=contest.second_input
        )
        trial = found.trial = try_sample(listing.sample, plan, contest, request.pictures)
        self._judge(judge_failures(trial.failures_by_code, trial.images, listing.images, config.limits))
        failed = {failure.ref.path for failure in trial.failures}
        refs = [entry for entry in listing.sample if isinstance(entry, ImageRef)]
        scored = [ref.path for ref in refs if ref.path not in failed]
        if not scored:
            return
        pace = found.pace = measure_pace(
            refs, plan, contest, config.write, trial.seconds / trial.images, request.seconds
        )
        fixed = self._rehearse(config, contest, scored, pace)
        found.prediction = _predict(listing, trial, pace, plan, contest, config, start_seconds, fixed)
        if layout is not None:
            self._judge_space(layout, found.prediction.output_bytes)

    def _judge(self, outlook: Outlook) -> None:
        if outlook.surely_over:
            self._say("failures", "bad", f"{outlook.surely_over}; the night would not be published")
        elif outlook.maybe_over:
            text = f"if all images fail like the sample, {outlook.maybe_over}; a larger --samples tells for sure"
            self._say("failures", "note", text)
        else:
            self._say("failures", "ok", "as few as limits allow")

    def _rehearse(self, config: RunConfig, contest: Contest, scored: Sequence[str], pace: Pace) -> float:
        """Return the seconds of a run that have nothing to do with its images."""
        rehearse = self._request.rehearse
        if rehearse is None:
            return 0.0
        rehearsed = self._attempt("rehearsal", lambda: rehearse(config, contest, scored[:_REHEARSED]))
        if rehearsed is None:
            return 0.0
        images, seconds = rehearsed
        self._say("rehearsal", "ok", f"a run of {images_text(images)} into a temporary folder took {seconds:.1f} s")
        return max(0.0, seconds - images * pace.seconds)

    def _judge_space(self, layout: RunLayout, needed: float) -> None:
        free = free_bytes(layout)
        if free is None:
            return
        text = f"{size_text(needed)} are needed at {layout.output}, {size_text(free)} are free"
        if free < needed:
            self._say("disk space", "bad", f"{text}; make room there, or give another output")
        elif free < 2 * needed:
            self._say("disk space", "note", text)
        else:
            self._say("disk space", "ok", text)


def _predict(
    listing: Listing,
    trial: Trial,
    pace: Pace,
    plan: LoadPlan,
    contest: Contest,
    config: RunConfig,
    start_seconds: float,
    fixed_seconds: float,
) -> Prediction:
    remote = [storage.is_remote(entry.path) for entry in listing.sample]
    # Reading for the first time may take longer than again and again; threads wait for it beside the model.
    loading = (trial.read_ms + pace.decode_ms) / 1e3 / thread_count(plan.load, any(remote))
    duration = Duration(start_seconds, fixed_seconds, listing.seconds, listing.images * max(pace.seconds, loading))
    failed = round(listing.images * len(trial.failures) / trial.images)
    scored = listing.images - failed

    def size_of(table: str, rows: pa.Table, expected: int, metadata: dict[str, str], seconds: float) -> float:
        sizes = measure_table(table, rows, expected, metadata, config.write)
        return table_bytes(sizes, expected, seconds, config.write)

    scores_bytes = size_of("scores", trial.scores, scored, contest.champion.file_metadata(), duration.images)
    failures_bytes = size_of("failures", _rows_of(trial.failures), failed, {}, 0.0)
    if contest.challenger is not None and trial.challenger_scores is not None:
        lost = round(scored * len(trial.challenger_failures) / max(1, trial.scores.num_rows))
        metadata = contest.challenger.file_metadata()
        scores_bytes += size_of("scores", trial.challenger_scores, scored - lost, metadata, duration.images)
        failures_bytes += size_of("failures", _rows_of(trial.challenger_failures), lost, {}, duration.images)
    read_bytes = listing.images * trial.read_bytes
    share = sum(remote) / len(remote)
    devices = contest.champion.classifier.devices
    volume = Volume(
        hours=duration.total / 3600,
        gpus=len(devices.names) if devices.are_gpus else 0,
        remote_images=listing.images * share,
        remote_bytes=read_bytes * share,
        stored_bytes=scores_bytes + failures_bytes,
    )
    return Prediction(
        duration=duration,
        duration_error=listing.images * pace.error,
        scores_bytes=scores_bytes,
        failures_bytes=failures_bytes,
        read_bytes=read_bytes,
        costs=costs(volume, config.prices),
        currency=config.prices.currency,
    )


def _rows_of(failures: Sequence[Failure]) -> pa.Table:
    return pa.Table.from_batches([failures_batch(list(failures))])
