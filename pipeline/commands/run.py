"""Score images and publish a run."""

import argparse
import threading
from concurrent.futures import ThreadPoolExecutor


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
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
    parser.add_argument("--run-id", metavar="ID", help="name of the run; the same again continues or finds it")
    parser.add_argument("--overwrite", action="store_true", help="replace a published run once the new one is complete")
    parser.add_argument(
        "--since-run",
        metavar="ID",
        help="score only what is new or has changed since this published run of the same output, or since 'latest'",
    )
    parser.add_argument(
        "--publish-anyway",
        action="store_true",
        help="publish in spite of limits: with the --run-id of a refused run; the manifest records it",
    )
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


def call(args: argparse.Namespace) -> int:
    """Run, print the summary, return the exit code."""
    from pipeline.config import load_config

    config = load_config(args.config, args.overrides)  # before the slow imports: a typo is answered at once
    from pipeline.quiet import import_beam, import_tensorflow

    import_tensorflow()
    from transforms.contest import Contest

    pool = ThreadPoolExecutor(1, thread_name_prefix="model")
    try:
        frozen = threading.Event()
        loading = pool.submit(Contest, config.contest_plan(), frozen.set)
        loading.add_done_callback(lambda _: frozen.set())
        # Importing needs the interpreter's lock, which loading the model needs first: then TensorFlow optimises and
        # measures it, which leaves time for Beam. Both at once took half a second longer.
        frozen.wait()
        import_beam()
        from pipeline.run import RunRequest, run
        from pipeline.summary import summary

        result = run(
            RunRequest(
                config=config,
                inputs=args.input,
                output=args.output,
                run_id=args.run_id,
                overwrite=args.overwrite,
                publish_anyway=args.publish_anyway,
                since_run=args.since_run,
                path_column=args.path_column,
                beam_flags=args.beam_flags,
                loading=loading.result,
            )
        )
    finally:
        # An interrupt does not wait for a model that is being loaded.
        pool.shutdown(wait=False)
    print(summary(result))
    return result.outcome.exit_code
