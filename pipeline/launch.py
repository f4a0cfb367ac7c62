"""Launch a run on an engine elsewhere and leave it there; or say what would be sent, and send nothing."""

from typing import Any, NamedTuple

from apache_beam.options.pipeline_options import FlinkRunnerOptions, GoogleCloudOptions, PortableOptions, TestOptions
from apache_beam.runners.portability.portable_runner import PortableRunner

from pipeline.beginning import check, layout_of, prepare
from pipeline.dataflow import describe_job, summarize
from pipeline.elsewhere import flink_master
from pipeline.jobs import Job
from pipeline.options import find_flags, flag_names, runner_kind
from pipeline.profiles import told_flags
from pipeline.run_pipeline import build_pipeline
from pipeline.run_records import RunRequest
from pipeline.submitting import leave, submit
from transforms.claims import RunClaim
from transforms.errors import ConfigError
from transforms.layout import RunLayout
from transforms.redaction import redact_value


class Launched(NamedTuple):
    """A run that was handed over."""

    layout: RunLayout
    """Where everything will lie."""
    found: str | None
    """Why nothing had to be launched; None where it had."""
    job: Job | None
    """What it is on its engine."""


def launch(request: RunRequest) -> Launched:
    """Check a run, submit it, and return as soon as its engine has it.

    The claim on the run ends here: that no second job of it is started is the engine's to see, by the job's name.

    Raises:
        ConfigError: It cannot start, or has no engine that would go on without this process.
        RunError: The engine has a job of this run at work.
    """
    _elsewhere(request)
    layout = layout_of(request)
    with RunClaim(layout) as claim:
        prepared = prepare(request, layout, claim)
        if isinstance(prepared, str):
            claim.tidy()
            return Launched(layout, prepared, None)
        result, job = submit(build_pipeline(request, prepared.checked, prepared.adopted))
        leave(result)
    return Launched(layout, None, job)


def dry_run(request: RunRequest) -> dict[str, Any]:
    """Check a run and return the job that would be sent; nothing is written, staged or sent.

    Returns:
        JSON-like, without secrets: run, flags, pipeline; for Dataflow the request and the staged files, too.

    Raises:
        ConfigError: The run could not start.
    """
    _elsewhere(request)
    layout = layout_of(request)
    checked = check(request, layout, sent=False)
    options = checked.flags.options
    told: dict[str, Any] = {
        "run_id": layout.run_id,
        "output": layout.output,
        "profile": request.profile,
        "flags": list(told_flags(checked.flags.words, flag_names())),
    }
    # Beam's runner of Dataflow then asks no bucket about its settings, and hands the job back instead of sending it.
    options.view_as(TestOptions).dry_run = True
    pipeline = build_pipeline(request, checked)
    if runner_kind(options) == "dataflow":
        google = options.view_as(GoogleCloudOptions)
        place = f"projects/{google.project}/locations/{google.region}/jobs"
        job = describe_job(pipeline)
        told["pipeline"] = job.pipeline
        told["staged"] = [file._asdict() for file in job.staged]
        told["request"] = {"method": "POST", "path": f"/v1b3/{place}", "body": _without_secrets(job.request)}
    else:
        environment = PortableRunner._create_environment(pipeline.options)
        told["pipeline"] = summarize(pipeline.to_runner_api(default_environment=environment))
    request_told = {"request": told.pop("request")} if "request" in told else {}
    return {**redact_value(told), **request_told}


def _without_secrets(body: dict[str, Any]) -> dict[str, Any]:
    """Redact a job's request; Beam's display data names options by `key`, which itself is no secret."""
    shown = body["environment"]["sdkPipelineOptions"].pop("display_data", [])
    told: dict[str, Any] = redact_value(body)
    told["environment"]["sdkPipelineOptions"]["display_data"] = [
        {**entry, "value": redact_value({entry["key"]: entry.get("value")})[entry["key"]]} for entry in shown
    ]
    return told


def _elsewhere(request: RunRequest) -> None:
    """Refuse to launch where the job would end, or not even begin, without this process.

    Raises:
        ConfigError: It would; or its engine cannot be asked for the jobs that are at work.
    """
    options = find_flags(request.profile, request.beam_flags).options
    kind = runner_kind(options)
    if kind == "local":
        raise ConfigError(
            "launch hands a run over to an engine that goes on without it, and a local run has none; take "
            "--profile flink or a dataflow profile, or score-images run"
        )
    if kind == "dataflow":
        return
    if flink_master(options) is None:
        raise ConfigError(
            "launch hands a run over to Dataflow, or to the Flink cluster that --flink_master names, "
            "jobmanager:8081 for example; with any other engine take score-images run, which waits for the end"
        )
    if not options.view_as(FlinkRunnerOptions).flink_submit_uber_jar:
        raise ConfigError(
            "without --flink_submit_uber_jar a job server beside the launcher submits the job, and ends with it; add "
            "the flag, take --profile flink, or score-images run"
        )
    if options.view_as(PortableOptions).environment_type == "LOOPBACK":
        raise ConfigError(
            "--environment_type=LOOPBACK starts the workers in the launcher, which launch ends; take EXTERNAL, or "
            "score-images run"
        )
