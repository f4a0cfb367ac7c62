"""A run that is killed: what it has to do, its processes, and what must have come of it in the end."""

import hashlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipeline.config import RunConfig
from tests.conftest import ROOT
from tests.runs import run_quietly, small_config, write_config
from transforms import storage
from transforms.layout import TABLES, RunLayout, Table
from transforms.part_files import closed_digest

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


def slow_config(model: Path, **sections: Any) -> RunConfig:
    """The configuration of a run of many files."""
    # Of one image a batch: another order fills batches otherwise, and that may change the last bit.
    return small_config(
        model,
        batch={"size": 1},
        load={"threads": 1},
        decode={"jpeg_scaling": "off"},
        write={"rows_per_file": ROWS_PER_FILE},
        limits={"max_failure_rate": 0.5},
        **sections,
    )


def make_work(folder: Path, config: RunConfig, tables: Sequence[Table] = TABLES) -> Work:
    """Make images large enough that scoring takes some seconds, and an undisturbed run of them."""
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
    rows = {table: without_times(read_rows(layout, table)) for table in tables}
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


def closed(layout: RunLayout, table: Table = "scores") -> list[str]:
    """The closed staged files of a table."""
    folder = layout.staged_table(table)
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
    contents = [storage.read_bytes(path) for path in closed(layout)]
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
