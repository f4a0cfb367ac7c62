"""Write a published run for cleanlab, FiftyOne, Evidently, or as CSV.

docs/analytics.md shows how each tool loads what is written. With --truth the labels that the images really have go
with it. Memory stays small however large the run is.
"""

import argparse
import sys

from pipeline.commands.arguments import PUBLISHED_RUN
from pipeline.commands.truth_arguments import add_column_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("run", metavar="RUN", help=PUBLISHED_RUN)
    # Named here, not imported: --help answers before the tables are loaded.
    parser.add_argument(
        "--to", required=True, choices=("csv", "cleanlab", "fiftyone", "evidently"), help="the tool that is to load it"
    )
    parser.add_argument(
        "--out",
        required=True,
        metavar="PATH",
        help="a local file (csv, compressed if its name ends with .gz; fiftyone: .json; evidently: .parquet) or a "
        "folder (cleanlab)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier export")
    parser.add_argument(
        "--truth",
        metavar="CSV",
        help="CSV file of paths and labels, as evaluate takes it; cleanlab then gets the images that have one",
    )
    add_column_arguments(parser)
    parser.add_argument(
        "--probabilities", action="store_true", help="csv, evidently: a column for each class, with its probability"
    )
    parser.add_argument(
        "--for-spreadsheets",
        action="store_true",
        help="csv: put an apostrophe before texts that a spreadsheet would take for formulas",
    )
    parser.add_argument(
        "--replace-prefix",
        metavar="FROM=TO",
        help="fiftyone: where images of a store are mounted or copied to, s3://photos/=/mnt/photos/ for example",
    )


def call(args: argparse.Namespace) -> int:
    """Export, and say what was written."""
    from rich.console import Console
    from rich.progress import Progress

    from pipeline.after.export import ExportOptions, export
    from pipeline.after.export_fiftyone import parse_prefix
    from pipeline.after.export_text import exported_text
    from pipeline.after.published import find_run
    from pipeline.after.truth import read_truth

    options = ExportOptions(
        overwrite=args.overwrite,
        probabilities=args.probabilities,
        for_spreadsheets=args.for_spreadsheets,
        prefix=parse_prefix(args.replace_prefix) if args.replace_prefix else None,
    )
    run = find_run(args.run)
    columns = {"path_column": args.path_column, "label_column": args.label_column}
    truth = read_truth(args.truth, run.labels, independent=run.independent, **columns) if args.truth else None
    console = Console(file=sys.stderr)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("exporting", total=run.manifest.get("ledger", {}).get("scored"))
        done = export(run, args.to, args.out, truth, options, lambda rows: bar.advance(task, rows))
    print(exported_text(run, args.to, done))
    return 0
