"""Whole processes side by side: a run of the pipeline and a plain loop of decode and model.

    python -m tests.benchmarks.against_plain_loop --photos ../shared/data/photos --names 15 --rounds 3

Needs DEMO_MODEL (score-images demo --model-only). Wall time on a shared machine drifts: the two alternate, and the
ratio is taken pair by pair. CPU seconds are the operating system's, of the whole process.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent.parent
CONFIG = str(ROOT / "configs" / "demo.yaml")


class Measured(NamedTuple):
    """One finished process."""

    wall_s: float
    cpu_s: float
    peak_mb: float


def measure(command: list[str]) -> Measured:
    """Run a command to its end."""
    started = time.perf_counter()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, cwd=ROOT)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            said.seek(0)
            sys.exit(f"{' '.join(command)} failed:\n{said.read().decode()[-2000:]}")
    return Measured(time.perf_counter() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def main() -> None:
    """Measure and print a table in Markdown and the figures in JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", required=True, type=Path)
    parser.add_argument("--names", type=int, default=15, help="how often each photo is listed, under another name")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "photos")
        folder.mkdir()
        photos = sorted(arguments.photos.resolve().iterdir())
        for name in range(arguments.names):
            for photo in photos:
                (folder / f"{name:03}_{photo.name}").symlink_to(photo)
        rounds: dict[str, list[Measured]] = {"pipeline": [], "plain loop": []}
        for number in range(arguments.rounds):
            output = Path(scratch, f"out{number}")
            run = ["run", "--config", CONFIG, "--input", str(folder), "--output", str(output)]
            rounds["pipeline"].append(measure([sys.executable, "-m", "pipeline", *run]))
            loop = [sys.executable, "-m", "tests.benchmarks.plain_loop", CONFIG, str(folder)]
            rounds["plain loop"].append(measure(loop))
    images = arguments.names * len(photos)
    report(rounds, images)


def report(rounds: dict[str, list[Measured]], images: int) -> None:
    """Print medians, ratios and all figures."""
    lines = [f"{images} images, {len(rounds['pipeline'])} rounds, medians of whole processes", ""]
    lines += ["| | wall s | images/s | CPU s | peak MB |", "|---|---|---|---|---|"]
    for name, measured in rounds.items():
        wall, cpu, peak = (statistics.median(column) for column in zip(*measured, strict=True))
        lines.append(f"| {name} | {wall:.1f} | {images / wall:.1f} | {cpu:.1f} | {peak:.0f} |")
    pairs = list(zip(rounds["pipeline"], rounds["plain loop"], strict=True))
    ratios = [[ours[i] / theirs[i] for ours, theirs in pairs] for i in range(3)]
    cells = " | ".join(f"{statistics.median(ratio):.2f} ({min(ratio):.2f} to {max(ratio):.2f})" for ratio in ratios)
    wall, cpu, peak = cells.split(" | ")
    lines.append(f"| pipeline / plain loop | {wall} | | {cpu} | {peak} |")
    print("\n".join(lines))  # noqa: T201
    print(json.dumps({name: [one._asdict() for one in measured] for name, measured in rounds.items()}))  # noqa: T201


if __name__ == "__main__":
    main()
