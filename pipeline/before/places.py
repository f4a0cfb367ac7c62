"""What a run needs of its output, tried before the night: it leaves nothing behind."""

import contextlib
import os
import shutil
import uuid

from transforms import moving, storage
from transforms.claims import RunClaim
from transforms.errors import ConfigError
from transforms.layout import TABLES, RunLayout
from transforms.outcomes import is_published
from transforms.publishing_plan import check_places


def try_output(layout: RunLayout) -> str:
    """Write a file below runs/ of an output, read it again and delete it, with the folders that were made for it.

    Of an s3:// output without runs the folder itself stays, an object without a byte: Arrow makes it anew after each
    deletion (https://github.com/apache/arrow/issues/36275), and a run would, too.

    Returns:
        What was done, in one sentence.

    Raises:
        ConfigError: What is read is not what was written, a table's folder cannot be written, or the output lies on
            several disks.
        OSError: It cannot be written, read or deleted.
    """
    name, said = uuid.uuid4().hex, os.urandom(1024)
    probe = storage.join(layout.output, "runs", f"_preflight-{name}")
    missing = [] if storage.is_remote(probe) else _missing_folders(storage.parent(probe))
    try:
        storage.write_bytes(probe, said)
        found = storage.read_bytes(probe)
        moving.delete_file(probe)
    except BaseException:
        with contextlib.suppress(OSError):  # why it failed is told, not what cannot be cleared up after it
            moving.delete_file(probe)
        raise
    finally:
        for folder in missing:
            # One that another process has put something into meanwhile is its own now.
            with contextlib.suppress(OSError):
                os.rmdir(folder)
    if found != said:
        raise ConfigError(f"output {layout.output} gives other bytes back than were written; use another store")
    check_places(layout)
    for table in TABLES if not storage.is_remote(layout.output) else ():
        folder = storage.join(layout.output, table)
        if os.path.isdir(folder) and not os.access(folder, os.W_OK | os.X_OK):
            raise ConfigError(f"folder {folder} cannot be written by this user; change its owner or permissions")
    return f"{layout.output}: a file was written, read again and deleted"


def _missing_folders(folder: str) -> list[str]:
    """Return a local folder and those above it that do not exist, the innermost first."""
    missing = []
    while not os.path.lexists(folder):
        missing.append(folder)
        folder = os.path.dirname(folder)
    return missing


def describe_run_id(layout: RunLayout) -> tuple[bool, str]:
    """Tell whether a run id is free, and what of it is there.

    Raises:
        OSError: The storage does not answer.
    """
    with RunClaim(layout) as claim:
        worker = claim.worker()
    if worker is not None:
        return False, f"run {layout.run_id} is being worked on by {worker}; wait for it, or use another --run-id"
    if is_published(layout):
        return False, (
            f"run {layout.run_id} is already published: a run of that id does nothing, unless with --overwrite"
        )
    if storage.stat(layout.staged_identity) is not None:
        return True, f"run {layout.run_id} was begun before: a run of that id goes on with what it has scored"
    return True, f"run {layout.run_id} is free"


def free_bytes(layout: RunLayout) -> int | None:
    """Return the free bytes of the disk that an output is or will be on; None for a store."""
    if storage.is_remote(layout.output):
        return None
    place = layout.output
    while not os.path.exists(place):
        place = os.path.dirname(place)
    return shutil.disk_usage(place).free
