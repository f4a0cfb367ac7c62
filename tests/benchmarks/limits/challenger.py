"""What a challenger costs: one run of both models against a run of each, processor time a photo.

Everything runs in this process with loaded models, in turns: the first model alone, the second alone, both with the
same preprocessing, both with another one. Start-up, which one run has once and two have twice, is not counted.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from pipeline.config import RunConfig, load_config
from pipeline.run import run
from pipeline.run_records import RunRequest
from tests.benchmarks.limits.common import say
from tests.benchmarks.materials import build_model, find_photos, link_photos, write_config
from transforms.contest import Contest


def main() -> None:
    """Measure in turns, and say the median of each and the ratio of one pass to two runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=["free", "lite0"], default="free")
    parser.add_argument("--photos", type=Path, help="a folder of photos; left out, the sample set")
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--report", required=True)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        spent = measure(Path(folder), arguments)
    median = {name: statistics.median(times) for name, times in spent.items()}
    two = median["first"] + median["second"]
    ratios = {name: median[name] / two for name in ("same", "other")}
    say(arguments.report, model=arguments.model, count=arguments.count, ms_a_photo=spent, ratio_to_two_runs=ratios)


def measure(folder: Path, arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Return the processor milliseconds a photo of each round, by what was run."""
    photos = link_photos(find_photos(arguments.photos, Path.cwd()), folder / "photos", arguments.count)
    build_model(arguments.model, folder / "model")
    config = load_config(write_config(folder / "config.yaml", folder / "model", "bicubic"))
    own = config.model_dump()
    other = {**own["preprocess"], "crop_pct": 1.0}
    configs = {
        "first": config,
        "second": config,
        "same": with_challenger(own, {"model": own["model"]}),
        "other": with_challenger(own, {"model": own["model"], "preprocess": other}),
    }
    contests = {name: Contest(each.contest_plan()) for name, each in configs.items()}
    spent: dict[str, list[float]] = {name: [] for name in configs}
    for number in range(arguments.rounds + 1):
        for name, each in configs.items():
            started = time.process_time()
            run(
                RunRequest(
                    each,
                    [str(photos)],
                    str(folder / "out"),
                    run_id=f"{name}{number}",
                    show_progress=False,
                    loading=lambda name=name: contests[name],
                )
            )
            if number:  # the first round fills caches
                spent[name].append((time.process_time() - started) * 1e3 / arguments.count)
    return spent


def with_challenger(values: dict[str, Any], challenger: dict[str, Any]) -> RunConfig:
    """Return the configuration with a second model."""
    return RunConfig.model_validate({**values, "challenger": challenger})


if __name__ == "__main__":
    main()
