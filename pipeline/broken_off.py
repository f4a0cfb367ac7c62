"""Why a pipeline broke off: what its runner says, read back into an error of ours; and whether somebody stopped it."""

import errno
import re
import signal
import threading
import traceback
from types import FrameType
from typing import Any, Self

from transforms.errors import ExitCode, InterruptedRunError, RunError
from transforms.layout import RunLayout

# The text in which a runner hands an exception of a worker back: its class, its message, and where it was.
_WORKER_ERROR = re.compile(
    r"^transforms\.\w+\.(?P<kind>\w*Error|OutputContradiction): (?P<message>.*?)(?: \[while running .*)?$", re.MULTILINE
)
_ANY_ERROR = re.compile(r"^(?:\w+\.)*\w+(?:Error|Exception|Interrupt|Exit): .*$", re.MULTILINE)
FULL = (errno.ENOSPC, errno.EDQUOT)
"""The errors of a disk that has no room."""


def broken_off(error: BaseException, layout: RunLayout, *, interrupted: bool, overwrite: bool = False) -> RunError:
    """Return what is said of a run whose pipeline has raised.

    Args:
        error: What it raised.
        layout: The run.
        interrupted: Whether somebody has stopped this process.
        overwrite: Whether the run replaces a published one.
    """
    # A runner hands back what a worker has raised, or a text of it.
    text = f"{error}\n{''.join(traceback.format_exception_only(error))}"
    *_, found = None, *_WORKER_ERROR.finditer(text)
    passes = found is not None and found["kind"] == InterruptedRunError.__name__
    if found and not passes and not interrupted:
        return RunError(ExitCode.WRONG_INPUT, found["message"])
    cause = found["message"] if found else _cause(error, layout)
    how = "was interrupted" if interrupted else f"broke off: {cause}"
    return RunError(
        ExitCode.INTERRUPTED,
        f"run {layout.run_id} {how}; finished files are kept, {layout.again(overwrite=overwrite)} to continue",
    )


class Interrupts:
    """Remembers that Ctrl-C or SIGTERM came: a runner makes the KeyboardInterrupt in a worker a text among others."""

    _SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.seen = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in self._SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:  # by nohup, or a script that went on without it
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.seen = True
        before = self._before[signal.Signals(number)]
        if callable(before):
            before(number, frame)  # which ends the process where this is the second
        raise KeyboardInterrupt


def _cause(error: BaseException, layout: RunLayout) -> str:
    """Return the last exception that a runner's text names, without the traceback around it."""
    named = _ANY_ERROR.findall(str(error))
    first = "".join(str(error).strip().splitlines()[:1])  # an interrupt says nothing
    if first.endswith(":"):
        first = " ".join(str(error).split())[:500]  # a title, and what it is about
    cause = named[-1] if named else f"{type(error).__name__}: {first}".rstrip(": ")
    full = any(f"[errno {number}]" in cause.lower() for number in FULL)
    return f"the disk of {layout.output} is full, make room there ({cause})" if full else cause
