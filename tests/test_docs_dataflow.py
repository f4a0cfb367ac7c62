"""What docs/dataflow.md says can be done: its commands are understood, its flags go together."""

import re
import shlex
from pathlib import Path

import pytest

from pipeline.cli import _parser
from pipeline.flex_template import launch_arguments, template_metadata
from pipeline.options import find_flags
from pipeline.profiles import PROFILES

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "dataflow.md").read_text(encoding="utf-8")


def commands(language: str, program: str) -> list[list[str]]:
    """The command lines of a program, without its name."""
    lines = [
        line
        for block in re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)
        for line in block.replace("\\\n", " ").splitlines()
    ]
    return [shlex.split(line)[1:] for line in lines if line.startswith(f"{program} ")]


@pytest.mark.parametrize("command", commands("sh", "score-images"))
def test_the_commands_are_understood(command: list[str]) -> None:
    """By our parser, and by Beam's with the profile and every rule."""
    split = command.index("--")
    args = _parser().parse_args(command[:split])
    assert find_flags(args.profile, command[split + 1 :]).profile is PROFILES[args.profile]


def test_there_are_commands() -> None:
    """Two launches; the test above is not empty."""
    assert [command[0] for command in commands("sh", "score-images")] == ["launch", "launch"]


def test_the_template_is_run_with_parameters_that_it_has() -> None:
    """Those of ours become a launch that is understood."""
    (command,) = (words for words in commands("text", "gcloud") if words[:3] == ["dataflow", "flex-template", "run"])
    values = [command[at + 1] for at, word in enumerate(command) if word == "--parameters"]
    given = dict(pair.split("=", 1) for value in values for pair in value.split(","))
    known = {parameter["name"] for parameter in template_metadata()["parameters"]}
    assert set(given) - known == {"sdk_container_image"}
    arguments = launch_arguments([f"--{name}={value}" for name, value in given.items()])
    args = _parser().parse_args(arguments[: arguments.index("--")])
    assert (args.profile, args.run_id) == ("dataflow-gpu", "2026-11-26")


def test_every_profile_of_dataflow_is_told() -> None:
    """In the table at the head."""
    for name, profile in PROFILES.items():
        assert (f"| `{name}` |" in TEXT) is (profile.runner == "dataflow")
