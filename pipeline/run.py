"""The life of one run: check, load, launch, wait, and say how it ended."""

import contextlib
import errno
import importlib.metadata
import logging
import platform
import re
import signal
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import FrameType
from typing import Any, NamedTuple, Self

import apache_beam as beam
from apache_beam.metrics import MetricsFilter
from apache_beam.options.pipeline_options import PipelineOptions

from pipeline.after.report_advice import Spent
from pipeline.before.golden import check_golden
from pipeline.config import RunConfig
from pipeline.graph import LoadedModel, build, load
from pipeline.options import is_in_process, pipeline_options
from pipeline.progress import ShowProgress
from pipeline.run_report import leave_missing_report, leave_report
from transforms import observe, storage
from transforms.baselines import open_baseline
from transforms.claims import RunClaim
from transforms.earlier_runs import Chain, check_since, find_chain, open_chain
from transforms.errors import ConfigError, ExitCode, InterruptedRunError, RunError
from transforms.health import HealthPlan
from transforms.inputs import DEFAULT_PATH_COLUMN, InputSource, check_not_empty, parse_input
from transforms.layout import LATEST, RunLayout, absolute_folder, check_run_id, new_run_id
from transforms.publishing import (
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
from transforms.staging import Adopted, claim_staging, read_identity
from transforms.tables import FAILURES_SCHEMA

_LOG = logging.getLogger(__name__)
_PACKAGES = ("score-images", "apache-beam", "tensorflow", "keras", "pyarrow", "numpy", "pillow", "simplejpeg")
# The text in which a runner hands an exception of a worker back: its class, its message, and where it was.
_WORKER_ERROR = re.compile(
    r"^transforms\.\w+\.(?P<kind>\w*Error|OutputContradiction): (?P<message>.*?)(?: \[while running .*)?$", re.MULTILINE
)
_FULL = (errno.ENOSPC, errno.EDQUOT)
_ANY_ERROR = re.compile(r"^(?:\w+\.)*\w+(?:Error|Exception|Interrupt|Exit): .*$", re.MULTILINE)


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
    """Beam's own flags."""
    show_progress: bool = True
    """Bar or log lines."""
    loading: Callable[[], Scorer] | None = field(default=None, repr=False)
    """Gives the scorer of config, where it is being loaded already; None loads it when it is needed."""


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
class _Prepared:
    layout: RunLayout
    sources: tuple[InputSource, ...]
    options: PipelineOptions
    adopted: Adopted
    facts: RunFacts
    chain: Chain | None
    model: LoadedModel = field(repr=False)


def run(request: RunRequest) -> RunResult:
    """Carry a run out, or find that it has been.

    Raises:
        ConfigError: It cannot start; nothing was written.
        RunError: It did not come to its end.
    """
    started = time.monotonic()
    layout = _layout(request)
    with RunClaim(layout) as claim:
        try:
            found = _find(request, layout, claim)
        except OSError as error:
            raise _unusable(request, "used", error) from error
        prepared = _prepare(request, layout, claim) if found is None else found
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
        since = prepared.chain.run_id if prepared.chain else None
        result = RunResult(
            layout, outcome, None, prepared.adopted.rows, launched - started, ended - launched, counts, since
        )
        if not request.config.report.enabled:
            return result
        refused = outcome.exit_code is not ExitCode.PUBLISHED
        return result._replace(report=leave_report(layout, _spent(prepared, result), refused=refused))


def _spent(prepared: _Prepared, result: RunResult) -> Spent:
    ledger = result.outcome.ledger
    return Spent(
        counts=result.counts,
        startup_seconds=result.startup_seconds,
        pipeline_seconds=result.pipeline_seconds,
        images=ledger.scored + ledger.failed - result.adopted,
        adopted=result.adopted,
        on_gpu=prepared.model.scorer.classifier.devices.are_gpus,
    )


def _layout(request: RunRequest) -> RunLayout:
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
    way_out = "make room there" if error.errno in _FULL else "give a folder or bucket that this process may write"
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
        return f"run {layout.run_id} is already published in {layout.output}: nothing was done"
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


def _prepare(request: RunRequest, layout: RunLayout, claim: RunClaim) -> _Prepared | str:
    """Begin or continue a run, when all that it needs is right; or return why nothing has to be scored any more."""
    options = pipeline_options(request.beam_flags)
    sources = _sources(request)
    for source in sources:
        check_not_empty(source, request.config.input)
    model = load(request.config, request.loading)
    scorer = model.scorer
    check_golden(scorer, request.config)
    chain = _chain(request, layout, scorer)
    health = _health(request, layout, scorer)
    try:
        claim.take()
        check_places(layout)
        found = _find(request, layout, claim)  # another launcher may have been at work while the model was loaded
        if found is not None:
            return found
        adopted = claim_staging(layout, _identity(scorer, sources, chain), scorer.schema, scorer.file_metadata())
        for stale in layout.refusal:
            storage.delete_file(stale)
    except OSError as error:
        raise _unusable(request, "written", error) from error
    if adopted.rows:
        _LOG.info("run %s goes on: %d images were scored before", layout.run_id, adopted.rows)
    facts = RunFacts(
        layout=layout,
        limits=request.config.limits,
        write=request.config.write,
        schemas={"scores": scorer.schema, "failures": FAILURES_SCHEMA},
        file_metadata=scorer.file_metadata(),
        manifest={**_manifest(request, scorer, sources), "since_run": chain and chain.record()},
        overwrite=request.overwrite,
        publish_anyway=request.publish_anyway,
        health=health,
    )
    return _Prepared(layout, sources, options, adopted, facts, chain, model)


def _chain(request: RunRequest, layout: RunLayout, scorer: Scorer) -> Chain | None:
    """Return the runs that a delta follows; None for a full night."""
    if request.since_run is None:
        return None
    begun = (read_identity(layout) if request.since_run == LATEST else None) or {}
    # Another run may have been published since this one was begun: it goes on as it was begun.
    try:
        run_ids = begun["since_run"] if "since_run" in begun else find_chain(layout, request.since_run)
        chain = open_chain(layout, run_ids, scorer.fingerprints)
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


def _identity(scorer: Scorer, sources: Sequence[InputSource], chain: Chain | None) -> dict[str, Any]:
    """Return what a run is begun with: another attempt must have the same, or one run would mix two."""
    delta = {} if chain is None else {"since_run": [run.run_id for run in chain.runs]}
    inputs = [[source.kind, source.path, source.path_column, _manifest_version(source)] for source in sources]
    return {**scorer.fingerprints, "model_id": scorer.classifier.model_id, "inputs": sorted(inputs, key=str), **delta}


def _manifest_version(source: InputSource) -> str | None:
    # A folder may lose and gain images between two attempts; a manifest that says something else is another input.
    if source.kind in ("file", "folder", "glob"):
        return None
    found = storage.stat(source.path)
    return found.version if found else None


def _manifest(request: RunRequest, scorer: Scorer, sources: Sequence[InputSource]) -> dict[str, Any]:
    # Analysts read it: it says what was asked for without the secrets in it. What a run is and does is never decided by
    # what it says here, except whether a request asks for the same, which compares it with what would be said.
    return {
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "inputs": redact_value(_inputs(sources)),
        "model_id": scorer.classifier.model_id,
        "num_classes": scorer.meaning.num_classes,
        "output": scorer.meaning.output,
        "activation": scorer.meaning.activation,
        "activation_reason": scorer.meaning.reason,
        "fingerprints": scorer.fingerprints,
        "execution": scorer.execution,
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in _PACKAGES},
        },
        "config": request.config.told(),
        "beam_flags": redact_flags(request.beam_flags),
    }


def _launch(request: RunRequest, prepared: _Prepared) -> dict[str, int]:
    pipeline = beam.Pipeline(options=prepared.options)
    earlier = prepared.chain.files if prepared.chain else ()
    build(pipeline, request.config, prepared.sources, prepared.facts, prepared.model, prepared.adopted.files, earlier)
    watch = request.show_progress and is_in_process(prepared.options)
    progress = ShowProgress(observe.process_counts, prepared.adopted.rows) if watch else contextlib.nullcontext()
    with _Interrupts() as interrupts:
        try:
            with progress:
                result = pipeline.run()
                result.wait_until_finish()
        except (Exception, KeyboardInterrupt) as error:
            # A runner hands back what a worker has raised, or a text of it.
            text = f"{error}\n{''.join(traceback.format_exception_only(error))}"
            *_, found = None, *_WORKER_ERROR.finditer(text)
            passes = found is not None and found["kind"] == InterruptedRunError.__name__
            if found and not passes and not interrupts.seen:
                raise RunError(ExitCode.WRONG_INPUT, found["message"]) from error
            cause = found["message"] if found else _cause(error, prepared.layout)
            how = "was interrupted" if interrupts.seen else f"broke off: {cause}"
            raise RunError(
                ExitCode.INTERRUPTED,
                f"run {prepared.layout.run_id} {how}; finished files are kept, run again with "
                f"--run-id {prepared.layout.run_id} to continue",
            ) from error
    counters = result.metrics().query(MetricsFilter().with_namespace(observe.NAMESPACE))["counters"]
    return {counter.key.metric.name: counter.result for counter in counters}


class _Interrupts:
    """Remembers that Ctrl-C or SIGTERM came: a runner makes the KeyboardInterrupt in a worker a text among others."""

    _SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.seen = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in self._SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002  the signature is Python's
        self.seen = True
        raise KeyboardInterrupt


def _cause(error: BaseException, layout: RunLayout) -> str:
    """Return the last exception that a runner's text names, without the traceback around it."""
    named = _ANY_ERROR.findall(str(error))
    first = "".join(str(error).strip().splitlines()[:1])  # an interrupt says nothing
    cause = named[-1] if named else f"{type(error).__name__}: {first}".rstrip(": ")
    full = any(f"[errno {number}]" in cause.lower() for number in _FULL)
    return f"the disk of {layout.output} is full, make room there ({cause})" if full else cause
