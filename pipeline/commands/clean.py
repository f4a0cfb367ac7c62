"""List what interrupted, refused and abandoned attempts have left in a folder of runs, and delete it when told to.

Published tables are never touched, nor is a run that somebody works on, nor anything that may be at work: what is
younger than --older-than stays. It asks before it deletes; a scheduler gives --yes, with which staging goes, too, that
running again could still publish.
"""

import argparse
import sys
import time

from transforms.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("output", metavar="OUTPUT", help="folder or URL that holds all runs, as run --output has it")
    parser.add_argument(
        "--older-than",
        default="24h",
        metavar="AGE",
        help="leave what has a younger file: it may be at work; a number with s, m, h or d (default: 24h)",
    )
    parser.add_argument("--yes", action="store_true", help="delete without asking")


def call(args: argparse.Namespace) -> int:
    """List, ask, delete."""
    from pipeline.after.leftovers import delete_leftover, find_leftovers, parse_age
    from pipeline.after.leftovers_text import leftovers_text
    from transforms.claims import TakenError

    now = time.time()
    survey = find_leftovers(args.output, parse_age(args.older_than), now)
    staying = [(leftover, f"is being worked on by {who}") for leftover, who in survey.busy]
    staying += [(leftover, f"younger than {args.older_than}: it may be at work") for leftover in survey.young]
    going = []
    for leftover in survey.old:
        if leftover.stays:
            staying.append((leftover, leftover.why))
        elif leftover.planned and not args.yes:
            staying.append((leftover, f"{leftover.why}; only --yes deletes it: {leftover.lost}"))
        else:
            going.append(leftover)
    print(leftovers_text(going, staying, args.output, now))
    if not going:
        return 0
    if not args.yes:
        if not sys.stdin.isatty():
            raise ConfigError(
                "nothing was deleted: there is no terminal to ask on; give --yes to delete what is listed"
            )
        if not _agreed(f"Delete these {len(going)} leftovers? [y/N] "):
            print("nothing was deleted")
            return 0
    for leftover in going:
        try:
            done = delete_leftover(args.output, leftover)
        except TakenError as error:
            print(f"kept {leftover.name}: it is being worked on by {error.who}")
            continue
        print(f"deleted {leftover.name}" if done else f"kept {leftover.name}: it has changed since it was listed")
    return 0


def _agreed(question: str) -> bool:
    try:
        return input(question).strip().lower() in ("y", "yes")
    except EOFError:  # Ctrl-D
        print()
        return False
