"""How RunConfig and Beam's own flags meet: what stands after `--` is Beam's, and it wins."""

import argparse
import os
import re
from collections.abc import Sequence

from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions
from apache_beam.runners.runner import create_runner

from transforms.errors import ConfigError
from transforms.redaction import redact_flags

# DirectRunner looks for a downloaded runner first, and may run a pipeline twice; this one is in the package.
LOCAL_RUNNER = "FnApiRunner"
# Where nobody says how many there are.
_WORKERS = 16
_PROCESSORS = re.compile(r"-(\d+)$")
_LOCAL_RUNNERS = frozenset({"fnapirunner", "directrunner", "bundlebaseddirectrunner", "switchingdirectrunner"})


def pipeline_options(flags: Sequence[str]) -> PipelineOptions:
    """Read Beam's flags, with the local runner where none is named.

    Raises:
        ConfigError: A flag has a wrong value, the runner does not exist, or a local runner would ignore a flag.
    """
    unknown = _parse(flags)
    if not any(flag == "--runner" or flag.startswith("--runner=") for flag in flags):
        flags = [f"--runner={LOCAL_RUNNER}", *flags]
    options = PipelineOptions(list(flags))
    runner = options.view_as(StandardOptions).runner or LOCAL_RUNNER
    try:
        create_runner(runner)
    except (ValueError, ImportError, AttributeError) as error:
        raise ConfigError(f"--runner={runner} cannot be used: {error}") from error
    # Portable runners learn their flags from a job server; a local runner has only those that Beam declares, and
    # PipelineOptions drops the others with a warning.
    if unknown and _is_local(runner):
        raise ConfigError(
            f"{' '.join(redact_flags(unknown))} after -- is no flag of Apache Beam: nothing would heed it"
        )
    return options


def is_in_process(options: PipelineOptions) -> bool:
    """Tell whether the workers live in this process, so that they can share its model and its counts."""
    if options.view_as(DirectOptions).direct_running_mode == "multi_processing":
        return False
    return _is_local(options.view_as(StandardOptions).runner or LOCAL_RUNNER)


def count_slots(options: PipelineOptions) -> int | None:
    """Return how many bundles a runner works on at a time, or about how many; None where its workers live here."""
    if is_in_process(options):
        return None
    if _is_local(options.view_as(StandardOptions).runner or LOCAL_RUNNER):
        return options.view_as(DirectOptions).direct_num_workers or os.cpu_count() or 1
    found = options.get_all_options()
    parallelism, most, first = (found.get(name) or 0 for name in ("parallelism", "max_num_workers", "num_workers"))
    if parallelism > 0:
        return int(parallelism)
    # n2-standard-16 has 16 processors.
    processors = _PROCESSORS.search(found.get("machine_type") or "")
    return int(most or first or _WORKERS) * int(processors[1] if processors else 1)


def _is_local(runner: str) -> bool:
    return runner.rpartition(".")[2].lower() in _LOCAL_RUNNERS


def _parse(flags: Sequence[str]) -> list[str]:
    """Return the flags that Beam does not declare."""
    # Not by PipelineOptions: at a wrong value it prints a page of usage and ends the process.
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for declared in PipelineOptions.__subclasses__():
        declared._add_argparse_args(parser)
    try:
        return parser.parse_known_args(list(flags))[1]
    except argparse.ArgumentError as error:
        raise ConfigError(f"after --: {error}") from error
