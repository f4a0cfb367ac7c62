"""Hand a pipeline to its engine, and learn what it is there."""

import contextlib
from collections.abc import Iterator

import apache_beam as beam
from apache_beam.options.pipeline_options import FlinkRunnerOptions, GoogleCloudOptions, PipelineOptions
from apache_beam.runners.runner import PipelineResult

from pipeline.jobs import Job, job_name
from pipeline.options import runner_kind
from transforms.errors import ConfigError
from transforms.layout import RunLayout


def new_pipeline(options: PipelineOptions, layout: RunLayout) -> beam.Pipeline:
    """Return an empty pipeline; on Dataflow its job has the name of the run, where the user has given it none.

    Raises:
        ConfigError: Beam finds fault with the options.
    """
    google = options.view_as(GoogleCloudOptions)
    if runner_kind(options) == "dataflow" and not google.job_name:
        google.job_name = job_name(layout)
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
    google = options.view_as(GoogleCloudOptions)
    if runner_kind(options) == "dataflow" and not google.no_auth:
        from google import auth

        with _in_our_words(options):
            auth.default(scopes=google.gcp_oauth_scopes)


def submit(pipeline: beam.Pipeline) -> tuple[PipelineResult, Job]:
    """Start a pipeline; a local one ends before this returns.

    Args:
        pipeline: The whole run.

    Raises:
        ConfigError: Dataflow refuses the job.
        RunError: Dataflow has a job of this run at work.
    """
    with _in_our_words(pipeline.options):
        result = pipeline.run()
    return result, _job(result, pipeline.options)


def _job(result: PipelineResult, options: PipelineOptions) -> Job:
    kind, google = runner_kind(options), options.view_as(GoogleCloudOptions)
    if kind == "dataflow":
        job_id = result.job_id() if result.has_job else None
        return Job(kind, google.job_name, job_id, google.project, google.region, google.template_location)
    address = options.view_as(FlinkRunnerOptions).flink_master if kind == "flink" else None
    return Job(kind, google.job_name, getattr(result, "_job_id", None), address=address)


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
