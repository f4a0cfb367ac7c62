"""What a run leaves that says how it ended: read from manifest.json, refused.json and latest.json by whoever asks."""

import json
from typing import Any, NamedTuple

from transforms import storage
from transforms.errors import ConfigError, ExitCode, RunError
from transforms.layout import RunLayout
from transforms.ledger import Ledger

MANIFEST_VERSION = 1


class Outcome(NamedTuple):
    """How a run ended."""

    exit_code: ExitCode
    """For the scheduler."""
    message: str
    """For the operator."""
    ledger: Ledger
    """Where every image went."""
    failures_by_code: dict[str, int]
    """Rows of the failures table, by code."""
    health: str = ""
    """What the health gate says; empty where it was not asked."""
    drifted: bool = False
    """Whether a limit of the health gate is passed."""
    challenger_failures_by_code: dict[str, int] = {}  # noqa: RUF012  never changed
    """Rows of the challenger's failures, by code: they break no limit."""

    def to_json(self) -> dict[str, Any]:
        """Return what refused.json says of it, as read_attempt reads it again."""
        return {**self._asdict(), "exit_code": int(self.exit_code), "ledger": self.ledger.to_json()}


def is_published(layout: RunLayout) -> bool:
    """Tell whether a run is published: its _SUCCESS exists."""
    return storage.stat(layout.success) is not None


def read_outcome(layout: RunLayout) -> Outcome:
    """Read the outcome of a published run.

    Raises:
        ConfigError: Its manifest is gone or damaged.
        RunError: It is not published.
    """
    if not is_published(layout):
        raise RunError(
            ExitCode.INTERRUPTED,
            f"run {layout.run_id} has neither been published nor refused: it did not come to its end; "
            f"run again with --run-id {layout.run_id} to continue it",
        )
    way_out = "replace the run with --overwrite, or delete its _SUCCESS"
    manifest = read_manifest(layout, way_out)
    message = f"run {layout.run_id} is published in {layout.output}"
    try:
        if overridden := manifest.get("limits_overridden"):
            message += f" in spite of its limits: {overridden['message']}"
        health = manifest.get("health") or {}
        said, drifted = str(health.get("message", "")), bool(health.get("breaches"))
        if drifted:
            message += f"{' in spite of the health gate' if health['overridden'] else ''}; its answers have {said}"
        codes = dict(manifest["failures_by_code"])
        rival_codes = dict((manifest.get("challenger") or {}).get("failures_by_code", {}))
        ledger = Ledger(**manifest["ledger"])
        return Outcome(ExitCode.PUBLISHED, message, ledger, codes, said, drifted, rival_codes)
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{layout.manifest} is damaged; {way_out}") from error


def read_attempt(layout: RunLayout) -> Outcome:
    """Read how the latest attempt ended: refused, or published.

    A refusal belongs to the latest attempt, for every attempt begins by deleting it. It comes first: the run that an
    overwriting attempt would have replaced is still published.

    Raises:
        ConfigError: What the attempt left is damaged.
        RunError: It has not ended.
    """
    if storage.stat(layout.refused) is None:
        return read_outcome(layout)
    outcome = read_json(layout.refused, "run again with the same --run-id")["outcome"]
    return Outcome(
        ExitCode(outcome["exit_code"]),
        outcome["message"],
        Ledger(**outcome["ledger"]),
        outcome["failures_by_code"],
        outcome.get("health", ""),
        outcome.get("drifted", False),
        outcome.get("challenger_failures_by_code", {}),
    )


def read_manifest(layout: RunLayout, way_out: str) -> dict[str, Any]:
    """Read the manifest of a published run.

    Raises:
        ConfigError: It is missing or damaged; the message ends with the way out.
    """
    manifest = read_json(layout.manifest, way_out)
    if not isinstance(manifest, dict) or manifest.get("manifest_version") != MANIFEST_VERSION:
        raise ConfigError(f"{layout.manifest} is no manifest of version {MANIFEST_VERSION}; {way_out}")
    return manifest


def latest_run_id(layout: RunLayout) -> str | None:
    """Return the id of the run that was published last in this output; None where there was none.

    Raises:
        ConfigError: The pointer is damaged.
    """
    if storage.stat(layout.latest) is None:
        return None
    pointer = read_json(layout.latest, way_out := "publish a run anew, or name a run by its id")
    if not isinstance(pointer, dict) or not isinstance(pointer.get("run_id"), str):
        raise ConfigError(f"{layout.latest} is damaged: it names no run; {way_out}")
    return str(pointer["run_id"])


def read_json(path: str, way_out: str) -> Any:
    """Read one of the records that a run has left.

    Raises:
        ConfigError: It is missing or damaged; the message ends with the way out.
    """
    try:
        return json.loads(storage.read_bytes(path))
    except (FileNotFoundError, ValueError) as error:
        what = "is missing" if isinstance(error, FileNotFoundError) else "is damaged"
        raise ConfigError(f"{path} {what}; {way_out}") from error
