"""What preflight says of a night from 100 of its photos, against that night.

Of 3,000 photos, with what it says of the duration: NIGHT_COPIES=15, and pytest -m heavy -s of this file.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from pipeline.demo.show import demo_config

pytestmark = pytest.mark.heavy

COPIES = int(os.environ.get("NIGHT_COPIES", "4"))


@pytest.fixture(scope="module")
def photos(image_data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Several crops of each of the 200 photos, none like another: copies would compress in the output."""
    folder = tmp_path_factory.mktemp("night") / "photos"
    folder.mkdir()
    chance = np.random.default_rng(1)
    for path in sorted((image_data_dir / "photos").iterdir()):
        with Image.open(path) as opened:
            image = opened.convert("RGB")
        for copy in range(COPIES):
            size = (np.array(image.size) * chance.uniform(0.8, 1.0)).astype(int)
            left, top = (int(chance.integers(0, room + 1)) for room in np.array(image.size) - size)
            cut = image.crop((left, top, left + int(size[0]), top + int(size[1])))
            cut.save(folder / f"{path.stem}-{copy:02}.jpg", quality=90)
    return folder


class Spent(NamedTuple):
    """What a command took."""

    wall: float
    cpu: float


def command(model: Path, *arguments: str) -> Spent:
    """Run the command line in a process of its own."""
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", arguments[0], "--config", str(demo_config()), *arguments[1:]],
        env={**os.environ, "DEMO_MODEL": str(model)},
        stdout=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return Spent(time.monotonic() - started, usage.ru_utime + usage.ru_stime)


@pytest.mark.timeout(3600)
def test_a_hundred_photos_tell_the_output_of_the_night(photos: Path, lite0_directory: Path, tmp_path: Path) -> None:
    """Output within 10%. Times are told and not judged: the machine may be doing other things.

    They are of a preflight before the night and of one after it.
    """
    few = tmp_path / "few.txt"
    few.write_text("".join(f"{path}\n" for path in sorted(photos.iterdir())[:8]))

    def predict(name: str) -> dict[str, dict[str, float]]:
        output, file = str(tmp_path / "out"), tmp_path / f"{name}.json"
        command(
            lite0_directory, "preflight", "--input", str(photos), "--output", output, "--json", str(file), "--seed", "7"
        )
        return dict(json.loads(file.read_text()))

    before = predict("before")
    small = command(lite0_directory, "run", "--input", f"@{few}", "--output", str(tmp_path / "few"))
    night = command(lite0_directory, "run", "--input", str(photos), "--output", str(tmp_path / "out"), "--run-id", "n")
    after = predict("after")

    real_bytes = sum(path.stat().st_size for path in (tmp_path / "out").glob("*/run_id=n/*.parquet"))
    cpu_ms = (night.cpu - small.cpu) * 1e3 / (200 * COPIES - 8)
    durations = [found["prediction"]["duration_seconds"]["total"] for found in (before, after)]  # type: ignore[index]
    said = {
        "output": [found["prediction"]["output_bytes"] / real_bytes for found in (before, after)],
        "duration": [duration / night.wall for duration in durations],
        "processor time": [found["pace"]["cpu_ms"] / cpu_ms for found in (before, after)],
    }
    print(json.dumps(said), f"of {real_bytes} bytes, {night.wall:.1f} s, {cpu_ms:.1f} ms an image")  # noqa: T201
    assert all(abs(ratio - 1) < 0.10 for ratio in said["output"]), said
