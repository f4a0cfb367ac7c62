"""Find the run that tonight is compared with, and how its answers are distributed.

It is looked up when a run begins: a baseline that is gone costs a second, not a night, and runs that end meanwhile do
not decide what this one is compared with.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from transforms import storage
from transforms.distributions import Distributions, measure
from transforms.errors import ConfigError
from transforms.health import Baseline
from transforms.layout import LATEST, RunLayout
from transforms.outcomes import is_published, latest_run_id, read_manifest
from transforms.publishing import pending_manifest
from transforms.settings import HealthSettings
from transforms.tables import METADATA_PREFIX

_LOG = logging.getLogger(__name__)
_WAY_OUT = "name another run in health.baseline, or leave it out to compare with none"


def open_baseline(
    layout: RunLayout, settings: HealthSettings, labels: Sequence[str] | None
) -> tuple[Baseline | None, str]:
    """Read the baseline of a run that begins.

    Args:
        layout: The new run.
        settings: Which baseline.
        labels: C names of the new run's classes; None where they are not known yet.

    Returns:
        It, or None and the reason. `latest` is the run that was published last; where that has too few images to be
        compared with, it is the newest with enough of those that it is a delta of, or else of those that it was
        compared with in its turn.

    Raises:
        ConfigError: The run is not published or damaged, or it is pinned and no night could be compared with it.
    """
    if settings.baseline is None:
        return None, "no baseline is set (health.baseline)"
    run_id = latest_run_id(layout) if settings.baseline == LATEST else settings.baseline
    if run_id is None:
        return None, f"no run is published in {layout.output} yet that this one could be compared with"
    if run_id == layout.run_id and not is_published(layout):
        return None, f"run {run_id} is the baseline itself"
    manifest, note = _manifest(layout, run_id, named=settings.baseline == LATEST)
    if settings.baseline == LATEST:
        run_id, manifest, note = _large_enough(layout, run_id, manifest, note, settings.min_images)
    try:
        found = _baseline(RunLayout(layout.output, run_id), manifest, note)
    except (OSError, KeyError, TypeError, ValueError, AttributeError, pa.ArrowException) as error:
        reason = str(error).split("\n")[0]
        raise ConfigError(f"the baseline, run {run_id}, cannot be read: {reason}; {_WAY_OUT}") from error
    if settings.baseline != LATEST:
        _check_pinned(found, settings.min_images, labels)
    if note:
        _LOG.warning("the baseline is run %s: %s", run_id, note)
    return found, ""


def _check_pinned(baseline: Baseline, least: int, labels: Sequence[str] | None) -> None:
    """Refuse a run that was chosen and is none that any night could be compared with: the gate would never close."""
    run_id, rows = baseline.run_id, baseline.distributions.rows
    if rows < least:
        raise ConfigError(
            f"the baseline, run {run_id}, has {rows} scored images, and health.min_images asks for {least}: no night "
            f"would be judged; lower that, or {_WAY_OUT}"
        )
    theirs = baseline.distributions.labels
    if labels is not None and not set(theirs) & set(labels):
        raise ConfigError(
            f"the baseline, run {run_id}, has no label in common with the model of this run ({theirs[0]!r} and "
            f"{len(theirs) - 1} more, {labels[0]!r} and {len(labels) - 1} more): no night would be judged; {_WAY_OUT}"
        )


def _manifest(layout: RunLayout, run_id: str, *, named: bool = False) -> tuple[dict[str, Any], str]:
    """Return the manifest of a run, and what has to be known of it.

    A run that is being replaced is not published meanwhile, and never where that was interrupted. Its plan is the whole
    new manifest, answers and all: it was judged, and carrying it out is all that is left to do.

    Args:
        layout: The new run.
        run_id: The run to read.
        named: Whether latest.json names it, and not the user.
    """
    earlier = RunLayout(layout.output, run_id)
    if is_published(earlier):
        try:
            return read_manifest(earlier, _WAY_OUT), ""
        except ConfigError:
            if is_published(earlier):
                raise
    # It may have been published while its plan was looked for.
    if (pending := _pending(earlier)) is None and is_published(earlier):
        return read_manifest(earlier, _WAY_OUT), ""
    if pending is None:
        said = f" (health.baseline is latest, and {layout.latest} names it)" if named else ""
        raise ConfigError(f"the baseline, run {run_id}, is not published in {layout.output}{said}; {_WAY_OUT}")
    if pending.get("distributions") is None:
        raise ConfigError(
            f"the baseline, run {run_id}, is not published in {layout.output}: its publishing is under way, or was "
            f"interrupted; {earlier.again(overwrite=False)} to complete it, or {_WAY_OUT}"
        )
    return pending, (
        f"its publishing is under way, or was interrupted: {earlier.again(overwrite=False)} to complete it"
    )


def _pending(earlier: RunLayout) -> dict[str, Any] | None:
    try:
        return pending_manifest(earlier)
    except ConfigError as error:
        raise ConfigError(
            f"the baseline, run {earlier.run_id}, is not published: its publishing was interrupted, and {error}, or "
            f"{_WAY_OUT}"
        ) from error


def _large_enough(
    layout: RunLayout, run_id: str, manifest: dict[str, Any], note: str, least: int
) -> tuple[str, dict[str, Any], str]:
    """Return the newest run with enough images of those that a run follows; the run itself where none has."""
    newest, asked, waiting = (run_id, manifest, note), {run_id}, [(run_id, manifest, note)]
    while waiting:
        found = waiting.pop(0)
        if _scored(found[1]) >= least:
            return found
        for earlier in _followed(found[1]):
            if earlier not in asked and is_published(RunLayout(layout.output, earlier)):
                waiting.append((earlier, *_manifest(layout, earlier)))
            asked.add(earlier)
    return newest


def _followed(manifest: Mapping[str, Any]) -> list[str]:
    """Return the runs that one is a delta of, the newest first, and then the one that it was compared with."""
    chain, compared = (manifest.get("since_run") or {}).get("chain", ()), (manifest.get("health") or {}).get("baseline")
    return [*map(str, chain), *([compared] if isinstance(compared, str) else [])]


def _scored(manifest: Mapping[str, Any]) -> int:
    ledger = manifest.get("ledger")
    return int(ledger.get("scored", 0)) if isinstance(ledger, dict) else 0


def _baseline(layout: RunLayout, manifest: dict[str, Any], note: str) -> Baseline:
    told = manifest.get("distributions")
    distributions = _measured(layout, manifest) if told is None else Distributions.from_json(told)
    fingerprints = dict(manifest.get("fingerprints", {}))
    return Baseline(layout.run_id, str(manifest["model_id"]), fingerprints, distributions, note)


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
