"""The container's entry point: Beam's worker boot where a runner starts it, the command line for everyone else."""

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

BOOT = "/opt/apache/beam/boot"
# Those of boot.go in Beam's sdks/python/container. No flag of score-images that may come first is among them.
BOOT_FLAGS = frozenset(
    {
        "artifact_endpoint",
        "artifacts",
        "control_endpoint",
        "id",
        "logging_endpoint",
        "provision_endpoint",
        "semi_persist_dir",
        "setup_only",
        "worker_pool",
    }
)


def starts_worker(arguments: Sequence[str]) -> bool:
    """Tell whether a runner has started the container: it begins with a flag of boot, a person with a command.

    Args:
        arguments: What follows the image's name.

    >>> starts_worker(["--id=1-1", "--provision_endpoint=localhost:12371"])
    True
    >>> starts_worker(["run", "--config", "night.yaml"])
    False
    """
    if not arguments or not arguments[0].startswith("-"):
        return False
    # Go takes one dash or two, and a value after = or as the next argument.
    return arguments[0].removeprefix("-").removeprefix("-").partition("=")[0] in BOOT_FLAGS


def entry_point() -> NoReturn:
    """Become the worker boot, or run the command line."""
    arguments = sys.argv[1:]
    if starts_worker(arguments):
        # In place of this process: the signals of the container's runtime reach boot, and it ends its workers.
        os.execv(BOOT, [BOOT, *arguments])  # noqa: S606  no shell, and a fixed path
    from pipeline.cli import entry_point as command_line

    command_line()
