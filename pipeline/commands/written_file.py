"""The files that commands write where they are told to."""

import os

from transforms.errors import ConfigError


def check_file(file: str | None) -> None:
    """Refuse a local place that cannot be written, before the work whose result is meant for it.

    Of a URL only writing tells: nothing is left in a store by commands that may fail yet.

    Raises:
        ConfigError: It is a folder, lies below a file, or this user may not write there.
    """
    from transforms import storage

    path = storage.absolute(file) if file else ""
    if not path or storage.is_remote(path):
        return
    if os.path.isdir(path):
        raise ConfigError(f"{file} is a folder; give a file in it")
    folder = os.path.dirname(path)
    while not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    if not os.path.isdir(folder):
        raise ConfigError(f"{file} cannot be written: {folder} is no folder; give another place")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"{file} cannot be written: {folder} is not this user's to write to; give another place")


def write_file(file: str, text: str) -> None:
    """Write a text to a path or URL.

    Raises:
        ConfigError: It cannot be written.
    """
    from transforms import storage

    try:
        storage.write_bytes(storage.absolute(file), text.encode())
    except OSError as error:
        raise ConfigError(
            f"{file} cannot be written: {error}; give a path or URL that this process may write"
        ) from error
