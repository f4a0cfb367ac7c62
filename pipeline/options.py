"""How RunConfig and Beam's own flags meet: what stands after `--` is Beam's, and it wins over the profile."""

import argparse
import difflib
import os
import re
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from typing import NamedTuple

from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions
from apache_beam.runners.runner import create_runner

from pipeline.pairs import check_dataflow, check_flink, check_local
from pipeline.profiles import PROFILES, Profile, Runner, check_needed, check_runner, merge_flags
from transforms.errors import ConfigError
from transforms.redaction import redact_flags

# DirectRunner looks for a downloaded runner first, and may run a pipeline twice; this one is in the package.
LOCAL_RUNNER = "FnApiRunner"
# Where nobody says how many there are.
_WORKERS = 16
# n2-standard-16 has 16 processors, c3-standard-8-lssd has 8; n2-custom-4-16384 has 4, and 16 GB of memory.
_PROCESSORS = re.compile(r"custom-(?P<custom>\d+)-\d|^(?!.*custom-).*-(?P<whole>\d+)(?:-lssd|-metal)?$")
# The likeness from which a flag is taken for a slip of another one. No flag of Beam's Flink runner in Java that Python
# does not declare is so like one that it does.
_ALIKE = 0.85
_RUNNERS: dict[str, Runner] = {
    "fnapirunner": "local",
    "directrunner": "local",
    "bundlebaseddirectrunner": "local",
    "switchingdirectrunner": "local",
    "flinkrunner": "flink",
    "dataflowrunner": "dataflow",
}


class Flags(NamedTuple):
    """The flags of a run."""

    profile: Profile | None
    """Where they come from besides; None where the user gave all of them."""
    words: tuple[str, ...]
    """Those of the profile, then those of the user."""
    options: PipelineOptions
    """What Beam reads out of them."""


def find_flags(profile: str | None, flags: Sequence[str]) -> Flags:
    """Join a profile with the flags that stand after `--`, and refuse what does not go together.

    Args:
        profile: Its name; None takes the flags as they are.
        flags: Beam's own.

    Raises:
        ConfigError: The profile is unknown or lacks something, two flags exclude each other, a flag has a wrong
            value, or nothing would heed it.
    """
    chosen = _profile(profile)
    _parse(flags)  # a wrong value is told of what the user wrote
    words = merge_flags(chosen, flags, flag_names()) if chosen else list(flags)
    options = pipeline_options(words)
    name = options.view_as(StandardOptions).runner or LOCAL_RUNNER
    if chosen:
        check_runner(chosen, runner_kind(options), name)
        check_needed(chosen, options.get_all_options())
        if chosen.runner == "local":
            check_local(options.get_all_options(drop_default=True))
        if chosen.runner == "flink":
            check_flink(options.get_all_options())
    if runner_kind(options) == "dataflow":
        _require_gcp()
        check_dataflow(options.get_all_options())
    return Flags(chosen, tuple(words), options)


def _profile(name: str | None) -> Profile | None:
    if name is None:
        return None
    if name not in PROFILES:
        raise ConfigError(f"--profile {name} is unknown; there are {', '.join(PROFILES)}")
    return PROFILES[name]


def _require_gcp() -> None:
    try:
        missing = find_spec("google.cloud.dataflow") is None
    except ModuleNotFoundError:  # google.cloud itself
        missing = True
    if missing:
        raise ConfigError("Dataflow needs Google's client, not installed here: pip install 'score-images[gcp]'")


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
    # Portable runners learn their flags from a job server; a local runner and Dataflow have only those that Beam
    # declares, and PipelineOptions drops the others with a warning.
    if unknown and runner_kind(options) in ("local", "dataflow"):
        raise ConfigError(
            f"{' '.join(redact_flags(unknown))} after -- is no flag of Apache Beam: nothing would heed it"
        )
    _check_slips(unknown)
    if options.view_as(StandardOptions).streaming:
        raise ConfigError("--streaming after -- is for pipelines without an end, and a run has one: leave it out")
    return options


def _check_slips(unknown: Sequence[str]) -> None:
    """Refuse what a runner that has flags of its own would take without a word, and no flag is.

    Args:
        unknown: Words that Beam's declarations do not explain, in their order.

    Raises:
        ConfigError: A word belongs to no flag, or is nearly the name of one.
    """
    takes_value = False
    for word in unknown:
        name, sign, _ = word.partition("=")
        if not word.startswith("--"):
            if not takes_value:
                raise ConfigError(f"{redact_flags([word])[0]} after -- belongs to no flag; a flag begins with --")
        elif near := difflib.get_close_matches(name, flag_names(), 1, cutoff=_ALIKE):
            raise ConfigError(f"{name} after -- is no flag of Apache Beam; did you mean {near[0]}?")
        takes_value = word.startswith("--") and not sign


def runner_kind(options: PipelineOptions) -> Runner | None:
    """Return whose engine the runner is; None where it is none of those that profiles know."""
    name = options.view_as(StandardOptions).runner or LOCAL_RUNNER
    return _RUNNERS.get(name.rpartition(".")[2].lower())


def is_in_process(options: PipelineOptions) -> bool:
    """Tell whether the workers live in this process, so that they can share its model and its counts."""
    if options.view_as(DirectOptions).direct_running_mode == "multi_processing":
        return False
    return runner_kind(options) == "local"


def count_slots(options: PipelineOptions) -> int | None:
    """Return how many bundles a runner works on at a time, or about how many; None where its workers live here."""
    if is_in_process(options):
        return None
    if runner_kind(options) == "local":
        return options.view_as(DirectOptions).direct_num_workers or os.cpu_count() or 1
    found = options.get_all_options()
    parallelism, most, first = (found.get(name) or 0 for name in ("parallelism", "max_num_workers", "num_workers"))
    if parallelism > 0:
        return int(parallelism)
    processors = _PROCESSORS.search(found.get("machine_type") or "")
    each = int(processors["custom"] or processors["whole"]) if processors else 1
    return int(most or first or _WORKERS) * each


@cache
def flag_names() -> dict[str, str]:
    """Return Beam's name of each of its flags: `--worker_machine_type` and `--machine_type` are both machine_type."""
    return {flag: action.dest for action in _parser()._actions for flag in action.option_strings}


def _parser() -> argparse.ArgumentParser:
    # Not by PipelineOptions: at a wrong value it prints a page of usage and ends the process.
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for declared in PipelineOptions.__subclasses__():
        declared._add_argparse_args(parser)
    return parser


def _parse(flags: Sequence[str]) -> list[str]:
    """Return the flags that Beam does not declare."""
    try:
        return _parser().parse_known_args(list(flags))[1]
    except argparse.ArgumentError as error:
        raise ConfigError(f"after --: {error}") from error
