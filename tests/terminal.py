"""A terminal that a command runs in: what a person sees of it, and the keys that they press."""

import fcntl
import os
import pty
import select
import struct
import sys
import termios
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pyte

ROOT = Path(__file__).parent.parent


class Terminal:
    """A command in a pseudo-terminal of 240 columns and 30 lines.

    Args:
        arguments: Of `python -m pipeline`.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        self._screen = pyte.Screen(240, 30)
        self._stream = pyte.ByteStream(self._screen)
        self._pid, self._descriptor = pty.fork()
        if self._pid == 0:
            environment = {**os.environ, "TERM": "xterm-256color", "PYTHONPATH": str(ROOT), "COLUMNS": "240"}
            os.execve(sys.executable, [sys.executable, "-m", "pipeline", *arguments], environment)  # noqa: S606
        fcntl.ioctl(self._descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 240, 0, 0))
        self.code: int | None = None

    @property
    def text(self) -> str:
        """What is on the screen, without the blanks at the ends of lines."""
        return "\n".join(line.rstrip() for line in self._screen.display).rstrip()

    @property
    def shows_cursor(self) -> bool:
        """Whether a person sees where they would type."""
        return not self._screen.cursor.hidden

    def press(self, keys: bytes) -> None:
        """Press keys."""
        os.write(self._descriptor, keys)

    def wait(self, until: Callable[[str], bool], seconds: float = 120) -> str:
        """Wait until the screen shows something, and return it; or until the command has ended."""
        deadline = time.monotonic() + seconds
        while not until(self.text):
            assert time.monotonic() < deadline, self.text
            if not self._read():
                break
        return self.text

    def end(self, seconds: float = 60) -> int:
        """Wait for the end of the command and return its exit code."""
        self.wait(lambda _: False, seconds)
        _, status = os.waitpid(self._pid, 0)
        os.close(self._descriptor)
        self.code = os.waitstatus_to_exitcode(status)
        return self.code

    def _read(self) -> bool:
        ready, _, _ = select.select([self._descriptor], [], [], 0.1)
        if not ready:
            return True
        try:
            data = os.read(self._descriptor, 65536)
        except OSError:  # Linux says so at the end
            return False
        self._stream.feed(data)
        return bool(data)
