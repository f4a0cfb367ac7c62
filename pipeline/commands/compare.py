"""Compare two published runs: two nights, or two models on the same images.

How many answers differ and which, how far class mix and confidence have moved, and the images that moved furthest.
Nothing is written but the files that are asked for.
"""

import argparse

from pipeline.commands.arguments import RUN
from pipeline.commands.written_file import check_file, write_file

_RIVAL = "of a challenger <output>/scores_challenger/run_id=<id>"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("first", metavar="RUN_A", help=f"the earlier night, or the model in use: {RUN}; {_RIVAL}")
    parser.add_argument("second", metavar="RUN_B", help="the run that is compared with it, named in the same ways")
    parser.add_argument("--html", metavar="FILE", help="write a page with charts and thumbnails; a path or URL")
    parser.add_argument("--json", metavar="FILE", help="write all figures as JSON; a path or URL")
    parser.add_argument(
        "--rows", type=int, default=10, metavar="N", help="flips, classes and images to list (default: 10)"
    )
    parser.add_argument(
        "--thumbnails", type=int, default=24, metavar="N", help="images in the page and in the JSON (default: 24)"
    )


def call(args: argparse.Namespace) -> int:
    """Compare, write what is asked for, print."""
    from pipeline.after.compare import compare
    from pipeline.after.compare_text import comparison_text
    from pipeline.after.published import find_run
    from transforms.errors import ConfigError

    for name in ("rows", "thumbnails"):
        if getattr(args, name) < 0:
            raise ConfigError(f"--{name} must be at least 0, got {getattr(args, name)}")
    check_file(args.json)
    check_file(args.html)
    first, second = find_run(args.first), find_run(args.second)
    found = compare(first, second, max(args.rows, args.thumbnails))
    print(comparison_text(found, args.rows))
    if args.json:
        import json

        write_file(args.json, json.dumps(found.to_json(), indent=2, ensure_ascii=False) + "\n")
    if args.html:
        from pipeline.after.compare_page import comparison_page

        write_file(args.html, comparison_page(found, second))
    return 0
