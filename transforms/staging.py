"""What an interrupted attempt of a run left behind, and which of it the next attempt may keep."""

import hashlib
import json
import logging
import socket
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from transforms import moving, storage
from transforms.errors import ConfigError, ExitCode, RunError
from transforms.layout import ALL_TABLES, RunLayout, Table
from transforms.memory import ByteBudget
from transforms.part_files import closed_digest, file_schema, group_of
from transforms.records import WrittenFile

_LOG = logging.getLogger(__name__)
_PATH_COLUMN = "image_path"
# Files that are looked at side by side: four of the largest, or any number of small ones.
_BYTES_AT_A_TIME = 1024**3
# What Arrow raises of bytes that are no Parquet file, or a damaged one: names and numbers that make no sense, too.
_DAMAGE = (pa.ArrowException, OSError, KeyError, ValueError)


class Adopted(NamedTuple):
    """Closed files of an earlier attempt that count for this one."""

    files: tuple[WrittenFile, ...]
    """Of scores, and with a challenger of its two tables; what failed is tried again, for its reason may be gone."""
    rows: int
    """Images that need not be scored again."""

    @property
    def scores(self) -> list[str]:
        """The files of the scores table."""
        return [file.path for file in self.files if file.table == "scores"]


class StagedTable(NamedTuple):
    """What the staged files of a table must be like."""

    table: Table
    """Its name."""
    schema: pa.Schema
    """Of its rows."""
    metadata: Mapping[str, str]
    """Key-value metadata of every file."""


def read_identity(layout: RunLayout) -> dict[str, Any] | None:
    """Return what a run was begun with; None where it was not begun, or is published.

    Raises:
        ConfigError: What it says of itself is damaged.
    """
    try:
        return dict(json.loads(storage.read_bytes(layout.staged_identity)))
    except FileNotFoundError:
        return None
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{layout.staged_identity} is damaged: nobody can tell what the staged files were made with; "
            f"delete {layout.staging} to start run {layout.run_id} anew"
        ) from error


class _Foreign(Exception):  # noqa: N818  not an error of the run: the reason why a file is not adopted
    """A staged file is whole, but nothing shows that this run has written it."""


def claim_staging(
    layout: RunLayout,
    identity: dict[str, Any],
    schema: pa.Schema,
    metadata: Mapping[str, str],
    challenger: Sequence[StagedTable] = (),
) -> Adopted:
    """Begin or continue a run: adopt the whole files that an earlier attempt has closed.

    A file is kept when its bytes have the digest with which it was closed, its schema and metadata are those of this
    run, and none of its images is in a file kept before; with a challenger, when the files that were closed with it
    hold its images, each once. Everything else in the staging folder goes when the run is published. Tables without an
    identity are nobody's, and go at once.

    Args:
        layout: The run.
        identity: What the rows are made with and from (fingerprints, inputs): JSON-like.
        schema: Of the scores table.
        metadata: Key-value metadata of every scores file.
        challenger: Its tables, in a run that has one.

    Raises:
        ConfigError: The earlier attempt was made with something else.
    """
    found = read_identity(layout)
    if found is None:
        # Before the identity, which would make them this run's.
        for table in ALL_TABLES:
            moving.delete_folder(layout.staged_table(table))
        storage.write_bytes(layout.staged_identity, json.dumps(identity, indent=2, sort_keys=True).encode())
        return Adopted((), 0)
    if found != identity:
        different = sorted(key for key in {*found, *identity} if found.get(key) != identity.get(key))
        raise ConfigError(
            f"run {layout.run_id} was begun with other {', '.join(different)}: one run never mixes two; give what it "
            f"was begun with, another --run-id, or delete {layout.staging} to start it anew"
        )
    scores = _whole_files(layout, StagedTable("scores", schema, metadata))
    if challenger:
        scores = _in_whole_groups(scores, [file for table in challenger for file in _whole_files(layout, table)])
    return _adopt(scores)


def check_begun(layout: RunLayout) -> None:
    """See on a worker that its output is the one in which the launcher has begun the run.

    A path like /mnt/out exists on every machine, and is one folder only where a disk is shared: a worker with a folder
    of its own would score a night for nobody.

    Raises:
        RunError: It is not.
    """
    # A runner may work on after publishing, when the staging folder has gone: it repeats what it is not sure of.
    if not any(storage.stat(path) for path in (layout.staged_identity, layout.success, layout.refused, layout.plan)):
        raise RunError(
            ExitCode.WRONG_INPUT,
            f"worker {socket.gethostname()} does not find in {layout.output} what the launcher has begun run "
            f"{layout.run_id} with: the output must be one place for the launcher and all workers; give a bucket, or "
            "a folder on a disk that all of them have mounted",
        )


class _Whole(NamedTuple):
    """Staged files that were closed together: one, or one of each table."""

    files: tuple[WrittenFile, ...]
    """Those of scores first."""
    hashes: npt.NDArray[np.int64]
    """Of the paths of the first; 64 bits: a collision only means that a file is scored again."""


def _whole_files(layout: RunLayout, table: StagedTable) -> list[_Whole]:
    folder = layout.staged_table(table.table)
    closed = [file for file in storage.list_folder(folder, missing_ok=True) if file.path.endswith(".parquet")]
    budget, schema = ByteBudget(_BYTES_AT_A_TIME), file_schema(table.schema, table.metadata)
    whole = []
    for found in storage.in_threads(lambda file: _examine(file, table.table, schema, budget), closed):
        if isinstance(found, str):
            _LOG.warning("%s", found)
        else:
            whole.append(found)
    return whole


def _examine(file: storage.FileStat, table: Table, schema: pa.Schema, budget: ByteBudget) -> _Whole | str:
    """Return a closed file of an earlier attempt, or why it is not adopted."""
    budget.acquire(file.size_bytes)
    try:
        data = storage.read_bytes(file.path)
        digest = _check_digest(file.path, data)
        paths = _checked_paths(data, schema)
    except _Foreign as error:
        return f"staged file {file.path} is not adopted: {error}"
    except _DAMAGE as error:
        # A power failure can leave a name without its bytes. It goes with the staging folder; its images are scored
        # again.
        reason = str(error).split("\n")[0]
        return f"staged file {file.path} is damaged and not adopted: {reason}"
    finally:
        budget.release(file.size_bytes)
    hashes = np.fromiter(map(hash, paths), np.int64, len(paths))
    return _Whole((WrittenFile(table, file.path, len(paths), len(data), digest),), hashes)


def _in_whole_groups(scores: Sequence[_Whole], rivals: Sequence[_Whole]) -> list[_Whole]:
    """Join the files that were closed together; leave out those whose images are not in both models' tables.

    A crash between two files of a group leaves one without the other. No mark is needed to see that: the images of
    scores are those of the challenger's two tables, each once.
    """
    closed_with: dict[str, list[_Whole]] = {}
    for rival in rivals:
        closed_with.setdefault(group_of(rival.files[0].path), []).append(rival)
    groups = []
    for one in scores:
        file = one.files[0]
        others = closed_with.pop(group_of(file.path), [])
        theirs = np.concatenate([other.hashes for other in others] or [np.empty(0, np.int64)])
        if not np.array_equal(np.sort(theirs), np.sort(one.hashes)):
            _LOG.warning(
                "staged file %s is not adopted: it has %d images, the challenger's files that were closed with it "
                "account for %d", file.path, len(one.hashes), len(np.intersect1d(theirs, one.hashes)),
            )  # fmt: skip
            continue
        groups.append(_Whole((file, *(file for other in others for file in other.files)), one.hashes))
    for file in (other.files[0] for others in closed_with.values() for other in others):
        _LOG.warning("staged file %s is not adopted: the scores that were closed with it are missing", file.path)
    return groups


def _adopt(closed: Sequence[_Whole]) -> Adopted:
    # Of a hundred million paths, sets would be ten gigabytes: only what is there twice is held in one.
    hashes = np.sort(np.concatenate([one.hashes for one in closed])) if closed else np.empty(0, np.int64)
    twice = np.unique(hashes[1:][hashes[1:] == hashes[:-1]])
    files: list[WrittenFile] = []
    rows = 0
    seen: set[int] = set()
    for one in closed:
        doubtful = one.hashes[np.isin(one.hashes, twice)].tolist() if len(twice) else []
        if len(set(doubtful)) != len(doubtful) or not seen.isdisjoint(doubtful):
            continue
        seen.update(doubtful)
        files += one.files
        rows += len(one.hashes)
    return Adopted(tuple(files), rows)


def _check_digest(path: str, data: bytes) -> str:
    """Return the digest of a staged file's bytes, which is the one that it was closed with.

    Checksums of pages would not do: they cover neither the pages' headers nor the footer, and one flipped bit there
    gives other values under the right checksum.

    Raises:
        _Foreign: Nobody says what its digest was.
        OSError: It is damaged.
    """
    closed = closed_digest(path)
    if closed is None:
        raise _Foreign("nothing says the SHA-256 that it was closed with")
    found = hashlib.sha256(data).hexdigest()
    if found != closed:
        raise OSError(f"its bytes have the SHA-256 {found}, it was closed with {closed}")
    return found


def _checked_paths(data: bytes, schema: pa.Schema) -> list[str]:
    """Return the image paths of a Parquet file that can be read whole and has the schema and metadata of this run.

    Raises:
        _Foreign: It has others.
        OSError: It is damaged.
    """
    file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
    found = file.schema_arrow
    if not found.equals(schema):
        theirs, ours = list(found), list(schema)
        different = {field.name for field in theirs if field not in ours}
        different |= {field.name for field in ours if field not in theirs}
        raise _Foreign(f"its columns are not those of this run: {', '.join(sorted(different)) or 'their order'}")
    said, expected = found.metadata or {}, schema.metadata or {}
    if said != expected:
        other = sorted(key.decode() for key in {*said, *expected} if said.get(key) != expected.get(key))
        raise _Foreign(f"it was made with other {', '.join(other)}")
    return [path for batch in file.iter_batches() for path in batch.column(_PATH_COLUMN).to_pylist()]


def read_image_paths(path: str) -> Iterator[str]:
    """Yield the image paths of one Parquet file, reading no other column."""
    filesystem, inner = storage.filesystem(path)
    with filesystem.open_input_file(inner) as file:
        for batch in pq.ParquetFile(file).iter_batches(columns=[_PATH_COLUMN]):
            yield from batch.column(0).to_pylist()
