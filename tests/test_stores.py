"""Clients of stores: what they find without credentials, and which errors are worth another attempt."""

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import fs

from tests.loopback import LoopbackServer, Quiet
from transforms import stores
from transforms.retrying import Backoff

_S3 = "When getting information for key 'x' in bucket 'b': AWS Error "
_GCS = "google::cloud::Status("
_CURL = "NETWORK_CONNECTION during HeadObject operation: curlCode: "


@pytest.mark.parametrize(
    ("message", "passes"),
    [
        # As the servers of test_storage make the clients word it.
        (_S3 + "SLOW_DOWN during ListObjectsV2 operation: SlowDown", True),
        (_S3 + "INTERNAL_FAILURE during GetObject operation: ", True),
        (_S3 + "SERVICE_UNAVAILABLE during GetObject operation: ", True),
        (_S3 + "REQUEST_TIMEOUT during GetObject operation: ", True),
        (_S3 + "UNKNOWN (HTTP status 503) during HeadObject operation: No response body.", True),
        (_S3 + "UNKNOWN (HTTP status 429) during HeadObject operation: No response body.", True),
        (_S3 + "UNKNOWN (HTTP status 400) during HeadObject operation: No response body.", False),
        (_S3 + "UNKNOWN (HTTP status 501) during HeadObject operation: No response body.", False),
        (_S3 + "ACCESS_DENIED during HeadObject operation: No response body.", False),
        (_S3 + "INVALID_ACCESS_KEY_ID during GetObject operation: ", False),
        (_S3 + "NO_SUCH_BUCKET during ListObjectsV2 operation: The specified bucket does not exist", False),
        (_S3 + _CURL + "56, Failure when receiving data from the peer; Details: Recv failure", True),
        (_S3 + _CURL + "7, Could not connect to server; Details: Failed to connect", True),
        (_S3 + _CURL + "18, Transferred a partial file; Details: 208 bytes missing", True),
        (_S3 + _CURL + "28, Timeout was reached; Details: Operation too slow", True),
        (_S3 + _CURL + "60, SSL peer certificate or SSH remote key was not OK", False),  # a wrong CA stays wrong
        (_GCS + "UNAVAILABLE: Retry policy exhausted, with a last message of SlowDown", True),
        (_GCS + "INTERNAL: Retry policy exhausted, with a last message of GatewayTimeout", True),
        (_GCS + "DEADLINE_EXCEEDED: Retry policy exhausted before first request attempt", True),
        (_GCS + "INVALID_ARGUMENT: Permanent error, with a last message of InvalidRequest", False),
        (_GCS + "UNAUTHENTICATED: Permanent error, with a last message of 401", False),
        ("Empty path component in path b/a//x", False),
    ],
)
def test_errors_that_pass_are_told_from_those_that_last(message: str, passes: bool) -> None:
    """By the clients' own words."""
    assert stores.is_passing(OSError(message)) is passes


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (FileNotFoundError(2, _GCS + "NOT_FOUND: UNAVAILABLE"), False),
        (PermissionError(13, _GCS + "PERMISSION_DENIED"), False),
        (ConnectionError("the file changed while it was read"), True),
        (TimeoutError("no answer in 120.0 s"), True),
        (ValueError("embedded null byte"), False),
    ],
)
def test_classes_of_errors_speak_for_themselves(error: Exception, passes: bool) -> None:
    """What pyarrow or reading has named already."""
    assert stores.is_passing(error) is passes


class MetadataServer(LoopbackServer):
    """Stands for the machine that knows the service account; answers with the next status, the last one for ever."""

    def __init__(self) -> None:
        self.statuses = [200]
        self.silent = threading.Event()
        self.asked: list[tuple[str, str | None]] = []
        server = self

        class Handler(Quiet, BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.asked.append((self.path, self.headers["Metadata-Flavor"]))
                if server.silent.is_set():
                    server.stop.wait(20)
                    return
                self.send_response(server.statuses[0])
                self.send_header("Content-Length", "0")
                self.end_headers()
                server.statuses = server.statuses[1:] or server.statuses

        self.stop = threading.Event()
        super().__init__(Handler)

    def close(self) -> None:
        """Stop answering."""
        self.stop.set()
        super().close()


@pytest.fixture
def metadata(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MetadataServer]:
    """A machine without credentials of its own, in a cloud."""
    server = MetadataServer()
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "STORAGE_EMULATOR_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GCE_METADATA_HOST", server.host)
    yield server
    server.close()


def refusal() -> str:
    """Return why a client of GCS cannot be made."""
    with pytest.raises(PermissionError) as caught:
        stores.connect("gs", patient=False)
    return str(caught.value)


class TestGoogleCredentials:
    def test_service_account_of_the_machine_is_enough(self, metadata: MetadataServer) -> None:
        """Asked for once, as Google's protocol wants it."""
        assert isinstance(stores.connect("gs", patient=False), fs.GcsFileSystem)
        assert metadata.asked == [("/computeMetadata/v1/instance/service-accounts/default/email", "Google")]

    def test_busy_metadata_server_is_asked_again(self, metadata: MetadataServer) -> None:
        """A machine that has just started."""
        metadata.statuses = [503, 429, 200]
        assert isinstance(stores.connect("gs", patient=False), fs.GcsFileSystem)
        assert len(metadata.asked) == 3

    @pytest.mark.parametrize("how", ["variable", "file", "emulator"])
    def test_other_ways_ask_nobody(
        self, metadata: MetadataServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
    ) -> None:
        """Credentials in a file, or a store that wants none."""
        place = tmp_path / ".config" / "gcloud" / "application_default_credentials.json"
        place.parent.mkdir(parents=True)
        user = '{"type": "authorized_user", "client_id": "a", "client_secret": "b", "refresh_token": "c"}'
        if how == "variable":
            place = tmp_path / "key.json"
            monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(place))
        if how == "emulator":
            monkeypatch.setenv("STORAGE_EMULATOR_HOST", "localhost:9")
        else:
            place.write_text(user)
        assert isinstance(stores.connect("gs", patient=True), fs.GcsFileSystem)
        assert metadata.asked == []

    def test_machine_without_an_account_is_refused_at_once(self, metadata: MetadataServer) -> None:
        """Google's client would say of every object that it does not exist."""
        metadata.statuses = [404]
        assert refusal() == (
            f"gs:// needs credentials, and there are none: the metadata server {metadata.host} gives no service "
            "account (HTTP Error 404: Not Found); run gcloud auth application-default login, set "
            "GOOGLE_APPLICATION_CREDENTIALS to a key file, or STORAGE_EMULATOR_HOST for an emulator"
        )
        assert len(metadata.asked) == 1

    def test_machine_outside_a_cloud_is_refused_at_once(
        self, metadata: MetadataServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where nobody listens."""
        monkeypatch.setenv("GCE_METADATA_HOST", "127.0.0.1:1")
        assert "127.0.0.1:1 gives no service account (<urlopen error [Errno 111] Connection refused>)" in refusal()
        assert metadata.asked == []

    def test_silent_metadata_server_does_not_hang_a_run(
        self, metadata: MetadataServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Google's client would ask it for minutes; here the seconds are set smaller still."""
        monkeypatch.setattr(stores, "_GOOGLE_SECONDS", 0.2)
        monkeypatch.setattr(stores, "_GOOGLE_BACKOFF", Backoff(deadline_seconds=0.7))
        metadata.silent.set()
        started = time.monotonic()
        assert "(tried" in refusal()
        assert time.monotonic() - started < 5
        assert len(metadata.asked) >= 2


def test_clients_know_their_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of streams try again by themselves, for half a minute; the others' callers do."""
    made: list[dict[str, Any]] = []
    monkeypatch.setattr(fs, "S3FileSystem", lambda **options: made.append(options))
    monkeypatch.setattr(stores, "SteadyS3FileSystem", lambda _, **options: made.append(options))
    for patient in (True, False):
        stores.connect("s3", patient=patient)
    strategies = [options["retry_strategy"] for options in made]
    assert [type(strategy) for strategy in strategies] == [fs.AwsDefaultS3RetryStrategy] * 2
    assert [strategy.max_attempts for strategy in strategies] == [10, 0]
    assert sum(0.05 * 2**retry for retry in range(10 - 1)) == pytest.approx(25.55)
    assert Backoff().deadline_seconds > 25.55


def test_a_new_client_leaves_arrows_threads_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their number decides how many connections a client has: it is another one only while one is made."""
    before = pa.io_thread_count()
    seen: list[int] = []
    monkeypatch.setattr(fs, "S3FileSystem", lambda **_: seen.append(pa.io_thread_count()))
    stores.connect("s3", patient=False)
    assert seen == [100_000]
    assert pa.io_thread_count() == before

    def fail(**_: Any) -> None:
        raise OSError("no region")

    monkeypatch.setattr(fs, "S3FileSystem", fail)
    with pytest.raises(OSError, match="no region"):
        stores.connect("s3", patient=False)
    assert pa.io_thread_count() == before
