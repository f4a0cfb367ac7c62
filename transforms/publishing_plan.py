"""The plan of publishing: what is moved where, written down before the first step, checked before and after the moves.

A plan is carried out only where it can be: every file is where it was staged with its size, or where it goes with its
digest. Otherwise nothing is touched, for what is published may be replaced by something whole only. Its paths are
relative to the output, which may be moved, or be reached by another path, between two attempts.
"""

import json
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from transforms import moving, storage
from transforms.errors import ConfigError, ExitCode, RunError
from transforms.layout import ALL_TABLES, RunLayout, Table
from transforms.records import WrittenFile

_READY = "ready"
_REPLACED = "replaced"
FOLDERS = (_READY, _REPLACED)
"""What carrying a plan out keeps in the staging folder."""


class Move(NamedTuple):
    """One file of a plan."""

    source: str
    """Where it was staged; absolute, as all paths here."""
    ready: str
    """Where it waits for its folder to be exchanged; on a local disk only."""
    target: str
    """Its published name."""
    size_bytes: int
    """As the manifest says."""
    sha256: str
    """As the manifest says."""


class Plan(NamedTuple):
    """What publishing will do."""

    manifest: dict[str, Any]
    """The whole new manifest."""
    moves: tuple[Move, ...]
    """One a file of the manifest."""


def write_plan(layout: RunLayout, manifest: dict[str, Any], staged: Sequence[str]) -> None:
    """Write a plan down.

    Args:
        layout: The run.
        manifest: The new manifest.
        staged: Where the files of manifest["files"] lie now, in their order.
    """
    moves = [
        [_relative(layout, source), entry["path"]] for source, entry in zip(staged, manifest["files"], strict=True)
    ]
    # Without indentation, with which Python's encoder takes twenty times as long.
    text = json.dumps({"manifest": manifest, "moves": moves}, ensure_ascii=False)
    storage.write_bytes(layout.plan, f"{text}\n".encode())


def read_plan(layout: RunLayout) -> Plan | None:
    """Read a plan; None where there is none.

    Raises:
        ConfigError: It is damaged.
    """
    if storage.stat(layout.plan) is None:
        return None
    try:
        return _understand(layout, json.loads(storage.read_bytes(layout.plan)))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{layout.plan} is damaged; delete {layout.plan} to publish anew") from error


def _understand(layout: RunLayout, found: dict[str, Any]) -> Plan:
    manifest = dict(found["manifest"])
    entries = {str(entry["path"]): entry for entry in manifest["files"]}
    moves = tuple(_move(layout, str(source), entries.pop(str(target))) for source, target in found["moves"])
    if entries or not {"ledger", "failures_by_code", "published_at"} <= manifest.keys():
        raise ValueError("it does not say all that it must")
    return Plan(manifest, moves)


def _move(layout: RunLayout, source: str, entry: dict[str, Any]) -> Move:
    name = str(entry["path"]).rpartition("/")[2]
    return Move(
        storage.join(layout.output, source),
        storage.join(layout.staging, _READY, str(entry["table"]), name),
        storage.join(layout.output, str(entry["path"])),
        int(entry["size_bytes"]),
        str(entry["sha256"]),
    )


def _relative(layout: RunLayout, path: str) -> str:
    return path.removeprefix(storage.join(layout.output, ""))


def check_staged(layout: RunLayout, files: Sequence[WrittenFile], *, overwrite: bool = False) -> None:
    """See that what is to be published lies there, before a plan says so.

    Args:
        layout: The run.
        files: What is to be published.
        overwrite: Whether it replaces a published run.

    Raises:
        RunError: A file is gone or has another size.
    """
    lying = _sizes(layout.staged_table)
    wrong = next((file for file in files if lying.get(file.path) != file.size_bytes), None)
    if wrong is not None:
        raise RunError(
            ExitCode.INTERRUPTED,
            f"the staged file {wrong.path} is gone or has changed since it was written: nothing is published; see who "
            f"deletes there, and {layout.again(overwrite=overwrite)}: its images are scored again",
        )


def check_feasible(layout: RunLayout, plan: Plan) -> None:
    """See that a plan can be carried out to its end, before its first step.

    Raises:
        ConfigError: A file is not where it should be, or the tables lie on another disk.
    """
    lying = _sizes(layout.staged_table)
    # Only after a kill: a file of that name may be of the run that is replaced.
    moved = [move for move in plan.moves if lying.get(move.source) != move.size_bytes]
    found = zip(moved, storage.in_threads(_was_moved, moved), strict=True)
    wrong = next((move for move, there in found if not there), None)
    if wrong is not None:
        raise ConfigError(
            f"publishing run {layout.run_id} cannot be completed: {wrong.source} is gone or has changed, and is not at "
            f"{wrong.target} either; nothing was touched; delete {layout.plan} and run again with --run-id "
            f"{layout.run_id} to publish anew: what is still staged is not scored again"
        )
    check_places(layout)


def check_places(layout: RunLayout) -> None:
    """See that whole folders can be exchanged: on a local disk all of an output must lie on one.

    Raises:
        ConfigError: It does not.
    """
    if storage.is_remote(layout.output):
        return
    for table in ALL_TABLES:
        one, other = (_nearest(path) for path in (layout.staging, layout.published_table(table)))
        if os.stat(one).st_dev != os.stat(other).st_dev:
            raise ConfigError(
                f"{one} and {other} lie on different disks, and no folder can be moved from one to the other in one "
                f"step; put all of {layout.output} on one disk"
            )


def _nearest(path: str) -> str:
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return path


def carry_out(layout: RunLayout, plan: Plan) -> None:
    """Move the files of a plan to their published names, from wherever that was interrupted.

    Raises:
        ConfigError: What lies there in the end is not what the manifest says.
        OSError: The storage does not do it.
    """
    if storage.is_remote(layout.output):
        _replace_objects(layout, plan.moves)
    else:
        _swap_folders(layout, plan.moves)
    lying = _sizes(layout.published_table)
    wrong = next((move for move in plan.moves if lying.get(move.target) != move.size_bytes), None)
    if wrong is not None:
        raise ConfigError(
            f"run {layout.run_id} is not published: {wrong.target} is not what was staged; somebody else writes there; "
            f"delete {layout.plan} and run again with --run-id {layout.run_id} to publish anew"
        )


def _replace_objects(layout: RunLayout, moves: Sequence[Move]) -> None:
    # A store has no rename of folders: what is not in the new run goes first, so that two nights never lie mixed.
    targets = {move.target for move in moves}
    moving.delete_files(path for path in _sizes(layout.published_table) if path not in targets)
    # Copied, not moved: the staging folder goes as a whole, a thousand objects a request.
    moving.copy_files([(move.source, move.target) for move in moves])


def _swap_folders(layout: RunLayout, moves: Sequence[Move]) -> None:
    """Give each table its final names out of sight, then exchange whole folders."""
    lying = _sizes(layout.staged_table)
    for table in ALL_TABLES:
        ready = storage.join(layout.staging, _READY, table)
        published, replaced = layout.published_table(table), storage.join(layout.staging, _REPLACED, table)
        mine = [move for move in moves if storage.parent(move.ready) == ready]
        if storage.is_folder(ready) or any(move.source in lying for move in mine):
            moving.move_files([(move.source, move.ready) for move in mine])
            moving.exchange_folder(ready, published, replaced)
        elif not mine and storage.is_folder(published):
            # Of a challenger that the replaced run had, and the new one has not.
            moving.retire_folder(published, replaced)
        # Else it was exchanged before a kill: check_feasible has seen the files at their targets.


def _sizes(folder_of: Callable[[Table], str]) -> dict[str, int]:
    """Return path and bytes of every file in the folders of all tables: a thousand an answer, not one."""
    files = (file for table in ALL_TABLES for file in storage.list_folder(folder_of(table), missing_ok=True))
    return {file.path: file.size_bytes for file in files}


def _was_moved(move: Move) -> bool:
    return any(_has_digest(path, move) for path in (move.source, move.ready, move.target))


def _has_digest(path: str, move: Move) -> bool:
    found = storage.stat(path)
    return found is not None and found.size_bytes == move.size_bytes and storage.read_digest(path) == move.sha256
