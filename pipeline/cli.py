"""The command line: one thin module a command, exit codes, and errors in one line."""

import argparse
import contextlib
import glob
import importlib
import logging
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import Any, NoReturn

from transforms.errors import ConfigError, ExitCode, RunError, ScoreImagesError
from transforms.redaction import redact_flags, tell

_BEAM_TRACEBACKS = (
    "apache_beam.runners.worker",
    "apache_beam.runners.portability.fn_api_runner",
    "apache_beam.runners.common",
)
# Imported by name when the parser is built; each imports its heavy parts only when it is called, so that --help
# and config --check answer at once.
_COMMANDS = (
    "run", "launch", "profiles", "demo", "config", "report", "compare", "verify", "clean", "export", "evaluate",
    "calibrate", "golden",
    "inspect", "preflight",
)  # fmt: skip
_OURS = ("pipeline", "transforms")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        argv: Arguments without the program's name; None takes those of the process.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    # TensorFlow's C++ part prints a page of notices; without a GPU in the machine, errors for the lack of one, too.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2" if glob.glob("/dev/nvidia*") else "3")
    beam_flags: list[str] = []
    if "--" in arguments:
        split = arguments.index("--")
        arguments, beam_flags = arguments[:split], arguments[split + 1 :]
    args = _parser().parse_args(arguments)
    args.beam_flags = beam_flags
    _log_to_stderr(args.verbose)
    try:
        return int(args.call(args))
    except ConfigError as error:
        return _fail(error, ExitCode.WRONG_INPUT)
    except RunError as error:
        return _fail(error, error.exit_code)
    except ScoreImagesError as error:
        return _fail(error, ExitCode.WRONG_INPUT)


def _fail(error: Exception, exit_code: ExitCode) -> int:
    logging.getLogger(__name__).debug("in detail:", exc_info=error)
    sys.stderr.write(f"score-images: {tell(str(error))}\n")
    return int(exit_code)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # It quotes what it does not know, and Beam's flags given without -- among it.
        super().error(tell(" ".join(redact_flags(message.split(" ")))))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="score-images",
        description="Score images in bulk with a TensorFlow classifier and publish probabilities as Parquet.",
        epilog="Flags after -- go to Apache Beam, --runner=FlinkRunner for example.",
        allow_abbrev=False,
    )
    parser.add_argument("--verbose", action="store_true", help="log details, tracebacks of errors among them")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name in _COMMANDS:
        module = importlib.import_module(f"pipeline.commands.{name}")
        summary = (module.__doc__ or name).split("\n")[0]
        command = commands.add_parser(name, help=summary, description=module.__doc__, allow_abbrev=False)
        module.add_arguments(command)
        command.set_defaults(call=module.call)
    return parser


def _log_to_stderr(verbose: bool) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(_PlainFormatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    for package in _OURS:
        logging.getLogger(package).setLevel(logging.DEBUG if verbose else logging.INFO)
    if not verbose:
        # What a worker raises comes back to us and is told in one line; Beam logs its traceback besides.
        for package in _BEAM_TRACEBACKS:
            logging.getLogger(package).setLevel(logging.CRITICAL)


class _PlainFormatter(logging.Formatter):
    """Keeps secrets, and characters that could forge a line, out of what is logged, whoever logs it.

    A record of ours is one line; what Beam and others say in several, and tracebacks, are indented below their first.
    Not a filter: that would change the record for every other handler, and see no traceback.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  the name is Python's
        ours = record.name.partition(".")[0] in _OURS
        record.message = tell(record.message if ours else _indented(record.message))
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:  # noqa: N802  the name is Python's
        return tell("  " + _indented(super().formatException(ei)))


def _indented(text: str) -> str:
    return text.replace("\n", "\n  ")


def _tell_crash(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    text = "".join(traceback.format_exception(kind, error, trace)).rstrip()
    sys.stderr.write(tell(_indented(text)) + "\n")


def _stop(signal_number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001  the signature is Python's
    raise KeyboardInterrupt


def entry_point() -> NoReturn:
    """Run the command as a process: a scheduler's SIGTERM stops it like Ctrl-C, and nothing lingers."""
    signal.signal(signal.SIGTERM, _stop)
    sys.excepthook = _tell_crash
    try:
        code = main()
    except KeyboardInterrupt:
        sys.stderr.write("score-images: interrupted\n")
        code = int(ExitCode.INTERRUPTED)
    # Who closed the pipe does not want the text; the exit code stays what the run has earned.
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.flush()
    sys.stderr.flush()
    # Threads of a runner or decoder may still be at work after an interrupt: waiting for them could take minutes.
    os._exit(code)
