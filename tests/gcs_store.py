"""A GCS store on loopback for tests: `pytest_plugins = ["tests.gcs_store"]`, then the fixture `gcs_bucket`.

`gcs_process` is one in a process of its own, for whole runs: Arrow holds Python's lock while it asks for a file's size,
and an emulator in the same process would wait for that lock to answer.
"""

import importlib
import json
import logging
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.loopback import ask
from transforms import storage


@pytest.fixture(scope="session")
def gcs_endpoint() -> Iterator[str]:
    """The address of gcp-storage-emulator, which keeps its objects in memory.

    In a process of its own: GcsFileSystem holds the interpreter's lock while it opens a file, and a server in the same
    process could not answer.
    """
    pytest.importorskip("gcp_storage_emulator.server", reason="gcp-storage-emulator is not installed")
    command = [sys.executable, "-m", "tests.gcs_store"]
    with subprocess.Popen(command, cwd=Path(__file__).parent.parent, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.kill()


def _start() -> Any:
    module = pytest.importorskip("gcp_storage_emulator.server", reason="gcp-storage-emulator is not installed")
    for name in ("gcp_storage_emulator", "api"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    objects = importlib.import_module("gcp_storage_emulator.handlers.objects")
    objects._resumable_incomplete = partial(_say_what_is_stored, objects._resumable_incomplete)
    server = module.create_server("127.0.0.1", 0, in_memory=True)
    server.start()
    return server


def _say_what_is_stored(answer: Callable[..., None], response: Any, store: Any, upload_id: str, **rest: Any) -> None:
    # The emulator says of an upload without bytes that it has the first one. GCS's answer has no Range then:
    # https://docs.cloud.google.com/storage/docs/performing-resumable-uploads#status-check
    answer(response, store, upload_id, **rest)
    if store.get_resumable_byte_count(upload_id) == 0:
        del response._headers["Range"]


def make_gcs_bucket(endpoint: str) -> str:
    """Make a new, empty bucket; return its URL."""
    name = f"b{uuid.uuid4().hex}"
    ask(f"{endpoint}/storage/v1/b", "POST", json.dumps({"name": name}).encode(), {"Content-Type": "application/json"})
    return f"gs://{name}"


def use_gcs(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    """Have gs:// mean this store, until the test ends."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", endpoint)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    storage._remote_filesystem.cache_clear()


@pytest.fixture
def gcs_bucket(gcs_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a new, empty bucket."""
    use_gcs(monkeypatch, gcs_endpoint)
    yield make_gcs_bucket(gcs_endpoint)
    storage._remote_filesystem.cache_clear()


if __name__ == "__main__":
    started = _start()
    print(f"http://127.0.0.1:{started._api._httpd.server_address[1]}", flush=True)  # noqa: T201  it is read
    threading.Event().wait()
