"""Leave the metrics of a run when it has ended, however it has; whatever happens to them, the run ends as it does."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.metrics import Ended, Value
from pipeline.metrics_file import check_metrics_file, write_metrics_file
from pipeline.metrics_otlp import check_otlp_endpoint, send_metrics
from transforms.errors import ExitCode, RunError, ScoreImagesError

if TYPE_CHECKING:
    from pipeline.run_records import RunResult

_LOG = logging.getLogger(__name__)
_CRASHED = 1


@dataclass(frozen=True)
class MetricsPlan:
    """Where the metrics of a run go; nowhere by default."""

    file: str | None = None
    """A file for the textfile collector."""
    otlp: str | None = None
    """The base URL of a collector."""

    def check(self) -> None:
        """See that they can go there.

        Raises:
            ConfigError: They cannot.
        """
        if self.file is not None:
            check_metrics_file(self.file)
        if self.otlp is not None:
            check_otlp_endpoint(self.otlp)


@dataclass
class Left:
    """What a run leaves to be told when it ends."""

    result: "RunResult | None" = field(default=None)
    """Set it when the run has come to its end."""


@contextlib.contextmanager
def leaving_metrics(
    plan: MetricsPlan, config: str, output: str, clock: Callable[[], float] = time.time
) -> Iterator[Left]:
    """Leave metrics when a block ends or raises; a failure to do so is a warning and no more.

    Args:
        plan: Where they go.
        config: The configuration as it was named on the command line.
        output: Where the runs lie.
        clock: Unix time in seconds.
    """
    started = clock()
    left = Left()
    exit_code = _CRASHED
    try:
        yield left
        exit_code = int(left.result.outcome.exit_code) if left.result else _CRASHED
    except ScoreImagesError as error:
        exit_code = int(error.exit_code if isinstance(error, RunError) else ExitCode.WRONG_INPUT)
        raise
    except KeyboardInterrupt:
        exit_code = int(ExitCode.INTERRUPTED)
        raise
    finally:
        if plan != MetricsPlan():
            facts = _facts(left.result) if left.result else None
            _leave(plan, Ended(config, output, exit_code, started, clock(), left.result, facts).values())


def _facts(result: "RunResult") -> Mapping[str, Any] | None:
    # Not at the head: the command line answers without it.
    from pipeline.after.ended import read_ended

    try:
        return read_ended(result.layout, refused=result.outcome.exit_code is not ExitCode.PUBLISHED).facts
    except (ScoreImagesError, OSError) as error:
        _LOG.warning("metrics of run %s lack what its manifest says: %s", result.layout.run_id, error)
        return None


def _leave(plan: MetricsPlan, values: Sequence[Value]) -> None:
    if plan.file is not None:
        _whatever_happens(plan.file, write_metrics_file, values)
    if plan.otlp is not None:
        _whatever_happens(plan.otlp, send_metrics, values)


def _whatever_happens(place: str, leave: Callable[[str, Sequence[Value]], None], values: Sequence[Value]) -> None:
    try:
        leave(place, values)
    except Exception as error:  # noqa: BLE001  the run is over, whatever its metrics do
        reason = str(error).split("\n")[0] or type(error).__name__
        _LOG.warning("metrics of the run cannot be left whole at %s: %s", place, reason)
        _LOG.debug("in detail:", exc_info=error)
