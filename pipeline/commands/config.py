"""Check a configuration, or print what one may say."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--schema", action="store_true", help="print the JSON Schema of all settings")
    what.add_argument("--docs", action="store_true", help="print docs/configuration.md")
    what.add_argument("--check", metavar="FILE", help="say whether a configuration is valid")
    parser.add_argument(
        "--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE", help="override a setting"
    )


def call(args: argparse.Namespace) -> int:
    """Print the schema, the documentation, or the verdict."""
    from pipeline.config import RunConfig, load_config

    if args.schema:
        import json

        print(json.dumps(RunConfig.model_json_schema(), indent=2))
        return 0
    if args.docs:
        from pipeline.config_docs import configuration_markdown

        print(configuration_markdown(), end="")
        return 0
    load_config(args.check, args.overrides)
    print(f"{args.check} is valid")
    return 0
