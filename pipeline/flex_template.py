"""The entry of a Dataflow Flex Template: `score-images launch`, called with the parameters of a template.

Google's launcher in the container runs this file, FLEX_TEMPLATE_PYTHON_PY_FILE, and gives everything in one kind,
`--name=value`: parameters of the template, which are the arguments of `launch`, among Beam's own flags. It adds
`--template_location`: the job is written there, and Dataflow creates it.
"""

import argparse
import functools
import json
import sys
from collections.abc import Sequence
from typing import Any

if __name__ == "__main__":
    sys.path.pop(0)  # this file's folder: its modules are not meant to be found without their package

from pipeline.commands import launch
from pipeline.profiles import PROFILES
from transforms.errors import ConfigError, ExitCode
from transforms.redaction import tell

_NOT_THERE = frozenset({"help", "dry_run", "shared_disk"})
_NAME = "Score images"
_ABOUT = (
    "Score images in bulk with a TensorFlow classifier and publish probabilities as Parquet. Machines, workers and the "
    "image come from the profile; the pipeline options of the job win over it."
)


def template_metadata() -> dict[str, Any]:
    """Return the metadata of the template: every argument of `launch` that makes sense there is a parameter."""
    return {"name": _NAME, "description": _ABOUT, "parameters": [_parameter(action) for action in _actions().values()]}


@functools.cache
def _actions() -> dict[str, argparse.Action]:
    parser = argparse.ArgumentParser(add_help=False)
    launch.add_arguments(parser)
    # --run-id is run_id: names of parameters have no dashes.
    names = {max(action.option_strings, key=len)[2:].replace("-", "_"): action for action in parser._actions}
    return {name: action for name, action in names.items() if name not in _NOT_THERE}


def _parameter(action: argparse.Action) -> dict[str, Any]:
    name = max(action.option_strings, key=len)[2:].replace("-", "_")
    text = (action.help or "").replace("%%", "%")
    regexes: list[str] = []
    choices = [str(choice) for choice in action.choices or ()]
    if name == "profile":
        choices = [profile.name for profile in PROFILES.values() if profile.runner == "dataflow"]
        text = f"which workers: {', '.join(choices)}"
    if _is_switch(action):
        choices = ["true", "false"]
    if choices:
        regexes.append(f"^({'|'.join(choices)})$")
    if _is_list(action):
        text = text.replace("may be given several times", 'several: a JSON list, ["...", "..."]')
    return {
        "name": name,
        "label": name.replace("_", " ").capitalize(),
        "helpText": f"{text[0].upper()}{text[1:]}.",
        "isOptional": not (action.required or name == "profile"),
        **({"regexes": regexes} if regexes else {}),
    }


def _is_switch(action: argparse.Action) -> bool:
    return action.nargs == 0


def _is_list(action: argparse.Action) -> bool:
    return isinstance(action, argparse._AppendAction)


def launch_arguments(words: Sequence[str]) -> list[str]:
    """Turn what the launcher of a Flex Template gives into the arguments of `score-images`.

    Args:
        words: `--name=value`, or `--name value`; parameters of the template and flags of Beam in any order.

    Raises:
        ConfigError: A parameter has no such value.

    >>> launch_arguments(["--run_id=n1", "--overwrite=true", '--input=["gs://b/x", "gs://b/y"]', "--region=r"])
    ['launch', '--run-id=n1', '--overwrite', '--input=gs://b/x', '--input=gs://b/y', '--', '--region=r']
    """
    actions = _actions()
    ours, beams = [], []
    remaining = list(words)
    while remaining:
        word = remaining.pop(0)
        name, sign, value = word.removeprefix("--").partition("=")
        action = actions.get(name) if word.startswith("--") else None
        if action is None:
            beams.append(word)
            continue
        if not sign and remaining and not remaining[0].startswith("--"):
            value = remaining.pop(0)
        ours += _argument(name, action, value)
    return ["launch", *ours, "--", *beams]


def _argument(name: str, action: argparse.Action, value: str) -> list[str]:
    flag = max(action.option_strings, key=len)
    if _is_switch(action):
        if value.lower() not in ("true", "false", ""):
            raise ConfigError(f"parameter {name} must be true or false, got {value!r}")
        return [flag] if value.lower() == "true" else []
    if not value and not action.required:
        return []  # a field of the console that was left empty
    if _is_list(action) and value.startswith("["):
        try:
            values = json.loads(value)
        except ValueError as error:
            raise ConfigError(
                f'parameter {name} begins like a JSON list and is none: {error}; write ["a", "b"]'
            ) from error
        if not all(isinstance(one, str) for one in values):
            raise ConfigError(f"parameter {name} must be a JSON list of texts, got {value}")
        return [f"{flag}={one}" for one in values]
    return [f"{flag}={value}"]


def main(words: Sequence[str] | None = None) -> int:
    """Launch a run as a Flex Template and return the exit code."""
    from pipeline.cli import main as command_line

    try:
        arguments = launch_arguments(sys.argv[1:] if words is None else words)
    except ConfigError as error:
        sys.stderr.write(f"score-images: {tell(str(error))}\n")
        return int(ExitCode.WRONG_INPUT)
    return command_line(arguments)


if __name__ == "__main__":
    sys.exit(main())
