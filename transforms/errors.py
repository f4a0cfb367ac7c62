"""The exceptions of the project and the stable codes of failed images.

    ScoreImagesError            everything that is raised on purpose
      ConfigError               the operator can mend it: exit code 2
        InputError              an input that matches nothing or cannot be read: exit code 2
        ModelError              a model that cannot be loaded or does not fit its configuration: exit code 2
      ImageError                one image that cannot be scored: becomes one failures row, never stops a run
      RunError                  the run as a whole cannot go on or be published; carries its exit code
        InterruptedRunError     what stopped it lies outside of it and may pass: exit code 130, to be run again

A failure code is an API: dashboards group by it and alerts name it. Codes are added, never renamed.
"""

from enum import IntEnum, StrEnum

from transforms.redaction import redact


class FailureCode(StrEnum):
    """Why an image has no scores row; the `code` column of the failures table."""

    NOT_FOUND = "not_found"
    PERMISSION_DENIED = "permission_denied"
    READ_TIMEOUT = "read_timeout"
    READ_ERROR = "read_error"
    EMPTY_FILE = "empty_file"
    TOO_LARGE_FILE = "too_large_file"
    UNSUPPORTED_FORMAT = "unsupported_format"
    CORRUPT_IMAGE = "corrupt_image"
    TRUNCATED_IMAGE = "truncated_image"
    TOO_MANY_PIXELS = "too_many_pixels"
    DECODE_TIMEOUT = "decode_timeout"
    MODEL_ERROR = "model_error"
    NON_FINITE_OUTPUT = "non_finite_output"


class Stage(StrEnum):
    """Where an image was lost; the `stage` column of the failures table."""

    LIST = "list"
    READ = "read"
    DECODE = "decode"
    SCORE = "score"


class ExitCode(IntEnum):
    """What the command says to the scheduler that started it."""

    PUBLISHED = 0
    WRONG_INPUT = 2
    TOO_MANY_FAILURES = 3
    LEDGER_MISMATCH = 4
    HEALTH_GATE_CLOSED = 5
    PROMISE_BROKEN = 6
    INTERRUPTED = 130


class ScoreImagesError(Exception):
    """Base of every error that is raised on purpose."""


class ConfigError(ScoreImagesError):
    """A configuration or input that the operator has to change before a run can start."""


class InputError(ConfigError):
    """An input that matches nothing, or a manifest that cannot be read."""


class ModelError(ConfigError):
    """A model that cannot be loaded, or that does not fit its configuration."""


class ImageError(ScoreImagesError):
    """One image that cannot be scored.

    Args:
        code: The stable failure code.
        message: One sentence for a person: what was found, the value, what is allowed. The queries of URLs are
            taken out: an error of a storage may quote a signed one.
    """

    def __init__(self, code: FailureCode, message: str) -> None:
        message = redact(message)
        super().__init__(code, message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class RunError(ScoreImagesError):
    """A run that cannot go on or be published.

    Args:
        exit_code: What the command returns.
        message: What happened and what to do.
    """

    resume: str | None = None
    """The command line that goes on with the run; the command that was called fills it in."""

    def __init__(self, exit_code: ExitCode, message: str) -> None:
        super().__init__(exit_code, message)
        self.exit_code = exit_code
        self.message = message

    def __str__(self) -> str:
        return self.message


class InterruptedRunError(RunError):
    """A run that something outside of it has stopped: it may be continued later, as it is.

    Args:
        message: What happened and what to do.
    """

    def __init__(self, message: str) -> None:
        super().__init__(ExitCode.INTERRUPTED, message)
        self.args = (message,)  # pickling calls the class with them
