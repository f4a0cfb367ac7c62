"""The examples of docs/operations.md work: crontab and script run, the Workflow's parameters are options."""

import argparse
import itertools
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.commands import run as run_command
from tests.model_zoo import pooled_model
from tests.runs import make_photos, read_table, small_config, write_config
from transforms.errors import ExitCode
from transforms.layout import RunLayout, check_run_id

ROOT = Path(__file__).parent.parent
OPERATIONS = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")


def example(language: str) -> str:
    """The one block of a language."""
    (block,) = re.findall(rf"```{language}\n(.*?)```", OPERATIONS, re.DOTALL)
    return block


def executable(path: Path, script: str) -> None:
    """Write a command."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(script, encoding="utf-8")
    path.chmod(0o755)


@pytest.fixture
def server(tmp_path: Path) -> Path:
    """A folder with nightly.sh, and a `date` that stands still."""
    (tmp_path / "nightly.sh").write_text(example("sh"), encoding="utf-8")
    executable(tmp_path / "clock" / "date", '#!/bin/sh\n[ "$*" = "-u +%F" ] && echo 2026-11-22\n')
    return tmp_path


def run_crontab(server: Path) -> subprocess.CompletedProcess[str]:
    """Run the crontab's command as cron does: a backslash before % goes, and /bin/sh has hardly an environment."""
    minute, hour, *_, command = example("cron").strip().split(" ", 5)
    assert (minute, hour) == ("15", "2")
    assert not re.search(r"(?<!\\)%", command), "cron would end the line there"
    command = command.replace(r"\%", "%").replace("/srv/scoring", str(server))
    command = command.replace("/opt/score-images/bin", str(server / "bin"))
    return subprocess.run(
        ["/bin/sh", "-c", command], env={"PATH": f"{server}/clock:/usr/bin:/bin", "HOME": str(server)}, text=True
    )


def test_the_crontab_publishes_the_night_of_its_date(server: Path) -> None:
    """A real run by the real command; the first night has nothing to follow."""
    photos = make_photos(server / "photos", 3)
    write_config(small_config(pooled_model(server / "model")), server / "night.yaml")
    executable(
        server / "bin" / "score-images",
        f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m pipeline "$@"\n',
    )

    code = run_crontab(server).returncode

    assert code == 0, (server / "nightly.log").read_text(encoding="utf-8")
    scores = read_table(RunLayout(str(server / "scores"), "2026-11-22"), "scores")
    assert sorted(scores["image_path"].to_pylist()) == [str(path) for path in photos]


@pytest.mark.parametrize(
    ("ends", "code", "starts"),
    [
        ([0], 0, 1),
        ([130, 0], 0, 2),
        ([137, 143, 0], 0, 3),
        ([130, 130, 130, 0], 130, 3),
        ([130, 3], 3, 2),
        *(([int(code)], int(code), 1) for code in ExitCode if code not in (ExitCode.PUBLISHED, ExitCode.INTERRUPTED)),
        ([1], 1, 1),
    ],
)
def test_nightly_tries_again_only_what_was_interrupted(server: Path, ends: list[int], code: int, starts: int) -> None:
    """The same command each time, three times at most."""
    (server / "ends").write_text("".join(f"{end}\n" for end in ends), encoding="utf-8")
    executable(
        server / "bin" / "score-images",
        '#!/bin/sh\necho "$@" >> starts\nexit "$(sed -n "$(wc -l < starts)p" ends)"\n',
    )

    result = subprocess.run(
        ["/bin/sh", "nightly.sh", "2026-11-22"],
        cwd=server,
        env={"PATH": f"{server}/bin:/usr/bin:/bin", "RETRY_SECONDS": "0"},
    )

    assert result.returncode == code
    command = "run --config night.yaml --input photos --output scores --run-id 2026-11-22 --since-run latest\n"
    assert (server / "starts").read_text(encoding="utf-8") == command * starts


def test_the_table_names_every_exit_code() -> None:
    """A new code needs its word here: whether a retry can help."""
    table = OPERATIONS.split("| exit code |")[1].split("\n\n")[0]
    said = {int(code) for row in table.splitlines()[2:] for code in re.findall(r"\b\d+\b", row.split("|")[1])}
    assert said == {int(code) for code in ExitCode} | {137}


def test_the_workflow_launches_with_options_of_the_command_line() -> None:
    """Every parameter is an option of run, every required one is there, and the run id is the date."""
    workflow = yaml.safe_load(example("yaml"))
    steps: dict[str, Any] = {name: step for entry in workflow["main"]["steps"] for name, step in entry.items()}
    launch = steps["launch"]["args"]["body"]["launchParameter"]
    parser = argparse.ArgumentParser(add_help=False)
    run_command.add_arguments(parser)
    options = {action.option_strings[0].removeprefix("--").replace("-", "_"): action for action in parser._actions}

    assert set(launch["parameters"]) <= set(options)
    assert {name for name, action in options.items() if action.required} <= set(launch["parameters"])
    assert launch["parameters"]["run_id"] == "${date}"
    assert {name for step in steps["night"]["assign"] for name in step} == {"date"}
    # the fields of the service's LaunchFlexTemplateParameter and of its environment
    assert set(launch) == {"jobName", "containerSpecGcsPath", "parameters", "environment"}
    assert set(launch["environment"]) == {"tempLocation", "maxWorkers"}
    job_name = launch["jobName"].removeprefix('${"').replace('" + date}', "2026-11-22")
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", job_name)
    check_run_id("2026-11-22")


def test_the_gcloud_commands_send_json() -> None:
    """What Cloud Scheduler posts is an execution of the Workflow, whose argument is JSON in JSON."""
    commands = "".join(re.findall(r"```bash\n(.*?)```", OPERATIONS, re.DOTALL)).replace("\\\n", " ").splitlines()
    words = [shlex.split(command) for command in commands]
    values = [dict(itertools.pairwise(line)) for line in words]

    assert [line[:3] for line in words] == [
        ["gcloud", "workflows", "deploy"],
        ["gcloud", "scheduler", "jobs"],
        ["gcloud", "workflows", "run"],
    ]
    assert json.loads(json.loads(values[1]["--message-body"])["argument"]) == {}
    assert json.loads(values[2]["--data"]) == {"date": "2026-11-22"}
