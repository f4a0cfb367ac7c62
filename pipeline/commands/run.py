"""Score images and publish a run."""

import argparse
import contextlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pipeline import logs
from pipeline.commands.arguments import add_night_arguments, add_reading_arguments
from pipeline.profiles import PROFILES
from pipeline.run_metrics import MetricsPlan, leaving_metrics
from pipeline.stopping import command_to_continue
from transforms.errors import ExitCode, RunError
from transforms.layout import new_run_id

if TYPE_CHECKING:
    from pipeline.config import RunConfig
    from pipeline.run_records import RunRequest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments: what a run is, and where its metrics go."""
    add_request_arguments(parser)
    parser.add_argument(
        "--metrics-file",
        metavar="FILE",
        help="leave metrics for Prometheus here when the run has ended: a .prom file of the textfile collector",
    )
    parser.add_argument(
        "--metrics-otlp",
        metavar="URL",
        help="send metrics to a collector of OpenTelemetry when the run has ended: http://localhost:4318",
    )


def add_request_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments that say what a run is."""
    add_night_arguments(parser)
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
    add_reading_arguments(parser)


def call(args: argparse.Namespace) -> int:
    """Run, leave metrics, print the summary, return the exit code."""
    metrics = MetricsPlan(args.metrics_file, args.metrics_otlp)
    metrics.check()
    with leaving_metrics(metrics, args.config, args.output) as left, _resumable(args), request_of(args) as request:
        from pipeline.run import run

        left.result = result = run(request)
    from pipeline.summary import outcome_json, summary

    print(outcome_json(result) if logs.is_json() else summary(result))
    return result.outcome.exit_code


@contextlib.contextmanager
def _resumable(args: argparse.Namespace) -> Iterator[None]:
    """Give the run its name, and let an interrupt say how to go on."""
    if args.run_id is None:
        args.run_id = new_run_id(datetime.now(UTC))
    logs.name_run(args.run_id)
    try:
        yield
    except RunError as error:
        if error.exit_code is ExitCode.INTERRUPTED:
            error.resume = command_to_continue(args.command_line, args.run_id)
        raise
    except KeyboardInterrupt as interrupt:
        stopped = RunError(ExitCode.INTERRUPTED, f"run {args.run_id} was interrupted while no image was under way")
        stopped.resume = command_to_continue(args.command_line, args.run_id)
        raise stopped from interrupt


@contextlib.contextmanager
def request_of(args: argparse.Namespace) -> "Iterator[RunRequest]":
    """Read the configuration and make the request of a run, with its model being loaded meanwhile."""
    began = time.monotonic()
    from pipeline.config import load_config

    config = load_config(args.config, args.overrides)  # before the slow imports: a typo is answered at once
    from pipeline.quiet import import_beam, import_tensorflow

    import_tensorflow()
    from transforms.contest import Contest

    pool = ThreadPoolExecutor(1, thread_name_prefix="model")
    try:
        frozen = threading.Event()
        loading = pool.submit(Contest, _config_here(config, args.profile).contest_plan(), frozen.set)
        loading.add_done_callback(lambda _: frozen.set())
        # Importing needs the interpreter's lock, which loading the model needs first: then TensorFlow optimises and
        # measures it, which leaves time for Beam. Both at once took half a second longer.
        frozen.wait()
        import_beam()
        from pipeline.run_records import RunRequest

        yield RunRequest(
            config=config,
            inputs=args.input,
            output=args.output,
            run_id=args.run_id,
            overwrite=args.overwrite,
            publish_anyway=args.publish_anyway,
            since_run=args.since_run,
            path_column=args.path_column,
            beam_flags=args.beam_flags,
            profile=args.profile,
            shared_disk=args.shared_disk,
            began=began,
            loading=loading.result,
        )
    finally:
        # An interrupt does not wait for a model that is being loaded.
        pool.shutdown(wait=False)


def _config_here(config: "RunConfig", profile: str | None) -> "RunConfig":
    """Return the configuration by which this process loads the model: workers elsewhere have their own devices."""
    if profile is None or PROFILES[profile].runner == "local":
        return config
    from pipeline.devices_elsewhere import launcher_config

    return launcher_config(config)
