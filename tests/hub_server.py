"""A TF Hub stand-in on loopback that answers over real HTTP, well or badly."""

import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler

from tests.loopback import LoopbackServer, Quiet


class HubServer(LoopbackServer):
    """A server that answers as a model hub does; each path has its own answer."""

    def __init__(self) -> None:
        self.answers: dict[str, Callable[[BaseHTTPRequestHandler], None]] = {}
        self.asked: list[str] = []
        server = self

        class Handler(Quiet, BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.asked.append(self.path)
                answer = server.answers.get(self.path.partition("?")[0])
                if answer is None:
                    self.send_error(404)
                else:
                    answer(self)

        super().__init__(Handler)

    def serve(self, path: str, body: bytes, announced: int | None = None, pause: float = 0.0) -> str:
        """Answer a path with bytes, announcing another length, or pausing after the first byte.

        Returns:
            The handle.
        """

        def answer(request: BaseHTTPRequestHandler) -> None:
            request.send_response(200)
            request.send_header("Content-Length", str(len(body) if announced is None else announced))
            request.end_headers()
            request.wfile.write(body[:1])
            request.wfile.flush()
            time.sleep(pause)
            request.wfile.write(body[1:])

        self.answers[path] = answer
        return self.handle(path)

    def handle(self, path: str) -> str:
        """Return the address of a path."""
        return f"{self.url}{path}"
