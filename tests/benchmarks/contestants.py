"""Who runs: ourselves, the peers, the limits; each is a command line for a task, or a reason why it cannot run."""

import os
import shutil
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple

_PY_SPY = Path(sys.executable).with_name("py-spy")


class Task(NamedTuple):
    """One thing to do."""

    size: int
    """Photos, rows or paths."""
    photos: Path
    """A folder with that many photos; of no meaning without photos."""
    model: Path
    """A SavedModel."""
    config: Path
    """Our configuration of the same model and pixels."""
    output: Path
    """A folder to write to; it does not exist yet."""
    report: Path
    """A JSON file in which a limit says what it has found."""
    interpolation: str
    """As transforms/settings.py names it."""
    batch: int
    """Images a call of the model, for those who do not measure it."""


class Contestant(NamedTuple):
    """A program that can be measured."""

    name: str
    """As given to --only."""
    title: str
    """As in the tables."""
    kind: Literal["ours", "peer", "limit"]
    """Whose it is."""
    command: Callable[[Task], list[str]]
    """Its command line."""
    missing: Callable[[], str | None] = lambda: None
    """Why it cannot run here; None where it can."""
    writes_scores: bool = True
    """It leaves a prediction for every photo in Parquet."""


def _module(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", name, *arguments]


def _ours(task: Task) -> list[str]:
    where = ["--input", str(task.photos), "--output", str(task.output)]
    return _module("pipeline", "run", "--config", str(task.config), *where)


def _peer(module: str) -> Callable[[Task], list[str]]:
    def command(task: Task) -> list[str]:
        return _module(
            f"tests.benchmarks.peers.{module}",
            *("--photos", str(task.photos)),
            *("--model", str(task.model)),
            *("--output", str(task.output)),
            *("--interpolation", task.interpolation),
            *("--batch", str(task.batch)),
        )

    return command


def _limit(module: str, *keys: str, **fixed: str) -> Callable[[Task], list[str]]:
    """Make a command line of those fields of a task that the limit takes, and of fixed options."""

    def command(task: Task) -> list[str]:
        fields = {**task._asdict(), "rows": task.size, "count": task.size}
        options = {**{key: str(fields[key]) for key in keys}, **fixed, "report": str(task.report)}
        arguments = [part for key, value in options.items() for part in (f"--{key}", value)]
        return _module(f"tests.benchmarks.limits.{module}", *arguments)

    return command


def _needs(package: str) -> Callable[[], str | None]:
    def missing() -> str | None:
        return None if find_spec(package) else f"{package} is not installed: make bench installs it"

    return missing


def _spark_missing() -> str | None:
    if not (os.environ.get("JAVA_HOME") or shutil.which("java")):
        return "there is no Java: Spark 4 needs 17 or newer"
    return _needs("pyspark")()


def _profile(task: Task) -> list[str]:
    # Every thread, busy or not at this moment, with those of TensorFlow; folded stacks, one a line.
    record = [
        str(_PY_SPY),
        "record",
        "--rate",
        "100",
        "--threads",
        "--function",
        "--format",
        "raw",
        "--output",
        str(task.report),
    ]
    return [*record, "--", *_ours(task)]


def _profile_missing() -> str | None:
    return None if _PY_SPY.exists() else "py-spy is not installed: make bench installs it"


OURS = Contestant("ours", "score-images", "ours", _ours)
PEERS = (
    Contestant("tf-data", "tf.data by hand", "peer", _peer("with_tf_data")),
    Contestant("run-inference", "Beam RunInference", "peer", _peer("with_run_inference")),
    Contestant("daft", "Daft", "peer", _peer("with_daft"), _needs("daft")),
    Contestant("ray", "Ray Data", "peer", _peer("with_ray"), _needs("ray")),
    Contestant("spark", "Spark", "peer", _peer("with_spark"), _spark_missing),
)
PLAIN_ROAD = Contestant("plain-road", "plain full decode", "limit", _peer("plain_road"))


def _bound(name: str, title: str, command: Callable[[Task], list[str]]) -> Contestant:
    return Contestant(name, title, "limit", command, writes_scores=False)


HOST_BARE = _bound(
    "host-limit", "host limit: libraries alone", _limit("host", "photos", "interpolation", decoder="bare")
)
HOST_OURS = _bound(
    "host-limit-ours", "host limit: our decoder alone", _limit("host", "photos", "interpolation", decoder="ours")
)
PLAIN_LOOP = _bound(
    "plain-loop", "our decoder and model in one thread, nothing written", _limit("plain_loop", "config", "photos")
)
MODEL = _bound("model-limit", "frozen model alone", _limit("model", "config"))
START_UP = _bound("start-up-limit", "import TensorFlow and load the model", _limit("start_up", "model"))
WIDE = Contestant(
    "ours", "logits to Parquet", "ours", _limit("wide", "rows", "output", mode="ours"), writes_scores=False
)
WRITE = _bound("write-limit", "pyarrow writes prepared batches", _limit("wide", "rows", "output", mode="write"))
PATHS = Contestant("ours", "listing to ledger", "ours", _limit("paths", "count", "output"), writes_scores=False)
PROFILE = Contestant("ours", "score-images under py-spy", "ours", _profile, _profile_missing, writes_scores=False)
