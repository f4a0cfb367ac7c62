"""Keep the probabilities of a few photos, and check that they stay what they are.

`golden make` writes them to a file. A configuration that names it under golden.path scores these photos before each
run, and the run does not start when they have drifted. `golden check` does the same without a run.
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    make = actions.add_parser("make", help="score photos and write what came out", allow_abbrev=False)
    check = actions.add_parser("check", help="score the photos of golden.path and compare", allow_abbrev=False)
    for action in (make, check):
        action.add_argument("--config", required=True, metavar="FILE", help="YAML configuration")
        action.add_argument(
            "--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE", help="override a setting"
        )
    make.add_argument(
        "--input",
        required=True,
        action="append",
        nargs="+",
        metavar="PHOTO",
        help="photos: files, folders, globs or manifests; a few that differ are enough",
    )
    make.add_argument("--output", required=True, metavar="FILE", help="JSON file to write, beside the photos")


def call(args: argparse.Namespace) -> int:
    """Make or check, and say what came out."""
    from pipeline.config import load_config

    config = load_config(args.config, args.overrides)
    from pipeline.quiet import import_tensorflow

    import_tensorflow()
    from pipeline.before.golden import check_golden, make_golden

    if args.action == "make":
        inputs = [text for group in args.input for text in group]
        golden = make_golden(config, inputs, args.output)
        print(f"{args.output} holds the probabilities of {len(golden.images)} photos by {golden.model_id}")
        return 0
    from transforms.errors import ConfigError
    from transforms.scoring import Scorer

    if config.golden.path is None:
        raise ConfigError(
            f"config {args.config} names no golden file: write golden.path, after score-images golden make has made it"
        )
    result = check_golden(Scorer(config.scorer_plan()), config)
    if result is not None:
        print(
            f"golden check passed: {result.images} photos, largest difference {result.largest_difference:.2g}, "
            f"golden.tolerance {config.golden.tolerance:g}"
        )
    return 0
