"""The proxy of the tests: what it does not spoil passes byte for byte, and what it spoils is counted."""

import http.client
import http.server
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from tests.fault_proxy import Fault, FaultProxy
from tests.loopback import Quiet, serving

BODY = bytes(range(256)) * 40


@pytest.fixture
def proxy() -> Iterator[FaultProxy]:
    """A proxy before a server that answers with what it was sent, or with BODY."""

    class Handler(Quiet, BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_PUT(self) -> None:
            if self.headers["Transfer-Encoding"] == "chunked":
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
            else:
                body = self.rfile.read(int(self.headers["Content-Length"]))
            self.answer(200, body)

        def do_GET(self) -> None:
            first, _, last = (self.headers["Range"] or f"bytes=0-{len(BODY) - 1}").removeprefix("bytes=").partition("-")
            self.answer(206 if self.headers["Range"] else 200, BODY[int(first) : int(last) + 1])

        def do_HEAD(self) -> None:
            self.do_GET()

        def answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    with serving(Handler) as server:
        made = FaultProxy(server.url, seed=3)
        yield made
        made.close()


def ask(connection: http.client.HTTPConnection, method: str, **options: Any) -> tuple[int, bytes]:
    """Send a request; return status and body."""
    connection.request(method, "/x", **options)
    answer = connection.getresponse()
    return answer.status, answer.read()


@pytest.fixture
def connection(proxy: FaultProxy) -> Iterator[http.client.HTTPConnection]:
    """A client's connection."""
    made = http.client.HTTPConnection(proxy.endpoint.removeprefix("http://"), timeout=10)
    yield made
    made.close()


def test_sound_requests_pass_byte_for_byte(connection: http.client.HTTPConnection) -> None:
    """Whole and chunked bodies, ranges, and HEAD, one after the other on one connection."""
    assert ask(connection, "PUT", body=BODY) == (200, BODY)
    assert ask(connection, "PUT", body=iter([BODY[:7], BODY[7:]]), encode_chunked=True) == (200, BODY)
    assert ask(connection, "GET") == (200, BODY)
    assert ask(connection, "GET", headers={"Range": "bytes=5-9"}) == (206, BODY[5:10])
    assert ask(connection, "HEAD") == (200, b"")
    assert ask(connection, "PUT", body=b"x", headers={"Expect": "100-continue"}) == (200, b"x")


def test_each_fault_is_what_it_is_called(proxy: FaultProxy, connection: http.client.HTTPConnection) -> None:
    """As a client sees it; every one is counted."""
    statuses = {
        Fault.INTERNAL: 500,
        Fault.BAD_GATEWAY: 502,
        Fault.UNAVAILABLE: 503,
        Fault.GATEWAY_TIMEOUT: 504,
        Fault.TOO_MANY: 429,
        Fault.BAD_REQUEST: 400,
        Fault.FORBIDDEN: 403,
        Fault.STALL: 200,
    }
    for fault, status in statuses.items():
        proxy.inject(fault, "^GET /x", times=1)
        assert ask(connection, "GET")[0] == status
    for fault, error in (
        (Fault.RESET, ConnectionError),
        (Fault.LOST_ANSWER, ConnectionError),
        (Fault.TRUNCATED, http.client.IncompleteRead),
    ):
        proxy.inject(fault, "^GET /x", times=1)
        with pytest.raises(error):
            ask(connection, "GET")
        connection.close()
    assert ask(connection, "GET") == (200, BODY)
    assert proxy.injected == dict.fromkeys(Fault, 1)


def test_rates_are_kept_and_repeat_with_the_seed(proxy: FaultProxy) -> None:
    """Ten thousand decisions, within a few standard deviations, twice the same."""
    twin = FaultProxy("http://127.0.0.1:1", seed=3)
    for one in (proxy, twin):
        one.rates = {Fault.RESET: 0.05, Fault.STALL: 0.1}
    decisions = [[one.decide("GET /x HTTP/1.1") for _ in range(10_000)] for one in (proxy, twin)]
    twin.close()
    assert decisions[0] == decisions[1]
    assert 400 < decisions[0].count(Fault.RESET) < 600
    assert 850 < decisions[0].count(Fault.STALL) < 1150
