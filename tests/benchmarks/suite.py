"""One command, one machine, one run: everything measured in turns, the report in Markdown and JSON.

    python -m tests.benchmarks                                   everything, with the sizes of the published figures
    python -m tests.benchmarks host real --only ours tf-data     two workloads, two contestants
    python -m tests.benchmarks host --sizes host=60,120 --rounds 1
    python -m tests.benchmarks --render .cache/bench/results.json

Each contestant is a process of its own. Those of one size run one after the other, the order is turned round every
round, and ratios are taken within a round: on a shared machine only neighbours in time can be compared.
"""

import argparse
import dataclasses
import importlib.metadata
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.benchmarks import agreement, materials
from tests.benchmarks.contestants import PLAIN_ROAD, PROFILE, Contestant, Task
from tests.benchmarks.measuring import CommandFailed, measure
from tests.benchmarks.profiles import busiest
from tests.benchmarks.report import render
from tests.benchmarks.workloads import WORKLOADS, Workload

ROOT = Path(__file__).parent.parent.parent
INTERPOLATIONS = ("bicubic", "bilinear", "area", "bilinear_no_antialias")
_PACKAGES = ("apache-beam", "tensorflow", "pyarrow", "numpy", "Pillow", "simplejpeg", "daft", "ray", "pyspark")
_QUIET = {
    "TF_CPP_MIN_LOG_LEVEL": "3",
    # Nobody reports home from a benchmark.
    "RAY_USAGE_STATS_ENABLED": "0",
    "DAFT_ANALYTICS_ENABLED": "0",
    "DO_NOT_TRACK": "1",
}


@dataclass(frozen=True)
class Request:
    """What is to be measured."""

    workloads: tuple[Workload, ...]
    """In this order."""
    photos: Path | None
    """A folder of sample photos; None where the workloads need none."""
    output: Path
    """Where results.json, results.md and the logs go."""
    rounds: int = 3
    """How often each is measured."""
    interpolation: str = "bicubic"
    """Of everybody."""
    only: frozenset[str] = frozenset()
    """Names of contestants; empty for all."""
    timeout_s: float = 1800.0
    """When one process is ended."""


@dataclass
class Results:
    """Everything that was found; its fields are the keys of results.json."""

    machine: dict[str, Any]
    settings: dict[str, Any]
    runs: list[dict[str, Any]] = field(default_factory=list)
    agreement: list[dict[str, Any]] = field(default_factory=list)
    profiles: dict[str, Any] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    failed: list[dict[str, str]] = field(default_factory=list)


class Suite:
    """Carries a request out.

    Args:
        request: What to measure.
        scratch: A folder for links, models and outputs.
    """

    def __init__(self, request: Request, scratch: Path) -> None:
        self._request = request
        self._scratch = scratch
        self._started = time.monotonic()
        self.results = Results(
            describe_machine(),
            {
                "interpolation": request.interpolation,
                "rounds": request.rounds,
                "sizes": {workload.name: list(workload.sizes) for workload in request.workloads},
            },
        )
        self._predictions: dict[str, agreement.Predictions] = {}

    def run(self) -> Results:
        """Measure, and write what is known after every process: an interrupted run leaves its figures."""
        (self._request.output / "logs").mkdir(parents=True, exist_ok=True)
        for workload in self._request.workloads:
            self._run_workload(workload)
        return self.results

    def _run_workload(self, workload: Workload) -> None:
        say(f"== {workload.title}", self._started)
        self._predictions = {}
        able = list(self._able(workload.contestants))
        for number in range(workload.rounds or self._request.rounds):
            # Turned round every round, so that nobody is always the first after a pause.
            order = able if number % 2 == 0 else able[::-1]
            for size in workload.sizes:
                for contestant in order:
                    self._measure(workload, contestant, size, number)
        for contestant in self._able(workload.once):
            self._measure(workload, contestant, workload.sizes[-1], 0)
        if workload.reference and "ours" in self._predictions:
            self._compare(workload)

    def _able(self, contestants: Iterable[Contestant]) -> Iterator[Contestant]:
        for contestant in contestants:
            if self._request.only and contestant.name not in self._request.only:
                continue
            reason = contestant.missing()
            if reason is None:
                yield contestant
            elif contestant.title not in self.results.skipped:
                self.results.skipped[contestant.title] = reason
                say(f"{contestant.title} is skipped: {reason}", self._started)

    def _measure(self, workload: Workload, contestant: Contestant, size: int, number: int) -> None:
        task = self._task(workload, contestant, size)
        what = f"{workload.name} {size} {contestant.name} round {number + 1}"
        log = self._request.output / "logs" / f"{what.replace(' ', '-')}.log"
        try:
            measured = measure(
                contestant.command(task), log, timeout_s=self._request.timeout_s, environment=_environment()
            )
        except CommandFailed as error:
            self.results.failed.append({"what": what, "why": str(error)})
            say(f"{what} FAILED: {str(error).splitlines()[0]}, see {log}", self._started)
            return
        found = {} if contestant is PROFILE or not task.report.exists() else json.loads(task.report.read_text())
        place = {"workload": workload.name, "contestant": contestant.name, "size": size, "round": number}
        self.results.runs.append({**place, **measured._asdict(), "found": found})
        say(f"{what}: {measured.wall_s:.1f} s, {measured.cpu_s:.1f} s CPU, {measured.peak_mb:.0f} MB", self._started)
        if contestant is PROFILE:
            folded = self._request.output / f"{workload.name}.folded"
            shutil.copyfile(task.report, folded)
            self.results.profiles[workload.name] = busiest(folded)
        if contestant.writes_scores and number == 0 and size == workload.sizes[-1]:
            self._predictions[contestant.name] = agreement.read_predictions(task.output)
        shutil.rmtree(task.output, ignore_errors=True)
        task.report.unlink(missing_ok=True)
        self._save()

    def _task(self, workload: Workload, contestant: Contestant, size: int) -> Task:
        output, report = self._scratch / "output", self._scratch / "report"
        shutil.rmtree(output, ignore_errors=True)  # of one that failed
        report.unlink(missing_ok=True)
        photos, model = self._scratch / f"photos-{size}", self._scratch / "no-model"
        if workload.model is not None:
            if contestant.name in ("model-limit", "start-up-limit"):
                photos = self._scratch / "no-photos"
            elif not photos.is_dir():
                if self._request.photos is None:
                    raise ValueError(f"workload {workload.name} needs a folder of photos")
                materials.link_photos(self._request.photos, photos, size)
            model = self._model(workload.model)
        config = self._scratch / f"{workload.model}.yaml"
        if workload.model is not None:
            materials.write_config(config, model, self._request.interpolation)
        return Task(size, photos, model, config, output, report, self._request.interpolation, workload.batch)

    def _model(self, name: str) -> Path:
        folder = self._scratch / name
        if not folder.exists():
            # Models are built in another process: this one stays free of TensorFlow and its threads.
            command = [sys.executable, "-m", "tests.benchmarks.materials", name, str(folder)]
            log = self._request.output / "logs" / f"model-{name}.log"
            measure(command, log, timeout_s=self._request.timeout_s, environment=_environment())
        return folder

    def _compare(self, workload: Workload) -> None:
        """Hold everybody's predictions against ours and against the plain road's, over the photos themselves."""
        ours = self._predictions["ours"]
        reference = agreement.one_a_photo(self._predictions.get(PLAIN_ROAD.name) or self._plain_road(workload))
        truth = {}
        if self._request.photos is not None and workload.model == "lite0":
            truth = agreement.read_truth(self._request.photos.parent / "photos.csv")
        for name, predictions in self._predictions.items():
            entry: dict[str, Any] = {"workload": workload.name, "contestant": name}
            if name != "ours":
                entry["with_ours"] = agreement.compare(predictions, ours)._asdict()
            single = agreement.one_a_photo(predictions)
            if reference:
                entry["with_plain_road"] = agreement.compare(single, reference)._asdict()
            entry["top_1"] = agreement.top_1(single, truth)
            self.results.agreement.append(entry)
        self._save()

    def _plain_road(self, workload: Workload) -> agreement.Predictions:
        """Predict each photo once by the plain road; its time is of no interest."""
        if self._request.photos is None:
            raise ValueError(f"workload {workload.name} needs a folder of photos")
        count = min(workload.sizes[-1], sum(1 for _ in self._request.photos.iterdir()))
        task = self._task(workload._replace(sizes=(count,)), PLAIN_ROAD, count)
        log = self._request.output / "logs" / f"{workload.name}-plain-road.log"
        try:
            measure(PLAIN_ROAD.command(task), log, timeout_s=self._request.timeout_s, environment=_environment())
        except CommandFailed as error:
            self.results.failed.append({"what": f"{workload.name} {PLAIN_ROAD.name}", "why": str(error)})
            return {}
        return agreement.read_predictions(task.output)

    def _save(self) -> None:
        results = dataclasses.asdict(self.results)
        (self._request.output / "results.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
        (self._request.output / "results.md").write_text(render(results), encoding="utf-8")


def _environment() -> dict[str, str]:
    # Workers of the tools import the peers' common module, too.
    return {**_QUIET, "PYTHONPATH": str(ROOT)}


def say(text: str, since: float) -> None:
    """Tell a person how far it is."""
    print(f"[{time.monotonic() - since:6.0f} s] {text}", flush=True)  # noqa: T201  a program of its own


def describe_machine() -> dict[str, Any]:
    """Describe this machine and the versions that are measured."""
    import psutil

    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    cpuinfo = Path("/proc/cpuinfo")
    names = [line for line in cpuinfo.read_text().splitlines() if "model name" in line] if cpuinfo.exists() else []
    return {
        "processor": names[0].partition(": ")[2] if names else platform.processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": versions,
        "started": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }


def read_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    names = [workload.name for workload in WORKLOADS]
    everybody = sorted({one.name for workload in WORKLOADS for one in (*workload.contestants, *workload.once)})
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help=f"of {', '.join(names)}; default: all")
    parser.add_argument("--only", nargs="+", choices=everybody, default=[], metavar="NAME", help=", ".join(everybody))
    parser.add_argument(
        "--sizes", nargs="+", default=[], metavar="WORKLOAD=N[,N]", help="host=60,120: other sizes than the default"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--interpolation", choices=INTERPOLATIONS, default="bicubic", help="of everybody")
    parser.add_argument("--photos", type=Path, help="folder of JPEG files (default: photos/ in IMAGE_DATA_DIR)")
    parser.add_argument("--output", type=Path, default=ROOT / ".cache" / "bench", metavar="FOLDER")
    parser.add_argument("--timeout", type=float, default=1800.0, metavar="SECONDS", help="of one process")
    parser.add_argument("--render", type=Path, metavar="RESULTS.JSON", help="print the report of an earlier run")
    parsed = parser.parse_args(arguments)
    unknown = sorted(set(parsed.workloads) - set(names))
    if unknown:
        parser.error(f"no such workload: {', '.join(unknown)}; there are {', '.join(names)}")
    try:
        parsed.chosen = choose(parsed.workloads or names, parsed.sizes)
    except ValueError as error:
        parser.error(str(error))
    return parsed


def choose(names: Sequence[str], sizes: Sequence[str]) -> tuple[Workload, ...]:
    """Pick workloads by name, with other sizes where asked for.

    Args:
        names: In the order of the report, whatever order they are given in.
        sizes: `name=N[,N]`.

    Raises:
        ValueError: A size is not understood.
    """
    wanted = {}
    for text in sizes:
        name, _, numbers = text.partition("=")
        if name not in {workload.name for workload in WORKLOADS}:
            raise ValueError(f"--sizes {text}: no workload is called {name!r}; write host=60,120 for example")
        if not numbers.replace(",", "").isdigit():
            raise ValueError(f"--sizes {text}: write whole numbers with commas between, host=60,120 for example")
        wanted[name] = tuple(sorted({int(number) for number in numbers.split(",")}))
    return tuple(
        workload._replace(sizes=wanted.get(workload.name, workload.sizes))
        for workload in WORKLOADS
        if workload.name in names
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the report; 1 where a process failed."""
    parsed = read_arguments(arguments)
    if parsed.render:
        print(render(json.loads(parsed.render.read_text(encoding="utf-8"))))  # noqa: T201
        return 0
    photos = None
    if any(workload.model for workload in parsed.chosen):
        try:
            photos = materials.find_photos(parsed.photos, ROOT)
        except FileNotFoundError as error:
            sys.exit(str(error))
    request = Request(
        workloads=parsed.chosen,
        photos=photos,
        output=parsed.output.resolve(),
        rounds=parsed.rounds,
        interpolation=parsed.interpolation,
        only=frozenset(parsed.only),
        timeout_s=parsed.timeout,
    )
    with tempfile.TemporaryDirectory(prefix="score-images-bench-") as scratch:
        results = Suite(request, Path(scratch)).run()
    print(render(dataclasses.asdict(results)))  # noqa: T201
    return 1 if results.failed else 0
