"""What attempts that did not come to their end have left in a folder of runs, and how it is deleted.

Nothing that is published is touched, and nothing that may be at work: what is younger than a limit is passed over,
and so is a run that somebody has claimed, whatever its age. A run is claimed while what is left of it is looked at
again and deleted. Where publishing was interrupted, running again completes it: such staging goes only when that is
asked for. A table goes only where nothing says that it was ever published. Only files that bear our names go, and a
folder only when it is empty then: whatever else somebody keeps there stays.
"""

import contextlib
import json
import logging
import os
import re
import time
from collections.abc import Iterator, Sequence
from errno import EEXIST, ENOTEMPTY
from typing import Any, NamedTuple

from transforms import moving, storage
from transforms.claims import RunClaim
from transforms.errors import ConfigError
from transforms.layout import ALL_TABLES, TABLES, RunLayout, absolute_folder, is_run_id
from transforms.storage import FileStat

_LOG = logging.getLogger(__name__)
# As storage.write_bytes names a file until it is whole.
_TEMPORARY = re.compile(
    r"(?:latest\.json|manifest\.json|refused\.json|(?:refused_)?report\.(?:json|html)|_SUCCESS)\.[0-9a-f]{32}\.tmp"
)
_PART = re.compile(r"part-[0-9]{5,}-of-[0-9]{5,}\.parquet")
_PARTITION = "run_id="
_AGE = re.compile(r"([0-9]+(?:\.[0-9]+)?)([smhd])")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Leftover(NamedTuple):
    """What one attempt has left."""

    name: str
    """The run's id, or the name of a file that belongs to none."""
    why: str
    """Why nobody will miss it, or why it stays."""
    lost: str | None
    """What goes with it that running again could still use; None for nothing."""
    planned: bool
    """Publishing was interrupted: running again would complete it."""
    stays: bool
    """Never deleted: it holds what is left of a run that was published, or latest.json points to it."""
    files: tuple[str, ...]
    """What goes first, in this order."""
    folders: tuple[str, ...]
    """What goes whole, after the files."""
    hollow: tuple[str, ...]
    """What goes last, where nothing is left in it."""
    file_count: int
    """All of them, those in its folders too."""
    size_bytes: int
    """Their bytes."""
    newest_ns: int
    """When the newest of them, or of its run's other files, was written; nanoseconds since the epoch."""

    @property
    def of_run(self) -> bool:
        """Whether it is a run's, which is claimed before it is touched."""
        return bool(self.hollow)


class Survey(NamedTuple):
    """What there is, old enough to be deleted or not."""

    old: tuple[Leftover, ...]
    """Abandoned."""
    young: tuple[Leftover, ...]
    """Possibly at work."""
    busy: tuple[tuple[Leftover, str], ...] = ()
    """At work, whatever their age, each with who works on it."""


def parse_age(text: str) -> float:
    """Return the seconds that a text means.

    Raises:
        ConfigError: It is no age.

    >>> parse_age("24h")
    86400.0
    """
    found = _AGE.fullmatch(text.strip())
    if found is None:
        raise ConfigError(f"--older-than must be a number with s, m, h or d, got {text!r}; 24h for example")
    return float(found[1]) * _SECONDS[found[2]]


def find_leftovers(output: str, older_than: float, now: float) -> Survey:
    """Find what attempts have left.

    Args:
        output: The folder or URL that holds all runs.
        older_than: Seconds; whose newest file is younger is possibly at work.
        now: Seconds since the epoch.

    Raises:
        ConfigError: It is no folder of runs, or the storage does not list it.
    """
    place = absolute_folder(output)
    try:
        if not any(storage.is_folder(storage.join(place, name)) for name in ("runs", *ALL_TABLES)):
            raise ConfigError(f"output {output} holds no runs: there is neither runs nor {' nor '.join(TABLES)} in it")
        found = [(leftover, _worker(place, leftover)) for leftover in (*_of_runs(place), *_of_output(place))]
    except OSError as error:
        raise ConfigError(f"output {output} cannot be listed: {error}") from error
    limit = int((now - older_than) * 1e9)
    free = [leftover for leftover, who in found if who is None]
    return Survey(
        tuple(leftover for leftover in free if leftover.newest_ns < limit),
        tuple(leftover for leftover in free if leftover.newest_ns >= limit),
        tuple((leftover, who) for leftover, who in found if who is not None),
    )


def _worker(output: str, leftover: Leftover) -> str | None:
    if not leftover.of_run:
        return None
    with RunClaim(RunLayout(output, leftover.name)) as claim:
        return claim.worker()


def delete_leftover(output: str, leftover: Leftover) -> bool:
    """Delete what is left of one attempt; nothing, and return False, where it is not as it was found.

    Raises:
        TakenError: Somebody works on the run; nothing is deleted.
        ConfigError: The storage does not delete it.
    """
    place = absolute_folder(output)
    try:
        with contextlib.ExitStack() as until_deleted:
            if leftover.of_run:
                layout = RunLayout(place, leftover.name)
                until_deleted.enter_context(RunClaim(layout)).take()
                now_there = _of_run(layout)
            else:
                now_there = next((found for found in _of_output(place) if found.name == leftover.name), None)
            as_found = not leftover.stays and now_there is not None and _same(leftover, now_there)
            if as_found:
                for file in leftover.files:
                    moving.delete_file(file)
                for folder in leftover.folders:
                    moving.delete_folder(folder)
        # After the claim, which lies in one of them; where it was all there is, it does not stay behind.
        for folder in leftover.hollow:
            _delete_empty(folder)
    except OSError as error:
        raise ConfigError(f"{leftover.name} in {output} cannot be deleted: {error}") from error
    return as_found


def _same(found: Leftover, now: Leftover) -> bool:
    # Without files its age is that of a folder, which a claim in it makes young.
    return found == (now if found.file_count else now._replace(newest_ns=found.newest_ns))


def _delete_empty(folder: str) -> None:
    if storage.is_remote(folder):
        # Who claims the run at this moment finds its claim gone, and writes it again.
        if storage.is_folder(folder) and not any(storage.list_folder(folder)):
            moving.delete_folder(folder)
        return
    try:
        os.rmdir(folder)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno not in (ENOTEMPTY, EEXIST):
            raise


def _of_runs(output: str) -> Iterator[Leftover]:
    names = set(_folders(storage.join(output, "runs")))
    for table in ALL_TABLES:
        parts = _folders(storage.join(output, table))
        names |= {name.removeprefix(_PARTITION) for name in parts if name.startswith(_PARTITION)}
    # What is called otherwise is not ours; "" and ".." would even lead to other folders.
    for name in sorted(filter(is_run_id, names)):
        leftover = _of_run(RunLayout(output, name))
        if leftover is not None:
            yield leftover


def _of_output(output: str) -> Iterator[Leftover]:
    for file in storage.list_folder(output, recursive=False):
        if _is_temporary(file):
            yield _leftover(
                name=file.path.rpartition("/")[2],
                why="a write that did not come to its end",
                lost=None,
                planned=False,
                stays=False,
                files=(file.path,),
                folders=(),
                hollow=(),
                doomed=(file,),
                newest=_newest((file,), output),
            )


def _of_run(layout: RunLayout) -> Leftover | None:
    here = [file for file in _files(layout.run_folder) if not _is_claim(layout, file)]
    found = {file.path for file in here}
    plan = _read(layout.plan).get("manifest", {}) if layout.plan in found else None
    manifest = _read(layout.manifest) if layout.manifest in found else None
    if layout.success in found:
        return _beside_published(layout, here, plan, manifest)
    staged = _below(here, layout.staging)
    loose = [*_loose(layout, here), *(file for file in here if file.path in layout.reports)]
    places = map(layout.published_table, ALL_TABLES)
    tables = {folder: _files(folder) for folder in places if storage.is_folder(folder)}
    parts = [file for files in tables.values() for file in files if _is_part(file)]
    folders = [layout.staging] if storage.is_folder(layout.staging) else []
    hollow = [folder for folder, files in tables.items() if not files]
    if not here and storage.is_folder(layout.run_folder):
        hollow.append(layout.run_folder)
    if not (folders or loose or manifest is not None or parts or hollow):
        return None  # there is none, or somebody keeps other things there
    files = [*here, *(file for files in tables.values() for file in files)]
    again = f"run again with --run-id {layout.run_id}"
    half_replaced = manifest is not None and manifest != plan
    pointed_to = layout.run_id == _read(layout.latest).get("run_id") if storage.stat(layout.latest) else False
    if half_replaced and plan is not None:
        why = f"its replacement by another run of that id was interrupted half-way; {again} to complete it"
    elif half_replaced:
        why = "it has a manifest and no _SUCCESS, as if someone had taken it back; delete it by hand"
    elif plan is not None:
        why = f"publishing it was interrupted; {again} to complete it"
    elif pointed_to:
        why = "latest.json points to it; publish another run, or delete both by hand"
    elif layout.refused in found:
        why = "it was refused, and nobody has mended the cause and run it again"
    elif folders or loose or not tables:
        why = "the attempt did not come to its end"
    else:
        why = "tables of a run that has neither manifest nor staged files"
    return _leftover(
        name=layout.run_id,
        why=why,
        lost=_lost(layout, here, plan),
        planned=plan is not None,
        stays=half_replaced or pointed_to,
        # The manifest before the plan, the plan before the files that it moves: wherever that is interrupted, nobody
        # takes what is half deleted for a run that was published, or for one to complete.
        files=[
            *([layout.manifest] if manifest is not None else []),
            *([layout.plan] if plan is not None else []),
            *(file.path for file in (*parts, *loose)),
        ],
        folders=folders,
        hollow=[*tables, layout.claims, layout.run_folder],
        doomed=[*staged, *loose, *parts, *(file for file in here if file.path == layout.manifest)],
        newest=_newest(files, [*hollow, layout.run_folder][0]),
    )


def _beside_published(
    layout: RunLayout, here: Sequence[FileStat], plan: dict[str, Any] | None, manifest: dict[str, Any] | None
) -> Leftover | None:
    staged = _below(here, layout.staging)
    loose = _loose(layout, here)
    folders = [layout.staging] if storage.is_folder(layout.staging) else []
    if not folders and not loose:
        return None
    planned = plan is not None and plan != manifest
    if planned:
        why = f"a run to replace it is ready; run again with --run-id {layout.run_id} and --overwrite to publish it"
    elif plan is not None:
        why = "it is published, and clearing up after that was interrupted"
    elif any(file.path in layout.refusal for file in loose):
        why = "it is published, and an attempt to replace it was refused"
    elif folders:
        why = "it is published, and an attempt to replace it did not come to its end"
    else:
        why = "it is published, and a write beside it did not come to its end"
    return _leftover(
        name=layout.run_id,
        why=why,
        lost=None if plan is not None and not planned else _lost(layout, here, plan),
        planned=planned,
        stays=False,
        files=[*([layout.plan] if plan is not None else []), *(file.path for file in loose)],
        folders=folders,
        hollow=[layout.claims],
        doomed=[*staged, *loose],
        newest=_newest(here, layout.run_folder),
    )


def _lost(layout: RunLayout, here: Sequence[FileStat], plan: dict[str, Any] | None) -> str | None:
    if plan is not None:
        ledger = plan.get("ledger", {})
        return (
            f"{ledger.get('scored', '?')} scored and {ledger.get('failed', '?')} failed images, ready to be published"
        )
    closed = sum(file.path.endswith(".parquet") for file in _below(here, layout.staged_table("scores")))
    return f"{closed} files of scored images, which running again would keep" if closed else None


def _leftover(
    *,
    files: Sequence[str],
    folders: Sequence[str],
    hollow: Sequence[str],
    doomed: Sequence[FileStat],
    newest: int,
    **said: Any,
) -> Leftover:
    return Leftover(
        files=tuple(files),
        folders=tuple(folders),
        hollow=tuple(hollow),
        file_count=len(doomed),
        size_bytes=sum(file.size_bytes for file in doomed),
        newest_ns=newest,
        **said,
    )


def _newest(files: Sequence[FileStat], folder: str) -> int:
    """Return when the newest of some files was written; without any, when their folder was; unknown counts as now."""
    times = [int(file.version.partition("-")[0]) for file in files]
    if not times:
        filesystem, inner = storage.filesystem(folder)
        times = [filesystem.get_file_info(inner).mtime_ns or 0]
    return max(times) if all(times) else time.time_ns()


def _below(files: Sequence[FileStat], folder: str) -> list[FileStat]:
    return [file for file in files if file.path.startswith(storage.join(folder, ""))]


def _files(folder: str) -> list[FileStat]:
    return sorted(storage.list_folder(folder, missing_ok=True))


def _folders(folder: str) -> list[str]:
    """Return the names of the folders in a folder; one that no table can hold is nobody's run, and is told."""
    if storage.is_remote(folder):
        # By all files below: of GCS, Arrow lists no folders.
        start = len(storage.join(folder, ""))
        below = (file.path[start:].partition("/") for file in storage.list_folder(folder, missing_ok=True))
        return sorted({name for name, slash, _ in below if slash})
    names = []
    # Not through pyarrow: it cannot list names that are not UTF-8.
    for entry in os.scandir(folder) if storage.is_folder(folder) else ():
        if entry.is_dir():
            try:
                entry.name.encode()
            except UnicodeEncodeError:
                _LOG.warning(
                    "%s holds a folder that is passed over: its name %a is not valid UTF-8", folder, entry.name
                )
                continue
            names.append(entry.name)
    return names


def _loose(layout: RunLayout, here: Sequence[FileStat]) -> list[FileStat]:
    """Return what lies beside the staging folder and is worth nothing: refusals, and writes that broke off."""
    mine = [file for file in here if storage.parent(file.path) == layout.run_folder]
    return [file for file in mine if file.path in layout.refusal or _is_temporary(file)]


def _is_temporary(file: FileStat) -> bool:
    return _TEMPORARY.fullmatch(file.path.rpartition("/")[2]) is not None


def _is_part(file: FileStat) -> bool:
    return _PART.fullmatch(file.path.rpartition("/")[2]) is not None


def _is_claim(layout: RunLayout, file: FileStat) -> bool:
    return file.path == layout.lock or storage.parent(file.path) == layout.claims


def _read(path: str) -> dict[str, Any]:
    """Return what a JSON file holds; nothing where it is damaged: it is like no other then, and nobody can use it."""
    try:
        content = json.loads(storage.read_bytes(path))
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
