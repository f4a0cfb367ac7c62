"""Build a real model, gather real photos, score them, and show the result."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--output", default="score-images-demo", metavar="FOLDER", help="where photos and runs go")
    parser.add_argument("--model-only", action="store_true", help="build the model and print its directory")


def call(args: argparse.Namespace) -> int:
    """Run the demo, or build its model only."""
    from pipeline.quiet import import_beam, import_tensorflow

    import_beam()
    import_tensorflow()
    from pipeline.demo.model import model_directory

    directory = model_directory()
    if args.model_only:
        print(directory)
        return 0
    from pipeline.demo.show import run_demo

    return run_demo(directory, Path(args.output), args.beam_flags)
