"""Run the demo: the same road as any run, then a table for a person."""

import os
import sysconfig
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline.config import load_config
from pipeline.demo.photos import gather_photos
from pipeline.run import run
from pipeline.run_records import RunRequest, RunResult
from pipeline.summary import summary
from transforms.errors import ConfigError
from transforms.layout import TABLES
from transforms.redaction import printable


def run_demo(model: Path, output: Path, beam_flags: Sequence[str] = ()) -> int:
    """Gather the photos, score them with configs/demo.yaml, and print what came out.

    Args:
        model: From model_directory.
        output: Where photos and runs go.
        beam_flags: Beam's own flags.

    Returns:
        The run's exit code.
    """
    photos = output / "photos"
    gather_photos(photos)
    os.environ["DEMO_MODEL"] = str(model)
    config = load_config(demo_config())
    result = run(RunRequest(config=config, inputs=[str(photos)], output=str(output), beam_flags=beam_flags))
    if result.outcome.exit_code == 0:
        _show(result)
    print(summary(result))
    return result.outcome.exit_code


def demo_config() -> Path:
    """Return configs/demo.yaml: beside the packages in a checkout, with the data files of an installed wheel.

    Raises:
        ConfigError: It is at neither place.
    """
    places = [
        Path(__file__).parents[2] / "configs",
        Path(sysconfig.get_path("data")) / "share" / "score-images" / "configs",
    ]
    for folder in places:
        if (folder / "demo.yaml").is_file():
            return folder / "demo.yaml"
    raise ConfigError(f"demo.yaml is neither in {places[0]} nor in {places[1]}; install score-images again")


def _show(result: RunResult) -> None:
    scores, failures = (pq.read_table(result.layout.published_table(table)).to_pylist() for table in TABLES)
    # A pipe says 80 columns, and the labels need more: a wide line is better than a broken one.
    console = Console(width=max(Console().width, 100))
    table = Table(box=box.SIMPLE, title="EfficientNet-Lite0 on the demo's photos", title_justify="left")
    table.add_column("photo", no_wrap=True)
    for rank in ("first", "second", "third"):
        table.add_column(rank)
    for row in sorted(scores, key=lambda row: row["image_path"]):
        answers = [f"{_short(entry['label'])} {entry['probability']:.0%}" for entry in row["top_k"][:3]]
        table.add_row(_plain(Path(row["image_path"]).name), *map(_plain, answers))
    console.print(table)
    for row in failures:
        console.print(
            f"failed: {_plain(Path(row['image_path']).name)}: {row['code']}: {_plain(row['message'])}", soft_wrap=True
        )
    console.print()


def _plain(text: str) -> str:
    # Names may hold rich's markup, and characters that act on a terminal.
    return escape(printable(text))


def _short(label: str) -> str:
    # ImageNet's labels list synonyms: the first is enough for a table.
    return label.split(",")[0]
