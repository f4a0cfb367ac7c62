"""Hand a pipeline to its engine, and learn what it is there."""

import contextlib
from collections.abc import Iterator

import apache_beam as beam
from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions
from apache_beam.runners.runner import PipelineResult

from pipeline.elsewhere import find_job, flink_master
from pipeline.jobs import Job
from pipeline.options import runner_kind
from transforms.errors import ConfigError
from transforms.redaction import redact_url


def new_pipeline(options: PipelineOptions) -> beam.Pipeline:
    """Return an empty pipeline.

    Raises:
        ConfigError: Beam finds fault with the options.
    """
    try:
        return beam.Pipeline(options=options)
    except ValueError as error:
        # The first line is a title.
        _, *problems = str(error).splitlines()
        raise ConfigError(f"after --: {' '.join(problems) or error}") from error


def check_credentials(options: PipelineOptions) -> None:
    """Refuse to launch without Google's credentials: Beam would look for them for half a minute, and go on without.

    Raises:
        ConfigError: There are none, or they cannot be read.
    """
    cloud = options.view_as(GoogleCloudOptions)
    if runner_kind(options) == "dataflow" and not cloud.no_auth:
        from google.auth import default

        with _in_our_words(options):
            default(scopes=cloud.gcp_oauth_scopes)


def client_errors(options: PipelineOptions) -> tuple[type[Exception], ...]:
    """Return what the client of an engine raises when the engine does not answer as it should."""
    if runner_kind(options) == "dataflow":
        from google.api_core.exceptions import GoogleAPIError

        return (OSError, LookupError, RuntimeError, GoogleAPIError)
    return (OSError, LookupError, RuntimeError)


def submit(pipeline: beam.Pipeline) -> tuple[PipelineResult, Job]:
    """Start a pipeline; a local one ends before this returns.

    Args:
        pipeline: The whole run.

    Raises:
        ConfigError: Dataflow refuses the job, or has a job of this run at work.
    """
    options = pipeline.options
    kind, master = runner_kind(options), flink_master(options)  # before Beam takes both out of them
    with _in_our_words(options):
        result = pipeline.run()
    google = options.view_as(GoogleCloudOptions)
    name = google.job_name
    if kind == "dataflow":
        job_id = result.job_id() if result.has_job else None
        return result, Job(kind, name, job_id, google.project, google.region, google.template_location)
    if master is None:
        return result, Job(kind, name, getattr(result, "_job_id", None))
    return result, Job(kind, name, find_job(master, name), address=redact_url(master))


def leave(result: PipelineResult) -> None:
    """Take back what Beam takes back at the end of a job that somebody waits for: the jar that Flink was given.

    The job has a copy of it. Left there, each night would add the size of Beam's runner to the JobManager's disk.
    """
    for job in getattr(getattr(result, "_job_service", None), "_jobs", {}).values():
        job.delete_jar()


@contextlib.contextmanager
def _in_our_words(options: PipelineOptions) -> Iterator[None]:
    if runner_kind(options) != "dataflow":
        yield
        return
    from pipeline.dataflow import told_error

    try:
        yield
    except Exception as error:
        told = told_error(error, options.view_as(GoogleCloudOptions).project)
        if told is None:
            raise
        raise told from error
