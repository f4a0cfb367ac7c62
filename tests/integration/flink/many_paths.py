"""A long manifest through a real Flink cluster, without an image: what the way of the paths costs.

    python -m tests.integration.flink.many_paths --lines 1000000

LoadBatches is replaced by a step that reads nothing and makes small black batches; listing, shuffle, model, tables,
ledger and publishing are those of every run. The cluster is started for it (`make flink` has fetched it), and what its
processes take is sampled twice a second.
"""

import argparse
import json
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import psutil
import pyarrow.dataset as ds
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

from pipeline import cli, graph
from tests.integration.flink.cluster import FlinkCluster
from tests.model_zoo import pooled_model
from tests.runs import small_config, write_config
from transforms import coders
from transforms.errors import FailureCode, Stage
from transforms.layout import RunLayout
from transforms.load_batches import BATCHES, FAILURES
from transforms.loading import LoadPlan
from transforms.records import Failure, ImageBatch, ImageInfo, ImageRef, now_us

REPEATED_EVERY, FAILED_EVERY = 100, 1000
"""A line in so many is a repetition of one before; a path in so many has no image."""


class BlackBatches(beam.PTransform):
    """Stands in for LoadBatches: black images of no file.

    Args:
        plan: Says how large they are, and how many make a batch.
    """

    def __init__(self, plan: LoadPlan) -> None:
        super().__init__()
        self._plan = plan
        coders.register()

    @beam.typehints.no_annotations
    def expand(self, refs: beam.PCollection[ImageRef]) -> beam.pvalue.DoOutputsTuple:
        """Fill batches within a bundle."""
        return refs | "Load" >> beam.ParDo(_BlackDoFn(self._plan)).with_output_types(
            ImageBatch, failures=Failure
        ).with_outputs(FAILURES, main=BATCHES)


class _BlackDoFn(beam.DoFn):
    def __init__(self, plan: LoadPlan) -> None:
        self._plan = plan

    def start_bundle(self) -> None:
        self._refs: list[ImageRef] = []

    def process(self, ref: ImageRef) -> Iterator[Any]:
        if int(ref.path.rpartition("/")[2].partition(".")[0]) % FAILED_EVERY == 0:
            failure = Failure(ref, Stage.READ, FailureCode.NOT_FOUND, "there is no such image", now_us())
            yield beam.pvalue.TaggedOutput(FAILURES, failure)
            return
        self._refs.append(ref)
        if len(self._refs) == self._plan.batch_size:
            yield self._batch()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        if self._refs:
            window = GlobalWindow()
            yield WindowedValue(self._batch(), window.max_timestamp(), (window,))

    def _batch(self) -> ImageBatch:
        refs, self._refs = tuple(self._refs), []
        pixels = np.zeros((len(refs), self._plan.height, self._plan.width, 3), np.uint8)
        return ImageBatch(refs, pixels, (ImageInfo(8, 6, "jpeg", 100, "pillow"),) * len(refs))


class Peaks:
    """Samples the resident memory of a cluster's processes, in a thread.

    Args:
        cluster: A running one.
    """

    def __init__(self, cluster: FlinkCluster) -> None:
        self.most: dict[str, int] = {}
        self._cluster = cluster
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Peaks":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.5):
            self._sample("launcher", psutil.Process().pid)
            self._sample("JobManager", self._cluster.pids[0])
            for member in self._cluster.members:
                self._sample(f"TaskManager {member.number}", member.java.pid)
                for worker in member.workers():
                    self._sample(f"Python worker {member.number}", worker.pid)

    def _sample(self, name: str, pid: int) -> None:
        try:
            used = psutil.Process(pid).memory_info().rss
        except psutil.NoSuchProcess:
            return
        self.most[name] = max(used, self.most.get(name, 0))


def path_of(line: int) -> str:
    """The path on a line; some repeat the one before."""
    number = line - 1 if line % REPEATED_EVERY == 1 else line
    return f"/no/such/disk/{number % 1000:03}/{number}.jpg"


def expected_ledger(lines: int) -> dict[str, int]:
    """What has to come of so many lines."""
    duplicates = len(range(1, lines, REPEATED_EVERY))
    failed = len(range(0, lines, FAILED_EVERY))
    unique = lines - duplicates
    return {"listed": lines, "duplicates": duplicates, "unique": unique, "scored": unique - failed, "failed": failed}


def main() -> None:
    """Run it, and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=1_000_000)
    lines = parser.parse_args().lines
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = write_config(small_config(pooled_model(folder / "model"), batch={"size": 128}), folder / "config.yaml")
        with (folder / "list.txt").open("w") as file:
            file.writelines(f"{path_of(line)}\n" for line in range(lines))
        layout = RunLayout(str(folder / "out"), "many")
        arguments = ["run", f"--config={config}", f"--input=@{folder / 'list.txt'}", f"--output={layout.output}"]
        graph.LoadBatches = BlackBatches  # type: ignore[assignment, misc]
        with FlinkCluster(folder / "cluster") as cluster, Peaks(cluster) as peaks:
            started = time.monotonic()
            exit_code = cli.main([*arguments, "--run-id=many", "--", *cluster.flags()])
            waited = time.monotonic() - started
            (job,) = cluster.jobs()
        if exit_code:
            raise SystemExit(exit_code)
        manifest = json.loads(Path(layout.manifest).read_text())
        expected = expected_ledger(lines)
        ledger = {name: manifest["ledger"][name] for name in expected}
        paths = ds.dataset(layout.published_table("scores")).to_table(["image_path"])["image_path"]
        failures = ds.dataset(layout.published_table("failures")).count_rows()
        rows = (len(paths), len(paths.unique()), failures)
        report = {
            "ledger": ledger,
            "exact": ledger == expected and rows == (expected["scored"], expected["scored"], expected["failed"]),
            "job_seconds": round(job["duration"] / 1e3, 1),
            "launcher_seconds": round(waited, 1),
            "files": len(manifest["files"]),
            "bytes": sum(file["size_bytes"] for file in manifest["files"]),
            "peak_mib": {name: round(used / 2**20) for name, used in peaks.most.items()},
        }
        sys.stdout.write(json.dumps(report, indent=2) + "\n")
        if not report["exact"]:
            raise SystemExit("the ledger is not what the manifest was made for")


if __name__ == "__main__":
    main()
