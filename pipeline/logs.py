"""The log on standard error: lines for people, or with --log-format json one JSON object a record.

Both hold the same redacted text. What C++ parts of other packages print themselves is no record and stays as it is;
the command line asks them to print nothing but errors.
"""

import itertools
import json
import logging
import sys
import traceback
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Literal, TextIO

from transforms.errors import ExitCode
from transforms.redaction import tell

Form = Literal["text", "json"]
FORMS: tuple[Form, ...] = ("text", "json")

_BEAM_TRACEBACKS = (
    "apache_beam.runners.worker",
    "apache_beam.runners.portability.fn_api_runner",
    "apache_beam.runners.common",
)
_OURS = ("pipeline", "transforms")
_LOG = logging.getLogger(__name__)


def find_form(arguments: Sequence[str]) -> Form:
    """Return the form that arguments ask for, before they are parsed: errors of parsing have it, too.

    >>> find_form(["run", "--log-format=json"]), find_form(["run", "--", "--log-format=json"])
    ('json', 'text')
    """
    found: Form = "text"
    ours = list(arguments)
    ours = ours[: ours.index("--")] if "--" in ours else ours
    for word, following in itertools.zip_longest(ours, ours[1:], fillvalue=""):
        name, sign, value = word.partition("=")
        if name == "--log-format":
            found = "json" if (value if sign else following) == "json" else "text"
    return found


def log_to_stderr(form: Form) -> None:
    """Send every record of the process to standard error; a process that logs somewhere already is left as it is."""
    handler = _ToStandardError()
    handler.setFormatter(JsonFormatter() if form == "json" else PlainFormatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    if form == "json":
        logging.captureWarnings(capture=True)


def choose_levels(*, verbose: bool) -> None:
    """Let records of ours pass from INFO on, those of others from WARNING on; with verbose, details of ours too."""
    for package in _OURS:
        logging.getLogger(package).setLevel(logging.DEBUG if verbose else logging.INFO)
    if not verbose:
        # What a worker raises comes back to us and is told in one line; Beam logs its traceback besides.
        for package in _BEAM_TRACEBACKS:
            logging.getLogger(package).setLevel(logging.CRITICAL)


def is_json() -> bool:
    """Tell whether standard error is a stream of JSON objects."""
    return bool(_json_formatters())


def name_run(run_id: str) -> None:
    """Put the run's id into every record of JSON from now on."""
    for formatter in _json_formatters():
        formatter.run_id = run_id


def _json_formatters() -> list["JsonFormatter"]:
    handlers = logging.getLogger().handlers
    return [handler.formatter for handler in handlers if isinstance(handler.formatter, JsonFormatter)]


def tell_error(text: str, exit_code: ExitCode, resume: str | None = None) -> None:
    """Say on standard error how a command has ended.

    Args:
        text: What happened and what to do.
        exit_code: What the command returns.
        resume: The command that goes on where this one has ended; None where there is none.
    """
    if is_json():
        fields = {"exit_code": int(exit_code), **({"resume": resume} if resume else {})}
        _LOG.error("%s", text, extra={"fields": fields})
        return
    sys.stderr.write(f"score-images: {tell(text)}\n" + (f"  run again: {resume}\n" if resume else ""))


def tell_crash(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Say on standard error what nobody foresaw; an excepthook."""
    if is_json():
        _LOG.critical("a crash: %s", kind.__name__, exc_info=(kind, error, trace))
        return
    text = "".join(traceback.format_exception(kind, error, trace)).rstrip()
    sys.stderr.write(tell(_indented(text)) + "\n")


class _ToStandardError(logging.StreamHandler[TextIO]):
    """Writes to what is standard error at the moment: a live view puts itself there, and lines appear above it."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        self.stream = sys.stderr
        super().emit(record)


class PlainFormatter(logging.Formatter):
    """Keeps secrets, and characters that could forge a line, out of what is logged, whoever logs it.

    A record of ours is one line; what Beam and others say in several, and tracebacks, are indented below their first.
    Not a filter: that would change the record for every other handler, and see no traceback.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  the name is Python's
        """Return the line of a record."""
        record.message = _told(record, record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:  # noqa: N802  the name is Python's
        """Return a traceback, indented."""
        return tell("  " + _indented(super().formatException(ei)))


class JsonFormatter(logging.Formatter):
    """One line of JSON a record: time, level, logger, message; run_id, exception and other fields where there are any.

    ASCII only, so that no encoding of standard error and no name of a file, valid or not, can spoil a line.
    """

    run_id: str | None = None
    """The run that this process carries out; None where it is not known."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        fields: Mapping[str, Any] = getattr(record, "fields", {})
        said: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")[:-6] + "Z",
            "level": record.levelname,
            "logger": record.name,
            "message": _told(record, record.getMessage()),
        }
        if self.run_id is not None:
            said["run_id"] = tell(self.run_id)
        if record.exc_info:
            said["exception"] = tell(_indented(self.formatException(record.exc_info)))
        if record.stack_info:
            said["stack"] = tell(_indented(record.stack_info))
        return json.dumps({**said, **fields}, allow_nan=False)


def _told(record: logging.LogRecord, message: str) -> str:
    ours = record.name.partition(".")[0] in _OURS
    return tell(message if ours else _indented(message))


def _indented(text: str) -> str:
    return text.replace("\n", "\n  ")
