"""The Flex Template: its metadata are the command line's, and its parameters become the arguments of launch."""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.commands import launch
from pipeline.flex_template import launch_arguments, template_metadata
from pipeline.options import flag_names
from pipeline.profiles import PROFILES
from transforms.errors import ConfigError

ROOT = Path(__file__).parent.parent


def parser() -> argparse.ArgumentParser:
    """The command line of launch."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    launch.add_arguments(parser)
    return parser


def read(*words: str) -> argparse.Namespace:
    """What launch understands of a template's parameters."""
    command, *rest = launch_arguments(words)
    assert command == "launch"
    return parser().parse_args(rest[: rest.index("--")])


def test_the_metadata_file_is_that_of_the_command_line() -> None:
    """Renew it: score-images profiles --flex-template > configs/flex-template.json."""
    written = json.loads((ROOT / "configs" / "flex-template.json").read_text(encoding="utf-8"))
    assert written == template_metadata()


def test_every_argument_of_launch_is_a_parameter_or_makes_no_sense_there() -> None:
    """A new argument of run is in the template, too."""
    options = {max(action.option_strings, key=len)[2:].replace("-", "_") for action in parser()._actions}
    parameters = {parameter["name"] for parameter in template_metadata()["parameters"]}
    assert options - parameters == {"help", "dry_run", "shared_disk"}
    assert parameters <= options


def test_parameters_are_as_dataflow_reads_them() -> None:
    """The keys that its documentation knows; required is what a launch needs; names that no flag of Beam has."""
    for parameter in template_metadata()["parameters"]:
        assert set(parameter) <= {"name", "label", "helpText", "isOptional", "regexes"}
        assert re.fullmatch(r"[a-z][a-z_]*", parameter["name"])
        assert f"--{parameter['name']}" not in flag_names()
        assert all(re.compile(regex) for regex in parameter.get("regexes", []))
    required = {p["name"] for p in template_metadata()["parameters"] if not p["isOptional"]}
    assert required == {"config", "input", "output", "profile"}


def test_the_profile_is_one_of_dataflow() -> None:
    """The template runs nowhere else."""
    (profile,) = (p for p in template_metadata()["parameters"] if p["name"] == "profile")
    (regex,) = profile["regexes"]
    assert [name for name in PROFILES if re.fullmatch(regex, name)] == [
        "dataflow-cpu",
        "dataflow-gpu",
        "dataflow-gpu-mps",
    ]


def test_flags_of_beam_stand_after_the_dashes() -> None:
    """What the launcher adds, and what the user asks of the job, in their order."""
    beams = ["--runner=DataflowRunner", "--template_location=gs://b/job", "--experiments", "a", "--no_use_public_ips"]
    words = launch_arguments(["--config=c", beams[0], "--input", "gs://b/x", *beams[1:], "--output=o"])
    assert words == ["launch", "--config=c", "--input=gs://b/x", "--output=o", "--", *beams]


LEAST = ["--config=c", "--input=i", "--output=o", "--profile=dataflow-cpu"]


@pytest.mark.parametrize(
    ("word", "name", "value"),
    [
        ("--overwrite=true", "overwrite", True),
        ("--overwrite=True", "overwrite", True),
        ("--overwrite=false", "overwrite", False),
        ("--overwrite=", "overwrite", False),  # a field that was left empty
        ("--run_id=n1", "run_id", "n1"),
        ("--run_id=", "run_id", None),
        ("--since_run=latest", "since_run", "latest"),
        ("--set=limits.max_failures=3", "overrides", ["limits.max_failures=3"]),
        ('--set=["a.b=1", "a.c=[1, 2]"]', "overrides", ["a.b=1", "a.c=[1, 2]"]),
    ],
)
def test_parameters_become_arguments(word: str, name: str, value: object) -> None:
    """Switches, texts and lists."""
    assert getattr(read(*LEAST, word), name) == value


@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1), min_size=1, max_size=3))
def test_a_list_of_inputs_arrives_as_it_is(inputs: list[str]) -> None:
    """Commas, quotes, blanks and dashes are parts of names."""
    assert read(*LEAST[:1], f"--input={json.dumps(inputs)}", *LEAST[2:]).input == inputs


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("--overwrite=maybe", "parameter overwrite must be true or false, got 'maybe'"),
        ('--input=["a"', "parameter input begins like a JSON list and is none: "),
        ("--input=[1]", "parameter input must be a JSON list of texts, got [1]"),
    ],
)
def test_values_that_a_parameter_cannot_have_are_refused(word: str, message: str) -> None:
    """With its name."""
    with pytest.raises(ConfigError) as caught:
        launch_arguments([word])
    assert str(caught.value).startswith(message)


def test_the_file_runs_as_the_launcher_runs_it(tmp_path: Path) -> None:
    """By its path, from anywhere; what is wrong is one line and exit code 2."""
    command = [sys.executable, ROOT / "pipeline" / "flex_template.py", "--overwrite=maybe"]
    done = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "score-images: parameter overwrite must be true or false, got 'maybe'\n"
