"""What the commands have in common that compare a run with the truth."""

import argparse
from typing import TYPE_CHECKING

from pipeline.commands.arguments import PUBLISHED_RUN

if TYPE_CHECKING:
    from pipeline.after.published import PublishedRun
    from pipeline.after.truth import Truth


def add_truth_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what every command that compares a run with the truth takes."""
    parser.add_argument("--scores", required=True, metavar="RUN", help=PUBLISHED_RUN)
    parser.add_argument(
        "--table",
        choices=("scores", "scores_challenger"),
        help="whose scores: the first model's (default), or those of the run's challenger",
    )
    parser.add_argument(
        "--truth",
        required=True,
        metavar="CSV",
        help="CSV file of paths and labels; labels are label texts or class indices, several parted by ';' for "
        "independent labels; bare file names match wherever the images lie",
    )
    add_column_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def add_column_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare which columns of a truth are read."""
    parser.add_argument(
        "--path-column", default="image_path", metavar="NAME", help="column of paths (default: image_path)"
    )
    parser.add_argument("--label-column", default="label", metavar="NAME", help="column of labels (default: label)")


def read_run_and_truth(args: argparse.Namespace) -> "tuple[PublishedRun, Truth]":
    """Find the run and read the truth that the arguments name."""
    from pipeline.after.published import find_run
    from pipeline.after.truth import read_truth

    run = find_run(args.scores, args.table)
    truth = read_truth(
        args.truth,
        run.labels,
        independent=run.independent,
        path_column=args.path_column,
        label_column=args.label_column,
    )
    return run, truth
