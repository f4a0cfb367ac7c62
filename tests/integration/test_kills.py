"""Kill -9 at any moment of a real run, and two launchers at once: nothing is lost, twice or half-done."""

import hashlib
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.conftest import ROOT
from tests.model_zoo import pooled_model
from tests.runs import run_quietly, small_config, tree, write_config
from transforms import storage
from transforms.layout import TABLES, RunLayout, Table
from transforms.part_files import closed_digest

pytest_plugins = ["tests.s3_store"]
pytestmark = [pytest.mark.heavy, pytest.mark.timeout(900)]

GOOD, BAD, REPEATED = 200, 5, 3
ROWS_PER_FILE = 5
FILES = GOOD // ROWS_PER_FILE


class Work(NamedTuple):
    """What every run here does, and what has to come of it."""

    config: Path
    """Of the command line."""
    listed: Path
    """A manifest of good, empty and repeated images."""
    rows: dict[str, list[dict[str, Any]]]
    """Of each table of an undisturbed run, without its times."""
    seconds: float
    """Which the command takes where nothing disturbs it: the moments of kills are parts of it."""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    """Images large enough that scoring takes some seconds, and an undisturbed run of them."""
    folder = tmp_path_factory.mktemp("kills")
    # Of one image a batch: another order fills batches otherwise, and that may change the last bit.
    config = small_config(
        pooled_model(folder / "model"),
        batch={"size": 1},
        load={"threads": 1},
        decode={"jpeg_scaling": "off"},
        write={"rows_per_file": ROWS_PER_FILE},
        limits={"max_failure_rate": 0.5},
    )
    paths = []
    for seed in range(GOOD):
        noise = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), np.uint8)
        paths.append(folder / f"{seed:03}.jpg")
        Image.fromarray(noise).resize((1600, 1200)).save(paths[-1], quality=80)
    for number in range(BAD):
        paths.append(folder / f"empty{number}.jpg")
        paths[-1].write_bytes(b"")
    listed = folder / "list.txt"
    listed.write_text("".join(f"{path}\n" for path in [*paths, *paths[:REPEATED]]))
    layout = run_quietly(config, [f"@{listed}"], folder / "out").layout
    rows = {table: without_times(read_rows(layout, table)) for table in TABLES}
    work = Work(write_config(config, folder / "config.yaml"), listed, rows, 0)
    began = time.monotonic()
    finish(work, str(folder / "timed"))
    return work._replace(seconds=time.monotonic() - began)


def read_rows(layout: RunLayout, table: Table) -> list[dict[str, Any]]:
    """The published rows of a table, by path."""
    parts = [storage.read_bytes(file.path) for file in storage.list_folder(layout.published_table(table))]
    rows = [row for part in parts for row in pq.read_table(pa.BufferReader(part)).to_pylist()]
    return sorted(rows, key=lambda row: row["image_path"])


def without_times(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All columns but the ones that tell when."""
    return [{name: value for name, value in row.items() if name not in ("scored_at", "failed_at")} for row in rows]


def launch(work: Work, output: str, run_id: str = "night") -> "subprocess.Popen[str]":
    """Start the command."""
    arguments = ["run", "--config", work.config, "--input", f"@{work.listed}", "--output", output, "--run-id", run_id]
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline", *map(str, arguments)],
        cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def staged(layout: RunLayout) -> list[str]:
    """The closed staged files of the scores table."""
    folder = layout.staged_table("scores")
    try:
        found = [file.path for file in storage.list_folder(folder)] if storage.is_folder(folder) else []
    except FileNotFoundError:  # published between the two questions
        return []
    return [path for path in found if path.endswith(".parquet") and closed_digest(path) is not None]


def kill_when(process: "subprocess.Popen[str]", now: Callable[[], bool]) -> bool:
    """Kill a process at a moment; return whether it was still alive."""
    deadline = time.monotonic() + 120
    while process.poll() is None and not now():
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.kill()
    said = process.communicate()
    assert process.returncode in (0, -signal.SIGKILL), said
    return process.returncode != 0


class Kept(NamedTuple):
    """What lies closed in the staging folder when a process has been killed."""

    times: dict[str, object]
    """scored_at of each path."""
    digests: set[str]
    """Of the files."""


def kept(layout: RunLayout) -> Kept:
    """Read the closed staged files."""
    contents = [storage.read_bytes(path) for path in staged(layout)]
    tables = [pq.read_table(pa.BufferReader(data), columns=["image_path", "scored_at"]) for data in contents]
    times = {row["image_path"]: row["scored_at"] for table in tables for row in table.to_pylist()}
    return Kept(times, {hashlib.sha256(data).hexdigest() for data in contents})


def finish(work: Work, output: str) -> None:
    """Give the same command once more, and see that it publishes."""
    process = launch(work, output)
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert (
        f"run night is published in {output}" in out
        or "its publishing is complete now" in out
        or ("is already published" in out)
    )


def check(work: Work, layout: RunLayout, before: list[Kept]) -> None:
    """Compare a published run with the undisturbed one, and with what each kill had left of it."""
    rows = {table: read_rows(layout, table) for table in work.rows}
    assert {table: without_times(found) for table, found in rows.items()} == work.rows
    times = {row["image_path"]: row["scored_at"] for row in rows["scores"]}
    manifest = json.loads(storage.read_bytes(layout.manifest))
    for one in before:
        assert {path: times[path] for path in one.times} == one.times
        assert one.digests <= {file["sha256"] for file in manifest["files"]}
    expected = {
        "listed": GOOD + BAD + REPEATED, "duplicates": REPEATED, "unique": GOOD + BAD, "scored": GOOD, "failed": BAD,
    }  # fmt: skip
    assert {name: manifest["ledger"][name] for name in expected} == expected
    below = {file.path.removeprefix(layout.output + "/") for file in storage.list_folder(layout.output)}
    assert below == {
        *(file["path"] for file in manifest["files"]),
        "runs/night/manifest.json",
        "runs/night/_SUCCESS",
        "latest.json",
    }


@pytest.mark.parametrize("attempt", range(3))
def test_kills_at_a_tenth_a_half_and_nine_tenths_cost_no_closed_file(work: Work, tmp_path: Path, attempt: int) -> None:
    """Three kills of one run: in the end the rows of an undisturbed one, and none of a closed file scored again."""
    layout = RunLayout(str(tmp_path), "night")
    before: list[Kept] = []
    for part in (0.1, 0.5, 0.9):
        least = int(part * FILES) + attempt
        assert kill_when(launch(work, layout.output), lambda least=least: len(staged(layout)) >= least)
        before.append(kept(layout))
        assert len(before[-1].digests) >= least
    assert all(one.times for one in before)
    finish(work, layout.output)
    check(work, layout, before)


def random_moments(seed: int, seconds: float) -> Iterator[float]:
    """Seconds after the start of a command that takes so many: while it imports, loads, scores and publishes."""
    chance = random.Random(seed)  # noqa: S311  moments, not secrets
    while True:
        yield seconds * chance.uniform(0.05, 1)


@pytest.mark.parametrize("seed", range(3))
def test_kills_at_random_moments_cost_no_closed_file(work: Work, tmp_path: Path, seed: int) -> None:
    """Four kills at any moment from the start of the process on, of as many runs as that takes."""
    moments, kills, runs = random_moments(seed, work.seconds), 0, 0
    while kills < 4:
        layout = RunLayout(str(tmp_path / f"run{runs}"), "night")
        runs += 1
        before: list[Kept] = []
        for moment in moments:
            at = time.monotonic() + moment
            if not kill_when(launch(work, layout.output), lambda at=at: time.monotonic() > at):
                break
            kills += 1
            if not storage.stat(layout.plan):
                before.append(kept(layout))
            if kills >= 4:
                break
        finish(work, layout.output)
        check(work, layout, before)


@pytest.mark.parametrize("seed", range(3))
def test_kills_while_publishing_are_completed_without_scoring(work: Work, tmp_path: Path, seed: int) -> None:
    """Killed when the plan lies there, and some thousandths of a second later: the next call only completes it."""
    layout = RunLayout(str(tmp_path), "night")
    process = launch(work, layout.output)
    while not Path(layout.plan).exists() and process.poll() is None:
        time.sleep(0.0002)
    time.sleep(seed * 0.002)
    process.kill()
    process.communicate()
    finish(work, layout.output)
    check(work, layout, [])


def test_a_run_in_a_store_is_continued_at_once_after_a_kill(work: Work, bucket: str) -> None:
    """The claim names a process of this machine that is gone: nobody waits for its heartbeat to grow old."""
    layout = RunLayout(f"{bucket}/out", "night")
    assert kill_when(launch(work, layout.output), lambda: len(staged(layout)) >= FILES // 2)
    assert storage.is_folder(layout.claims)
    before = kept(layout)
    finish(work, layout.output)
    check(work, layout, [before])


@pytest.mark.parametrize("place", ["local", "store"])
def test_a_second_launcher_is_refused_and_touches_nothing(
    work: Work, tmp_path: Path, place: str, request: pytest.FixtureRequest
) -> None:
    """While the first stands still in the middle, the second ends with exit code 2; the first then publishes."""
    output = str(tmp_path / "out") if place == "local" else f"{request.getfixturevalue('bucket')}/out"
    layout = RunLayout(output, "night")
    first = launch(work, output)
    while len(staged(layout)) < 3:
        assert first.poll() is None, first.communicate()
        time.sleep(0.01)
    first.send_signal(signal.SIGSTOP)
    time.sleep(0.5)  # what it had asked of the store is done
    before = tree(tmp_path) if place == "local" else staged(layout)
    second = launch(work, output)
    _, errors = second.communicate(timeout=50)
    after = tree(tmp_path) if place == "local" else staged(layout)
    first.send_signal(signal.SIGCONT)
    assert second.returncode == 2, errors
    said = errors.strip().splitlines()[-1]
    assert said.startswith(f"score-images: run night is being worked on by process {first.pid} on host ")
    assert said.endswith(" s ago); wait for it, or use another --run-id")
    assert after == before
    _, errors = first.communicate(timeout=120)
    assert first.returncode == 0, errors
    check(work, layout, [])


def test_runs_of_two_names_at_once_are_both_published(work: Work, tmp_path: Path) -> None:
    """One output, two processes: both whole, and latest.json is the pointer to one of them."""
    processes = [launch(work, str(tmp_path), run_id) for run_id in ("one", "two")]
    said = [process.communicate(timeout=240) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    for run_id in ("one", "two"):
        layout = RunLayout(str(tmp_path), run_id)
        assert {table: without_times(read_rows(layout, table)) for table in TABLES} == work.rows
    pointer = json.loads((tmp_path / "latest.json").read_text())
    assert pointer["run_id"] in ("one", "two")
    assert pointer["manifest"] == f"runs/{pointer['run_id']}/manifest.json"
