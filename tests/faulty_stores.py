"""Both stores behind a proxy that injects faults, for tests: the fixture `faulty`.

`pytest_plugins = ["tests.s3_store", "tests.gcs_store", "tests.faulty_stores"]`, in this order.
"""

from collections.abc import Iterator

import pytest

from tests.fault_proxy import FaultProxy, FaultyStore
from tests.gcs_store import make_gcs_bucket, use_gcs
from tests.s3_store import make_bucket, use_s3
from transforms import storage, stores


@pytest.fixture(params=["s3", "gs"])
def scheme(request: pytest.FixtureRequest) -> str:
    """The kind of store."""
    return str(request.param)


@pytest.fixture
def faulty(scheme: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyStore]:
    """A bucket of each kind of store.

    Google's client waits a second or two after its only attempt, if its time is not over then: here it is.
    """
    monkeypatch.setattr(stores, "_ONE_ATTEMPT_SECONDS", 0.001)
    target = request.getfixturevalue("s3_endpoint" if scheme == "s3" else "gcs_endpoint")
    proxy = FaultProxy(target)
    try:
        (use_s3 if scheme == "s3" else use_gcs)(monkeypatch, proxy.endpoint)
        yield FaultyStore((make_bucket if scheme == "s3" else make_gcs_bucket)(target), proxy)
    finally:
        storage._remote_filesystem.cache_clear()
        proxy.close()
