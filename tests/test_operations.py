"""The examples of docs/operations.md work: crontab and script run, the Workflow's parameters are the template's."""

import itertools
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config import RunConfig
from pipeline.flex_template import launch_arguments, template_metadata
from pipeline.metrics import METRICS
from pipeline.options import find_flags
from pipeline.profiles import PROFILES
from tests.model_zoo import pooled_model
from tests.runs import make_photos, read_table, small_config, write_config
from transforms.errors import ExitCode, FailureCode
from transforms.layout import RunLayout, check_run_id

ROOT = Path(__file__).parent.parent
PROMTOOL = shutil.which("promtool") or ""
OPERATIONS = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")


def example(language: str, about: str = "") -> str:
    """The one block of a language about something."""
    (block,) = (b for b in re.findall(rf"```{language}\n(.*?)```", OPERATIONS, re.DOTALL) if about in b)
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


@pytest.mark.heavy
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


def test_the_workflow_launches_with_the_parameters_of_the_template() -> None:
    """It knows all but the workers' image, every required one is there, the run id is the date."""
    workflow = yaml.safe_load(example("yaml", "main:"))
    steps: dict[str, Any] = {name: step for entry in workflow["main"]["steps"] for name, step in entry.items()}
    launch = steps["launch"]["args"]["body"]["launchParameter"]
    declared = {parameter["name"]: parameter for parameter in template_metadata()["parameters"]}

    # a pipeline option of Beam's, which the launcher hands on as it is
    assert set(launch["parameters"]) <= {*declared, "sdk_container_image"}
    assert {name for name, told in declared.items() if not told["isOptional"]} <= set(launch["parameters"])
    for name, value in launch["parameters"].items():
        assert all(re.fullmatch(regex, value) for regex in declared.get(name, {}).get("regexes", [])), name
    given = {
        **launch["parameters"],
        "project": "p",
        "region": "r",
        "temp_location": launch["environment"]["tempLocation"],
    }
    words = launch_arguments([f"--{name}={value}" for name, value in given.items()])
    profile = launch["parameters"]["profile"]
    assert find_flags(profile, words[words.index("--") + 1 :]).profile == PROFILES[profile]
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


def test_every_metric_is_documented() -> None:
    """Name, label and words are those of the program."""
    table = OPERATIONS.split("| metric |")[1].split("\n\n")[0]
    rows = [tuple(cell.strip().strip("`") for cell in row.split("|")[1:-1]) for row in table.splitlines()[2:]]
    assert rows == [(metric.name, metric.label, metric.help) for metric in METRICS.values()]


def test_alerts_ask_for_metrics_that_exist() -> None:
    """Each rule has an expression over our metrics, their labels, and words for who is woken."""
    (group,) = yaml.safe_load(example("yaml", "alert:"))["groups"]
    names = {metric.name for metric in METRICS.values()}
    for rule in group["rules"]:
        asked = set(re.findall(r"score_images_\w+", rule["expr"]))
        assert asked, rule["alert"]
        assert asked <= names, rule["alert"]
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert "config" in rule["annotations"]["summary"]
    alerts = [rule["alert"] for rule in group["rules"]]
    assert len(set(alerts)) == len(alerts)
    for alert in re.findall(r"ScoreImages\w+", OPERATIONS):
        assert alert in alerts


# What a night leaves, and the alerts that have to fire of it: at the minute of the 8th day at which nothing is new.
NIGHTS = {
    "good": ("0", "8d", "1000", "0", "0", "50", set()),
    "too many failures": ("3", "7d", "700", "300", "0", "50", {"RunFailed", "NightMissing", "ManyFailures"}),
    "drifted": ("0", "8d", "1000", "0", "1", "50", {"Drifted"}),
    "no inputs": ("0", "8d", "300", "0", "0", "50", {"InputsMissing"}),
    "slow": ("0", "8d", "1000", "0", "0", "9", {"Slow"}),
    "launcher is gone": ("0", "6d", "1000", "0", "0", "50", {"NightMissing"}),
    "never a success": ("2", "", "1000", "0", "0", "50", {"NeverSucceeded", "RunFailed"}),
}


@pytest.mark.skipif(not PROMTOOL, reason="promtool (of Prometheus) is not installed")
@pytest.mark.parametrize("night", NIGHTS)
def test_alerts_fire_of_the_nights_that_want_somebody(tmp_path: Path, night: str) -> None:
    """By Prometheus' own tool: a week of good nights, and one more."""
    code, success, scored, failed, drifted, rate, fires = NIGHTS[night]
    labels = 'config="night", output="out", instance="host"'
    hours = 24 * 7

    def series(name: str, before: str, now: str) -> dict[str, str]:
        return {"series": f"score_images_{name}{{{labels}}}", "values": f"{before}x{hours} {now}x30"}

    inputs = [
        series("run_exit_code", "0", code),
        *([series("last_success_timestamp_seconds", "0", str(int(success[:-1]) * 86400))] if success else []),
        series("run_listed_images", "1000", str(int(scored) + int(failed))),
        series("run_scored_images", "1000", scored),
        series("run_failed_images", "0", failed),
        series("run_drifted", "0", drifted),
        series("run_images_per_second", "50", rate),
        series("run_pipeline_seconds", "4000", "4000"),
    ]
    rules = yaml.safe_load(example("yaml", "alert:"))
    names = [rule["alert"] for rule in rules["groups"][0]["rules"]]
    (tmp_path / "rules.yml").write_text(example("yaml", "alert:"), encoding="utf-8")
    # expected labels and annotations are not repeated here: ALERTS says what fires
    query = {
        "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
        "eval_time": "8d6h",
        "exp_samples": [
            {"labels": f'{{alertname="{name}"}}', "value": 1}
            for name in names
            if name.removeprefix("ScoreImages") in fires
        ],
    }
    test = {
        "rule_files": ["rules.yml"],
        "evaluation_interval": "1h",
        "tests": [{"interval": "1h", "input_series": inputs, "promql_expr_test": [query]}],
    }
    (tmp_path / "test.yml").write_text(yaml.safe_dump(test), encoding="utf-8")
    for command in (["check", "rules", "rules.yml"], ["test", "rules", "test.yml"]):
        done = subprocess.run([PROMTOOL, *command], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_exit_code_says_what_to_do() -> None:
    """What it means, where to look, what to do; links lead to parts of this page."""
    table = OPERATIONS.split("| code | what it means |")[1].split("\n\n")[0]
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in table.splitlines()[2:]]
    assert [int(row[0]) for row in rows] == sorted(int(code) for code in ExitCode)
    assert all(all(row) for row in rows if row[0] != "0")


def test_the_runbook_knows_every_failure_code() -> None:
    """Who is woken by a code finds it."""
    table = OPERATIONS.split("| codes |")[1].split("\n\n")[0]
    assert set(re.findall(r"`(\w+)` ?[,|]", table)) == {code.value for code in FailureCode}


def test_links_within_the_page_lead_to_its_parts() -> None:
    """As a reader's browser makes anchors of headings."""
    anchors = {
        re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in re.findall(r"^#+ (.*)$", OPERATIONS, re.M)
    }
    assert set(re.findall(r"\]\(#([^)]+)\)", OPERATIONS)) <= anchors


def test_settings_of_the_runbook_exist() -> None:
    """A knob that is not there helps nobody at three in the morning."""
    sections = RunConfig.model_json_schema()
    for section, key in re.findall(r"`([a-z_]+)\.([a-z_]+)`", OPERATIONS.split("## Runbook")[1]):
        if section in sections["properties"]:
            name = sections["properties"][section]["$ref"].rpartition("/")[2]
            assert key in sections["$defs"][name]["properties"], f"{section}.{key}"
