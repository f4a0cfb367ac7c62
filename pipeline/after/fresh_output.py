"""Write a local file or folder whole or not at all: beside its place, and then in one step into it."""

import contextlib
import os
import shutil
import uuid
from collections.abc import Collection, Iterator

from transforms import storage
from transforms.errors import ConfigError
from transforms.layout import ALL_TABLES, RunLayout


def place_of(out: str, layout: RunLayout) -> str:
    """Return the absolute path that an export may be written to.

    Args:
        out: As the user named it.
        layout: The run that is exported: its own files stay alone.

    Raises:
        ConfigError: It is no local path, or lies among the files of the runs.
    """
    path = storage.absolute(out)
    if storage.is_remote(path):
        raise ConfigError(f"--out must be a local path, got {out}; write it locally and copy it with the store's tool")
    path = os.path.normpath(path)
    for folder in (layout.latest, *(storage.join(layout.output, name) for name in (*ALL_TABLES, "runs"))):
        if path == folder or path.startswith(folder + "/"):
            raise ConfigError(f"--out {out} lies among the files of the runs, at {folder}; give a place outside of it")
    return path


def check_place(path: str, known: Collection[str] | None, *, overwrite: bool) -> None:
    """Refuse a place that is taken.

    Args:
        path: Absolute.
        known: Names of the files that a folder to be written may hold; None for a file.
        overwrite: Whether the user allows to replace what is there.

    Raises:
        ConfigError: Something is there, and it may not be replaced.
    """
    if not os.path.lexists(path):
        return
    if not overwrite:
        raise ConfigError(f"--out {path} exists; give another path, or --overwrite to replace it")
    if known is None:
        if not os.path.isfile(path):
            raise ConfigError(f"--out {path} is no file, and a file is to be written; give another path")
        return
    if os.path.islink(path) or not os.path.isdir(path):
        raise ConfigError(f"--out {path} is no folder, and a folder is to be written; give another path")
    foreign = sorted(set(os.listdir(path)) - set(known))
    if foreign:
        raise ConfigError(
            f"--out {path} holds {foreign[0]}, which no export of this kind writes: it is not replaced; give another "
            "path"
        )


@contextlib.contextmanager
def fresh_output(path: str, known: Collection[str] | None, *, overwrite: bool) -> Iterator[str]:
    """Give a temporary path to write to; without an error it takes the place of `path`, else it is deleted.

    Args:
        path: From place_of.
        known: Names of the files of the folder that is given; None to be given a file that does not exist yet.
        overwrite: Replace what is there.

    Raises:
        ConfigError: The place is taken, or cannot be written to.
    """
    check_place(path, known, overwrite=overwrite)
    temporary = f"{path}.{uuid.uuid4().hex}.tmp"
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if known is not None:
            os.mkdir(temporary)
        yield temporary
        # Again: it has taken a while.
        check_place(path, known, overwrite=overwrite)
        if known is not None and os.path.isdir(path):
            old = f"{temporary}.old"
            os.rename(path, old)
            os.rename(temporary, path)
            shutil.rmtree(old)
        else:
            os.replace(temporary, path)
    except OSError as error:
        # What the run's own files raise on the way is an InputError already.
        raise ConfigError(
            f"--out {path} cannot be written: {error}; free space or mend the permissions there, or give another path"
        ) from error
    finally:
        _discard(temporary)


def _discard(path: str) -> None:
    if os.path.isdir(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)
