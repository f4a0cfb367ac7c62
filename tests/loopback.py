"""HTTP servers on this machine, each on a free port, and requests to such servers past any proxy."""

import contextlib
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Quiet:
    """Makes a BaseHTTPRequestHandler answer without a word on standard error."""

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


class LoopbackServer:
    """A server that answers in threads until it is closed.

    Args:
        handler: Makes the answers.
    """

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._server.server_port

    @property
    def host(self) -> str:
        """Address and port."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """Of its root, without a slash at the end."""
        return f"http://{self.host}"

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextlib.contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[LoopbackServer]:
    """Have a server for some time."""
    server = LoopbackServer(handler)
    try:
        yield server
    finally:
        server.close()


def ask(url: str, method: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> None:
    """Send a request to a server on this machine, whatever proxy the environment names.

    Raises:
        urllib.error.HTTPError: It is refused.
    """
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    opener.open(urllib.request.Request(url, body, dict(headers or {}), method=method)).close()  # noqa: S310  on loopback
