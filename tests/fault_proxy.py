"""An HTTP proxy on loopback that passes a store's bytes through, and now and then misbehaves as real stores do."""

import contextlib
import io
import random
import re
import socket
import socketserver
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import NamedTuple, cast


class Fault(StrEnum):
    """What can go wrong with one request."""

    INTERNAL = "internal"
    """500; the store has not seen the request."""
    BAD_GATEWAY = "bad_gateway"
    """502; the store has not seen the request."""
    UNAVAILABLE = "unavailable"
    """503; the store has not seen the request."""
    GATEWAY_TIMEOUT = "gateway_timeout"
    """504; the store has not seen the request."""
    TOO_MANY = "too_many"
    """429; the store has not seen the request."""
    BAD_REQUEST = "bad_request"
    """400; the store has not seen the request."""
    FORBIDDEN = "forbidden"
    """403; the store has not seen the request."""
    RESET = "reset"
    """The connection is reset; the store has not seen the request."""
    LOST_ANSWER = "lost_answer"
    """The store has done what was asked, and the connection is reset before it can say so."""
    STALL = "stall"
    """Nothing comes for a while, then the answer."""
    TRUNCATED = "truncated"
    """The connection ends in the middle of the body of a GET; other requests pass."""


_ANSWERS = {
    Fault.INTERNAL: ("500 Internal Server Error", "InternalError"),
    Fault.BAD_GATEWAY: ("502 Bad Gateway", "BadGateway"),
    Fault.UNAVAILABLE: ("503 Slow Down", "SlowDown"),
    Fault.GATEWAY_TIMEOUT: ("504 Gateway Timeout", "GatewayTimeout"),
    Fault.TOO_MANY: ("429 Too Many Requests", "TooManyRequests"),
    Fault.BAD_REQUEST: ("400 Bad Request", "InvalidRequest"),
    Fault.FORBIDDEN: ("403 Forbidden", "AccessDenied"),
}
PASSING = (
    Fault.INTERNAL,
    Fault.BAD_GATEWAY,
    Fault.UNAVAILABLE,
    Fault.GATEWAY_TIMEOUT,
    Fault.TOO_MANY,
    Fault.RESET,
    Fault.LOST_ANSWER,
    Fault.TRUNCATED,
)
"""Faults that are an error of one attempt, and none of the next."""
_WITHOUT_BODY = (204, 304)
# No store on a network fails in less.
_FAULT_SECONDS = 0.003


class _Message(NamedTuple):
    """A request or an answer as it came: every byte of it."""

    head: bytes
    body: bytes

    @property
    def first_line(self) -> str:
        return self.head.partition(b"\r\n")[0].decode("latin-1")

    def header(self, name: str) -> str | None:
        found = re.search(rb"(?im)^" + name.encode() + rb":[ \t]*([^\r]*)\r$", self.head)
        return found[1].decode("latin-1") if found else None


class _Rule(NamedTuple):
    request: re.Pattern[str]
    fault: Fault
    times: float


class FaultProxy:
    """A proxy in front of one server.

    Faults come by chance, each kind at its own rate, or by rules for certain requests. The same seed gives the same
    sequence of decisions; which request meets which of them depends on the order in which threads ask.

    Args:
        target: The server, as http://host:port.
        rates: Share of all requests that meet each fault; their sum is at most 1.
        seed: Of the decisions.
        stall_seconds: How long a stall lasts.
    """

    def __init__(
        self,
        target: str,
        rates: Mapping[Fault, float] | None = None,
        seed: int = 0,
        stall_seconds: float = 0.2,
    ) -> None:
        host, _, port = target.removeprefix("http://").partition(":")
        self.target = (host, int(port))
        self.rates = dict(rates or {})
        self.stall_seconds = stall_seconds
        self.injected: Counter[Fault] = Counter()
        """How many requests met each fault."""
        self.requests: list[str] = []
        """First lines of all requests, in the order of their arrival."""
        self.replace: tuple[bytes, bytes] | None = None
        """What is replaced in the heads of requests, and by what: only to make a store's pages small."""
        self.stopping = threading.Event()
        self._random = random.Random(seed)  # noqa: S311  no secret
        self._rules: list[_Rule] = []
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.proxy = self
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    @property
    def endpoint(self) -> str:
        """The proxy's own address."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        """End all connections and stop."""
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def inject(self, fault: Fault, request: str, times: float = float("inf")) -> None:
        """Answer requests whose first line matches a pattern with a fault, before chance is asked.

        Args:
            fault: What happens to them.
            request: A regular expression for the first line: "GET .*/x.jpg".
            times: To how many of them.
        """
        with self._lock:
            self._rules.append(_Rule(re.compile(request), fault, times))

    def heal(self) -> None:
        """Inject nothing from now on."""
        with self._lock:
            self.rates = {}
            self._rules = []

    def count(self, request: str) -> int:
        """Return how many requests had a first line that matches a pattern."""
        with self._lock:
            return sum(re.search(request, line) is not None for line in self.requests)

    def decide(self, line: str) -> Fault | None:
        """Return what happens to a request."""
        with self._lock:
            self.requests.append(line)
            for index, rule in enumerate(self._rules):
                if rule.times > 0 and rule.request.search(line):
                    self._rules[index] = rule._replace(times=rule.times - 1)
                    return rule.fault
            chance = self._random.random()
            for fault, rate in self.rates.items():
                chance -= rate
                if chance < 0:
                    return fault
            return None

    def note(self, fault: Fault) -> None:
        """Count a fault that was injected."""
        with self._lock:
            self.injected[fault] += 1


class FaultyStore(NamedTuple):
    """A new, empty bucket behind a proxy that injects nothing yet."""

    url: str
    """Of the bucket."""
    proxy: FaultProxy
    """What stands before it."""


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128
    proxy: FaultProxy

    def handle_error(self, *_: object) -> None:
        """Say nothing of clients that went away; everything else would hang the client, and the test with it."""


class _Handler(socketserver.StreamRequestHandler):
    """One connection of a client, and the one to the server that belongs to it."""

    rbufsize = -1
    wbufsize = 0
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self.proxy = cast(_Server, self.server).proxy
        self.upstream: tuple[socket.socket, io.BufferedReader] | None = None

    def finish(self) -> None:
        self._leave()
        with contextlib.suppress(OSError):
            super().finish()

    def handle(self) -> None:
        while not self.proxy.stopping.is_set() and (request := self._read_request()) is not None:
            if not self._serve(request):
                return

    def _read_request(self) -> _Message | None:
        reader = cast(io.BufferedReader, self.rfile)
        head = _read_head(reader)
        if not head:
            return None
        if self.proxy.replace:
            head = head.replace(*self.proxy.replace)
        message = _Message(head, b"")
        if (message.header("Expect") or "").lower() == "100-continue":
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return _Message(head, _read_body(reader, message, until_close=False))

    def _serve(self, request: _Message) -> bool:
        """Answer one request; return whether the connection goes on."""
        fault = self.proxy.decide(request.first_line)
        method = request.first_line.partition(" ")[0]
        if fault is not None:
            time.sleep(_FAULT_SECONDS)
        if fault in _ANSWERS:
            self.proxy.note(fault)
            self.wfile.write(_answer(fault, method, json="goog" in request.head.decode("latin-1").lower()))
            return True
        if fault is Fault.RESET:
            self.proxy.note(fault)
            self._reset()
            return False
        if fault is Fault.STALL:
            self.proxy.note(fault)
            self.proxy.stopping.wait(self.proxy.stall_seconds)
        answer = self._ask(request, method)
        if fault is Fault.LOST_ANSWER:
            self.proxy.note(fault)
            self._reset()
            return False
        if fault is Fault.TRUNCATED and method == "GET" and answer.body:
            self.proxy.note(fault)
            self.wfile.write(answer.head + answer.body[: len(answer.body) // 2])
            return False
        self.wfile.write(answer.head + answer.body)
        return _goes_on(answer)

    def _ask(self, request: _Message, method: str) -> _Message:
        # A server may have closed a connection that it kept so far: a new one is worth a second try, once.
        for attempt in range(2):
            fresh = self.upstream is None
            connection, reader = self.upstream or self._connect()
            try:
                connection.sendall(request.head + request.body)
                head = _read_head(reader)
            except OSError:
                head = b""
            while head.startswith((b"HTTP/1.1 100", b"HTTP/1.0 100")):
                head = _read_head(reader)
            if head:
                break
            self._leave()
            if fresh or attempt:
                raise ConnectionError(f"{self.proxy.target} does not answer {request.first_line}")
        answer = _Message(head, b"")
        status = int(answer.first_line.split(" ")[1])
        if method != "HEAD" and status not in _WITHOUT_BODY:
            answer = _Message(head, _read_body(reader, answer, until_close=True))
        if not _goes_on(answer):
            self._leave()
        return answer

    def _connect(self) -> tuple[socket.socket, io.BufferedReader]:
        connection = socket.create_connection(self.proxy.target, timeout=60)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.upstream = (connection, connection.makefile("rb"))
        return self.upstream

    def _leave(self) -> None:
        if self.upstream is not None:
            connection, reader = self.upstream
            reader.close()
            connection.close()
            self.upstream = None

    def _reset(self) -> None:
        # Closing with a linger of zero seconds sends RST, not FIN.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.rfile.close()
        self.connection.close()


def _read_head(reader: io.BufferedReader) -> bytes:
    lines = []
    while line := reader.readline():
        lines.append(line)
        if line == b"\r\n":
            return b"".join(lines)
    return b""


def _read_body(reader: io.BufferedReader, message: _Message, *, until_close: bool) -> bytes:
    if (message.header("Transfer-Encoding") or "").lower() == "chunked":
        return b"".join(_read_chunks(reader))
    length = message.header("Content-Length")
    if length is not None:
        return reader.read(int(length))
    return reader.read() if until_close else b""


def _read_chunks(reader: io.BufferedReader) -> Iterator[bytes]:
    while True:
        line = reader.readline()
        yield line
        size = int(line.partition(b";")[0], 16)
        if size == 0:
            break
        yield reader.read(size + 2)
    while line := reader.readline():  # trailers, and the empty line
        yield line
        if line == b"\r\n":
            return


def _goes_on(answer: _Message) -> bool:
    said = (answer.header("Connection") or "").lower()
    if answer.first_line.startswith("HTTP/1.0"):
        return said == "keep-alive"
    delimited = answer.header("Content-Length") is not None or answer.header("Transfer-Encoding") is not None
    return said != "close" and (delimited or int(answer.first_line.split(" ")[1]) in _WITHOUT_BODY)


def _answer(fault: Fault, method: str, *, json: bool) -> bytes:
    status, code = _ANSWERS[fault]
    if json:
        kind, body = "application/json", f'{{"error": {{"code": {status[:3]}, "message": "{code}"}}}}'
    else:
        kind, body = "application/xml", f"<Error><Code>{code}</Code><Message>{code}</Message></Error>"
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return (head + ("" if method == "HEAD" else body)).encode()
