"""The life of one run: check, load, launch, wait, and say how it ended."""

import contextlib
import importlib.metadata
import logging
import platform
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.metrics import MetricsFilter
from apache_beam.runners.runner import PipelineResult

from pipeline.after.report_advice import Spent
from pipeline.before.golden import check_golden
from pipeline.broken_off import FULL, Interrupts, broken_off
from pipeline.config import RunConfig
from pipeline.devices_elsewhere import launcher_config, worker_config
from pipeline.elsewhere import check_no_job, name_job, out_of_sight, still_running, wait_for_end
from pipeline.graph import LoadedModel, build, load
from pipeline.jobs import Job, cancelling
from pipeline.options import Flags, count_slots, find_flags, flag_names, is_in_process, runner_kind
from pipeline.pairs import find_accelerators
from pipeline.places import check_places_of_workers
from pipeline.profiles import told_flags
from pipeline.progress import ShowProgress
from pipeline.run_report import leave_missing_report, leave_report
from pipeline.submitting import check_credentials, client_errors, new_pipeline, submit
from transforms import observe, storage
from transforms.baselines import open_baseline
from transforms.claims import RunClaim
from transforms.contest import Contest
from transforms.earlier_runs import Chain, check_since, find_chain, open_chain
from transforms.errors import ConfigError, ExitCode
from transforms.health import HealthPlan
from transforms.inputs import DEFAULT_PATH_COLUMN, InputSource, check_not_empty, parse_input
from transforms.layout import LATEST, RunLayout, absolute_folder, check_run_id, new_run_id
from transforms.publishing import (
    ChallengerFacts,
    Outcome,
    RunFacts,
    complete,
    is_published,
    pending_manifest,
    read_attempt,
    read_outcome,
)
from transforms.publishing_plan import check_places
from transforms.redaction import redact_flags, redact_value
from transforms.scoring import Scorer
from transforms.staging import Adopted, StagedTable, claim_staging, read_identity
from transforms.tables import FAILURES_SCHEMA

_LOG = logging.getLogger(__name__)
_PACKAGES = ("score-images", "apache-beam", "tensorflow", "keras", "pyarrow", "numpy", "pillow", "simplejpeg")


@dataclass(frozen=True)
class RunRequest:
    """What a user asks for."""

    config: RunConfig
    """How to score."""
    inputs: Sequence[str]
    """Files, folders, globs, manifests."""
    output: str
    """Folder or URL that holds all runs."""
    run_id: str | None = None
    """The run's name; None makes one of the time."""
    overwrite: bool = False
    """Replace a published run of that name."""
    publish_anyway: bool = False
    """Publish in spite of the limits on failures."""
    since_run: str | None = None
    """Skip what this published run, or one that it relies on, has scored as it is: its id, or `latest`."""
    path_column: str = DEFAULT_PATH_COLUMN
    """The column of manifests that holds the paths."""
    beam_flags: Sequence[str] = ()
    """Beam's own flags; they win over those of the profile."""
    profile: str | None = None
    """Where it is carried out: one of pipeline.profiles; None takes beam_flags as they are."""
    shared_disk: bool = False
    """All machines of a cluster have the local paths under the same names."""
    show_progress: bool = True
    """Bar or log lines."""
    loading: Callable[[], Contest] | None = field(default=None, repr=False)
    """Gives the models of config, where they are being loaded already; None loads them when they are needed."""


class RunResult(NamedTuple):
    """How a run ended, and what it took."""

    layout: RunLayout
    """Where everything lies."""
    outcome: Outcome
    """Published or refused."""
    found: str | None
    """Why nothing had to be scored; None where it had."""
    adopted: int
    """Images scored by an earlier attempt of the same run."""
    startup_seconds: float
    """Until the pipeline was launched: checks and loading the model."""
    pipeline_seconds: float
    """From launch to end."""
    counts: dict[str, int]
    """`<verb>_<unit>` sums; thread time in ms."""
    since: str | None = None
    """The run that this one is a delta of; None where it is none."""
    report: str | None = None
    """Where the page about it lies; None where there is none."""


@dataclass(frozen=True)
class Checked:
    """A run of which everything is known that can be without writing a byte."""

    layout: RunLayout
    """Where it goes."""
    sources: tuple[InputSource, ...]
    """What is listed."""
    flags: Flags
    """Where it is carried out."""
    chain: Chain | None
    """The runs that it follows."""
    health: HealthPlan
    """What its answers are held against before they are published."""
    job: str | None
    """The name of its job on an engine elsewhere; None where the run ends with this process."""
    model: LoadedModel = field(repr=False)
    """Loaded."""


@dataclass(frozen=True)
class Prepared:
    """A run that has begun."""

    checked: Checked
    """What was found before."""
    adopted: Adopted
    """What an earlier attempt has scored."""

    @property
    def layout(self) -> RunLayout:
        """Where it goes."""
        return self.checked.layout


def run(request: RunRequest) -> RunResult:
    """Carry a run out, or find that it has been.

    Raises:
        ConfigError: It cannot start; nothing was written.
        RunError: It did not come to its end.
    """
    started = time.monotonic()
    layout = layout_of(request)
    with RunClaim(layout) as claim:
        prepared = prepare(request, layout, claim)
        if isinstance(prepared, str):
            claim.tidy()
            outcome = read_outcome(layout)
            report = leave_missing_report(layout) if request.config.report.enabled else None
            return RunResult(layout, outcome, prepared, 0, time.monotonic() - started, 0.0, {}, report=report)
        launched = time.monotonic()
        observe.reset_process_counts()
        counts = _launch(request, prepared)
        ended = time.monotonic()
        outcome = read_attempt(layout)
        if outcome.drifted and outcome.exit_code is ExitCode.PUBLISHED:
            _LOG.warning("the answers of run %s have %s", layout.run_id, outcome.health)
        chain = prepared.checked.chain
        since = chain.run_id if chain else None
        result = RunResult(
            layout, outcome, None, prepared.adopted.rows, launched - started, ended - launched, counts, since
        )
        if not request.config.report.enabled:
            return result
        refused = outcome.exit_code is not ExitCode.PUBLISHED
        return result._replace(report=leave_report(layout, _spent(prepared, result), refused=refused))


def _spent(prepared: Prepared, result: RunResult) -> Spent:
    ledger = result.outcome.ledger
    return Spent(
        counts=result.counts,
        startup_seconds=result.startup_seconds,
        pipeline_seconds=result.pipeline_seconds,
        images=ledger.scored + ledger.failed - result.adopted,
        adopted=result.adopted,
        on_gpu=prepared.checked.model.scorer.classifier.devices.are_gpus,
    )


def layout_of(request: RunRequest) -> RunLayout:
    """Return where a run goes; one without a name gets a new one."""
    if not request.output.strip():
        raise ConfigError("output is empty: give the folder or URL that holds all runs")
    try:
        request.output.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"output {request.output!a} is not valid UTF-8; give another folder") from error
    layout = RunLayout(
        absolute_folder(request.output),
        check_run_id(request.run_id) if request.run_id is not None else new_run_id(datetime.now(UTC)),
    )
    if request.since_run is not None:
        check_since(layout, request.since_run)
    return layout


def _unusable(request: RunRequest, how: str, error: OSError) -> ConfigError:
    way_out = "make room there" if error.errno in FULL else "give a folder or bucket that this process may write"
    return ConfigError(f"output {request.output} cannot be {how}: {error}; {way_out}")


def _find(request: RunRequest, layout: RunLayout, claim: RunClaim) -> str | None:
    """Return why nothing has to be scored; None where it has."""
    if storage.stat(layout.plan) is not None:
        claim.take()  # who has written the plan may be carrying it out
    pending = pending_manifest(layout)
    if pending is not None:
        complete(layout)
        _LOG.info("publishing run %s was interrupted and is complete now", layout.run_id)
        # An overwriting run that is repeated after a kill is complete now; one that wants something else goes on.
        if not request.overwrite or _asks_for(request, pending):
            return f"run {layout.run_id} was scored before, and its publishing is complete now: {layout.output}"
    if is_published(layout) and not request.overwrite:
        found = f"run {layout.run_id} is already published in {layout.output}: nothing was done"
        if storage.stat(layout.staged_identity) is None:
            return found
        return f"{found}; an attempt to replace it has left its work in {layout.staging}: continue it with --overwrite"
    return None


def _asks_for(request: RunRequest, manifest: dict[str, Any]) -> bool:
    """Tell whether a request has the inputs and the configuration of a manifest, and is a delta where that is one."""
    followed = manifest.get("since_run")
    if request.since_run not in ((LATEST, followed["run_id"]) if followed else (None,)):
        return False
    wanted = {"inputs": redact_value(_inputs(_sources(request))), "config": request.config.told()}
    return all(manifest[key] == value for key, value in wanted.items())


def _sources(request: RunRequest) -> tuple[InputSource, ...]:
    return tuple(parse_input(text, request.path_column) for text in request.inputs)


def _inputs(sources: Sequence[InputSource]) -> list[dict[str, str]]:
    return [{"kind": source.kind, "path": source.path} for source in sources]


def prepare(request: RunRequest, layout: RunLayout, claim: RunClaim) -> Prepared | str:
    """Begin or continue a run, when all that it needs is right; or return why nothing has to be scored.

    Raises:
        ConfigError: It cannot start; nothing was written.
    """
    try:
        found = _find(request, layout, claim)
    except OSError as error:
        raise _unusable(request, "used", error) from error
    return _begin(request, check(request, layout), claim) if found is None else found


def check(request: RunRequest, layout: RunLayout, *, sent: bool = True) -> Checked:
    """Check everything that can be before a run begins, and load the model; nothing is written.

    Args:
        request: The run.
        layout: Where it goes.
        sent: Whether it will be handed to an engine, which asks who is there.

    Raises:
        ConfigError: The run cannot start.
    """
    flags = find_flags(request.profile, request.beam_flags)
    check_places_of_workers(request.config, request.inputs, request.output, flags, shared_disk=request.shared_disk)
    if sent:
        check_credentials(flags.options)
    job = name_job(flags.options, layout)
    sources = _sources(request)
    for source in sources:
        check_not_empty(source, request.config.input)
    config = request.config if runner_kind(flags.options) == "local" else launcher_config(request.config)
    model = load(config, request.loading)
    check_golden(model.scorer, request.config)
    chain = _chain(request, layout, model)
    return Checked(layout, sources, flags, chain, _health(request, layout, model.scorer), job, model)


def _begin(request: RunRequest, checked: Checked, claim: RunClaim) -> Prepared | str:
    layout, scorer = checked.layout, checked.model.scorer
    identity = _identity(checked.model, checked.sources, checked.chain)
    tables = _challenger_tables(checked.model)
    try:
        claim.take()
        check_no_job(checked.flags.options, layout)  # before what it has staged is looked at
        check_places(layout)
        found = _find(request, layout, claim)  # another launcher may have been at work while the model was loaded
        if found is not None:
            return found
        adopted = claim_staging(layout, identity, scorer.schema, scorer.file_metadata(), tables)
        for stale in layout.refusal:
            storage.delete_file(stale)
    except OSError as error:
        raise _unusable(request, "written", error) from error
    if adopted.rows:
        _LOG.info("run %s goes on: %d images were scored before", layout.run_id, adopted.rows)
    return Prepared(checked, adopted)


def build_pipeline(request: RunRequest, checked: Checked, adopted: Adopted | None = None) -> beam.Pipeline:
    """Put a run into a pipeline.

    Args:
        request: The run.
        checked: What was found of it.
        adopted: What an earlier attempt has scored; None where it is not asked.
    """
    scorer, challenger, options = checked.model.scorer, checked.model.challenger, checked.flags.options
    facts = RunFacts(
        layout=checked.layout,
        limits=request.config.limits,
        write=request.config.write,
        schemas={
            "scores": scorer.schema,
            "failures": FAILURES_SCHEMA,
            **{table.table: table.schema for table in _challenger_tables(checked.model)},
        },
        file_metadata=scorer.file_metadata(),
        manifest={**_manifest(request, checked), "since_run": checked.chain and checked.chain.record()},
        overwrite=request.overwrite,
        publish_anyway=request.publish_anyway,
        health=checked.health,
        challenger=None
        if challenger is None
        else ChallengerFacts(challenger.file_metadata(), _told_of_model(challenger, _where(options))),
    )
    pipeline = new_pipeline(options)
    earlier = checked.chain.files if checked.chain else ()
    with_gpu = bool(find_accelerators(options.get_all_options()))
    config = request.config if runner_kind(options) == "local" else worker_config(request.config, with_gpu=with_gpu)
    files = adopted.files if adopted else ()
    build(pipeline, config, checked.sources, facts, checked.model, files, earlier, count_slots(options))
    return pipeline


def _challenger_tables(model: LoadedModel) -> list[StagedTable]:
    challenger = model.challenger
    if challenger is None:
        return []
    return [
        StagedTable("scores_challenger", challenger.schema, challenger.file_metadata()),
        StagedTable("failures_challenger", FAILURES_SCHEMA, {}),
    ]


def _chain(request: RunRequest, layout: RunLayout, model: LoadedModel) -> Chain | None:
    """Return the runs that a delta follows; None for a full night."""
    if request.since_run is None:
        return None
    begun = (read_identity(layout) if request.since_run == LATEST else None) or {}
    # Another run may have been published since this one was begun: it goes on as it was begun.
    try:
        run_ids = begun["since_run"] if "since_run" in begun else find_chain(layout, request.since_run)
        rival = None if model.challenger is None else model.challenger.fingerprints
        chain = open_chain(layout, run_ids, model.scorer.fingerprints, rival)
    except OSError as error:
        raise ConfigError(f"--since-run {request.since_run} of {request.output} cannot be read: {error}") from error
    _LOG.info("%s", chain)
    return chain


def _health(request: RunRequest, layout: RunLayout, scorer: Scorer) -> HealthPlan:
    settings = request.config.health
    try:
        baseline, without = open_baseline(layout, settings)
    except OSError as error:
        raise ConfigError(
            f"health.baseline {settings.baseline} of {request.output} cannot be read: {error}; try again, or leave it "
            "out to compare with none"
        ) from error
    return HealthPlan(
        settings=settings,
        labels=tuple(scorer.labels),
        independent=scorer.meaning.independent,
        model_id=scorer.classifier.model_id,
        fingerprints=scorer.fingerprints,
        baseline=baseline,
        without=without,
    )


def _identity(model: LoadedModel, sources: Sequence[InputSource], chain: Chain | None) -> dict[str, Any]:
    """Return what a run is begun with: another attempt must have the same, or one run would mix two."""
    delta = {} if chain is None else {"since_run": [run.run_id for run in chain.runs]}
    inputs = [[source.kind, source.path, source.path_column, _manifest_version(source)] for source in sources]
    rival = {} if model.challenger is None else {"challenger": _identity_of(model.challenger)}
    return {**_identity_of(model.scorer), **rival, "inputs": sorted(inputs, key=str), **delta}


def _identity_of(scorer: Scorer) -> dict[str, str]:
    return {**scorer.fingerprints, "model_id": scorer.classifier.model_id}


def _manifest_version(source: InputSource) -> str | None:
    # A folder may lose and gain images between two attempts; a manifest that says something else is another input.
    if source.kind in ("file", "folder", "glob"):
        return None
    found = storage.stat(source.path)
    return found.version if found else None


def _manifest(request: RunRequest, checked: Checked) -> dict[str, Any]:
    scorer, flags = checked.model.scorer, checked.flags
    # Analysts read it: it says what was asked for without the secrets in it. What a run is and does is never decided by
    # what it says here, except whether a request asks for the same, which compares it with what would be said.
    return {
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "inputs": redact_value(_inputs(checked.sources)),
        **_told_of_model(scorer, _where(flags.options)),
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in _PACKAGES},
        },
        "config": request.config.told(),
        "profile": request.profile,
        "beam_flags": redact_flags(request.beam_flags),
        "effective_flags": list(told_flags(flags.words, flag_names())),
    }


def _where(options: beam.options.pipeline_options.PipelineOptions) -> str:
    """Say where models were loaded; workers elsewhere choose their devices and measure their batches themselves."""
    return "" if is_in_process(options) else "on the launcher: "


def _told_of_model(scorer: Scorer, where: str) -> dict[str, Any]:
    return {
        "model_id": scorer.classifier.model_id,
        "num_classes": scorer.meaning.num_classes,
        "output": scorer.meaning.output,
        "activation": scorer.meaning.activation,
        "activation_reason": scorer.meaning.reason,
        "fingerprints": scorer.fingerprints,
        "execution": {what: reason and f"{where}{reason}" for what, reason in scorer.execution.items()},
    }


def _launch(request: RunRequest, prepared: Prepared) -> dict[str, int]:
    options, layout = prepared.checked.flags.options, prepared.layout
    pipeline = build_pipeline(request, prepared.checked, prepared.adopted)
    watch = request.show_progress and is_in_process(options)
    job: Job | None = None
    progress = (
        ShowProgress(observe.process_counts, prepared.adopted.rows, layout) if watch else contextlib.nullcontext()
    )
    with Interrupts() as interrupts:
        try:
            with progress:
                result, submitted = submit(pipeline)
                if prepared.checked.job is not None:
                    job = submitted
                    _LOG.info("job %s is submitted: it publishes also without this process", job)
                wait_for_end(result)
        except (Exception, KeyboardInterrupt) as error:
            if isinstance(error, ConfigError) and prepared.checked.job is not None:
                raise  # the engine has not taken it; a local run has it from a worker
            if job is not None and interrupts.seen:
                raise still_running(str(job), layout, cancelling(job)) from error
            if job is not None and isinstance(error, OSError):
                raise out_of_sight(str(job), layout, error) from error
            raise broken_off(error, layout, interrupted=interrupts.seen, overwrite=request.overwrite) from error
    return _counts(result, prepared.checked)


def _counts(result: PipelineResult, checked: Checked) -> dict[str, int]:
    try:
        counters = result.metrics().query(MetricsFilter().with_namespace(observe.NAMESPACE))["counters"]
    except client_errors(checked.flags.options) as error:
        if checked.job is None:
            raise
        # The run is published or refused all the same; a cluster may forget a job that has ended.
        _LOG.warning("job %s has ended, and its counters cannot be read: %s", checked.job, error)
        return {}
    # One result a step: what two steps count under one name, as the writing of two tables, adds up.
    counts: Counter[str] = Counter()
    for counter in counters:
        counts[counter.key.metric.name] += counter.result
    return dict(counts)
