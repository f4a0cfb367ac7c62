"""Paths without pixels: listing, de-duplication, the shuffle, and the law listed = unique + duplicates."""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import apache_beam as beam

from pipeline.options import pipeline_options
from tests.benchmarks.limits.common import say
from transforms.inputs import parse_input
from transforms.list_images import ListImages
from transforms.settings import InputSettings
from transforms.skip_scored import SkipScored

_REPEAT_EVERY = 100
"""Every so many lines a path is listed again."""


def write_manifest(file: Path, count: int) -> int:
    """Write a manifest of `count` lines; return how many of them repeat an earlier one."""
    repeats = 0
    with file.open("w", encoding="utf-8") as lines:
        for number in range(count):
            repeated = number % _REPEAT_EVERY == _REPEAT_EVERY - 1
            repeats += repeated
            shown = number - 1 if repeated else number
            lines.write(f"/photos/year=2026/month=11/camera-{shown % 977:03}/{shown:09}.jpg\n")
    return repeats


def count_paths(manifest: Path, results: Path) -> dict[str, int]:
    """Carry the paths of a manifest through the first half of a run's graph; return its counts."""
    with beam.Pipeline(options=pipeline_options([])) as pipeline:
        listed = pipeline | ListImages((parse_input(f"@{manifest}"),), InputSettings())
        unique = listed | SkipScored()
        counts = {
            "listed": listed | "CountListed" >> beam.combiners.Count.Globally(),
            "duplicates": unique.duplicates | "SumDuplicates" >> beam.CombineGlobally(sum),
            "unique": unique.todo | "CountUnique" >> beam.combiners.Count.Globally(),
            "unlisted": unique.unlisted | "SumUnlisted" >> beam.CombineGlobally(sum),
        }
        for name, count in counts.items():
            _ = count | f"Write{name}" >> beam.Map(_write_count, str(results / name))
    return dict(_read_counts(results))


def _write_count(count: int, file: str) -> None:
    Path(file).write_text(str(count), encoding="utf-8")


def _read_counts(results: Path) -> Iterator[tuple[str, int]]:
    for file in sorted(results.iterdir()):
        yield file.name, int(file.read_text(encoding="utf-8"))


def main() -> None:
    """Count a manifest and check the law."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--report", required=True)
    arguments = parser.parse_args()
    results = arguments.output / "counts"
    results.mkdir(parents=True)
    manifest = arguments.output / "paths.txt"
    repeats = write_manifest(manifest, arguments.count)
    started = time.perf_counter()
    counts = count_paths(manifest, results)
    seconds = time.perf_counter() - started
    expected = {"listed": arguments.count, "duplicates": repeats, "unique": arguments.count - repeats, "unlisted": 0}
    if counts != expected:
        raise SystemExit(f"the ledger does not add up: counted {counts}, the manifest holds {expected}")
    say(arguments.report, seconds=seconds, **counts)


if __name__ == "__main__":
    main()
