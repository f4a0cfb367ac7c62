"""What an interrupted attempt of a run left behind, and which of it the next attempt may keep."""

import hashlib
import json
import logging
import socket
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from transforms import storage
from transforms.errors import ConfigError, ExitCode, RunError
from transforms.layout import TABLES, RunLayout
from transforms.memory import ByteBudget
from transforms.part_files import closed_digest, file_schema
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
    """Scores only: what failed is tried again, for its reason may be gone."""
    rows: int
    """Images that need not be scored again."""


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
    layout: RunLayout, identity: dict[str, Any], schema: pa.Schema, metadata: Mapping[str, str]
) -> Adopted:
    """Begin or continue a run: adopt the whole files that an earlier attempt has closed.

    A file is kept when its bytes have the digest with which it was closed, its schema and metadata are those of this
    run, and none of its images is in a file kept before; everything else in the staging folder goes when the run is
    published. Tables without an identity are nobody's, and go at once.

    Args:
        layout: The run.
        identity: What the rows are made with and from (fingerprints, inputs): JSON-like.
        schema: Of the scores table.
        metadata: Key-value metadata of every scores file.

    Raises:
        ConfigError: The earlier attempt was made with something else.
    """
    found = read_identity(layout)
    if found is None:
        # Before the identity, which would make them this run's.
        for table in TABLES:
            storage.delete_folder(layout.staged_table(table))
        storage.write_bytes(layout.staged_identity, json.dumps(identity, indent=2, sort_keys=True).encode())
        return Adopted((), 0)
    if found != identity:
        different = sorted(key for key in {*found, *identity} if found.get(key) != identity.get(key))
        raise ConfigError(
            f"run {layout.run_id} was begun with other {', '.join(different)}: one run never mixes two; give what it "
            f"was begun with, another --run-id, or delete {layout.staging} to start it anew"
        )
    return _adopt(layout.staged_table("scores"), file_schema(schema, metadata))


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


class _Examined(NamedTuple):
    """A closed file of an earlier attempt."""

    file: WrittenFile | None
    """None where it is not adopted."""
    hashes: npt.NDArray[np.int64]
    """Of the paths of its images; 64 bits: a collision only means that a file is scored again."""
    warning: str | None
    """Why it is not adopted."""


def _adopt(folder: str, schema: pa.Schema) -> Adopted:
    closed = [file for file in storage.list_folder(folder, missing_ok=True) if file.path.endswith(".parquet")]
    budget = ByteBudget(_BYTES_AT_A_TIME)
    whole = []
    for found in storage.in_threads(lambda file: _examine(file, schema, budget), closed):
        if found.warning is not None:
            _LOG.warning("%s", found.warning)
        if found.file is not None:
            whole.append((found.file, found.hashes))
    # Of a hundred million paths, sets would be ten gigabytes: only what is there twice is held in one.
    hashes = np.sort(np.concatenate([hashes for _, hashes in whole])) if whole else np.empty(0, np.int64)
    twice = np.unique(hashes[1:][hashes[1:] == hashes[:-1]])
    files: list[WrittenFile] = []
    seen: set[int] = set()
    for file, paths in whole:
        doubtful = paths[np.isin(paths, twice)].tolist() if len(twice) else []
        if len(set(doubtful)) != len(doubtful) or not seen.isdisjoint(doubtful):
            continue
        seen.update(doubtful)
        files.append(file)
    return Adopted(tuple(files), sum(file.rows for file in files))


def _examine(file: storage.FileStat, schema: pa.Schema, budget: ByteBudget) -> _Examined:
    nothing = np.empty(0, np.int64)
    budget.acquire(file.size_bytes)
    try:
        data = storage.read_bytes(file.path)
        digest = _check_digest(file.path, data)
        paths = _checked_paths(data, schema)
    except _Foreign as error:
        return _Examined(None, nothing, f"staged file {file.path} is not adopted: {error}")
    except _DAMAGE as error:
        # A power failure can leave a name without its bytes. It goes with the staging folder; its images are scored
        # again.
        reason = str(error).split("\n")[0]
        return _Examined(None, nothing, f"staged file {file.path} is damaged and not adopted: {reason}")
    finally:
        budget.release(file.size_bytes)
    hashes = np.fromiter(map(hash, paths), np.int64, len(paths))
    return _Examined(WrittenFile("scores", file.path, len(paths), len(data), digest), hashes, None)


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
