"""What an interrupted attempt of a run left behind, and which of it the next attempt may keep."""

import hashlib
import json
import logging
from collections.abc import Iterator
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from transforms import storage
from transforms.errors import ConfigError
from transforms.layout import RunLayout, Table
from transforms.records import WrittenFile

_LOG = logging.getLogger(__name__)
_PATH_COLUMN = "image_path"


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


def claim_staging(layout: RunLayout, identity: dict[str, Any]) -> Adopted:
    """Begin or continue a run: adopt the whole files that an earlier attempt has closed.

    A file is kept when its footer and pages are whole and none of its images is in a file kept before; everything else
    in the staging folder is never read and goes when the run is published.

    Args:
        layout: The run.
        identity: What the rows are made with and from (fingerprints, inputs): JSON-like.

    Raises:
        ConfigError: The earlier attempt was made with something else.
    """
    found = read_identity(layout)
    if found is None:
        storage.write_bytes(layout.staged_identity, json.dumps(identity, indent=2, sort_keys=True).encode())
        return Adopted((), 0)
    if found != identity:
        different = sorted(key for key in {*found, *identity} if found.get(key) != identity.get(key))
        raise ConfigError(
            f"run {layout.run_id} was begun with other {', '.join(different)}: one run never mixes two; give what it "
            f"was begun with, another --run-id, or delete {layout.staging} to start it anew"
        )
    return _adopt(layout, "scores")


def _adopt(layout: RunLayout, table: Table) -> Adopted:
    files: list[WrittenFile] = []
    # 64-bit hashes: a collision only means that a file is scored again.
    seen: set[int] = set()
    folder = layout.staged_table(table)
    closed = list(storage.list_folder(folder)) if storage.is_folder(folder) else []
    for file in closed:
        if not file.path.endswith(".parquet"):
            continue
        try:
            data = storage.read_bytes(file.path)
            hashes = [hash(path) for path in _checked_paths(data)]
        except (pa.ArrowException, OSError) as error:
            # A power failure can leave a name without its bytes. It goes with the staging folder; its images are
            # scored again.
            _LOG.warning("staged file %s is damaged and not adopted: %s", file.path, str(error).split("\n")[0])
            continue
        paths = set(hashes)
        if seen & paths or len(paths) != len(hashes):
            continue
        seen |= paths
        files.append(WrittenFile(table, file.path, len(paths), len(data), hashlib.sha256(data).hexdigest()))
    return Adopted(tuple(files), len(seen))


def _checked_paths(data: bytes) -> list[str]:
    """Return the image paths of a Parquet file whose every page has the checksum that it was written with.

    Raises:
        OSError: It is damaged.
    """
    file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
    return [path for batch in file.iter_batches() for path in batch.column(_PATH_COLUMN).to_pylist()]


def read_image_paths(path: str) -> Iterator[str]:
    """Yield the image paths of one Parquet file, reading no other column."""
    filesystem, inner = storage.filesystem(path)
    with filesystem.open_input_file(inner) as file:
        for batch in pq.ParquetFile(file).iter_batches(columns=[_PATH_COLUMN]):
            yield from batch.column(0).to_pylist()
