"""Dataflow's jobs service on loopback: takes jobs as the real one does, and carries their pipelines out right here.

The contract is that of projects.locations.jobs, v1b3: https://docs.cloud.google.com/dataflow/docs/reference/rest
A job that breaks it is answered with 400 and the reason. What the staged pipeline does is done for real, by Beam's
local runner, and the job ends as that does.
"""

import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any

from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.cloud import dataflow
from google.protobuf import json_format

from tests.loopback import LoopbackServer, Quiet
from transforms import storage

_NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
_JOBS = re.compile(r".*/v1b3/projects/([^/?]+)/locations/([^/?]+)/jobs(?:/([^/?]+))?(/messages|/metrics)?(?:\?.*)?")
_OVER = frozenset({"JOB_STATE_DONE", "JOB_STATE_FAILED", "JOB_STATE_CANCELLED"})


class _Refused(Exception):  # noqa: N818  it is an answer
    def __init__(self, status: HTTPStatus, code: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.code = code


@dataclass
class Job:
    """One job that was taken."""

    job_id: str
    project: str
    location: str
    body: dict[str, Any]
    """As it was sent."""
    pipeline: beam_runner_api_pb2.Pipeline
    """What was staged for it."""
    states: list[str] = field(default_factory=lambda: ["JOB_STATE_PENDING"])
    error: str | None = None
    """What its pipeline raised."""

    @property
    def pool(self) -> dict[str, Any]:
        """Its one pool of workers."""
        (pool,) = self.body["environment"]["workerPools"]
        return dict(pool)

    @property
    def environment(self) -> dict[str, Any]:
        """Its environment."""
        return dict(self.body["environment"])


class DataflowApi(LoopbackServer):
    """The service.

    Args:
        execute: Whether pipelines are carried out; else jobs stay at work until `end`.
        roles: Projects whose jobs are taken; others are answered with 403.
    """

    def __init__(self, *, execute: bool, roles: tuple[str, ...] = ("my-project",)) -> None:
        self.jobs: dict[str, Job] = {}
        self.requests: list[str] = []
        self._execute = execute
        self._roles = roles
        self._lock = threading.Lock()
        service = self

        class Handler(Quiet, BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer()

            def do_POST(self) -> None:
                self._answer()

            def do_PUT(self) -> None:
                self._answer()

            def _answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                service.requests.append(f"{self.command} {self.path}")
                try:
                    status, answer = (
                        HTTPStatus.OK,
                        service._take(self.command, self.path, self.headers.get("Authorization", ""), body),
                    )
                except _Refused as refused:
                    status = refused.status
                    answer = {"error": {"code": status.value, "message": str(refused), "status": refused.code}}
                data = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        self._at_work: list[threading.Thread] = []
        super().__init__(Handler)

    @property
    def endpoint(self) -> str:
        """For --dataflow_endpoint: Beam's client speaks REST to localhost, and gRPC to every other name."""
        return f"http://localhost:{self.port}"

    def credentials(self) -> dict[str, str]:
        """Return the key file of a service account whose tokens come from here."""
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        text = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return {
            "type": "service_account",
            "project_id": "my-project",
            "client_email": "scorer@my-project.iam.gserviceaccount.com",
            "private_key_id": "1",
            "private_key": text.decode(),
            "token_uri": f"{self.endpoint}/token",
        }

    def close(self) -> None:
        """Wait for what is at work and stop answering."""
        super().close()
        for thread in self._at_work:
            thread.join()

    def end(self, job: Job, state: str) -> None:
        """End a job that is not carried out."""
        job.states.append(state)

    def _take(self, method: str, path: str, authorization: str, body: bytes) -> dict[str, Any]:
        if (method, path) == ("POST", "/token"):
            return {"access_token": "of-the-test", "expires_in": 3600, "token_type": "Bearer"}
        found = _JOBS.fullmatch(path)
        if found is None:
            raise _Refused(HTTPStatus.NOT_FOUND, "NOT_FOUND", f"no such method: {method} {path}")
        project, location, job_id, part = found.groups()
        if not authorization.startswith("Bearer "):
            raise _Refused(
                HTTPStatus.UNAUTHORIZED, "UNAUTHENTICATED", "Request had invalid authentication credentials."
            )
        if project not in self._roles:
            reason = f"Could not create workflow; user does not have write access to project: {project}"
            raise _Refused(HTTPStatus.FORBIDDEN, "PERMISSION_DENIED", reason)
        with self._lock:
            if method == "POST" and job_id is None:
                return self._create(project, location, json.loads(body))
            job = self.jobs.get(job_id or "")
            if job is None:
                raise _Refused(HTTPStatus.NOT_FOUND, "NOT_FOUND", f"no job {job_id}")
            if method == "PUT":
                wanted = json_format.Parse(body, dataflow.Job.pb(dataflow.Job()))
                self.end(job, dataflow.JobState(wanted.requested_state).name)
            if part == "/messages":
                return self._messages(job)
            if part == "/metrics":
                return {"metricTime": _now(), "metrics": []}
            return self._told(job)

    def _create(self, project: str, location: str, body: dict[str, Any]) -> dict[str, Any]:
        try:
            message = json_format.ParseDict(body, dataflow.Job.pb(dataflow.Job()))
        except json_format.ParseError as error:
            reason = f"Invalid JSON payload received. {error}"
            raise _Refused(HTTPStatus.BAD_REQUEST, "INVALID_ARGUMENT", reason) from error
        body = json_format.MessageToDict(message)  # enums by name, however they came
        for active in self.jobs.values():
            if active.body["name"] == body.get("name") and active.states[-1] not in _OVER:
                reason = f"There is already an active job named {body['name']}."
                raise _Refused(HTTPStatus.CONFLICT, "ALREADY_EXISTS", reason)
        pipeline = _check(body)
        job = Job(f"2026-11-26_02_30_00-{len(self.jobs) + 1:04d}", project, location, body, pipeline)
        self.jobs[job.job_id] = job
        if self._execute:
            self._at_work.append(threading.Thread(target=self._work, args=(job,)))
            self._at_work[-1].start()
        return self._told(job)

    def _told(self, job: Job) -> dict[str, Any]:
        state = job.states[-1]
        if not self._execute and state == "JOB_STATE_PENDING":
            job.states.append("JOB_STATE_RUNNING")
        return {
            "id": job.job_id,
            "projectId": job.project,
            "location": job.location,
            "name": job.body["name"],
            "type": job.body["type"],
            "clientRequestId": job.body["clientRequestId"],
            "currentState": state,
            "createTime": _now(),
        }

    def _messages(self, job: Job) -> dict[str, Any]:
        if job.error is None:
            return {}
        message = {"id": "1", "time": _now(), "messageText": job.error, "messageImportance": "JOB_MESSAGE_ERROR"}
        return {"jobMessages": [message]}

    def _work(self, job: Job) -> None:
        job.states.append("JOB_STATE_RUNNING")
        try:
            run_here(job.pipeline)
        except Exception as error:  # noqa: BLE001  the job ends with it, as on the service
            job.error = f"Traceback (most recent call last):\n{error}"
            job.states.append("JOB_STATE_FAILED")
        else:
            job.states.append("JOB_STATE_DONE")


def run_here(pipeline: beam_runner_api_pb2.Pipeline) -> None:
    """Carry a pipeline out whose workers would be containers: this process stands for them all."""
    local = beam_runner_api_pb2.Pipeline.FromString(pipeline.SerializeToString())
    for environment in local.components.environments.values():
        environment.urn = "beam:env:embedded_python:v1"
        environment.payload = b""
        del environment.dependencies[:]
    FnApiRunner().run_via_runner_api(local, PipelineOptions()).wait_until_finish()


def _check(body: dict[str, Any]) -> beam_runner_api_pb2.Pipeline:
    """Hold a job to the contract; return the pipeline that was staged for it."""
    environment = body.get("environment", {})
    pools = environment.get("workerPools", [])
    options = environment.get("sdkPipelineOptions", {}).get("options", {})
    experiments = environment.get("experiments", [])
    rules: list[tuple[bool, str]] = [
        (_NAME.fullmatch(body.get("name", "")) is not None, f"the name {body.get('name')!r} breaks the rule of names"),
        (body.get("type") == "JOB_TYPE_BATCH", "type is not JOB_TYPE_BATCH"),
        (bool(body.get("clientRequestId")), "no clientRequestId"),
        # For a service on localhost Beam's client calls the pool local, else harness.
        (len(pools) == 1 and pools[0].get("kind") == "local", "there must be one pool of workers"),
        (environment.get("tempStoragePrefix", "").startswith("storage.googleapis.com/"), "no tempStoragePrefix"),
        ("use_runner_v2" in experiments, "use_runner_v2 is not among the experiments"),
        (environment.get("userAgent", {}).get("name", "").startswith("Apache Beam Python"), "no SDK in userAgent"),
    ]
    images = pools[0].get("sdkHarnessContainerImages", []) if pools else []
    rules.append((bool(images) and all(image.get("containerImage") for image in images), "no container image"))
    for holds, reason in rules:
        if not holds:
            raise _Refused(HTTPStatus.BAD_REQUEST, "INVALID_ARGUMENT", reason)
    for package in pools[0].get("packages", []):
        place = package["location"].replace("storage.googleapis.com/", "gs://")
        if storage.stat(place) is None:
            raise _Refused(HTTPStatus.BAD_REQUEST, "INVALID_ARGUMENT", f"package {place} is not staged")
    try:
        staged = storage.read_bytes(options.get("pipelineUrl", ""))
    except OSError as error:
        raise _Refused(HTTPStatus.BAD_REQUEST, "INVALID_ARGUMENT", f"the pipeline is not staged: {error}") from error
    if hashlib.sha256(staged).hexdigest() != options.get("pipelineProtoHash"):
        raise _Refused(HTTPStatus.BAD_REQUEST, "INVALID_ARGUMENT", "the staged pipeline is another one")
    return beam_runner_api_pb2.Pipeline.FromString(staged)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
