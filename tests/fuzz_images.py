"""Score thousands of damaged images, and the hostile corpus, by the command as users run it; print how they ended.

    python -m tests.fuzz_images --count 20000

Every file has to end as one row or one failure, and the command with exit code 0. The damage is the same every time.
"""

import argparse
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from tests.conftest import ROOT
from tests.hostile_corpus import Ending, manifest, mutations, verdict
from tests.model_zoo import pooled_model
from tests.runs import read_table, small_config, write_config
from transforms.layout import RunLayout

DATA = Path(os.environ.get("IMAGE_DATA_DIR", ROOT.parent / "shared" / "data")).resolve()


class Ran(NamedTuple):
    """What one run of the command has come to."""

    exit_code: int
    """Negative for a signal."""
    seconds: float
    """Wall clock."""
    peak_mb: float
    """Largest resident memory of its process, in 10^6 bytes."""
    endings: dict[str, list[Ending]]
    """Of each path: one, if all is well."""
    errors: str
    """What it said on standard error."""


def score(paths: Sequence[Path], folder: Path) -> Ran:
    """Score files by the command line.

    Args:
        paths: Of the files.
        folder: For the model, the configuration and the output.
    """
    model = pooled_model(folder / "model")
    config = write_config(small_config(model, limits={"max_failure_rate": 1.0}, batch={"size": 32}), folder / "c.yaml")
    listed = folder / "paths.parquet"
    pq.write_table(pa.table({"image_path": [str(path) for path in paths]}), listed)
    command = [sys.executable, "-m", "pipeline", "run", "--config", config, "--input", f"@{listed}",
               "--output", folder / "out", "--run-id", "fuzz"]  # fmt: skip
    started = time.monotonic()
    with (folder / "errors").open("wb") as errors:
        process = subprocess.Popen([*map(str, command)], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.monotonic() - started
    said = (folder / "errors").read_text(encoding="utf-8", errors="replace")
    endings = read_endings(folder / "out") if process.returncode == 0 else {}
    return Ran(process.returncode, seconds, usage.ru_maxrss * 1024 / 1e6, endings, said)


def read_endings(output: Path) -> dict[str, list[Ending]]:
    """Read how every path of a published run has ended."""
    layout = RunLayout(str(output), "fuzz")
    endings: dict[str, list[Ending]] = {}
    for row in read_table(layout, "scores").select(["image_path", "image_width", "image_height"]).to_pylist():
        end = Ending(None, (row["image_width"], row["image_height"]))
        endings.setdefault(row["image_path"], []).append(end)
    for row in read_table(layout, "failures").to_pylist():
        endings.setdefault(row["image_path"], []).append(Ending(row["code"], message=row["message"]))
    return endings


def faults_of(ran: Ran, paths: Iterable[Path]) -> list[str]:
    """Return what is wrong with a run: its end, and each file that has not ended exactly once."""
    if ran.exit_code != 0:
        return [f"exit code {ran.exit_code}: {ran.errors[-2000:]}"]
    listed = {str(path) for path in paths}
    faults = [f"{path} was never listed" for path in ran.endings.keys() - listed]
    return faults + [
        f"{path} has {len(found)} rows and failures"
        for path in sorted(listed)
        if len(found := ran.endings.get(path, [])) != 1
    ]


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Format a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(str(cell) for cell in line)} |\n" for line in lines)


def counted(codes: Iterable[str | None]) -> str:
    """Say how often each code was given."""
    counts = Counter(code for code in codes if code is not None)
    return ", ".join(f"{count} {code}" for code, count in counts.most_common())


def damaged_report(count: int, folder: Path) -> tuple[str, list[str]]:
    """Score damaged images; return the report and what was wrong."""
    kinds = {}
    (folder / "images").mkdir()
    for number, (name, data) in enumerate(mutations(DATA, count)):
        path = folder / "images" / f"{number:06}"
        path.write_bytes(data)
        kinds[str(path)] = name.partition(" of ")[0]
    paths = [Path(path) for path in kinds]
    ran = score(paths, folder)
    ends = [(kinds[path], end) for path, found in ran.endings.items() if path in kinds for end in found]
    figures = [
        ("files", count),
        ("rows", sum(end.code is None for _, end in ends)),
        ("failures", sum(end.code is not None for _, end in ends)),
        ("exit code", ran.exit_code),
        ("seconds", f"{ran.seconds:.0f}"),
        ("peak memory", f"{ran.peak_mb:.0f} MB"),
    ]
    by_kind = [
        (kind, len(mine := [end for of, end in ends if of == kind]), sum(end.code is None for end in mine),
         counted(end.code for end in mine))
        for kind in sorted({kind for kind, _ in ends})
    ]  # fmt: skip
    report = table(("damaged images", ""), figures) + "\n" + table(("damage", "files", "rows", "failures"), by_kind)
    return report, faults_of(ran, paths)


def corpus_report(folder: Path) -> tuple[str, list[str]]:
    """Score the hostile corpus; return the report and what was wrong."""
    rows = {str(DATA / "hostile" / row["path"]): row for row, _ in manifest(DATA)}
    paths = [Path(path) for path in rows]
    ran = score(paths, folder)
    faults = faults_of(ran, paths)
    categories: dict[str, list[tuple[dict[str, str], Ending, str]]] = {}
    for path, row in rows.items():
        for end in ran.endings.get(path, []):
            categories.setdefault(row["category"], []).append((row, end, verdict(row, end)))
    lines = []
    for category, files in sorted(categories.items()):
        expected = Counter(
            {"yes": "decoded", "no": "refused", "either": "either"}[row["expected"]] for row, _, _ in files
        )
        wrong = [(row, fault) for row, _, fault in files if fault]
        faults += [f"{row['path']}: {fault}" for row, fault in wrong]
        lines.append(
            (
                category,
                ", ".join(f"{count} {how}" for how, count in expected.most_common()),
                len(files) - len(wrong),
                len(wrong),
                counted(end.code for _, end, _ in files),
            )
        )
    figures = f"{len(rows)} files, exit code {ran.exit_code}, {ran.seconds:.0f} s, {ran.peak_mb:.0f} MB\n"
    return table(("category", "expected", "as expected", "wrong", "codes"), lines) + "\n" + figures, faults


def main() -> int:
    """Run both, print both, and return whether anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20_000, help="damaged images (default: 20000)")
    args = parser.parse_args()
    if not (DATA / "hostile" / "manifest.csv").is_file():
        sys.exit(f"the hostile corpus is not at {DATA}: set IMAGE_DATA_DIR to the folder that holds hostile/")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's notices are not of the report
    faults = []
    with TemporaryDirectory() as damaged, TemporaryDirectory() as corpus:
        for report, found in (damaged_report(args.count, Path(damaged)), corpus_report(Path(corpus))):
            sys.stdout.write(report + "\n")
            faults += found
    for fault in faults:
        sys.stdout.write(f"wrong: {fault}\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
