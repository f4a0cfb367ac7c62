"""An S3 store on loopback for tests: `pytest_plugins = ["tests.s3_store"]`, then the fixture `bucket`."""

import logging
import urllib.request
import uuid
from collections.abc import Iterator

import pytest

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


@pytest.fixture
def bucket(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a new, empty bucket."""
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    name = f"b{uuid.uuid4().hex}"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    opener.open(urllib.request.Request(f"{s3_endpoint}/{name}", method="PUT")).close()  # noqa: S310  on loopback
    storage._remote_filesystem.cache_clear()
    yield f"s3://{name}"
    storage._remote_filesystem.cache_clear()
