"""The files that commands write where they are told to."""

from transforms.errors import ConfigError


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
