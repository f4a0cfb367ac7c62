"""Fit a temperature or Platt scaling from a published run and the truth, and print the lines for the configuration.

Temperature for classes that exclude each other, Platt's pair for sigmoid: both make 80% mean 80%. NLL, Brier score
and ECE are printed before and after.
"""

import argparse

from pipeline.commands.truth_arguments import add_truth_arguments, read_run_and_truth


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_truth_arguments(parser)
    parser.add_argument(
        "--per-label", action="store_true", help="independent labels: a pair for each label, not one for all"
    )
    parser.add_argument(
        "--holdout",
        type=float,
        metavar="SHARE",
        help="keep this share of the images out of the fit and measure on them: 0.5 for example",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="which images are held out (default: 0)")
    parser.add_argument("--write", metavar="FILE", help="write the lines to a new file as well")


def call(args: argparse.Namespace) -> int:
    """Fit, measure, print and write."""
    from pipeline.after.calibrate import calibrate
    from pipeline.after.calibrate_text import calibration_text, write_lines

    fitted = calibrate(*read_run_and_truth(args), per_label=args.per_label, holdout=args.holdout, seed=args.seed)
    if args.write:
        write_lines(fitted, args.write)
    if args.json:
        import json

        print(json.dumps(fitted.to_json(), indent=2, ensure_ascii=False))
    else:
        print(calibration_text(fitted))
    return 0
