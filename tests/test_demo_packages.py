"""Files of other packages are found without importing them."""

import re
import subprocess
import sys

import pytest

from pipeline.demo.packages import packaged_file
from transforms.errors import ConfigError


def test_a_file_is_found_without_importing_its_package() -> None:
    """scikit-image takes seconds to import, and the demo wants only a photo of it."""
    program = (
        "import sys\n"
        "from pipeline.demo.packages import packaged_file\n"
        "print(packaged_file('skimage', 'data/chelsea.png', 'scikit-image').name, 'skimage' in sys.modules)"
    )

    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert result.stdout == "chelsea.png False\n"


def test_an_absent_package_is_a_config_error_that_names_the_extra() -> None:
    """The message says what pip calls the package and how to get it."""
    with pytest.raises(ConfigError) as caught:
        packaged_file("no_such_package_anywhere", "photo.jpg", "no-such-package")

    assert str(caught.value) == (
        "the demo needs the package no-such-package, which is not installed; pip install 'score-images[demo]'"
    )


def test_a_module_that_is_no_package_carries_no_files() -> None:
    """A single-file module of the same name is not the package that was meant."""
    with pytest.raises(ConfigError, match="the demo needs the package csv, which is not installed"):
        packaged_file("csv", "photo.jpg", "csv")


def test_a_package_without_the_file_is_a_config_error_with_the_full_path() -> None:
    """A newer release may have dropped the file, or an installation may be damaged."""
    with pytest.raises(
        ConfigError, match=re.escape("the demo needs data/none.png of the package scikit-image")
    ) as caught:
        packaged_file("skimage", "data/none.png", "scikit-image")

    assert re.search(r"skimage\S+none\.png does not exist; pip install --force-reinstall", str(caught.value))
