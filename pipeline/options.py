"""How RunConfig and Beam's own flags meet: what stands after `--` is Beam's, and it wins."""

import argparse
from collections.abc import Sequence

from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions

from transforms.errors import ConfigError

# DirectRunner looks for a downloaded runner first, and may run a pipeline twice; this one is in the package.
LOCAL_RUNNER = "FnApiRunner"
_IN_PROCESS = frozenset({"FnApiRunner", "DirectRunner", "BundleBasedDirectRunner", "SwitchingDirectRunner"})


def pipeline_options(flags: Sequence[str]) -> PipelineOptions:
    """Read Beam's flags, with the local runner where none is named.

    Raises:
        ConfigError: A local runner would ignore one of them.
    """
    if not any(flag == "--runner" or flag.startswith("--runner=") for flag in flags):
        flags = [f"--runner={LOCAL_RUNNER}", *flags]
    options = PipelineOptions(list(flags))
    if is_in_process(options):
        _refuse_unknown(flags)
    return options


def is_in_process(options: PipelineOptions) -> bool:
    """Tell whether the workers live in this process, so that they can share its model and its counts."""
    runner = options.view_as(StandardOptions).runner or ""
    return runner.rpartition(".")[2] in _IN_PROCESS


def _refuse_unknown(flags: Sequence[str]) -> None:
    # Portable runners learn their flags from a job server; a local runner has only those that Beam declares, and
    # PipelineOptions drops the others with a warning.
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for declared in PipelineOptions.__subclasses__():
        declared._add_argparse_args(parser)
    _, unknown = parser.parse_known_args(list(flags))
    if unknown:
        raise ConfigError(f"{' '.join(unknown)} after -- is no flag of Apache Beam: nothing would heed it")
