"""Hand a pipeline to its engine, and learn what it is there."""

import contextlib
from collections.abc import Iterator

import apache_beam as beam
from apache_beam.options.pipeline_options import FlinkRunnerOptions, GoogleCloudOptions, PipelineOptions
from apache_beam.runners.runner import PipelineResult

from pipeline.jobs import Job, job_name
from pipeline.options import runner_kind
from transforms.layout import RunLayout


def name_job(options: PipelineOptions, layout: RunLayout) -> None:
    """Give the job of a run its name on Dataflow, where the user has given it none."""
    google = options.view_as(GoogleCloudOptions)
    if runner_kind(options) == "dataflow" and not google.job_name:
        google.job_name = job_name(layout)


def submit(pipeline: beam.Pipeline, options: PipelineOptions, layout: RunLayout) -> tuple[PipelineResult, Job]:
    """Start a pipeline; a local one ends before this returns.

    Args:
        pipeline: The whole run.
        options: Its options.
        layout: The run.

    Raises:
        ConfigError: Dataflow refuses the job.
        RunError: Dataflow has a job of this run at work.
    """
    name_job(options, layout)
    with _in_our_words(options):
        result = pipeline.run()
    return result, _job(result, options)


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
