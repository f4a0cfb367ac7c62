"""Keep what other packages say at their import off the terminal, where it hides what matters."""

import contextlib
import logging
import os
import re
import sys
import tempfile
from collections.abc import Iterator

# TensorFlow's C++ part prints these at every start, whatever its log level is.
_NOTICES = re.compile(
    rb"All log messages before absl::InitializeLog|oneDNN custom operations are on|Could not find cuda drivers"
    rb"|binary is optimized to use available CPU|enable the following instructions"
)


def import_tensorflow() -> None:
    """Import TensorFlow without its notices; everything else that it prints passes."""
    if "tensorflow" in sys.modules:
        return
    with _without_notices():
        import tensorflow  # noqa: F401


def import_beam() -> None:
    """Import Apache Beam without its warning of an extra that nothing here uses."""

    def useful(record: logging.LogRecord) -> bool:
        return "apitools not found" not in record.getMessage()

    handlers = logging.getLogger().handlers
    for handler in handlers:
        handler.addFilter(useful)
    try:
        import apache_beam  # noqa: F401
    finally:
        for handler in handlers:
            handler.removeFilter(useful)


@contextlib.contextmanager
def _without_notices() -> Iterator[None]:
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as kept:
        os.dup2(kept.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)
            kept.seek(0)
            for line in kept:
                if not _NOTICES.search(line):
                    os.write(2, line)
