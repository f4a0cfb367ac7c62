"""Measure a published run against the truth: accuracy, log-loss, Brier, ECE, per class and by confusion.

The truth is a CSV file of paths and labels. Classes that exclude each other get top-1 and top-5, two classes ROC AUC
and average precision as well; independent labels get curves and F1 for each label.
"""

import argparse

from pipeline.commands.truth_arguments import add_truth_arguments, read_run_and_truth


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_truth_arguments(parser)
    parser.add_argument(
        "--threshold",
        type=float,
        metavar="P",
        help="probability from which a label counts as positive, instead of the decisions that the run has published",
    )
    parser.add_argument(
        "--rows", type=int, default=10, metavar="N", help="classes and kinds of mistakes to list (default: 10)"
    )


def call(args: argparse.Namespace) -> int:
    """Evaluate and print."""
    from pipeline.after.evaluate import evaluate
    from pipeline.after.evaluate_text import evaluation_text

    evaluation = evaluate(*read_run_and_truth(args), args.threshold)
    if args.json:
        import json

        print(json.dumps(evaluation.to_json(), indent=2, ensure_ascii=False))
    else:
        print(evaluation_text(evaluation, args.rows))
    return 0
