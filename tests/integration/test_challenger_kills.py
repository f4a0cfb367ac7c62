"""Kill -9 at any moment of a run with a challenger: what goes on is whole for both models."""

import hashlib
import random
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.after.verify import verify
from tests.integration.killed_run import (
    FILES,
    GOOD,
    ROWS_PER_FILE,
    Kept,
    Work,
    check,
    closed,
    finish,
    kill_when,
    launch,
    make_work,
    slow_config,
)
from tests.model_zoo import fails_on_some, pooled_model
from transforms import storage
from transforms.layout import ALL_TABLES, CHALLENGER_TABLES, RunLayout
from transforms.part_files import group_of

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    """As for one model, with a challenger that fails on about a third of the images."""
    folder = tmp_path_factory.mktemp("kills")
    rival = pooled_model(folder / "rival", shape=(None, 10, 12, 3), head=fails_on_some)
    config = slow_config(
        pooled_model(folder / "model"),
        challenger={
            "model": {"path": str(rival), "output": "logits", "activation": "softmax"},
            "preprocess": {"value_range": "0_1"},
        },
    )
    work = make_work(folder, config, ALL_TABLES)
    assert 0 < len(work.rows["failures_challenger"]) < GOOD
    return work


def whole(layout: RunLayout) -> Kept:
    """What is closed in all tables of its group: that, and nothing else, is kept."""
    times: dict[str, object] = {}
    digests: set[str] = set()
    by_group: dict[str, list[bytes]] = {}
    for table in CHALLENGER_TABLES:
        for path in closed(layout, table):
            by_group.setdefault(group_of(path), []).append(storage.read_bytes(path))
    for path in closed(layout):
        data, others = storage.read_bytes(path), by_group.get(group_of(path), [])
        found = {row["image_path"]: row["scored_at"] for row in pq.read_table(pa.BufferReader(data)).to_pylist()}
        theirs = [row["image_path"] for other in others for row in pq.read_table(pa.BufferReader(other)).to_pylist()]
        if sorted(theirs) == sorted(found):
            times |= found
            digests |= {hashlib.sha256(each).hexdigest() for each in (data, *others)}
    return Kept(times, digests)


@pytest.mark.parametrize("attempt", range(2))
def test_kills_at_a_tenth_a_half_and_nine_tenths_cost_no_whole_group(work: Work, tmp_path: Path, attempt: int) -> None:
    """In the end the rows of an undisturbed run, in all four tables, and every promise kept."""
    layout = RunLayout(str(tmp_path), "night")
    before: list[Kept] = []
    for part in (0.1, 0.5, 0.9):
        least = int(part * FILES) + attempt
        assert kill_when(launch(work, layout.output), lambda least=least: len(closed(layout)) >= least)
        before.append(whole(layout))
        # Each kill may leave the scores of a group without its other files, and there they lie until the end.
        assert len(before[-1].times) >= (least - len(before)) * ROWS_PER_FILE
    finish(work, layout.output)
    check(work, layout, before)
    assert verify(layout.output).broken == ()


@pytest.mark.parametrize("seed", range(2))
def test_kills_around_the_closing_of_a_group_cost_no_whole_one(work: Work, tmp_path: Path, seed: int) -> None:
    """Killed some thousandths of a second after one of the tables has a file more."""
    chance = random.Random(seed)  # noqa: S311  moments, not secrets
    layout = RunLayout(str(tmp_path), "night")
    before: list[Kept] = []
    for _ in range(4):
        table = chance.choice(ALL_TABLES[2:])
        count = len(closed(layout, table)) + chance.randint(1, 4)
        process = launch(work, layout.output)
        while process.poll() is None and len(closed(layout, table)) < count:
            time.sleep(0.0005)
        time.sleep(chance.uniform(0, 0.01))
        process.kill()
        process.communicate()
        if not storage.stat(layout.plan):
            before.append(whole(layout))
    finish(work, layout.output)
    check(work, layout, before)
    assert verify(layout.output).broken == ()
