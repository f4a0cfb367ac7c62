"""Find files that other packages carry in their wheels, without importing those packages."""

from importlib.util import find_spec
from pathlib import Path

from transforms.errors import ConfigError


def packaged_file(package: str, name: str, distribution: str) -> Path:
    """Return the path of a file inside an installed package.

    The package is not imported: scikit-image and matplotlib take seconds, and only a file of theirs is wanted.

    Args:
        package: The import name of a top-level package, such as "skimage".
        name: The file's path inside the package, with forward slashes.
        distribution: What pip calls the package, for the message.

    Raises:
        ConfigError: if the package is not installed, or has no such file.
    """
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            f"the demo needs the package {distribution}, which is not installed; pip install 'score-images[demo]'"
        )
    path = Path(spec.submodule_search_locations[0], *name.split("/"))
    if not path.is_file():
        raise ConfigError(
            f"the demo needs {name} of the package {distribution}, and {path} does not exist; "
            "pip install --force-reinstall 'score-images[demo]'"
        )
    return path
