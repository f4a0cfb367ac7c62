"""One TaskManager against two on the way through the CPU: read, decode, a cheap model, write.

    python -m tests.integration.flink.speed_up --data ../shared/data --copies 10

Each TaskManager has one slot and one Python worker with one loading thread, so that one of them cannot use two cores.
Runs alternate; of each the time from the first scored batch to the last is taken, without the start of workers.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.dataset as ds

from pipeline import cli
from tests.integration.flink.cluster import FlinkCluster
from tests.model_zoo import pooled_model
from tests.runs import small_config, write_config
from transforms.layout import RunLayout


def seconds_of(layout: RunLayout) -> float:
    """The seconds between the first and the last batch of a published run."""
    times = ds.dataset(layout.published_table("scores")).to_table(["scored_at"])["scored_at"]
    ends = pc.min_max(times).as_py()
    return float((ends["max"] - ends["min"]).total_seconds())


def main() -> None:
    """Run both in turn, and print what each took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds photos/")
    parser.add_argument("--copies", type=int, default=10, help="names of each photo")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    photos = sorted((options.data / "photos").resolve().iterdir())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(options.copies):
            (folder / "photos" / str(number)).mkdir(parents=True)
            for photo in photos:
                (folder / "photos" / str(number) / photo.name).symlink_to(photo)
        model = pooled_model(folder / "model")
        config = write_config(
            small_config(model, batch={"size": 16}, load={"threads": 1}, decode={"jpeg_scaling": "off"}),
            folder / "config.yaml",
        )
        with FlinkCluster(folder / "cluster", task_managers=2, slots=1) as cluster:
            for turn in range(options.rounds):
                for parallelism in (1, 2):
                    layout = RunLayout(str(folder / "out"), f"turn{turn}-{parallelism}")
                    command = ["run", f"--config={config}", f"--input={folder / 'photos'}", f"--output={layout.output}"]
                    flags = cluster.flags(parallelism)
                    if cli.main([*command, f"--run-id={layout.run_id}", "--", *flags]):
                        raise SystemExit(1)
                    rate = options.copies * len(photos) / seconds_of(layout)
                    sys.stdout.write(f"round {turn}, {parallelism} TaskManagers: {rate:.1f} images/s\n")
                    sys.stdout.flush()


if __name__ == "__main__":
    main()
