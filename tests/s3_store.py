"""An S3 store on loopback for tests: `pytest_plugins = ["tests.s3_store"]`, then the fixture `bucket`."""

import logging
import uuid
from collections.abc import Iterator

import pytest

from tests.loopback import ask
from transforms import storage

VARIABLES = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "no_proxy": "127.0.0.1",
    "NO_PROXY": "127.0.0.1",
}


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """The address of moto's server, which keeps its objects in memory."""
    server_class = pytest.importorskip("moto.server", reason="moto[s3,server] is not installed").ThreadedMotoServer
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = server_class("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def make_bucket(endpoint: str) -> str:
    """Make a new, empty bucket; return its URL."""
    name = f"b{uuid.uuid4().hex}"
    ask(f"{endpoint}/{name}", "PUT")
    return f"s3://{name}"


def use_s3(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    """Have s3:// mean this store, until the test ends."""
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    storage._remote_filesystem.cache_clear()


@pytest.fixture
def bucket(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a new, empty bucket."""
    use_s3(monkeypatch, s3_endpoint)
    yield make_bucket(s3_endpoint)
    storage._remote_filesystem.cache_clear()
