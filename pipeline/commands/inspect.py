"""Say what a model is, what its output means and why, and print a configuration to fill in.

MODEL is whatever model.path may be. The text as a whole is a configuration file; what no file of a model can tell,
the range of its input values above all, says FILL_IN there.
"""

import argparse

from transforms.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="SavedModel directory (local, gs://, s3://), TF Hub handle (https://...), or .keras, .h5, .hdf5 file",
    )
    parser.add_argument("--signature", metavar="NAME", help="signature or function of a SavedModel")
    parser.add_argument("--output-name", metavar="NAME", help="which output holds the scores, where there are several")
    parser.add_argument("--tags", metavar="TAGS", help="tags of the graph to load: serve, or serve,gpu")
    parser.add_argument("--trust", action="store_true", help="load a .keras file that carries Python code")
    parser.add_argument("--json", action="store_true", help="print JSON")


def call(args: argparse.Namespace) -> int:
    """Inspect and print."""
    from pipeline.quiet import import_tensorflow

    if not args.model:
        raise ConfigError("MODEL is empty; give a SavedModel directory, a TF Hub handle or a Keras file")
    import_tensorflow()
    from pipeline.before.inspect_model import inspect_model
    from pipeline.before.inspect_text import inspection_text
    from transforms.settings import ModelSettings

    found = inspect_model(
        ModelSettings(
            path=args.model,
            signature=args.signature,
            output_name=args.output_name,
            tags=None if args.tags is None else tuple(tag.strip() for tag in args.tags.split(",") if tag.strip()),
            trust=args.trust,
        )
    )
    if args.json:
        import json

        print(json.dumps(found.to_json(), indent=2, ensure_ascii=False))
    else:
        print(inspection_text(found))
    return 0
