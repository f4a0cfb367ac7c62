"""The versions that decide what a score is: a launcher and its workers must have the same.

A package's version says little of a copy that somebody has edited, so the texts of our own modules count as well.
"""

import functools
import hashlib
import importlib.metadata
import platform
from collections.abc import Mapping
from pathlib import Path

from transforms.errors import ExitCode, RunError

PACKAGES = (
    "score-images", "apache-beam", "tensorflow", "keras", "pyarrow", "numpy", "pillow", "simplejpeg",
    "opencv-python-headless",
)  # fmt: skip
"""Those that read, decode, score and write, and the one that carries them from the launcher to the workers."""
CODE = "score-images code"
"""Key of the digest of our own modules."""
_OURS = ("transforms", "pipeline")


@functools.cache
def read_versions() -> Mapping[str, str]:
    """Return the versions of this process: Python's first two numbers, PACKAGES, and CODE.

    Read once: what is on the disk may change while a process runs, and the process does not.
    """
    return {
        "python": ".".join(platform.python_version_tuple()[:2]),
        **{name: _version(name) for name in PACKAGES},
        CODE: code_digest(Path(__file__).parent.parent),
    }


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def code_digest(root: Path) -> str:
    """Return the first 12 hex digits of a SHA-256 of our modules' names and texts.

    Args:
        root: The folder that holds the packages.
    """
    digest = hashlib.sha256()
    for path in sorted(path for package in _OURS for path in (root / package).rglob("*.py")):
        name, text = path.relative_to(root).as_posix().encode(), path.read_bytes()
        digest.update(b"%d %s %d " % (len(name), name, len(text)) + text)
    return digest.hexdigest()[:12]


def check_versions(launcher: Mapping[str, str], here: Mapping[str, str] | None = None) -> None:
    """Stop a worker whose versions are not the launcher's: its scores would be of another making.

    Args:
        launcher: What the launcher has read.
        here: What this worker has; None reads it.

    Raises:
        RunError: They differ; every difference is named.
    """
    here = read_versions() if here is None else here
    different = [name for name in (*launcher, *(here.keys() - launcher.keys())) if launcher.get(name) != here.get(name)]
    if different:
        said = ", ".join(f"{name} {launcher.get(name, 'none')} and {here.get(name, 'none')}" for name in different)
        raise RunError(
            ExitCode.WRONG_INPUT,
            f"launcher and worker have other versions: {said}; launch from the image that the workers have, or build "
            "the workers' image from the launcher's version",
        )
