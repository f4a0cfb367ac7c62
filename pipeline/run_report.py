"""The report that a launcher leaves when its run is over; whatever happens to it, the run has ended as it has."""

import logging
import shlex
from collections.abc import Callable

from pipeline.after.report_advice import Spent
from transforms.layout import RunLayout

_LOG = logging.getLogger(__name__)


def leave_report(layout: RunLayout, spent: Spent, *, refused: bool) -> str | None:
    """Write the report of a run that has just ended.

    Args:
        layout: The run.
        spent: What was counted.
        refused: Of the attempt that was refused, not of what may be published under its id.

    Returns:
        Where its page lies; None where there is none, which is told in the log.
    """

    def make() -> str:
        # Not at the head: a run has other things to import while its model is loaded.
        from pipeline.after.ended import read_ended
        from pipeline.after.report import write_report

        return write_report(read_ended(layout, refused=refused), spent)

    return _whatever_happens(layout, make)


def leave_missing_report(layout: RunLayout) -> str | None:
    """Make the report of a published run that has none: its launcher has died before it could.

    Returns:
        As leave_report.
    """

    def make() -> str:
        from pipeline.after.ended import read_ended
        from pipeline.after.report import has_report, write_report

        run = read_ended(layout, refused=False)
        return layout.report("html", refused=False) if has_report(run) else write_report(run)

    return _whatever_happens(layout, make)


def _whatever_happens(layout: RunLayout, make: Callable[[], str]) -> str | None:
    try:
        return make()
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  the run is over, whatever its report does
        reason = "it was interrupted" if isinstance(error, KeyboardInterrupt) else str(error).split("\n")[0]
        _LOG.warning(
            "run %s has no report: %s; make it with: score-images report %s",
            layout.run_id, reason or type(error).__name__, shlex.join([layout.output, "--run-id", layout.run_id]),
        )  # fmt: skip
        _LOG.debug("in detail:", exc_info=error)
        return None
