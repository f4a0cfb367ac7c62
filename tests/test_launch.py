"""Launching a run: what is refused, what a dry run says, and how a job is named and followed."""

import contextlib
import json
import shutil
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli import main
from pipeline.config import RunConfig
from pipeline.devices_elsewhere import launcher_config, worker_config
from pipeline.elsewhere import job_name
from pipeline.jobs import Job, console_url, following
from tests.model_zoo import pooled_model
from tests.runs import make_photos, small_config, tree, write_config
from transforms.layout import RunLayout
from transforms.publishing_plan import write_plan

FLINK = ["--", "--flink_master=jobmanager:8081"]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, photos and a configuration."""
    folder = tmp_path_factory.mktemp("launch")
    pooled_model(folder / "model")
    make_photos(folder / "photos", 2)
    write_config(small_config(folder / "model"), folder / "config.yaml")
    return folder


def launch(workplace: Path, *more: str) -> int:
    """Launch a run of local files."""
    places = ["--input", str(workplace / "photos"), "--output", str(workplace / "scores"), "--run-id", "n1"]
    return main(["launch", "--config", str(workplace / "config.yaml"), *places, *more])


def test_a_local_run_is_not_launched(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing would go on without the launcher."""
    assert launch(workplace) == 2
    assert "a local run has none; take --profile flink or a dataflow profile, or score-images run" in (
        capsys.readouterr().err
    )
    assert not (workplace / "scores").exists()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--profile", "flink", "--", "--flink_master=[local]"], "the Flink cluster that --flink_master names"),
        (["--", "--runner=PrismRunner"], "with any other engine take score-images run"),
        (
            ["--", "--runner=PortableRunner", "--job_endpoint=localhost:1"],
            "with any other engine take score-images run",
        ),
        (["--", "--runner=FlinkRunner", "--flink_master=jm:8081"], "without --flink_submit_uber_jar a job server"),
        (["--profile", "flink", *FLINK, "--environment_type=LOOPBACK"], "LOOPBACK starts the workers in the launcher"),
    ],
)
def test_what_would_end_with_the_launcher_is_not_launched(
    workplace: Path, capsys: pytest.CaptureFixture[str], flags: list[str], says: str
) -> None:
    """Nor what could be launched twice, because nobody can ask for its job."""
    assert launch(workplace, "--shared-disk", *flags) == 2
    assert says in capsys.readouterr().err
    assert not (workplace / "scores").exists()


def test_local_files_are_launched_on_flink_where_the_disk_is_shared(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only whoever says so has such a cluster; a dry run shows the flags and steps, and touches nothing."""
    assert launch(workplace, "--profile", "flink", "--dry-run", *FLINK) == 2
    assert "or say --shared-disk where all machines have it under this name" in capsys.readouterr().err
    before = tree(workplace)
    assert launch(workplace, "--profile", "flink", "--shared-disk", "--dry-run", *FLINK) == 0
    told = json.loads(capsys.readouterr().out)
    assert tree(workplace) == before
    assert told["flags"][0] == "--runner=FlinkRunner"
    assert told["flags"][-1] == "--flink_master=jobmanager:8081"
    assert told["pipeline"]["environments"] == [{"kind": "beam:env:external:v1", "worker_pool": "localhost:50000"}]
    assert told["pipeline"]["steps"][:2] == ["ListImages", "ScoreImages"]
    assert told["run_id"] == "n1"
    assert "request" not in told


class JobManager:
    """What a launcher asks of Flink's REST interface, answered as a JobManager does; `jars` lie there."""

    JOB = "2ed2989482613cc8eaf7ccd0367f6fd1"

    def __init__(self, name: str) -> None:
        self.jars: list[str] = []
        self.jobs: list[dict[str, Any]] = [
            {"jid": "0", "name": name, "state": "FAILED", "start-time": 1},
            {"jid": "1", "name": "another", "state": "RUNNING", "start-time": 3},
        ]
        self._name = name

    def answer(self, method: str, path: str) -> Any:
        """Return what is answered; None stands for 404."""
        match method, path.split("/")[2:]:
            case "GET", ["config"]:
                return {"flink-version": "1.19.3"}
            case "GET", ["jobs", "overview"]:
                return {"jobs": self.jobs}
            case "POST", ["jars", "upload"]:
                self.jars.append("a1_beam.jar")
                return {"filename": "/flink-web-upload/a1_beam.jar"}
            case "POST", ["jars", "a1_beam.jar", "run"]:
                self.jobs.insert(1, {"jid": self.JOB, "name": self._name, "state": "RUNNING", "start-time": 2})
                return {"jobid": self.JOB}
            case "DELETE", ["jars", jar]:
                self.jars.remove(jar)
                return {}
            case _:
                return None


@contextlib.contextmanager
def serving(manager: JobManager) -> Iterator[str]:
    """Serve a JobManager on loopback; its host and port."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            found = manager.answer(self.command, self.path)
            self.send_response(404 if found is None else 200)
            self.end_headers()
            self.wfile.write(json.dumps(found).encode())

        do_GET = do_POST = do_DELETE = answer  # noqa: N815  the names are http.server's

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_job_on_flink_is_told_by_its_own_id_and_leaves_no_jar(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Beam's name of the job is on no page of Flink; the uploaded jar is Beam's runner, every night again."""
    name = job_name(RunLayout(str(workplace / "scores"), "n1"))
    manager = JobManager(name)
    with zipfile.ZipFile(workplace / "runner.jar", "w") as jar:
        jar.writestr("META-INF/MANIFEST.MF", "Manifest-Version: 1.0\n")
    with serving(manager) as address:
        flags = [f"--flink_master={address}", f"--flink_job_server_jar={workplace / 'runner.jar'}"]
        assert launch(workplace, "--profile", "flink", "--shared-disk", "--", *flags) == 0
    told = capsys.readouterr().out
    assert told.startswith(f"run n1 was launched: {name} {JobManager.JOB}\n")
    assert f"follow     http://{address}/#/job/running/{JobManager.JOB}\n" in told
    assert f"cancel     curl -X PATCH 'http://{address}/jobs/{JobManager.JOB}?mode=cancel'\n" in told
    assert manager.jars == []
    shutil.rmtree(workplace / "scores")


def test_a_job_that_is_publishing_is_left_alone(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A plan does not say that publishing was interrupted: a job on a cluster carries it out without a claim."""
    layout = RunLayout(str(workplace / "publishing"), "n1")
    write_plan(layout, {"files": [], "ledger": {}, "failures_by_code": {}, "published_at": "2026-11-26"}, [])
    before = tree(workplace / "publishing")
    manager = JobManager(job_name(layout))
    manager.jobs[0]["state"] = "RUNNING"
    places = ["--input", str(workplace / "photos"), "--output", layout.output, "--run-id", "n1"]
    common = ["--config", str(workplace / "config.yaml"), *places, "--profile", "flink", "--shared-disk"]
    with serving(manager) as address:
        for command in ("run", "launch"):
            assert main([command, *common, "--", f"--flink_master={address}"]) == 2
            assert "run n1 is being worked on by Flink job 0 (RUNNING since " in capsys.readouterr().err
    assert tree(workplace / "publishing") == before


def test_what_is_published_is_not_launched_again(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same words as of run."""
    places = ["--input", str(workplace / "photos"), "--output", str(workplace / "published"), "--run-id", "n1"]
    common = ["--config", str(workplace / "config.yaml"), *places]
    assert main(["run", *common, "--profile", "local"]) == 0
    manifest = json.loads((workplace / "published" / "runs" / "n1" / "manifest.json").read_text())
    assert manifest["profile"] == "local"
    assert manifest["effective_flags"] == ["--runner=FnApiRunner", "--direct_num_workers=1"]
    assert manifest["beam_flags"] == []
    capsys.readouterr()
    assert main(["launch", *common, "--profile", "flink", "--shared-disk", *FLINK]) == 0
    assert capsys.readouterr().out.startswith("run n1 is already published in ")


def test_how_a_job_is_followed() -> None:
    """A page, two commands, and where its end is to be read; of Flink its own page."""
    layout = RunLayout("gs://b/scores", "n1")
    job = Job("dataflow", "score-images-n1", "2026-1", "my-project", "europe-west4")
    page = "https://console.cloud.google.com/dataflow/jobs/europe-west4/2026-1?project=my-project"
    assert console_url(job) == page
    told = dict(following(job, layout))
    assert told["follow"] == page
    assert told["cancel"] == "gcloud dataflow jobs cancel 2026-1 --region=europe-west4 --project=my-project"
    assert told["published"] == "gs://b/scores/runs/n1/_SUCCESS"
    flink = dict(following(Job("flink", "score-images-n1", "abc", address="https://jobmanager:8081"), layout))
    assert flink["follow"] == "https://jobmanager:8081/#/job/running/abc"
    assert flink["cancel"] == "curl -X PATCH 'https://jobmanager:8081/jobs/abc?mode=cancel'"


@pytest.mark.parametrize(
    ("device", "with_gpu", "worker"),
    [
        ("auto", True, "gpu"),  # a worker whose driver does not start fails, instead of going on without
        ("auto", False, "auto"),
        ("cpu", False, "cpu"),
        ("gpu:0", True, "gpu:0"),
    ],
)
def test_each_side_loads_the_model_on_what_it_has(device: str, with_gpu: bool, worker: str) -> None:
    """The launcher on anything, the workers on what is paid for; all else stays."""
    config = small_config(Path("model"), model={"device": device})
    there = worker_config(config, with_gpu=with_gpu)
    assert there.model.device == worker
    assert launcher_config(config).model.device == "auto"
    for changed in (there, launcher_config(config)):
        assert _without_device(changed) == _without_device(config)


def _without_device(config: RunConfig) -> dict:
    return config.model_dump(exclude={"model": {"device"}})
