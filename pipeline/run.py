"""The life of one run: check, load, launch, wait, and say how it ended."""

import contextlib
import logging
import time
from collections import Counter

from apache_beam.metrics import MetricsFilter
from apache_beam.runners.runner import PipelineResult

from pipeline.after.report_advice import Spent
from pipeline.beginning import layout_of, prepare
from pipeline.broken_off import Interrupts, broken_off
from pipeline.elsewhere import out_of_sight, still_running, wait_for_end
from pipeline.jobs import Job, cancelling
from pipeline.options import is_in_process
from pipeline.progress import ShowProgress
from pipeline.run_pipeline import build_pipeline
from pipeline.run_records import Checked, Prepared, RunRequest, RunResult
from pipeline.run_report import leave_missing_report, leave_report
from pipeline.submitting import client_errors, submit
from transforms import observe
from transforms.claims import RunClaim
from transforms.errors import ConfigError, ExitCode
from transforms.outcomes import read_attempt, read_outcome

_LOG = logging.getLogger(__name__)


def run(request: RunRequest) -> RunResult:
    """Carry a run out, or find that it has been.

    Raises:
        ConfigError: It cannot start; nothing was written.
        RunError: It did not come to its end.
    """
    started = time.monotonic() if request.began is None else request.began
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
