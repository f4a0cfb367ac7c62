"""One worker process of the quarantine, seen from its parent: how it is started, and what it may say.

A worker is not trusted, for a hostile image may have taken it over: what it sends is never unpickled, sizes are held
against the plan before memory is taken, values against what they may be. It has no credentials in its environment, no
file of its parent's, and so much memory. It is no sandbox: what this user may read and send, it may, and once it is
taken over it could lie about the pixels of the images that follow.
"""

import contextlib
import json
import logging
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from transforms.deadlines import START_SECONDS
from transforms.encoded import Encoded, may_pass
from transforms.errors import ExitCode, FailureCode, ImageError, RunError, Stage
from transforms.headers import probe
from transforms.images import Decoded, DecodedTwice
from transforms.load_plan import LoadPlan
from transforms.loading import Prepared
from transforms.quarantined import MOST_TEXT, ORPHAN_SECONDS, SIZE, receive, seconds_left
from transforms.records import DECODERS, FORMATS, ImageInfo

_LOG = logging.getLogger(__name__)

_MOST_HEADER_BYTES = 64 * 1024
_MOST_PIXELS_A_SIDE = 2**31 - 1  # int32 in the scores table
# What reading and scoring say is not a worker's to say.
_CODES = frozenset(
    {
        FailureCode.EMPTY_FILE,
        FailureCode.UNSUPPORTED_FORMAT,
        FailureCode.CORRUPT_IMAGE,
        FailureCode.TRUNCATED_IMAGE,
        FailureCode.TOO_MANY_PIXELS,
    }
)
# Where Python and its libraries are found, and the language: everything else may be a secret.
_KEPT_VARIABLES = frozenset(
    {
        "PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LANG", "LANGUAGE", "TZ", "TMPDIR", "PYTHONHOME", "PYTHONUTF8",
        "PYTHONNOUSERSITE", "PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX", "PYTHONWARNINGS", "PYTHONHASHSEED",
    }
)  # fmt: skip
# One image at a time: threads of a numerical library, and a heap for each of them, would only take address space.
_SINGLE_THREADED = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}


class KilledAtStart(Exception):  # noqa: N818  not an error of its own: it passes, or the run is interrupted
    """A signal has ended a worker before it was ready."""


class Lost(Exception):  # noqa: N818  not an error of its own: it carries that of the image
    """A worker that must be replaced, and what becomes of its image."""

    def __init__(self, error: ImageError, *, proven: bool = False) -> None:
        super().__init__(str(error))
        self.error = error
        self.proven = proven


class Worker:
    """One worker process, seen from its parent. The thread that has started it uses it, and it ends with that thread.

    Args:
        plan: The same for all images.
        target: `module:function`.
    """

    def __init__(self, plan: LoadPlan, target: str) -> None:
        self.fresh = True
        self._plan = plan
        self._ready = False
        # What it prints until it is ready; it is closed with that.
        self._said = tempfile.TemporaryFile()  # noqa: SIM115
        self._connection, theirs = socket.socketpair()
        # Google's client in Beam gives every new socket of the process a timeout: the worker's end would not block.
        self._connection.settimeout(None)
        theirs.settimeout(None)
        with theirs:
            try:
                # A process group of its own: Ctrl-C at the terminal is for the parent. -P: the working directory may
                # hold a module of any name.
                self._process = subprocess.Popen(  # noqa: S603  our own module
                    [sys.executable, "-P", "-m", "transforms.quarantined", str(theirs.fileno()), target],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=self._said,
                    env=_environment(),
                    pass_fds=[theirs.fileno()],
                    process_group=0,
                )
            except OSError as error:
                self._connection.close()
                self._said.close()
                raise _not_started(str(error)) from error

    def await_ready(self, seconds: float) -> None:
        """Wait until it is ready.

        Raises:
            RunError: It is not and will not be, which every image would find.
            KilledAtStart: A signal has ended it.
        """
        if self._ready:
            return
        until = time.monotonic() + seconds
        try:
            self._send(pickle.dumps(self._plan), until)
            if self._receive_header(until) != {"ready": True}:
                raise ValueError("it does not speak our language")  # noqa: TRY301
        except TimeoutError as error:
            raise _not_started(f"it was not ready within {START_SECONDS:g} s") from error
        except (OSError, EOFError, ValueError) as error:
            ended = self._how_it_ended()
            reason = self._last_words() or ended
            if (self._process.returncode or 0) < 0:
                raise KilledAtStart(ended) from error
            raise _not_started(reason) from error
        self._ready = True
        self._said.close()

    def prepare(self, data: bytes, plan: LoadPlan, seconds: float) -> Prepared:
        """Have one image prepared.

        Raises:
            ImageError: What is wrong with it.
            Lost: The worker is of no use any more.
        """
        until = time.monotonic() + seconds
        try:
            self._send(data, until)
            header = self._receive_header(until)
            if "code" in header:
                raise _read_error(header)
            return self._receive_result(header, len(data), plan, until)
        except TimeoutError as error:
            raise Lost(plan.deadlines.error(Stage.DECODE), proven=True) from error
        except (OSError, EOFError) as error:
            raise Lost(_crash(self._how_it_ended())) from error
        except ValueError as error:
            raise Lost(_crash(f"its answer is not one: {error}")) from error

    def stop(self) -> None:
        """End the process, whatever it is at."""
        self._process.kill()
        self._process.wait()
        self._connection.close()
        self._said.close()

    def _send(self, data: bytes, until: float) -> None:
        for part in (SIZE.pack(len(data)), data):
            self._connection.settimeout(seconds_left(until))
            self._connection.sendall(part)

    def _receive_header(self, until: float) -> dict[str, Any]:
        (size,) = SIZE.unpack(receive(self._connection, SIZE.size, until))
        if size > _MOST_HEADER_BYTES:
            raise ValueError(f"a header of {size} bytes")
        try:
            header = json.loads(receive(self._connection, size, until))
        except RecursionError as error:
            raise ValueError("a header nested without end") from error
        if not isinstance(header, dict):
            raise ValueError("no object")  # noqa: TRY004  of the worker's, not of a type
        return header

    def _receive_result(self, header: dict[str, Any], size_bytes: int, plan: LoadPlan, until: float) -> Any:
        info = ImageInfo(
            width=_number(header, "width", _MOST_PIXELS_A_SIDE),
            height=_number(header, "height", _MOST_PIXELS_A_SIDE),
            format=_one_of(header, "format", FORMATS),
            size_bytes=size_bytes,
            decoder=_one_of(header, "decoder", DECODERS),
        )
        if plan.encoded:
            # A PNG made of an image that passed the limits is smaller than its pixels were in memory.
            most = max(size_bytes, plan.decode.max_decode_bytes)
            encoded = bytes(receive(self._connection, _number(header, "bytes", most), until))
            if not _is_for_models(encoded):
                raise ValueError("an image that the model's decoder must not see")
            return Encoded(encoded, info)
        first = plan.height * plan.width * 3
        needed = first + plan.second_bytes
        if _number(header, "bytes", needed) != needed:
            raise ValueError(f"{header['bytes']} bytes of pixels, {needed} are due")
        samples = np.frombuffer(receive(self._connection, needed, until), np.uint8)
        pixels = samples[:first].reshape(plan.height, plan.width, 3)
        if plan.second is None:
            return Decoded(pixels, info)
        return DecodedTwice(pixels, info, samples[first:].reshape(plan.second.height, plan.second.width, 3))

    def _how_it_ended(self) -> str:
        # It has closed the connection; if it has not ended with that, it is not a crash and needs no patience.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(ORPHAN_SECONDS)
        code = self._process.returncode
        if code is None:
            return "it closed its connection"
        if code >= 0:
            return f"exit code {code}"
        with contextlib.suppress(ValueError):
            return signal.Signals(-code).name
        return f"signal {-code}"

    def _last_words(self) -> str:
        # It is closed where the worker was stopped meanwhile; and no words are no reason to lose the error at hand.
        with contextlib.suppress(OSError, ValueError):
            self._said.seek(0)
            return self._said.read().decode("utf-8", "replace").strip().rpartition("\n")[2][:MOST_TEXT]
        return ""


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name in _KEPT_VARIABLES or name.startswith("LC_")}
    # A worker finds what its parent finds, however the parent came to find it.
    paths = os.pathsep.join(os.path.abspath(path) for path in sys.path)
    return {**kept, **_SINGLE_THREADED, "PYTHONPATH": paths}


def _not_started(reason: str) -> RunError:
    return RunError(
        ExitCode.WRONG_INPUT,
        f"a worker process of decode.quarantine does not start: {reason}; mend what {sys.executable} imports, or set "
        "decode.quarantine: false",
    )


def _crash(how: str) -> ImageError:
    return ImageError(
        FailureCode.CORRUPT_IMAGE,
        f"the decoder crashed ({how}) on this image, and its worker process was replaced: take the file for hostile, "
        "make it anew from its source or leave it out",
    )


def _read_error(header: dict[str, Any]) -> ImageError | Lost:
    """Return what a worker says of an image that failed, or that the worker is not fit for another."""
    code = FailureCode(_one_of(header, "code", _CODES))
    message, traceback = (_text(header.get(name, "")) for name in ("message", "traceback"))
    if traceback:
        _LOG.warning("a worker process failed in a way that the decoders do not announce: %s", message)
        _LOG.debug("in detail:\n%s", traceback)
    error = ImageError(code, message)
    return Lost(error) if header.get("out_of_memory") else error


def _is_for_models(encoded: bytes) -> bool:
    try:
        return may_pass(encoded, probe(encoded))
    except ImageError:
        return False


def _number(header: dict[str, Any], name: str, most: int) -> int:
    value = header.get(name)
    if type(value) is not int or not 0 < value <= most:
        raise ValueError(f"{name} is {_text(value)[:100]}")
    return value


def _one_of(header: dict[str, Any], name: str, allowed: Sequence[str] | frozenset[FailureCode]) -> str:
    value = header.get(name)
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name} is {_text(value)[:100]}")
    return value


def _text(value: object) -> str:
    # Half a surrogate pair is no text that Parquet could hold.
    return str(value)[:MOST_TEXT].encode("utf-8", "replace").decode()
