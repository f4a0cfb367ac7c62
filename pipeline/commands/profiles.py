"""Print what each --profile stands for: Beam's flags, each with its reason; or the metadata of the Flex Template."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "--flex-template",
        action="store_true",
        help="print configs/flex-template.json, which describes the Dataflow Flex Template, and not docs/profiles.md",
    )


def call(args: argparse.Namespace) -> int:
    """Print one of the two."""
    if args.flex_template:
        import json

        from pipeline.flex_template import template_metadata

        print(json.dumps(template_metadata(), indent=2))
        return 0
    from pipeline.profiles_docs import profiles_markdown

    print(profiles_markdown(), end="")
    return 0
