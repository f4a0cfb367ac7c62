"""The arguments that several commands have, and their help."""

import argparse

from pipeline.profiles import PROFILES

RUN = "the --output folder of runs (its newest run), <output>/runs/<id>, or <output>/scores/run_id=<id>"
"""What names a run."""
PUBLISHED_RUN = f"a published run: {RUN}"
"""For commands that take no other."""


def add_night_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments that every night has: how, what and where to."""
    parser.add_argument("--config", required=True, metavar="FILE", help="YAML configuration")
    parser.add_argument(
        "--input",
        required=True,
        action="append",
        metavar="WHAT",
        help="image file, folder, prefix, glob ('photos/**/*.jpg') or manifest (@paths.txt, .csv, .parquet, .jsonl); "
        "may be given several times",
    )
    parser.add_argument("--output", required=True, metavar="WHERE", help="folder or URL that holds all runs")


def add_reading_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments that say how inputs and configuration are read, and where."""
    parser.add_argument(
        "--path-column",
        default="image_path",
        metavar="NAME",
        help="column of manifests that holds the paths (default: image_path)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="overrides",
        metavar="KEY=VALUE",
        help="override a setting: limits.max_failure_rate=0.01; may be given several times",
    )
    parser.add_argument(
        "--profile",
        choices=list(PROFILES),
        metavar="NAME",
        help=f"where to run: {', '.join(PROFILES)}; flags of Beam after -- win over it (default: this machine)",
    )
    parser.add_argument(
        "--shared-disk",
        action="store_true",
        help="with --profile flink: every machine of the cluster has the local paths under the same names",
    )
