"""Before a night: check everything that a run needs, score a sample, predict time, bytes and money.

Nothing is published and nothing stays. The exit code is 2 when the night would fail, with all reasons at once.
"""

import argparse
import json
import time

from pipeline import logs
from pipeline.commands.arguments import add_night_arguments, add_reading_arguments
from pipeline.commands.written_file import check_file, write_file
from transforms.errors import ConfigError, ExitCode


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_night_arguments(parser)
    parser.add_argument("--run-id", metavar="ID", help="name of the run: told whether it is published or worked on")
    parser.add_argument("--html", metavar="FILE", help="write a page with pictures; a path or URL")
    parser.add_argument("--json", metavar="FILE", help="write all figures as JSON; a path or URL")
    parser.add_argument("--samples", type=int, default=100, metavar="N", help="images to try (default: 100)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the sample (default: 0)")
    parser.add_argument(
        "--pictures", type=int, default=24, metavar="N", help="images in the page as the model sees them (default: 24)"
    )
    parser.add_argument(
        "--seconds", type=float, default=10.0, metavar="S", help="for how long the pace is measured (default: 10)"
    )
    parser.add_argument(
        "--list-seconds",
        type=float,
        default=60.0,
        metavar="S",
        help="what listing the inputs may take; what is longer is reckoned (default: 60)",
    )
    add_reading_arguments(parser)


def call(args: argparse.Namespace) -> int:
    """Check, print, write what is asked for, return the exit code."""
    _check(args)
    started = time.monotonic()
    from pipeline.quiet import import_beam, import_tensorflow

    import_tensorflow()
    import_beam()
    from pipeline.before.findings import preflight_json
    from pipeline.before.preflight import PreflightRequest, preflight
    from pipeline.before.preflight_text import preflight_text
    from pipeline.config import RunConfig, load_config
    from pipeline.devices_elsewhere import launcher_config
    from pipeline.options import find_flags, runner_kind
    from pipeline.places import check_places_of_workers
    from pipeline.rehearsal import rehearse
    from pipeline.submitting import check_credentials

    def check_runner(config: RunConfig) -> tuple[RunConfig, str | None]:
        flags = find_flags(args.profile, args.beam_flags)
        check_places_of_workers(config, args.input, args.output, flags, shared_disk=args.shared_disk)
        check_credentials(flags.options)
        if runner_kind(flags.options) == "local":
            return config, None
        return launcher_config(config), (
            "time and money are predicted for one machine like this one: the runner has other machines, and more"
        )

    found = preflight(
        PreflightRequest(
            config=lambda: load_config(args.config, args.overrides),
            inputs=args.input,
            output=args.output,
            run_id=args.run_id,
            path_column=args.path_column,
            samples=args.samples,
            pictures=args.pictures,
            seed=args.seed,
            seconds=args.seconds,
            list_seconds=args.list_seconds,
            imports_seconds=time.monotonic() - started,
            check_runner=check_runner,
            rehearse=rehearse,
        )
    )
    print(json.dumps(preflight_json(found)) if logs.is_json() else preflight_text(found))
    if args.json:
        write_file(args.json, json.dumps(preflight_json(found), indent=2, ensure_ascii=False) + "\n")
    if args.html:
        from pipeline.before.preflight_page import preflight_page

        write_file(args.html, preflight_page(found))
    return ExitCode.WRONG_INPUT if found.reasons else ExitCode.PUBLISHED


def _check(args: argparse.Namespace) -> None:
    if not 1 <= args.samples <= 10_000:
        raise ConfigError(f"--samples must be 1 to 10000, got {args.samples}")
    if not 0 <= args.pictures <= 200:
        raise ConfigError(f"--pictures must be 0 to 200, got {args.pictures}")
    for name in ("seconds", "list_seconds"):
        if not getattr(args, name) > 0:
            raise ConfigError(f"--{name.replace('_', '-')} must be over 0, got {getattr(args, name)}")
    check_file(args.json)
    check_file(args.html)
