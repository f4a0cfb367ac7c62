"""What tests of whole runs share: a small model, its configuration, images, and reading a run back."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipeline.config import RunConfig
from pipeline.run import run
from pipeline.run_records import RunRequest, RunResult
from transforms.layout import RunLayout

SIZE = {"height": 6, "width": 8}  # of model_zoo.pooled_model


def small_config(model_path: Path, /, **sections: Any) -> RunConfig:
    """The configuration of a pooled model; sections are merged over it."""
    values: dict[str, Any] = {
        "model": {"path": str(model_path), "output": "logits", "activation": "softmax"},
        "preprocess": {"value_range": "0_1", "resize": "exact", "interpolation": "bilinear", **SIZE},
        "results": {"top_k": 2},
        "batch": {"size": 4},
        "report": {"enabled": False},  # tests of the report make it
    }
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section}
    return RunConfig.model_validate(values)


def bytes_config(model_path: Path, /, **sections: Any) -> RunConfig:
    """The configuration of a model that decodes and prepares images itself."""
    values: dict[str, Any] = {
        "model": {"path": str(model_path), "output": "logits", "activation": "softmax"},
        "preprocess": {"value_range": "0_255"},
        "results": {"top_k": 2},
        "batch": {"size": 4},
        "report": {"enabled": False},  # tests of the report make it
    }
    return RunConfig.model_validate({**values, **sections})


def write_config(config: RunConfig, path: Path) -> Path:
    """Write a configuration for the command line: JSON is YAML."""
    path.write_text(json.dumps(config.model_dump(mode="json")), encoding="utf-8")
    return path


def make_photo(path: Path, seed: int, size: tuple[int, int] = (12, 9)) -> Path:
    """Write a small PNG or JPEG of noise, by the path's suffix."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = "JPEG" if path.suffix.lower() in (".jpg", ".jpeg") else "PNG"
    Image.fromarray(pixels).save(path, kind)
    return path


def make_photos(folder: Path, count: int, suffix: str = ".png") -> list[Path]:
    """Write count different photos."""
    return [make_photo(folder / f"{number:03}{suffix}", number) for number in range(count)]


def run_quietly(config: RunConfig, inputs: list[Path | str], output: Path, **request: Any) -> RunResult:
    """Carry a run out without a progress bar."""
    return run(
        RunRequest(
            config=config,
            inputs=[str(source) for source in inputs],
            output=str(output),
            show_progress=False,
            **request,
        )
    )


def read_table(layout: RunLayout, table: str) -> pa.Table:
    """Read a published table as an analyst would, in the order of the paths."""
    return pq.read_table(layout.published_table(table), partitioning=None).sort_by("image_path")


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file below a folder with its time and size, to see that nothing has changed."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.stat().st_size)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
