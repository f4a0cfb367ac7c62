"""What workers of the quarantine call in tests: as ever, but for images that carry a marker."""

import ctypes
import json
import os
import resource
import signal
import struct
import sys
import time
from typing import NoReturn

from transforms import loading
from transforms.encoded import Encoded
from transforms.errors import FailureCode, ImageError
from transforms.images import Decoded
from transforms.load_plan import LoadPlan

# Of this process; an image may damage it for the next one.
_state = {"damaged": False, "seen": 0}


def prepare(data: bytes, plan: LoadPlan) -> Decoded | Encoded:
    """Do what the marker at the end of an image says."""
    _state["seen"] += 1
    if _state["damaged"]:
        os.abort()
    _, _, marker = data.rpartition(b"MARK:")
    if marker == b"segfault":
        ctypes.string_at(0)
    elif marker == b"abort":
        os.abort()
    elif marker == b"exit":
        os._exit(3)
    elif marker == b"hang":
        # PyDLL keeps the interpreter's lock: no other thread, and no handler of a signal, could do anything.
        ctypes.PyDLL(None).sleep(600)
    elif marker == b"swell":
        held = []
        while True:
            held.append(bytearray(64 * 1024**2))
    elif marker == b"swell in a decoder":
        _out_of_memory()
    elif marker == b"swell when used" and _state["seen"] > 1:
        raise MemoryError
    elif marker == b"damage":
        _state["damaged"] = True
    elif marker == b"unexpected":
        raise ZeroDivisionError("no such\nthing")
    elif marker.startswith(b"hang once:"):
        flag = marker.removeprefix(b"hang once:")
        if not os.path.exists(flag):
            os.close(os.open(flag, os.O_CREAT))
            time.sleep(600)
    elif marker == b"close":
        os.close(_connection())
        time.sleep(600)
    elif marker.startswith(b"say:"):
        header = marker.removeprefix(b"say:")
        os.write(_connection(), struct.pack(">Q", len(header)) + header)
        time.sleep(600)
    elif marker.startswith(b"bytes:"):
        os.write(_connection(), marker.removeprefix(b"bytes:"))
        time.sleep(600)
    elif marker == b"report":
        raise ImageError(FailureCode.CORRUPT_IMAGE, json.dumps(_report()))
    return loading.prepare(data, plan)


def _connection() -> int:
    return int(sys.argv[1])


def _out_of_memory() -> NoReturn:
    try:
        bytearray(10**15)
    except MemoryError as error:
        raise ImageError(FailureCode.TOO_MANY_PIXELS, "9x9 pixels need more memory than there is") from error
    raise AssertionError("there was enough")


def _report() -> dict[str, object]:
    return {
        "pid": os.getpid(),
        "descriptors": sorted(int(name) for name in os.listdir("/proc/self/fd") if _is_open(int(name))),
        "connection": _connection(),
        "environment": sorted(os.environ),
        "core": resource.getrlimit(resource.RLIMIT_CORE),
        "address_space": resource.getrlimit(resource.RLIMIT_AS),
        "sigint": str(signal.getsignal(signal.SIGINT)),
        "seen": _state["seen"],
    }


def _is_open(descriptor: int) -> bool:
    # The one that listed the folder is closed by now.
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True
