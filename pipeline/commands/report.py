"""Make the report of a run that was published or refused: report.html and report.json beside its manifest.

Every run leaves one itself; this makes it anew, or where the launcher has died before it could. What only the launcher
had counted (where the time went) is not in it then.
"""

import argparse

from pipeline.commands.arguments import RUN


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("run", metavar="RUN", help=RUN)
    parser.add_argument("--run-id", metavar="ID", help="with the folder of runs: this run, published or refused")
    parser.add_argument("--thumbnails", type=int, metavar="N", help="pictures in it; left out, as many as the run had")


def call(args: argparse.Namespace) -> int:
    """Make the report, and say where it lies."""
    from pipeline.after.ended import find_ended
    from pipeline.after.report import write_report
    from transforms.errors import ConfigError
    from transforms.redaction import printable
    from transforms.settings import MOST_THUMBNAILS

    if args.thumbnails is not None and not 0 <= args.thumbnails <= MOST_THUMBNAILS:
        raise ConfigError(f"--thumbnails must be 0 to {MOST_THUMBNAILS}, got {args.thumbnails}")
    print(printable(write_report(find_ended(args.run, args.run_id), thumbnails=args.thumbnails)))
    return 0
