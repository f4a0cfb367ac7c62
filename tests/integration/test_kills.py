"""Kill -9 at any moment of a real run, and two launchers at once: nothing is lost, twice or half-done."""

import json
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.killed_run import (
    FILES,
    Kept,
    Work,
    check,
    closed,
    finish,
    kept,
    kill_when,
    launch,
    make_work,
    read_rows,
    slow_config,
    without_times,
)
from tests.model_zoo import pooled_model
from tests.runs import tree
from transforms import storage
from transforms.layout import TABLES, RunLayout

pytest_plugins = ["tests.s3_store"]
pytestmark = [pytest.mark.heavy, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    """Of one model."""
    folder = tmp_path_factory.mktemp("kills")
    return make_work(folder, slow_config(pooled_model(folder / "model")))


@pytest.mark.parametrize("attempt", range(3))
def test_kills_at_a_tenth_a_half_and_nine_tenths_cost_no_closed_file(work: Work, tmp_path: Path, attempt: int) -> None:
    """Three kills of one run: in the end the rows of an undisturbed one, and none of a closed file scored again."""
    layout = RunLayout(str(tmp_path), "night")
    before: list[Kept] = []
    for part in (0.1, 0.5, 0.9):
        least = int(part * FILES) + attempt
        assert kill_when(launch(work, layout.output), lambda least=least: len(closed(layout)) >= least)
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
    assert kill_when(launch(work, layout.output), lambda: len(closed(layout)) >= FILES // 2)
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
    while len(closed(layout)) < 3:
        assert first.poll() is None, first.communicate()
        time.sleep(0.01)
    first.send_signal(signal.SIGSTOP)
    time.sleep(0.5)  # what it had asked of the store is done
    before = tree(tmp_path) if place == "local" else closed(layout)
    second = launch(work, output)
    _, errors = second.communicate(timeout=50)
    after = tree(tmp_path) if place == "local" else closed(layout)
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
