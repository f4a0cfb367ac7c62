"""Whole nights on s3:// and gs:// with a fault in every third request: the rows are those of a sound local disk."""

import io
import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from tests.fault_proxy import Fault, FaultyStore
from tests.model_zoo import pooled_model
from tests.runs import make_photo, make_photos, small_config
from transforms import storage

pytest_plugins = ["tests.s3_store", "tests.gcs_store", "tests.faulty_stores"]
pytestmark = [pytest.mark.heavy, pytest.mark.timeout(900)]

_LOG = logging.getLogger(__name__)
RATES = dict.fromkeys(
    [Fault.UNAVAILABLE, Fault.TOO_MANY, Fault.RESET, Fault.LOST_ANSWER, Fault.STALL, Fault.TRUNCATED], 0.05
)
# Of another place or time in every run.
DIFFERENT = ["image_version", "scored_at", "failed_at"]


class Night(NamedTuple):
    """What a run has published."""

    scores: list[dict[str, Any]]
    """Rows, in the order of their paths."""
    failures: list[dict[str, Any]]
    """Rows, in the order of their paths."""
    ledger: dict[str, int]
    """Of the manifest."""


@pytest.fixture(scope="module")
def materials(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos, a manifest of more photos, labels and a model; some images cannot be scored."""
    root = tmp_path_factory.mktemp("materials")
    make_photos(root / "photos", 30)
    make_photos(root / "more", 30, ".jpg")
    (root / "photos" / "empty.jpg").write_bytes(b"")
    whole = make_photo(root / "whole.jpg", 1, (64, 64)).read_bytes()
    (root / "more" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    names = [f"more/{path.name}" for path in sorted((root / "more").iterdir())]
    (root / "list.txt").write_text("\n".join([*names, "more/missing.jpg", "photos/000.png"]) + "\n")
    (root / "labels.txt").write_text("cat\ndog\nfox\nowl\n")
    pooled_model(root / "model")
    return root


def score(root: str, folder: Path) -> None:
    """Carry a run out in a process of its own, with everything below one root."""
    # Batches of one: the order in which images come may change the last bit of a larger one.
    config = small_config(Path("model"), batch={"size": 1}, limits={"max_failure_rate": 0.2}).model_dump(
        mode="json", exclude_unset=True
    )
    config["model"].update(path=f"{root}/model", hub_cache=str(folder / "cache"))
    config["labels"] = {"path": f"{root}/labels.txt"}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    inputs = ["--input", f"{root}/photos", "--input", f"@{root}/list.txt"]
    command = [sys.executable, "-m", "pipeline", "run", "--config", str(folder / "config.yaml"), *inputs]
    # As a scheduler would: what an outage longer than two minutes has broken off is continued by the same command.
    for _ in range(3):
        done = subprocess.run(
            [*command, "--output", f"{root}/out", "--run-id", "night"],
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
        if done.returncode != 130:
            break
        _LOG.warning("broken off: %s", done.stderr.splitlines()[-1])
        assert "finished files are kept, run again with --run-id night to continue" in done.stderr
    assert done.returncode == 0, done.stdout + done.stderr


def published(root: str) -> Night:
    """Read a run back: only what its manifest names may lie there, and _staging is gone."""
    manifest = json.loads(storage.read_bytes(f"{root}/out/runs/night/manifest.json"))
    parts = [f"{root}/out/{file['path']}" for file in manifest["files"]]
    found = {file.path for file in storage.list_folder(f"{root}/out") if file.size_bytes}
    assert found == {*parts, f"{root}/out/latest.json", f"{root}/out/runs/night/manifest.json"}
    assert storage.stat(f"{root}/out/runs/night/_SUCCESS") is not None

    def rows(table: str) -> list[dict[str, Any]]:
        files = [io.BytesIO(storage.read_bytes(part)) for part in parts if f"/out/{table}/" in part]
        whole = pa.concat_tables([pq.read_table(file) for file in files]).sort_by("image_path")
        kept = whole.drop_columns([name for name in DIFFERENT if name in whole.column_names]).to_pylist()
        return [{**row, "image_path": row["image_path"].removeprefix(f"{root}/")} for row in kept]

    return Night(rows("scores"), rows("failures"), manifest["ledger"])


@pytest.fixture(scope="module")
def sound(materials: Path, tmp_path_factory: pytest.TempPathFactory) -> Night:
    """The night as it is without faults, on the local disk."""
    score(str(materials), tmp_path_factory.mktemp("local"))
    night = published(str(materials))
    assert night.ledger == {"listed": 64, "duplicates": 1, "unique": 63, "scored": 60, "failed": 3, "skipped": 0}
    assert [row["code"] for row in night.failures] == ["truncated_image", "not_found", "empty_file"]
    return night


def test_faulty_store_gives_the_rows_of_a_local_disk(
    faulty: FaultyStore,
    materials: Path,
    sound: Night,
    tmp_path: Path,
) -> None:
    """Input, manifest, labels, model and output on the store: nothing is lost, nothing comes twice, nothing differs."""
    root, proxy = f"{faulty.url}/team", faulty.proxy
    for path in materials.rglob("*"):
        if path.is_file() and "out" not in path.relative_to(materials).parts:
            storage.write_bytes(f"{root}/{path.relative_to(materials)}", path.read_bytes())
    proxy.requests.clear()
    proxy.stall_seconds = 0.3
    proxy.rates = RATES
    score(root, tmp_path)
    proxy.heal()
    # To be seen with --log-cli-level=INFO.
    _LOG.info("%d requests met %d faults: %s", len(proxy.requests), proxy.injected.total(), dict(proxy.injected))
    night = published(root)
    assert set(proxy.injected) == set(RATES)
    assert proxy.injected.total() > 40
    assert night.ledger == sound.ledger
    assert night.failures == sound.failures
    assert night.scores == sound.scores
