"""Whole runs on a real Flink cluster: the rows of a local run, whatever is killed meanwhile."""

import base64
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pyarrow.parquet as pq
import pytest
from apache_beam.coders import VarIntCoder

from tests.conftest import ROOT
from tests.integration.flink.cluster import HOME, FlinkCluster, is_at_work, wait_for
from tests.model_zoo import pooled_model
from tests.poisoned_site import poison, write_site
from tests.runs import make_photos, run_quietly, small_config, write_config
from transforms.layout import TABLES, RunLayout, Table

pytestmark = [pytest.mark.flink, pytest.mark.timeout(900)]

COPIES = 15
JOB_SECONDS = 400.0
SCORING = "WriteScores"
"""In the name of the step that loads, scores and writes."""
SMALL = ["--parallelism=2"]
"""For jobs of some images: half the tasks, which a job of 80 steps feels."""
PUBLISHING = "PublishRun/Publish"
"""In the name of the step that publishes."""
Rows = dict[str, dict[str, dict[str, Any]]]


class Work(NamedTuple):
    """What is scored here, and what has to come of it."""

    config: Path
    """Of the command line."""
    all_images: list[str]
    """Inputs: photos under 15 names each, and the hostile files."""
    some_images: str
    """A manifest of some of them, where a whole night would take too long."""
    some_paths: set[str]
    """Its lines."""
    rows: Rows
    """Of each table of a local run of all images, by path, without times."""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    """The images, and a local run of them all."""
    folder = tmp_path_factory.mktemp("work")
    photos, hostile = sample_images(folder)
    for number in range(COPIES):
        (folder / "photos" / f"{number:02}").mkdir(parents=True)
        for photo in photos:
            (folder / "photos" / f"{number:02}" / photo.name).symlink_to(photo)
    # Of one image a batch: another order fills batches otherwise, and that may change the last bit.
    config = small_config(
        pooled_model(folder / "model"),
        batch={"size": 1},
        decode={"jpeg_scaling": "off"},
        write={"rows_per_file": 50},
        limits={"max_failure_rate": 0.9},
    )
    inputs = [str(folder / "photos"), str(hostile)]
    layout = run_quietly(config, [*inputs], folder / "local").layout
    rows = {table: read_rows(layout, table) for table in TABLES}
    some = [path for path in rows["scores"] if "/photos/00/" in path or "/photos/01/" in path or "/photos/02/" in path]
    # Of a file that could not be read only a listing tells size and version, which a manifest does not.
    some += [path for path, row in rows["failures"].items() if row["stage"] == "decode"][:20]
    # A manifest has a path a line, which may not hold the end of one.
    some = [path for path in some if "\n" not in path]
    listed = folder / "some.jsonl"
    listed.write_text("".join(json.dumps({"image_path": path}) + "\n" for path in [*some, *some[:7]]))
    return Work(write_config(config, folder / "config.yaml"), inputs, f"@{listed}", set(some), rows)


def sample_images(folder: Path) -> tuple[list[Path], Path]:
    """The sample photos and hostile files; where they are absent, some made here."""
    data = Path(os.environ.get("IMAGE_DATA_DIR", ROOT.parent / "shared" / "data")).resolve()
    if (data / "photos.csv").is_file():
        return sorted((data / "photos").glob("*.JPEG")), data / "hostile"
    hostile = folder / "hostile"
    made = make_photos(hostile, 40)
    for number, photo in enumerate(made):
        photo.write_bytes(photo.read_bytes()[: number * 5])
    return make_photos(folder / "made", 200, ".jpg"), hostile


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlinkCluster]:
    """One JobManager, two TaskManagers with Python workers, whose decoders some images may crash."""
    if not HOME.is_dir():
        pytest.skip("no Flink distribution: make test-flink fetches it")
    site = write_site(tmp_path_factory.mktemp("site"))
    with FlinkCluster(tmp_path_factory.mktemp("flink") / "cluster", python_path=[site]) as running:
        yield running


def read_rows(layout: RunLayout, table: Table) -> dict[str, dict[str, Any]]:
    """The published rows of a table, by path, without the columns that tell when."""
    rows = pq.read_table(layout.published_table(table), partitioning=None).to_pylist()
    for row in rows:
        row.pop("scored_at", None)
        row.pop("failed_at", None)
    by_path = {row["image_path"]: row for row in rows}
    assert len(by_path) == len(rows)
    return by_path


def launch(
    cluster: FlinkCluster, config: Path, inputs: list[str], layout: RunLayout, flags: Sequence[str] = ()
) -> "subprocess.Popen[str]":
    """Start the command; flags come after those of the cluster."""
    arguments = [argument for source in inputs for argument in ("--input", source)]
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline", "run", "--config", str(config), *arguments, "--output", layout.output,
         "--run-id", layout.run_id, "--", *cluster.flags(), *flags],
        cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def finish(process: "subprocess.Popen[str]") -> str:
    """Wait for a launcher that publishes; return what it says."""
    out, errors = process.communicate(timeout=JOB_SECONDS)
    assert process.returncode == 0, errors
    return out


def job_of(cluster: FlinkCluster, run_id: str) -> dict[str, Any] | None:
    """The job of a run."""
    return next((job for job in cluster.jobs() if job["name"].startswith(f"score-images-{run_id}-")), None)


def failed_steps(cluster: FlinkCluster, run_id: str) -> list[str]:
    """The steps of a job that have failed and were started again, by Flink's own history."""
    job = job_of(cluster, run_id)
    assert job is not None
    failures = cluster.get(f"jobs/{job['jid']}/exceptions")["exceptionHistory"]["entries"]
    return [failure.get("taskName") or "" for failure in failures]


def scored_by_task_manager(cluster: FlinkCluster, run_id: str) -> Counter[str]:
    """How many images each TaskManager's worker has scored, by the counter that Flink keeps for each part of a step."""
    job = job_of(cluster, run_id)
    assert job is not None
    shares: Counter[str] = Counter()
    for vertex in cluster.get(f"jobs/{job['jid']}")["vertices"]:
        if SCORING not in vertex["name"]:
            continue
        step = f"jobs/{job['jid']}/vertices/{vertex['id']}"
        worked_at = {part["subtask"]: part["taskmanager-id"] for part in cluster.get(step)["subtasks"]}
        for part in cluster.get(f"{step}/subtasks/accumulators")["subtasks"]:
            for accumulator in part["user-accumulators"]:
                for metric in json.loads(accumulator["value"])["metrics"]["attempted"]:
                    if metric["labels"].get("NAME") == "scored_images":
                        payload = base64.b64decode(metric["payload"])
                        shares[worked_at[part["subtask"]]] += VarIntCoder().decode(payload)
    return shares


def check_exact(work: Work, layout: RunLayout, only: set[str] | None = None) -> None:
    """Compare a published run with the local one; nothing else lies in its output."""
    for table in TABLES:
        expected = {path: row for path, row in work.rows[table].items() if only is None or path in only}
        assert read_rows(layout, table) == expected
    ledger = json.loads(Path(layout.manifest).read_text())["ledger"]
    assert ledger["listed"] == ledger["unique"] + ledger["duplicates"]
    assert (
        ledger["unique"]
        == ledger["scored"] + ledger["failed"]
        == len(only or {**work.rows["scores"], **work.rows["failures"]})
    )
    below = {str(path.relative_to(layout.output)) for path in Path(layout.output).rglob("*") if path.is_file()}
    files = {file["path"] for file in json.loads(Path(layout.manifest).read_text())["files"]}
    run = f"runs/{layout.run_id}"
    assert below == {*files, f"{run}/manifest.json", f"{run}/_SUCCESS", "latest.json"}
    assert not Path(layout.staging).exists()


def staged_files(layout: RunLayout) -> int:
    """How many closed files of scores lie staged."""
    return len(list(Path(layout.staged_table("scores")).glob("*.parquet")))


def when(process: "subprocess.Popen[str]", now: Callable[[], bool], pause: float = 0.1) -> None:
    """Wait for a moment of a run that must not have ended before."""

    def come() -> bool:
        assert process.poll() in (None, -signal.SIGKILL), process.communicate()
        return now()

    wait_for(come, JOB_SECONDS, "a moment of a run", pause)


def test_rows_are_those_of_a_local_run_and_both_task_managers_score(
    work: Work, cluster: FlinkCluster, tmp_path: Path
) -> None:
    """200 photos under 15 names each, and the hostile corpus: every column but the time."""
    layout = RunLayout(str(tmp_path / "out"), "whole")
    out = finish(launch(cluster, work.config, work.all_images, layout))
    assert "run whole is published" in out
    check_exact(work, layout)
    shares = scored_by_task_manager(cluster, "whole")
    total = len(work.rows["scores"])
    assert len(shares) == 2
    assert sum(shares.values()) == total
    assert min(shares.values()) > total / 4


def test_a_task_manager_that_is_killed_half_way_costs_no_row(work: Work, cluster: FlinkCluster, tmp_path: Path) -> None:
    """Kill -9, as when a machine dies: the other takes over, and what the lost attempt has staged goes."""
    layout = RunLayout(str(tmp_path / "out"), "machine")
    process = launch(cluster, work.config, [work.some_images], layout, SMALL)
    when(process, lambda: staged_files(layout) >= 4)
    lost = next(member for member in cluster.members if member.workers())
    left = lost.workers()
    lost.java.kill()
    try:
        # A worker whose TaskManager is gone ends by itself.
        wait_for(lambda: not any(is_at_work(worker) for worker in left), 120, "the end of a worker")
        finish(process)
        check_exact(work, layout, work.some_paths)
        assert any(SCORING in step for step in failed_steps(cluster, "machine"))
    finally:
        cluster.replace_task_manager(lost)


def test_a_python_worker_that_is_killed_half_way_costs_no_row(
    work: Work, cluster: FlinkCluster, tmp_path: Path
) -> None:
    """Kill -9, as when a machine has no memory left."""
    layout = RunLayout(str(tmp_path / "out"), "worker")
    process = launch(cluster, work.config, [work.some_images], layout, SMALL)
    when(process, lambda: staged_files(layout) >= 4)
    # The newest: one of an earlier job may not have ended yet.
    workers = [worker for member in cluster.members for worker in member.workers()]
    max(workers, key=lambda worker: worker.create_time()).kill()
    finish(process)
    check_exact(work, layout, work.some_paths)
    assert any(SCORING in step for step in failed_steps(cluster, "worker"))


def test_workers_that_are_killed_while_they_publish_are_followed_by_others_that_end_it(
    work: Work, cluster: FlinkCluster, tmp_path: Path
) -> None:
    """All of them, when the plan is written: failures are written again, and what the plan says is published."""
    layout = RunLayout(str(tmp_path / "out"), "publish")
    settings = json.loads(work.config.read_text())
    settings["write"]["rows_per_file"] = 1
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps(settings))
    process = launch(cluster, config, [work.some_images], layout, SMALL)
    when(process, Path(layout.plan).exists, pause=0.001)
    for member in cluster.members:
        for worker in member.workers():
            worker.kill()
    finish(process)
    check_exact(work, layout, work.some_paths)
    assert any(PUBLISHING in step for step in failed_steps(cluster, "publish"))


def test_what_a_worker_stops_for_is_told_in_one_line(work: Work, cluster: FlinkCluster, tmp_path: Path) -> None:
    """Here, that its output is not the launcher's: exit code 2, and no traceback of Java around it."""
    layout = RunLayout(str(tmp_path / "out"), "elsewhere")
    # Instead of five times as the cluster would.
    process = launch(cluster, work.config, [work.some_images], layout, [*SMALL, "--number_of_execution_retries=1"])
    when(process, lambda: job_of(cluster, "elsewhere") is not None)
    Path(layout.staged_identity).unlink()
    _, errors = process.communicate(timeout=JOB_SECONDS)
    assert process.returncode == 2, errors
    assert errors.splitlines()[-1] == (
        f"score-images: worker {socket.gethostname()} does not find in {layout.output} what the launcher has begun run "
        "elsewhere with: the output must be one place for the launcher and all workers; give a bucket, or a folder on "
        "a disk that all of them have mounted"
    )


class Orphaned(NamedTuple):
    """A run whose launcher was killed once its job was submitted, with an image that crashes its decoder in it."""

    layout: RunLayout
    """Where it goes."""
    poisoned: Path
    """The image."""
    inputs: list[str]
    """As they were given."""
    config: Path
    """With the quarantine."""
    second: tuple[int, str]
    """How a launcher ended that was started while the job was at work: exit code and last line."""


@contextlib.contextmanager
def paused(cluster: FlinkCluster) -> Iterator[None]:
    """Let no Python of the cluster get on."""
    pools = [psutil.Process(member.pool.pid) for member in cluster.members]
    for pool in pools:
        pool.suspend()  # first: it starts no worker meanwhile
    stopped = [*pools, *(worker for member in cluster.members for worker in member.workers())]
    for process in stopped[len(pools) :]:
        process.suspend()
    try:
        yield
    finally:
        for process in stopped:
            process.resume()


@pytest.fixture(scope="module")
def orphaned(work: Work, cluster: FlinkCluster, tmp_path_factory: pytest.TempPathFactory) -> Orphaned:
    """The run, when its job has ended."""
    folder = tmp_path_factory.mktemp("orphaned")
    layout = RunLayout(str(folder / "out"), "orphan")
    settings = json.loads(work.config.read_text())
    settings["decode"]["quarantine"] = True
    config = folder / "config.yaml"
    config.write_text(json.dumps(settings))
    inputs = [work.some_images, str(poison(folder / "poison.jpg", "segfault"))]
    process = launch(cluster, config, inputs, layout, SMALL)
    when(process, lambda: job_of(cluster, "orphan") is not None)
    process.kill()
    process.communicate()
    with paused(cluster):  # or a fast machine has done the job before the second launcher has loaded its model
        second = launch(cluster, config, inputs, layout)
        _, errors = second.communicate(timeout=JOB_SECONDS)
    wait_for(lambda: job_of(cluster, "orphan")["state"] in ("FINISHED", "FAILED"), JOB_SECONDS, "the end of the job")  # type: ignore[index]
    return Orphaned(layout, folder / "poison.jpg", inputs, config, (second.returncode, errors.splitlines()[-1]))


def test_a_job_publishes_when_its_launcher_is_killed(work: Work, cluster: FlinkCluster, orphaned: Orphaned) -> None:
    """The same command again says so, and starts nothing."""
    assert len(read_rows(orphaned.layout, "scores")) == len(work.some_paths & work.rows["scores"].keys())
    before = len(cluster.jobs())
    out = finish(launch(cluster, orphaned.config, orphaned.inputs, orphaned.layout))
    assert f"run orphan is already published in {orphaned.layout.output}: nothing was done" in out
    assert len(cluster.jobs()) == before
    assert {path.name for path in Path(orphaned.layout.run_folder).iterdir()} == {"manifest.json", "_SUCCESS"}


def test_a_second_launcher_finds_the_job_of_the_first(cluster: FlinkCluster, orphaned: Orphaned) -> None:
    """The claim has died with the first launcher; its job has not."""
    job = job_of(cluster, "orphan")
    assert job is not None
    exit_code, said = orphaned.second
    assert exit_code == 2
    assert said.startswith(f"score-images: run orphan is being worked on by Flink job {job['jid']} (")
    way_out = "wait for it, cancel it there, or use another --run-id"
    assert said.endswith(f") at {cluster.address}: it publishes without a launcher; {way_out}")


def test_an_image_that_crashes_its_decoder_costs_one_row(work: Work, orphaned: Orphaned) -> None:
    """With the quarantine, on a worker of the cluster: the rest has the rows of a local run."""
    failures = read_rows(orphaned.layout, "failures")
    poisoned = failures.pop(str(orphaned.poisoned))
    assert (poisoned["stage"], poisoned["code"]) == ("decode", "corrupt_image")
    assert "its worker process was replaced" in poisoned["message"]
    assert failures.keys() == work.some_paths & work.rows["failures"].keys()
    scores = {path: row for path, row in work.rows["scores"].items() if path in work.some_paths}
    assert read_rows(orphaned.layout, "scores") == scores
