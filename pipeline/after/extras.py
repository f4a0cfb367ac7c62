"""Packages that only some commands need, and what to say when they are missing."""

from importlib.util import find_spec

from transforms.errors import ConfigError

EXTRA = "evaluate"


def require_extra(command: str, *packages: str) -> None:
    """Refuse a command whose packages are not installed.

    Args:
        command: As the user calls it, for the message.
        packages: Names to import: sklearn, scipy.

    Raises:
        ConfigError: One of them is missing.
    """
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise ConfigError(
            f"score-images {command} needs {' and '.join(missing)}, not installed here: "
            f"pip install 'score-images[{EXTRA}]'"
        )
