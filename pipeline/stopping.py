"""Stop a command: Ctrl-C or a scheduler's SIGTERM once lets it end cleanly, twice ends it at once."""

import os
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from pipeline import logs
from transforms.errors import ExitCode
from transforms.redaction import REMOVED, redact_flags

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SHOW_CURSOR = "\x1b[?25h"


class StopOnSignals:
    """A handler of signals: the first becomes a KeyboardInterrupt, the second ends the process."""

    def __init__(self) -> None:
        self._seen = False

    def install(self) -> None:
        """Handle the signals that nobody has asked to be ignored, as nohup does."""
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self)

    def __call__(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002  the signature is Python's
        """Handle one signal."""
        if not self._seen:
            self._seen = True
            raise KeyboardInterrupt
        # Not by a logger or a stream: the signal may have come while this thread was writing to it.
        if not logs.is_json():
            view = _SHOW_CURSOR if os.isatty(2) else ""
            os.write(2, f"{view}\nscore-images: stopped at once; finished files are kept\n".encode())
        os._exit(int(ExitCode.INTERRUPTED))


def command_to_continue(arguments: Sequence[str], run_id: str, program: str | None = None) -> str:
    """Return a command line for a shell that goes on with a run.

    What is secret in it is replaced by ***, which the text then says.

    Args:
        arguments: Of the command that was stopped, Beam's flags after -- among them.
        run_id: The run that it worked on.
        program: What was called; None takes what this process was called by.

    >>> command_to_continue(["run", "--input", "my photos", "--", "--x=1"], "n1", "score-images")
    "score-images run --input 'my photos' --run-id n1 -- --x=1"
    """
    words = list(arguments)
    end = words.index("--") if "--" in words else len(words)
    named = any(word.partition("=")[0] == "--run-id" for word in words[:end])
    words[end:end] = [] if named else ["--run-id", run_id]
    told = redact_flags(words)
    line = " ".join([program or _program(), *map(_shell_word, told)])
    return line if told == words else f"{line}  (put back what {REMOVED} stands for)"


def _program() -> str:
    called = Path(sys.argv[0])
    return f"{_shell_word(sys.executable)} -m pipeline" if called.name == "__main__.py" else "score-images"


def _shell_word(word: str) -> str:
    r"""Quote a word for bash, zsh and their like; one that would move a cursor in their own escapes.

    >>> _shell_word("a\nb"), _shell_word("it's")
    ("$'a\\x0ab'", '\'it\'"\'"\'s\'')
    """
    if word.isprintable():
        return shlex.quote(word)
    # Three digits of octal would do, too; hex ends after two digits by itself.
    plain = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./=:@,+ ")
    return "$'" + "".join(chr(byte) if byte in plain else f"\\x{byte:02x}" for byte in os.fsencode(word)) + "'"
