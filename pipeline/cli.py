"""The command line: one thin module a command, exit codes, and errors in one line."""

import argparse
import contextlib
import glob
import importlib
import logging
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from pipeline import logs
from pipeline.stopping import StopOnSignals
from transforms.errors import ConfigError, ExitCode, RunError, ScoreImagesError
from transforms.redaction import redact_flags, tell

# Imported by name when the parser is built; each imports its heavy parts only when it is called, so that --help
# and config --check answer at once.
_COMMANDS = (
    "run", "launch", "profiles", "demo", "config", "report", "compare", "verify", "clean", "export", "evaluate",
    "calibrate", "golden",
    "inspect", "preflight",
)  # fmt: skip


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
    logs.log_to_stderr(logs.find_form(arguments))
    args = _parser().parse_args(arguments)
    args.beam_flags = beam_flags
    args.command_line = [*arguments, *(["--", *beam_flags] if beam_flags else [])]
    logs.choose_levels(verbose=args.verbose)
    try:
        return int(args.call(args))
    except ConfigError as error:
        return _fail(error, ExitCode.WRONG_INPUT)
    except RunError as error:
        return _fail(error, error.exit_code, error.resume)
    except ScoreImagesError as error:
        return _fail(error, ExitCode.WRONG_INPUT)


def _fail(error: Exception, exit_code: ExitCode, resume: str | None = None) -> int:
    logging.getLogger(__name__).debug("in detail:", exc_info=error)
    logs.tell_error(str(error), exit_code, resume)
    return int(exit_code)


def _add_log_arguments(parser: argparse.ArgumentParser, *, behind: bool) -> None:
    # Before the command or behind it: who does not give one behind keeps what stands before.
    parser.add_argument(
        "--verbose",
        action="store_true",
        default=argparse.SUPPRESS if behind else False,
        help="log details, tracebacks of errors among them",
    )
    parser.add_argument(
        "--log-format",
        choices=logs.FORMS,
        default=argparse.SUPPRESS if behind else "text",
        help="what standard error is: text for people, or json, one object a line (default: text)",
    )


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # It quotes what it does not know, and Beam's flags given without -- among it.
        said = tell(" ".join(redact_flags(message.split(" "))))
        if logs.is_json():
            logs.tell_error(said, ExitCode.WRONG_INPUT)
            self.exit(int(ExitCode.WRONG_INPUT))
        super().error(said)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="score-images",
        description="Score images in bulk with a TensorFlow classifier and publish probabilities as Parquet.",
        epilog="Flags after -- go to Apache Beam, --runner=FlinkRunner for example.",
        allow_abbrev=False,
    )
    _add_log_arguments(parser, behind=False)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name in _COMMANDS:
        module = importlib.import_module(f"pipeline.commands.{name}")
        summary = (module.__doc__ or name).split("\n")[0]
        command = commands.add_parser(name, help=summary, description=module.__doc__, allow_abbrev=False)
        module.add_arguments(command)
        _add_log_arguments(command, behind=True)
        command.set_defaults(call=module.call)
    return parser


def entry_point() -> NoReturn:
    """Run the command as a process: a scheduler's SIGTERM stops it like Ctrl-C, and nothing lingers."""
    StopOnSignals().install()
    sys.excepthook = logs.tell_crash
    try:
        code = main()
    except KeyboardInterrupt:
        logs.tell_error("interrupted", ExitCode.INTERRUPTED)
        code = int(ExitCode.INTERRUPTED)
    # Who closed the pipe does not want the text; the exit code stays what the run has earned.
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.flush()
    sys.stderr.flush()
    # Threads of a runner or decoder may still be at work after an interrupt: waiting for them could take minutes.
    os._exit(code)
