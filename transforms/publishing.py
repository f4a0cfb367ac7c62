"""Publish a finished run, or say why not: the ledger law, the limits, and the steps that no kill can spoil.

The order is fixed. The plan, which is the whole new manifest, is written first; a run that is replaced loses its
_SUCCESS and its manifest.json; the files move to their published names; manifest.json, _SUCCESS and latest.json are
written; then the staging folder goes, the plan last. A kill at any point is completed by carrying the plan out again.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from transforms import storage
from transforms.errors import ConfigError, ExitCode, RunError
from transforms.layout import TABLES, RunLayout
from transforms.ledger import Ledger
from transforms.limits import Overrun, find_overrun
from transforms.part_files import write_empty_file
from transforms.records import WrittenFile
from transforms.settings import LimitSettings, WriteSettings

MANIFEST_VERSION = 1
_READY = "ready"
_REPLACED = "replaced"


@dataclass(frozen=True)
class RunFacts:
    """What is known of a run before it starts; picklable."""

    layout: RunLayout
    """Where it goes."""
    limits: LimitSettings
    """How many failures it may have."""
    write: WriteSettings
    """How its files are cut."""
    schemas: dict[str, pa.Schema]
    """Of each table, for a table without rows."""
    file_metadata: dict[str, str]
    """Key-value metadata of the scores files."""
    manifest: dict[str, Any]
    """What goes into the manifest as it is: inputs, fingerprints, versions, configuration, times."""
    overwrite: bool = False
    """Replace a run that is published under this id."""
    publish_anyway: bool = False
    """Publish in spite of the limits; never in spite of the ledger."""


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


def publish(facts: RunFacts, files: Sequence[WrittenFile], ledger: Ledger) -> Outcome:
    """Publish the staged files of a run if its ledger adds up and its failures are few enough.

    Args:
        facts: The run.
        files: What committed bundles have written, and what was adopted.
        ledger: Counted from data.

    Returns:
        The outcome, which also lies in manifest.json or refused.json, for a launcher that is gone.
    """
    layout = facts.layout
    if storage.stat(layout.plan) is not None or (is_published(layout) and not facts.overwrite):
        # A runner may carry this step out again after it has succeeded, or after it was killed half-way.
        complete(layout)
        return read_outcome(layout)
    codes = _failures_by_code(files)
    overrun = None if ledger.mismatch() else find_overrun(codes, ledger.scored, facts.limits)
    refusal = _refusal(facts, ledger, codes, overrun)
    if refusal is not None:
        storage.write_bytes(layout.refused, _json({"outcome": _outcome_json(refusal), "run": facts.manifest}))
        return refusal
    files = [*files, *_empty_tables(facts, files)]
    entries, moves = _published_names(layout, files)
    manifest = {
        "manifest_version": MANIFEST_VERSION,
        "run_id": layout.run_id,
        **facts.manifest,
        "published_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "ledger": ledger._asdict(),
        "failures_by_code": codes,
        "limits_overridden": overrun.record() if overrun else None,
        "files": entries,
    }
    storage.write_bytes(layout.plan, _json({"manifest": manifest, "moves": moves}))
    complete(layout)
    return read_outcome(layout)


def _refusal(facts: RunFacts, ledger: Ledger, codes: dict[str, int], overrun: Overrun | None) -> Outcome | None:
    kept = f"nothing is published; what was scored is kept in {facts.layout.staging}"
    mismatch = ledger.mismatch()
    if mismatch is not None:
        message = f"the ledger of run {facts.layout.run_id} does not add up: {mismatch}; {kept}"
        return Outcome(ExitCode.LEDGER_MISMATCH, message, ledger, codes)
    if overrun is None or facts.publish_anyway:
        return None
    reasons = ", ".join(f"{count} {code}" for code, count in codes.items())
    message = (
        f"{overrun}: {reasons}; {kept}; mend the cause, raise the limit, or expect a code (limits.allowances), and run "
        f"again with --run-id {facts.layout.run_id}: scored images are not scored again; with --publish-anyway "
        "besides, the run is published in spite of its limits"
    )
    return Outcome(ExitCode.TOO_MANY_FAILURES, message, ledger, codes)


def _failures_by_code(files: Sequence[WrittenFile]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for file in files:
        if file.table == "failures":
            filesystem, inner = storage.filesystem(file.path)
            with filesystem.open_input_file(inner) as opened:
                counts.update(pq.read_table(opened, columns=["code"]).column("code").to_pylist())
    return dict(counts.most_common())


def _empty_tables(facts: RunFacts, files: Sequence[WrittenFile]) -> list[WrittenFile]:
    # A query over a table without files fails; over one without rows it says: no rows.
    present = {file.table for file in files}
    return [
        write_empty_file(
            facts.layout.staged_table(table),
            table,
            facts.schemas[table],
            facts.file_metadata if table == "scores" else {},
            facts.write,
        )
        for table in TABLES
        if table not in present
    ]


def _published_names(
    layout: RunLayout, files: Sequence[WrittenFile]
) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
    entries, moves = [], []
    for table in TABLES:
        staged = sorted((file for file in files if file.table == table), key=lambda file: file.path)
        for index, file in enumerate(staged):
            target = layout.part(table, index, len(staged))
            moves.append((file.path, target))
            entries.append(
                {
                    "table": table,
                    "path": target.removeprefix(layout.output.rstrip("/") + "/"),
                    "rows": file.rows,
                    "size_bytes": file.size_bytes,
                    "sha256": file.sha256,
                }
            )
    return entries, moves


def is_published(layout: RunLayout) -> bool:
    """Tell whether a run is published: its _SUCCESS exists."""
    return storage.stat(layout.success) is not None


def complete(layout: RunLayout) -> bool:
    """Carry a written plan out, from wherever it was interrupted; without one, do nothing.

    Returns:
        Whether there was a plan.
    """
    if storage.stat(layout.plan) is None:
        return False
    plan = _read_json(layout.plan, f"delete {layout.plan} to publish anew")
    if is_published(layout):
        if _same_run(layout, plan["manifest"]):
            # Killed between _SUCCESS and the end; another run may have been published since.
            if _is_newest(layout, plan["manifest"]):
                storage.write_bytes(layout.latest, _json(_pointer(layout, plan["manifest"])))
            _leave_staging(layout)
            return True
        storage.delete_file(layout.success)  # from here on the old run is not published, and the new one will be
    # Whoever follows latest.json without looking for _SUCCESS finds no manifest, not an old one of new files.
    storage.delete_file(layout.manifest)
    moves = [(source, target) for source, target in plan["moves"]]
    if storage.is_remote(layout.output):
        _replace_objects(layout, moves)
    else:
        _swap_folders(layout, moves)
    manifest = plan["manifest"]
    storage.write_bytes(layout.manifest, _json(manifest))
    storage.delete_file(layout.refused)
    storage.write_bytes(layout.success, b"")
    storage.write_bytes(layout.latest, _json(_pointer(layout, manifest)))
    _leave_staging(layout)
    return True


def _leave_staging(layout: RunLayout) -> None:
    # The plan goes last: whoever is killed before leaves it to the next one, and no file that nobody looks for.
    for name in (*TABLES, _READY, _REPLACED):
        storage.delete_folder(storage.join(layout.staging, name))
    storage.delete_file(layout.staged_identity)
    storage.delete_folder(layout.staging)


def _is_newest(layout: RunLayout, manifest: dict[str, Any]) -> bool:
    """Tell whether no run is pointed to that was published after this one."""
    if storage.stat(layout.latest) is None:
        return True
    pointer = _read_json(layout.latest, "delete it, and run again")
    return bool(pointer["published_at"] <= manifest["published_at"])


def _same_run(layout: RunLayout, manifest: dict[str, Any]) -> bool:
    return bool(_read_json(layout.manifest, "delete the run's _SUCCESS") == manifest)


def _pointer(layout: RunLayout, manifest: dict[str, Any]) -> dict[str, Any]:
    return {
        "run_id": layout.run_id,
        "published_at": manifest["published_at"],
        "manifest": f"runs/{layout.run_id}/manifest.json",
        **{table: f"{table}/run_id={layout.run_id}" for table in TABLES},
    }


def _replace_objects(layout: RunLayout, moves: list[tuple[str, str]]) -> None:
    # A store has no rename of folders: what is not in the new run goes first, so that two nights never lie mixed.
    targets = {target for _, target in moves}
    for table in TABLES:
        folder = layout.published_table(table)
        if storage.is_folder(folder):
            for file in storage.list_folder(folder):
                if file.path not in targets:
                    storage.delete_file(file.path)
    storage.move_files(moves)


def _swap_folders(layout: RunLayout, moves: list[tuple[str, str]]) -> None:
    """Give each table its final names out of sight, then exchange whole folders."""
    for table in TABLES:
        ready = storage.join(layout.staging, _READY, table)
        published = layout.published_table(table)
        mine = [(source, target) for source, target in moves if storage.parent(target) == published]
        if storage.stat(mine[0][0]) is None and not storage.is_folder(ready):
            continue  # exchanged before the kill
        storage.move_files([(s, storage.join(ready, t.rpartition("/")[2])) for s, t in mine])
        storage.exchange_folder(ready, published, storage.join(layout.staging, _REPLACED, table))


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
    manifest = _read_json(layout.manifest, "replace the run with --overwrite, or delete its _SUCCESS")
    message = f"run {layout.run_id} is published in {layout.output}"
    if overridden := manifest.get("limits_overridden"):
        message += f" in spite of its limits: {overridden['message']}"
    return Outcome(ExitCode.PUBLISHED, message, Ledger(**manifest["ledger"]), manifest["failures_by_code"])


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
    outcome = _read_json(layout.refused, "run again with the same --run-id")["outcome"]
    return Outcome(
        ExitCode(outcome["exit_code"]), outcome["message"], Ledger(**outcome["ledger"]), outcome["failures_by_code"]
    )


def read_manifest(layout: RunLayout, way_out: str) -> dict[str, Any]:
    """Read the manifest of a published run.

    Raises:
        ConfigError: It is missing or damaged; the message ends with the way out.
    """
    manifest = _read_json(layout.manifest, way_out)
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
    pointer = _read_json(layout.latest, way_out := "publish a run anew, or name a run by its id")
    if not isinstance(pointer, dict) or not isinstance(pointer.get("run_id"), str):
        raise ConfigError(f"{layout.latest} is damaged: it names no run; {way_out}")
    return str(pointer["run_id"])


def pending_manifest(layout: RunLayout) -> dict[str, Any] | None:
    """Return the manifest of a publishing that was interrupted; None where there is none.

    Raises:
        ConfigError: The plan is damaged.
    """
    if storage.stat(layout.plan) is None:
        return None
    return dict(_read_json(layout.plan, f"delete {layout.plan} to publish anew")["manifest"])


def _read_json(path: str, way_out: str) -> Any:
    try:
        return json.loads(storage.read_bytes(path))
    except (FileNotFoundError, ValueError) as error:
        what = "is missing" if isinstance(error, FileNotFoundError) else "is damaged"
        raise ConfigError(f"{path} {what}; {way_out}") from error


def _outcome_json(outcome: Outcome) -> dict[str, Any]:
    return {**outcome._asdict(), "exit_code": int(outcome.exit_code), "ledger": outcome.ledger._asdict()}


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
