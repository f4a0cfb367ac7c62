"""Write a published run in the form that another tool loads: cleanlab, FiftyOne, Evidently, or any that reads CSV.

Everything is read and written a row group at a time, so that memory is bounded by one row group and, where there is
a truth, by the truth. What is written takes its place when it is whole.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from pipeline.after.export_cleanlab import FILES, write_cleanlab
from pipeline.after.export_csv import write_csv
from pipeline.after.export_evidently import write_evidently
from pipeline.after.export_fiftyone import Prefix, write_fiftyone
from pipeline.after.export_source import ExportSource
from pipeline.after.fresh_output import check_place, fresh_output, place_of
from pipeline.after.published import PublishedRun
from pipeline.after.truth import MatchCounts, Truth, join
from transforms.errors import ConfigError

Target = Literal["csv", "cleanlab", "fiftyone", "evidently"]
TARGETS: tuple[Target, ...] = get_args(Target)


@dataclass(frozen=True)
class ExportOptions:
    """How a run is written; each option belongs to some targets and is refused for the others."""

    overwrite: bool = False
    """Replace an earlier export."""
    probabilities: bool = False
    """csv, evidently: add a column for each class."""
    for_spreadsheets: bool = False
    """csv: texts that begin like formulas get an apostrophe."""
    prefix: Prefix | None = None
    """fiftyone: where the images lie."""


class Exported(NamedTuple):
    """What was written."""

    path: str
    """The file or folder."""
    rows: int
    """Images in it."""
    counts: MatchCounts | None
    """How run and truth fit together; None without a truth."""


def export(
    run: PublishedRun,
    target: Target,
    out: str,
    truth: Truth | None = None,
    options: ExportOptions | None = None,
    progress: Callable[[int], None] | None = None,
) -> Exported:
    """Write a run for a tool.

    Args:
        run: From find_run.
        target: What is to load it.
        out: Local file, for cleanlab a folder.
        truth: From read_truth, with the labels of this run.
        options: None for the defaults.
        progress: Told the number of rows after some thousand; None tells nobody.

    Raises:
        ConfigError: The place is taken or cannot be written to, or an option does not fit the target or the run.
        InputError: A file of the run is missing or damaged; run and truth share no image.
    """
    options = options or ExportOptions()
    _check_options(target, options)
    path = place_of(out, run.layout)
    known = FILES if target == "cleanlab" else None
    check_place(path, known, overwrite=options.overwrite)
    source = ExportSource(run, truth, join(run, truth) if truth else None, progress)
    with fresh_output(path, known, overwrite=options.overwrite) as temporary:
        if target == "csv":
            rows = write_csv(
                source,
                temporary,
                gzip=path.endswith(".gz"),
                probabilities=options.probabilities,
                spreadsheet=options.for_spreadsheets,
            )
        elif target == "cleanlab":
            rows = write_cleanlab(source, temporary)
        elif target == "fiftyone":
            rows = write_fiftyone(source, temporary, prefix=options.prefix)
        else:
            rows = write_evidently(source, temporary, probabilities=options.probabilities)
    return Exported(path, rows, source.joined.counts if source.joined else None)


def _check_options(target: Target, options: ExportOptions) -> None:
    fitting = {
        "--probabilities": (options.probabilities, ("csv", "evidently")),
        "--for-spreadsheets": (options.for_spreadsheets, ("csv",)),
        "--replace-prefix": (options.prefix is not None, ("fiftyone",)),
    }
    for name, (given, targets) in fitting.items():
        if given and target not in targets:
            raise ConfigError(f"{name} is for --to {' or '.join(targets)}, got --to {target}; leave it out")
