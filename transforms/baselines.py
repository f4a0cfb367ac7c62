"""Find the run that tonight is compared with, and how its answers are distributed.

It is looked up when a run begins: a baseline that is gone costs a second, not a night, and runs that end meanwhile do
not decide what this one is compared with.
"""

import json
import logging
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from transforms import storage
from transforms.distributions import Distributions, measure
from transforms.errors import ConfigError
from transforms.health import Baseline
from transforms.layout import LATEST, RunLayout
from transforms.outcomes import is_published, latest_run_id, read_manifest
from transforms.settings import HealthSettings
from transforms.tables import METADATA_PREFIX

_LOG = logging.getLogger(__name__)
_WAY_OUT = "name another run in health.baseline, or leave it out to compare with none"


def open_baseline(layout: RunLayout, settings: HealthSettings) -> tuple[Baseline | None, str]:
    """Read the baseline of a run that begins.

    Args:
        layout: The new run.
        settings: Which baseline.

    Returns:
        It, or None and the reason. `latest` is the run that was published last; where that is a delta with too few
        images to be compared with, it is the newest run of its chain with enough.

    Raises:
        ConfigError: The run is not published or damaged.
    """
    if settings.baseline is None:
        return None, "no baseline is set (health.baseline)"
    run_id = latest_run_id(layout) if settings.baseline == LATEST else settings.baseline
    if run_id is None:
        return None, f"no run is published in {layout.output} yet that this one could be compared with"
    if run_id == layout.run_id and not is_published(layout):
        return None, f"run {run_id} is the baseline itself"
    manifest = _manifest(layout, run_id)
    if settings.baseline == LATEST:
        run_id, manifest = _large_enough(layout, run_id, manifest, settings.min_images)
    try:
        return _baseline(RunLayout(layout.output, run_id), manifest), ""
    except (OSError, KeyError, TypeError, ValueError, AttributeError, pa.ArrowException) as error:
        reason = str(error).split("\n")[0]
        raise ConfigError(f"the baseline, run {run_id}, cannot be read: {reason}; {_WAY_OUT}") from error


def _manifest(layout: RunLayout, run_id: str) -> dict[str, Any]:
    earlier = RunLayout(layout.output, run_id)
    if not is_published(earlier):
        raise ConfigError(f"the baseline, run {run_id}, is not published in {layout.output}; {_WAY_OUT}")
    return read_manifest(earlier, _WAY_OUT)


def _large_enough(layout: RunLayout, run_id: str, manifest: dict[str, Any], least: int) -> tuple[str, dict[str, Any]]:
    """Return the newest run of a chain of deltas that has enough images; the newest of all where none has."""
    if _scored(manifest) >= least:
        return run_id, manifest
    for earlier in (manifest.get("since_run") or {}).get("chain", ()):
        if is_published(RunLayout(layout.output, earlier)):
            found = _manifest(layout, earlier)
            if _scored(found) >= least:
                return earlier, found
    return run_id, manifest


def _scored(manifest: Mapping[str, Any]) -> int:
    ledger = manifest.get("ledger")
    return int(ledger.get("scored", 0)) if isinstance(ledger, dict) else 0


def _baseline(layout: RunLayout, manifest: dict[str, Any]) -> Baseline:
    told = manifest.get("distributions")
    distributions = _measured(layout, manifest) if told is None else Distributions.from_json(told)
    return Baseline(layout.run_id, str(manifest["model_id"]), dict(manifest.get("fingerprints", {})), distributions)


def _measured(layout: RunLayout, manifest: dict[str, Any]) -> Distributions:
    """Count a run's answers from its files: its manifest is of a time when it did not say."""
    files = [storage.join(layout.output, entry["path"]) for entry in manifest["files"] if entry["table"] == "scores"]
    if not files:
        raise ValueError("its manifest names no file of scores")
    _LOG.info("counting the answers of the baseline, run %s: its manifest does not say them", layout.run_id)
    filesystem, inner = storage.filesystem(files[0])
    with filesystem.open_input_file(inner) as opened:
        metadata = pq.read_schema(opened).metadata or {}
    said = {key.decode().removeprefix(METADATA_PREFIX): value.decode() for key, value in metadata.items()}
    if missing := [name for name in ("labels", "activation", "num_units") if name not in said]:
        raise ValueError(f"{files[0]} does not say its {missing[0]}")
    labels = [str(label) for label in json.loads(said["labels"])]
    return measure(files, labels, independent=said["activation"] == "sigmoid" and said["num_units"] != "1")
