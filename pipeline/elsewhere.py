"""A run whose workers live elsewhere: its job has a name by which it is found, and goes on without its launcher.

The claim on a run dies with the launcher, but a job that was submitted does not. So the same run has the same job
name: Dataflow refuses a second job of a name while the first is at work, and a Flink cluster is asked here.
"""

import hashlib
import json
import logging
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from apache_beam.options.pipeline_options import (
    FlinkRunnerOptions,
    GoogleCloudOptions,
    PipelineOptions,
    StandardOptions,
)
from apache_beam.runners.portability.portable_runner import PipelineResult as PortableResult
from apache_beam.runners.runner import PipelineResult, PipelineState

from transforms.errors import ConfigError, ExitCode, RunError
from transforms.layout import RunLayout
from transforms.redaction import redact_url

_LOG = logging.getLogger(__name__)
_NOT_ALLOWED = re.compile(r"[^a-z0-9]+")
_SLUG_LENGTH = 24
# What Beam raises where the REST interface answers while the JobManager behind it is started again, or elected.
_UNAVAILABLE = re.compile(r"failed with status 5\d\d")
_ANSWER_SECONDS = 30.0
_ASK_SECONDS = 2.0
_SILENT_SECONDS = 120.0
# https://nightlies.apache.org/flink/flink-docs-release-1.19/docs/internals/job_scheduling/
_ENDED = frozenset({"FINISHED", "CANCELED", "FAILED"})


def job_name(layout: RunLayout) -> str:
    """Return the name of a run's job: the same for the same run, another for any other, valid on Dataflow.

    >>> job_name(RunLayout("/out", "2026-11-26"))
    'score-images-2026-11-26-d13f95e7'
    """
    readable = _NOT_ALLOWED.sub("-", layout.run_id.lower()).strip("-")[:_SLUG_LENGTH].strip("-")
    digest = hashlib.sha256(f"{layout.output}\n{layout.run_id}".encode()).hexdigest()[:8]
    return f"score-images-{readable}-{digest}"


def name_job(options: PipelineOptions, layout: RunLayout) -> str | None:
    """Give a job that outlives its launcher the name of its run; one that the user has named keeps it.

    Returns:
        The job's name; None where the run ends with the launcher.
    """
    if flink_master(options) is None and _runner(options) != "dataflowrunner":
        return None
    named = options.view_as(GoogleCloudOptions)
    named.job_name = named.job_name or job_name(layout)
    return str(named.job_name)


def check_no_job(options: PipelineOptions, layout: RunLayout) -> None:
    """See that no job of this run is at work on the Flink cluster that options name.

    Call it while the run is claimed: between the question and the submission nobody else submits.

    Raises:
        ConfigError: There is one, or the cluster does not answer.
    """
    master = flink_master(options)
    if master is None:
        return
    name = options.view_as(GoogleCloudOptions).job_name
    for job in _flink_jobs(master):
        if job["name"] == name and job["state"] not in _ENDED:
            since = datetime.fromtimestamp(job["start-time"] / 1e3, UTC).isoformat(timespec="seconds")
            raise ConfigError(
                f"run {layout.run_id} is being worked on by Flink job {job['jid']} ({job['state']} since {since}) at "
                f"{redact_url(master)}: it publishes without a launcher; wait for it, cancel it there, or use another "
                "--run-id"
            )


def flink_master(options: PipelineOptions) -> str | None:
    """Return the URL of the JobManager that options name; None where they name none, or a Flink of the launcher's own.

    Ask before a pipeline is run: Beam takes its runner and the JobManager out of its options then.
    """
    master = (options.view_as(FlinkRunnerOptions).flink_master or "").strip().rstrip("/")
    if _runner(options) != "flinkrunner" or master.startswith("["):
        return None  # [auto] and [local] are a Flink of the launcher's own
    return master if "://" in master else f"http://{master}"


def find_job(master: str, name: str) -> str | None:
    """Return what a Flink cluster calls the newest job of a name; None where it does not say.

    What Beam hands back after a submission is a name of Beam's own, which no page of Flink knows.

    Args:
        master: The URL of the JobManager.
        name: Of the job.
    """
    try:
        jobs = [job for job in _flink_jobs(master) if job["name"] == name]
    except ConfigError as error:
        _LOG.warning("the id of job %s is not known: %s", name, error)
        return None
    return str(max(jobs, key=lambda job: job["start-time"])["jid"]) if jobs else None


def wait_for_end(
    result: PipelineResult, ask_seconds: float = _ASK_SECONDS, silent_seconds: float = _SILENT_SECONDS
) -> None:
    """Wait for a job as its runner does; one on Flink is asked for at a steady pace.

    Beam's own wait asks Flink less and less often, once a minute in the end, and gives up when it gets no answer once.

    Args:
        result: Of a submitted pipeline.
        ask_seconds: Between two questions.
        silent_seconds: How long a JobManager may be out of reach, as when it is started again.

    Raises:
        OSError: It is out of reach for longer.
        RuntimeError: The job has failed.
    """
    answered = time.monotonic()
    while isinstance(result, PortableResult):
        try:
            if PipelineState.is_terminal(result.state):
                break
            answered = time.monotonic()
        except (OSError, RuntimeError) as error:
            if not isinstance(error, OSError) and not _UNAVAILABLE.search(str(error)):
                raise
            if time.monotonic() - answered > silent_seconds:
                raise ConnectionError(str(error)) from error
        time.sleep(ask_seconds)
    result.wait_until_finish()


def out_of_sight(job: str, layout: RunLayout, error: OSError) -> RunError:
    """Return what is said when a job that was submitted cannot be asked for any more."""
    return RunError(
        ExitCode.INTERRUPTED,
        f"job {job} of run {layout.run_id} was submitted and cannot be watched any more: {error}; if it is at work it "
        f"publishes all the same: run again with --run-id {layout.run_id} to see how it ended",
    )


def still_running(job: str, layout: RunLayout, cancelling: str = "cancel the job where it runs") -> RunError:
    """Return what is said when a launcher is interrupted while its job goes on elsewhere."""
    return RunError(
        ExitCode.INTERRUPTED,
        f"the launcher of run {layout.run_id} was interrupted; its job {job} goes on without it and publishes: run "
        f"again with --run-id {layout.run_id} to see how it ended, or {cancelling}",
    )


def _runner(options: PipelineOptions) -> str:
    return (options.view_as(StandardOptions).runner or "").rpartition(".")[2].lower()


def _flink_jobs(master: str) -> Iterator[dict[str, Any]]:
    try:
        with urllib.request.urlopen(f"{master}/v1/jobs/overview", timeout=_ANSWER_SECONDS) as answer:  # noqa: S310  the user's own
            yield from json.load(answer)["jobs"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"--flink_master={redact_url(master)} does not answer as a Flink JobManager does: {error}; give the "
            "address of its REST interface, jobmanager:8081 for example"
        ) from error
