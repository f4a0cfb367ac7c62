"""What Beam's client of Dataflow says and takes: the job as it would be sent, and errors in one line.

Beam's own modules are internal ones, as their heads say: setup.py pins Beam to one minor version, and the tests hold
what is described here to what a service receives.
"""

import hashlib
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions, TestOptions
from apache_beam.portability import common_urns
from apache_beam.portability.api import beam_runner_api_pb2

from transforms.errors import ConfigError


class StagedFile(NamedTuple):
    """A file that goes to the staging folder of a job."""

    name: str
    """Below the folder."""
    size_bytes: int
    """Its size."""
    sha256: str
    """Of its bytes."""


class Description(NamedTuple):
    """A job, not sent."""

    request: dict[str, Any]
    """The body of the request that creates it, as JSON; secrets are in it."""
    pipeline: dict[str, Any]
    """A summary of the pipeline that it stages."""
    staged: list[StagedFile]
    """What is staged."""


def describe_job(pipeline: beam.Pipeline) -> Description:
    """Make the job of a pipeline as Beam's runner would, and send nothing.

    Args:
        pipeline: The whole pipeline, with DataflowRunner and --dry_run.
    """
    from apache_beam.runners.dataflow.internal import apiclient

    class Recorder(apiclient.DataflowApplicationClient):
        """Knows no service and no bucket: notes what would be staged."""

        def __init__(self, options: PipelineOptions) -> None:
            self.google_cloud_options = options.view_as(GoogleCloudOptions)
            self.environment_version = apiclient._FNAPI_ENVIRONMENT_MAJOR_VERSION
            self._sdk_image_overrides = self._get_sdk_image_overrides(options)
            self._enable_caching = False
            self.staged: list[StagedFile] = []

        def stage_file(self, _folder: str, name: str, stream: Any, *_: Any, **__: Any) -> None:
            data = stream.read()
            self.staged.append(StagedFile(name, len(data), hashlib.sha256(data).hexdigest()))

    job = pipeline.run().job
    job.options.view_as(TestOptions).dry_run = False  # a job that is sent does not tell it
    recorder = Recorder(job.options)
    recorder.create_job_description(job)
    from google.protobuf import json_format  # type: ignore[import-untyped]

    request = json_format.MessageToDict(job.proto._pb)
    return Description(request, summarize(job.proto_pipeline), recorder.staged)


def summarize(proto: beam_runner_api_pb2.Pipeline) -> dict[str, Any]:
    """Return what a person asks of a pipeline's proto: its steps and where they run.

    Args:
        proto: A pipeline as runners take it.
    """
    transforms = proto.components.transforms
    roots = list(proto.root_transform_ids)
    # One root stands for the whole pipeline, where the runner has not taken it apart yet.
    ids = transforms[roots[0]].subtransforms if len(roots) == 1 and transforms[roots[0]].subtransforms else roots
    steps = [transforms[name].unique_name for name in ids]
    used = {transform.environment_id for transform in transforms.values()}
    environments = []
    for name, environment in sorted(proto.components.environments.items()):
        if name not in used:
            continue
        found: dict[str, Any] = {"kind": environment.urn}
        if environment.urn == common_urns.environments.DOCKER.urn:
            payload = beam_runner_api_pb2.DockerPayload.FromString(environment.payload)
            found["container_image"] = payload.container_image
        elif environment.urn == common_urns.environments.EXTERNAL.urn:
            external = beam_runner_api_pb2.ExternalPayload.FromString(environment.payload)
            found["worker_pool"] = external.endpoint.url
        hints = {urn: value.decode(errors="replace") for urn, value in environment.resource_hints.items()}
        environments.append({**found, **({"resource_hints": hints} if hints else {})})
    return {"steps": steps, "environments": environments}


def told_error(error: BaseException, project: str | None) -> ConfigError | None:
    """Say what Google's client raises while a job is submitted as an error of ours; None where it is another one.

    Args:
        error: What was raised.
        project: The project, for the message.
    """
    from apache_beam.runners.dataflow.internal.apiclient import DataflowJobAlreadyExistsError
    from google.api_core import exceptions
    from google.auth.exceptions import GoogleAuthError

    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if isinstance(error, DataflowJobAlreadyExistsError | exceptions.Conflict):
        return ConfigError(
            f"Dataflow has an active job of this run already: {text}; wait for its end, cancel it, or give another "
            "--run-id"
        )
    if isinstance(error, GoogleAuthError):
        return ConfigError(
            f"Google's credentials cannot be used: {text}; run gcloud auth application-default login, or set "
            "GOOGLE_APPLICATION_CREDENTIALS to a service account's key file"
        )
    if isinstance(error, exceptions.ServerError | exceptions.RetryError):
        return None  # it may pass
    if isinstance(error, exceptions.GoogleAPICallError):
        return ConfigError(
            f"Dataflow refuses the job: {text}; look at the flags after --, and at the roles and quotas of project "
            f"{project}"
        )
    return None
