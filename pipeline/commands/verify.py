"""Read a published run again and check every promise: files, checksums, ledger, paths, probabilities and what they say.

One line a promise; exit code 6 where one is broken.
"""

import argparse

from pipeline.commands.arguments import PUBLISHED_RUN


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("run", metavar="RUN", help=PUBLISHED_RUN)
    parser.add_argument("--json", action="store_true", help="print JSON")


def call(args: argparse.Namespace) -> int:
    """Verify, print, and return 6 where a promise is broken."""
    from pipeline.after.verify import verify
    from pipeline.after.verify_text import verification_text
    from transforms.errors import ExitCode

    found = verify(args.run)
    if args.json:
        import json

        print(json.dumps(found.to_json(), indent=2, ensure_ascii=False))
    else:
        print(verification_text(found))
    return ExitCode.PROMISE_BROKEN if found.broken else 0
