"""The worker process of the quarantine: it limits itself, then encoded bytes come in and pixels go out.

Run by transforms/quarantine_worker.py as `python -m transforms.quarantined`. A message to it is its size and its bytes:
the pickled plan first, then one image after the other. An answer is the size of a header, the header as JSON, and the
pixels or bytes that it announces.
"""

import contextlib
import ctypes
import importlib
import json
import os
import pickle
import resource
import signal
import socket
import struct
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from transforms.errors import FailureCode, ImageError
from transforms.images import DecodedTwice
from transforms.load_plan import LoadPlan
from transforms.loading import Prepared, unexpected

SIZE = struct.Struct(">Q")
"""What comes before everything."""
MOST_TEXT = 4000
"""Characters of a text in a header."""
ORPHAN_SECONDS = 5.0
"""How much longer than allowed a process lives whose parent is not there to kill it."""

# Beside max_decode_bytes: what is loaded at first use (OpenCV takes 170 MB of addresses), and what heaps keep.
_SPARE_BYTES = 512 * 1024**2
_PR_SET_PDEATHSIG = 1


def main(arguments: Sequence[str]) -> None:
    """Be a worker process: prepare what comes, until the parent is gone.

    Args:
        arguments: The descriptor of the connection to the parent, and what prepares an image.
    """
    descriptor, target = arguments
    _bind_to_parent()
    module, _, name = target.partition(":")
    prepare = getattr(importlib.import_module(module), name)
    with socket.socket(fileno=int(descriptor)) as connection, contextlib.suppress(EOFError, ConnectionError):
        plan: LoadPlan = pickle.loads(_receive_sized(connection))  # noqa: S301  from the parent
        _limit_memory(plan.decode.max_decode_bytes)
        _send_header(connection, {"ready": True})
        # What decoders print of bad images is not worth a file without end.
        with open(os.devnull, "w") as nothing:
            os.dup2(nothing.fileno(), sys.stderr.fileno())
        while True:
            _serve(connection, prepare, plan, _receive_sized(connection))


def _serve(
    connection: socket.socket, prepare: Callable[[bytes, LoadPlan], Prepared], plan: LoadPlan, data: bytes
) -> None:
    # Its default action ends the process even in native code: the parent may be gone, and nobody else would.
    signal.setitimer(signal.ITIMER_REAL, plan.decode.timeout_seconds + ORPHAN_SECONDS)
    try:
        prepared = prepare(data, plan)
    except ImageError as error:
        full = isinstance(error.__cause__, MemoryError)
        _send_header(connection, {"code": error.code, "message": error.message[:MOST_TEXT], "out_of_memory": full})
    except MemoryError:
        limit = plan.decode.max_decode_bytes
        message = f"decoding needs more memory than the {limit} bytes that decode.max_decode_bytes allows"
        answer = {"code": FailureCode.TOO_MANY_PIXELS, "message": message, "out_of_memory": True}
        _send_header(connection, answer)
    except Exception as error:  # noqa: BLE001  as in load_one: foreign code over hostile bytes
        text = "".join(traceback.format_exception(error))
        answer = {"code": FailureCode.CORRUPT_IMAGE, "message": unexpected(error), "traceback": text[-MOST_TEXT:]}
        _send_header(connection, answer)
    else:
        made: list[Any] = [prepared[0]]
        if isinstance(prepared, DecodedTwice):
            made.append(prepared.second)
        answer = {name: getattr(prepared.info, name) for name in ("width", "height", "format", "decoder")}
        _send_header(connection, {**answer, "bytes": sum(memoryview(part).nbytes for part in made)})
        for part in made:
            connection.sendall(part)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _bind_to_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        # It comes when the thread ends that has started this process, which uses it alone.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _limit_memory(max_decode_bytes: int) -> None:
    """Let allocations fail that would take much more than the plan allows, beyond what this process has by now."""
    if sys.platform != "linux":
        return  # other systems take this limit and do not heed it
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[0])
    limit = pages * resource.getpagesize() + max_decode_bytes + _SPARE_BYTES
    for known in resource.getrlimit(resource.RLIMIT_AS):
        if known != resource.RLIM_INFINITY:
            limit = min(limit, known)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _receive_sized(connection: socket.socket) -> bytes:
    (size,) = SIZE.unpack(receive(connection, SIZE.size))
    return bytes(receive(connection, size))


def _send_header(connection: socket.socket, header: dict[str, Any]) -> None:
    text = json.dumps(header).encode()
    connection.sendall(SIZE.pack(len(text)) + text)


def receive(connection: socket.socket, size: int, until: float | None = None) -> bytearray:
    """Receive so many bytes; a sender that stops half-way, or is slow on purpose, runs into the end of its time, too.

    Raises:
        EOFError: The other side is gone.
        TimeoutError: It took too long.
    """
    received = bytearray(size)
    rest = memoryview(received)
    while rest:
        if until is not None:
            connection.settimeout(seconds_left(until))
        count = connection.recv_into(rest)
        if not count:
            raise EOFError("the other side closed the connection")
        rest = rest[count:]
    return received


def seconds_left(until: float) -> float:
    """Return how long it is until a moment of time.monotonic.

    Raises:
        TimeoutError: It has passed.
    """
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError("it took too long")
    return left


if __name__ == "__main__":
    main(sys.argv[1:])
