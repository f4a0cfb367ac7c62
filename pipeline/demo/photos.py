"""The demo's photos: real ones that well-known packages carry in their wheels, and one that is damaged on purpose."""

import os
import tempfile
from pathlib import Path
from typing import NamedTuple

from pipeline.demo.packages import packaged_file
from transforms.errors import ConfigError


class Photo(NamedTuple):
    """A photo inside an installed package."""

    package: str
    """The package's import name."""
    path: str
    """The file's path inside the package."""
    distribution: str
    """What pip calls the package."""


PHOTOS = (
    # Source and licence of each are in the documentation of skimage.data.
    *(
        Photo("skimage", f"data/{name}", "scikit-image")
        for name in (
            "astronaut.png",
            "camera.png",  # grey, as some of any real collection are
            "chelsea.png",
            "coffee.png",
            "coins.png",  # grey
            "hubble_deep_field.jpg",  # nothing that ImageNet has a class for
            "motorcycle_left.png",
            "rocket.jpg",
        )
    ),
    # CC BY 2.0; the photographers are named in sklearn/datasets/images/README.txt.
    Photo("sklearn", "datasets/images/china.jpg", "scikit-learn"),
    Photo("sklearn", "datasets/images/flower.jpg", "scikit-learn"),
    Photo("matplotlib", "mpl-data/sample_data/grace_hopper.jpg", "matplotlib"),
)

DAMAGED_NAME = "damaged.jpg"
_DAMAGED_SOURCE = "rocket.jpg"
_DAMAGED_SHARE = 0.6


def gather_photos(folder: Path) -> list[Path]:
    """Copy the demo's photos into a folder, byte for byte, and add a truncated one named damaged.jpg.

    A second call changes nothing, not even a modification time, so that a second run sees the same versions.

    Args:
        folder: Where to put them; made where absent. What else lies there is left alone.

    Returns:
        The paths of the 12 files, sorted by name.

    Raises:
        ConfigError: if one of the packages is not installed, or the folder holds another file of the same name.
    """
    contents = {Path(photo.path).name: packaged_file(*photo).read_bytes() for photo in PHOTOS}
    whole = contents[_DAMAGED_SOURCE]
    contents[DAMAGED_NAME] = whole[: int(len(whole) * _DAMAGED_SHARE)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return [_write_once(folder / name, content) for name, content in sorted(contents.items())]
    except OSError as error:
        raise ConfigError(f"the demo's photos cannot be written to {folder}: {error.strerror or error}") from error


def _write_once(path: Path, content: bytes) -> Path:
    """Write a file that does not exist yet; one that does must have this content."""
    if path.exists():
        if path.read_bytes() != content:
            raise ConfigError(f"{path} exists and is not the demo's photo of that name; choose an empty folder")
        return path
    # A file appears whole or not at all: an interrupted demo can be started again.
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as scratch:
        (Path(scratch) / path.name).write_bytes(content)
        os.replace(Path(scratch) / path.name, path)
    return path
