"""Runs on Dataflow, against a stand-in of its jobs service and a bucket on loopback: what is sent, what comes of it.

The launcher is the command itself. What it sends is held to what each profile says, and is then carried out.
"""

import json
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

pytest.importorskip("google.cloud.dataflow", reason="score-images[gcp] is not installed")

from pipeline.cli import main
from pipeline.config import load_config
from pipeline.flex_template import main as flex_template
from pipeline.options import find_flags
from pipeline.profiles import PROFILES
from pipeline.submitting import check_credentials
from tests.dataflow_api import DataflowApi, Job
from tests.model_zoo import pooled_model
from tests.runs import make_photos, small_config, write_config
from transforms import storage
from transforms.errors import ConfigError
from transforms.versions import read_versions

pytest_plugins = ["tests.gcs_store"]
# Google's own packages warn of each other.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

IMAGE = "europe-west4-docker.pkg.dev/my-project/score/score-images:0.1.0"
PHOTOS = 5
STEPS = ["ListImages", "ScoreImages", "WriteScores", "WriteFailures", "PublishRun"]


@pytest.fixture(scope="module")
def bucket(gcs_endpoint: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A bucket with a model, photos and one broken photo."""
    from tests.gcs_store import make_gcs_bucket, use_gcs  # pytest has to import it first, as a plugin

    folder = tmp_path_factory.mktemp("bucket")
    pooled_model(folder / "model")
    make_photos(folder / "photos", PHOTOS)
    (folder / "photos" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    patch = pytest.MonkeyPatch()
    use_gcs(patch, gcs_endpoint)
    url = make_gcs_bucket(gcs_endpoint)
    for path in folder.rglob("*"):
        if path.is_file():
            storage.write_bytes(f"{url}/{path.relative_to(folder)}", path.read_bytes())
    yield url
    patch.undo()
    storage._remote_filesystem.cache_clear()


@pytest.fixture(scope="module")
def config(bucket: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration whose model is in the bucket."""
    folder = tmp_path_factory.mktemp("config")
    limits = {"max_failure_rate": 0.5}
    model = {"path": f"{bucket}/model", "hub_cache": str(folder / "cache")}
    settings = small_config(Path("unused"), model=model, limits=limits)
    return write_config(settings, folder / "nightly.yaml")


@pytest.fixture
def idle_api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DataflowApi]:
    """A service that takes jobs and leaves them at work."""
    yield from serve(DataflowApi(execute=False), tmp_path, monkeypatch)


def serve(service: DataflowApi, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DataflowApi]:
    """Have the key of a service account of this service, for one test."""
    key = folder / "key.json"
    key.write_text(json.dumps(service.credentials()))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(key))
    # Beam looks for credentials once a process.
    monkeypatch.setattr("apache_beam.internal.gcp.auth._Credentials._credentials_init", False)
    yield service
    service.close()


def flags(bucket: str, api: DataflowApi | None, **changed: str | None) -> list[str]:
    """What a user gives after --."""
    given: dict[str, str | None] = {
        "project": "my-project",
        "region": "europe-west4",
        "temp_location": f"{bucket}/staged",
        "sdk_container_image": IMAGE,
        "dataflow_endpoint": api.endpoint if api else None,
        **changed,
    }
    return ["--", *(f"--{name}={value}" for name, value in given.items() if value is not None)]


def command(bucket: str, config: Path, what: str, profile: str, run_id: str, *more: str) -> list[str]:
    """The command line of a run."""
    places = ["--input", f"{bucket}/photos", "--output", f"{bucket}/scores"]
    return [what, "--config", str(config), *places, "--run-id", run_id, "--profile", profile, *more]


def launch(bucket: str, config: Path, profile: str, api: DataflowApi, *more: str) -> Job:
    """Launch a run of a profile; return the job that the service has taken."""
    assert main([*command(bucket, config, "launch", profile, profile, *more), *flags(bucket, api)]) == 0
    (job,) = (job for job in api.jobs.values() if profile in job.body["name"])
    return job


def accelerators(job: Job) -> list[str]:
    """What the service is told of GPUs."""
    options = job.environment.get("serviceOptions", [])
    return [option for option in [*options, *job.environment["experiments"]] if "accelerator" in option]


@pytest.mark.parametrize(
    ("profile", "gpu", "experiment", "machine", "workers", "threads", "disk"),
    [
        ("dataflow-cpu", [], "no_use_multiple_sdk_containers", "n2-standard-4", 20, 2, None),
        (
            "dataflow-gpu",
            ["worker_accelerator=type:nvidia-l4;count:1;install-nvidia-driver"],
            "no_use_multiple_sdk_containers",
            "g2-standard-8",
            4,
            2,
            50,
        ),
        (
            "dataflow-gpu-mps",
            ["worker_accelerator=type:nvidia-l4;count:1;install-nvidia-driver;use_nvidia_mps"],
            "use_multiple_sdk_containers",
            "g2-standard-8",
            4,
            None,
            50,
        ),
    ],
)
def test_the_job_of_a_profile_is_what_it_says(
    bucket: str,
    config: Path,
    idle_api: DataflowApi,
    capsys: pytest.CaptureFixture[str],
    profile: str,
    gpu: list[str],
    experiment: str,
    machine: str,
    workers: int,
    threads: int | None,
    disk: int | None,
) -> None:
    """Image, accelerator, machines, workers, experiments and the staged pipeline; the launcher leaves at once."""
    job = launch(bucket, config, profile, idle_api)
    pool = job.pool
    assert (job.project, job.location) == ("my-project", "europe-west4")
    assert job.body["name"].startswith(f"score-images-{profile}-")
    assert pool["workerHarnessContainerImage"] == IMAGE
    assert [image["containerImage"] for image in pool["sdkHarnessContainerImages"]] == [IMAGE]
    assert accelerators(job) == gpu
    containers = [name for name in job.environment["experiments"] if name.endswith("use_multiple_sdk_containers")]
    assert containers == [experiment]
    assert (pool["machineType"], pool["numWorkers"]) == (machine, 1)
    assert pool["autoscalingSettings"]["maxNumWorkers"] == workers
    assert pool.get("numThreadsPerWorker") == threads
    assert pool.get("diskSizeGb") == disk
    assert_pipeline_is_ours(job)
    said = capsys.readouterr().out
    assert said.startswith(f"run {profile} was launched: {job.body['name']} {job.job_id}\n")
    assert f"https://console.cloud.google.com/dataflow/jobs/europe-west4/{job.job_id}?project=my-project" in said
    assert storage.stat(f"{bucket}/scores/runs/{profile}/_SUCCESS") is None
    assert not storage.is_folder(f"{bucket}/scores/runs/{profile}/_claims")


def assert_pipeline_is_ours(job: Job) -> None:
    """The staged pipeline has the steps of a run, in the image and nowhere else, and brings no code of its own."""
    components = job.pipeline.components
    names = {transform.unique_name.split("/")[0] for transform in components.transforms.values()}
    assert set(STEPS) <= names
    assert {environment.urn for environment in components.environments.values()} == {"beam:env:docker:v1"}
    images = {environment.payload for environment in components.environments.values()}
    assert len(images) == 1
    assert IMAGE.encode() in images.pop()
    staged = [package["name"] for package in job.pool.get("packages", [])]
    assert not [name for name in staged if name.endswith((".tar.gz", ".whl", ".zip")) or "main_session" in name]


def test_a_dry_run_prints_the_job_and_sends_nothing(
    bucket: str, config: Path, idle_api: DataflowApi, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is the job that launch sends, but for times and random numbers; not a byte is written."""
    before = {file.path for file in storage.list_folder(bucket)}
    arguments = command(bucket, config, "launch", "dataflow-gpu", "dry", "--dry-run")
    assert main([*arguments, *flags(bucket, idle_api)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {file.path for file in storage.list_folder(bucket)} == before
    assert idle_api.requests == []
    assert main([*command(bucket, config, "launch", "dataflow-gpu", "dry"), *flags(bucket, idle_api)]) == 0
    (job,) = idle_api.jobs.values()
    assert told["request"]["path"] == "/v1b3/projects/my-project/locations/europe-west4/jobs"
    assert timeless(told["request"]["body"]) == timeless(job.body)
    assert [file["name"] for file in told["staged"]][-1] == "pipeline.pb"
    assert set(STEPS) <= {step.split("/")[0] for step in told["pipeline"]["steps"]}
    assert told["pipeline"]["environments"] == [{"kind": "beam:env:docker:v1", "container_image": IMAGE}]
    assert told["profile"] == "dataflow-gpu"


def timeless(body: dict[str, Any]) -> dict[str, Any]:
    """A job without the times, random numbers and digests that differ between two submissions."""
    text = json.dumps(body, sort_keys=True)
    text = re.sub(r'"(clientRequestId|pipelineProtoHash)": "[^"]*"', r'"\1": ""', text)
    return dict(json.loads(re.sub(r"(score-images-dry-[0-9a-f]{8})\.\d+\.\d+", r"\1", text)))


@pytest.mark.heavy
def test_a_second_job_of_a_run_is_refused(
    bucket: str, config: Path, idle_api: DataflowApi, capsys: pytest.CaptureFixture[str]
) -> None:
    """The name of the job is the run's, and Dataflow has one active job of a name; when it has ended, it may go on."""
    arguments = [*command(bucket, config, "launch", "dataflow-cpu", "twice"), *flags(bucket, idle_api)]
    assert main(arguments) == 0
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert "Dataflow has an active job of this run already: 409" in said
    assert "wait for its end, cancel it, or give another --run-id" in said
    (job,) = idle_api.jobs.values()
    idle_api.end(job, "JOB_STATE_CANCELLED")
    assert main(arguments) == 0
    assert len(idle_api.jobs) == 2


@pytest.mark.heavy
def test_a_refusal_of_the_service_is_one_line(
    bucket: str, config: Path, idle_api: DataflowApi, capsys: pytest.CaptureFixture[str]
) -> None:
    """A project without the role: what Dataflow says, and where to look."""
    arguments = command(bucket, config, "launch", "dataflow-cpu", "refused")
    assert main([*arguments, *flags(bucket, idle_api, project="other-project")]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("score-images: Dataflow refuses the job: 403 ")
    assert last.endswith("look at the flags after --, and at the roles and quotas of project other-project")


@pytest.mark.heavy
def test_flags_after_the_dashes_win(bucket: str, config: Path, idle_api: DataflowApi) -> None:
    """A larger machine and another GPU, and one more experiment beside those of the profile."""
    more = ["--machine_type=n1-standard-16", "--experiments=shuffle_mode=service"]
    more += ["--dataflow_service_options=worker_accelerator=type:nvidia-tesla-t4;count:1;install-nvidia-driver"]
    arguments = command(bucket, config, "launch", "dataflow-gpu", "wins")
    assert main([*arguments, *flags(bucket, idle_api), *more]) == 0
    (job,) = idle_api.jobs.values()
    assert job.pool["machineType"] == "n1-standard-16"
    assert accelerators(job) == ["worker_accelerator=type:nvidia-tesla-t4;count:1;install-nvidia-driver"]
    assert {"shuffle_mode=service", "no_use_multiple_sdk_containers"} <= set(job.environment["experiments"])


def test_missing_credentials_are_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beam would look for them for half a minute, and then go on without."""
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    options = find_flags("dataflow-cpu", flags("gs://bucket", None)[1:]).options
    with pytest.raises(ConfigError) as caught:
        check_credentials(options)
    assert str(caught.value).startswith("Google's credentials cannot be used: Your default credentials were not found.")
    assert str(caught.value).endswith("or set GOOGLE_APPLICATION_CREDENTIALS to a service account's key file")
    check_credentials(find_flags("dataflow-cpu", [*flags("gs://bucket", None)[1:], "--no_auth"]).options)


def test_a_configuration_may_lie_in_a_bucket(bucket: str) -> None:
    """Relative paths in it start at its folder; a cache of models is on this machine's disk all the same."""
    text = "model: {path: ../model, hub_cache: cache}\npreprocess: {value_range: 0_1}\nlabels: {path: /models/l.txt}\n"
    storage.write_bytes(f"{bucket}/configs/small.yaml", text.encode())
    read = load_config(f"{bucket}/configs/small.yaml")
    assert (read.model.path, read.labels.path) == (f"{bucket}/model", "/models/l.txt")
    assert read.model.hub_cache == str(Path.cwd() / "cache")
    with pytest.raises(ConfigError, match=rf"^config {bucket}/configs/none.yaml cannot be read: "):
        load_config(f"{bucket}/configs/none.yaml")


@pytest.mark.heavy
def test_a_flex_template_leaves_its_job_for_the_service(
    bucket: str, config: Path, idle_api: DataflowApi, capsys: pytest.CaptureFixture[str]
) -> None:
    """The template's launcher says where the job is to be written; the configuration lies in the bucket, too."""
    settings = json.loads(config.read_text())
    settings["model"]["path"] = "../model"  # beside the configuration's folder
    storage.write_bytes(f"{bucket}/configs/nightly.yaml", json.dumps(settings).encode())
    places = [f"--config={bucket}/configs/nightly.yaml", f'--input=["{bucket}/photos"]', f"--output={bucket}/scores"]
    parameters = [*places, "--profile=dataflow-gpu", "--run_id=flex", "--overwrite=false"]
    added = [
        f"--template_location={bucket}/staged/job_object",
        "--job_name=score-nightly",
        *flags(bucket, idle_api)[1:],
    ]
    assert flex_template([*added, *parameters]) == 0
    assert f"template   {bucket}/staged/job_object" in capsys.readouterr().out
    job = json.loads(storage.read_bytes(f"{bucket}/staged/job_object"))
    assert job["name"] == "score-nightly"
    (pool,) = job["environment"]["workerPools"]
    assert (pool["machineType"], pool["workerHarnessContainerImage"]) == ("g2-standard-8", IMAGE)
    assert idle_api.jobs == {}


@pytest.fixture
def working_api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DataflowApi]:
    """A service that carries its jobs out."""
    yield from serve(DataflowApi(execute=True), tmp_path, monkeypatch)


@pytest.mark.heavy
def test_a_run_waits_for_its_job_and_tells_its_outcome(
    bucket: str, config: Path, working_api: DataflowApi, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was staged is carried out: it publishes, and the command reads ledger and failures from the output."""
    arguments = [*command(bucket, config, "run", "dataflow-cpu", "night"), *flags(bucket, working_api)]
    assert main(arguments) == 0
    (job,) = working_api.jobs.values()
    assert job.states[-2:] == ["JOB_STATE_RUNNING", "JOB_STATE_DONE"]
    said = capsys.readouterr().out
    assert f"unique    {PHOTOS + 1} = {PHOTOS} scored + 1 failed + 0 skipped" in said
    manifest = json.loads(storage.read_bytes(f"{bucket}/scores/runs/night/manifest.json"))
    assert manifest["profile"] == "dataflow-cpu"
    assert "--machine_type=n2-standard-4" in manifest["effective_flags"]
    assert manifest["execution"]["devices"].startswith("on the launcher: ")
    (scores,) = (entry["path"] for entry in manifest["files"] if entry["table"] == "scores")
    filesystem, folder = storage.filesystem(f"{bucket}/scores")
    assert pq.read_table(f"{folder}/{scores}", filesystem=filesystem, partitioning=None).num_rows == PHOTOS
    assert main(arguments) == 0
    assert "run night is already published" in capsys.readouterr().out
    assert len(working_api.jobs) == 1


@pytest.mark.heavy
def test_an_interrupt_ends_the_waiting_and_not_the_job(
    bucket: str, config: Path, idle_api: DataflowApi, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C while a job is at work: how it is ended is said, with the exit code of what goes on."""

    def interrupt() -> None:
        while not any(request.startswith("GET") for request in idle_api.requests):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    assert main([*command(bucket, config, "run", "dataflow-cpu", "left"), *flags(bucket, idle_api)]) == 130
    (job,) = idle_api.jobs.values()
    assert job.states[-1] == "JOB_STATE_RUNNING"
    # A thread of Beam's client goes on asking until the job has ended; a process would end without it.
    asked = len(idle_api.requests)
    idle_api.end(job, "JOB_STATE_CANCELLED")
    while not any(request.partition("?")[0].endswith(job.job_id) for request in idle_api.requests[asked:]):
        time.sleep(0.05)
    *_, last, again = capsys.readouterr().err.strip().splitlines()
    assert again.startswith("  run again: ")
    assert "--run-id left" in again
    assert last == (
        f"score-images: the launcher of run left was interrupted; its job {job.body['name']} {job.job_id} goes on "
        "without it and publishes: run again with --run-id left to see how it ended, or cancel it: "
        f"gcloud dataflow jobs cancel {job.job_id} --region=europe-west4 --project=my-project"
    )


@pytest.mark.heavy
def test_workers_of_another_version_end_the_run(
    bucket: str,
    config: Path,
    working_api: DataflowApi,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The image is of another version than the launcher: the job fails, and the command says both and the way out."""
    older = {**read_versions(), "tensorflow": "2.20.0"}
    monkeypatch.setattr("pipeline.graph.read_versions", lambda: older)
    arguments = [*command(bucket, config, "run", "dataflow-cpu", "older"), *flags(bucket, working_api)]
    assert main(arguments) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    here = read_versions()["tensorflow"]
    assert last == (
        f"score-images: launcher and worker have other versions: tensorflow 2.20.0 and {here}; "
        "launch from the image that the workers have, or build the workers' image from the launcher's version"
    )
    assert storage.stat(f"{bucket}/scores/runs/older/_SUCCESS") is None


def test_every_dataflow_profile_is_tested_here() -> None:
    """A new profile needs its line above."""
    names = {name for name, profile in PROFILES.items() if profile.runner == "dataflow"}
    assert names == {"dataflow-cpu", "dataflow-gpu", "dataflow-gpu-mps"}
