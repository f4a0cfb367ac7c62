"""The DAG of docs/operations.md in the real Airflow: it loads, and its task does what the table of exit codes says."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_operations import example

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(900)]

ROOT = Path(__file__).parent.parent.parent
PINS = Path(__file__).with_name("airflow.txt")


@pytest.fixture(scope="module")
def airflow() -> Path:
    """Python with Airflow, in an environment of its own: it shares few versions with TensorFlow and Beam."""
    folder = ROOT / ".cache" / "airflow"
    stamp = folder / "pins.txt"
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != PINS.read_text(encoding="utf-8"):
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([folder / "bin" / "pip", "install", "--quiet", "--no-deps", "-r", PINS], check=True)
        stamp.write_text(PINS.read_text(encoding="utf-8"), encoding="utf-8")
    return folder / "bin" / "python"


def test_the_dag_loads_and_tells_a_retry_from_a_failure(airflow: Path, tmp_path: Path) -> None:
    """One night by its logical date, once for every exit code."""
    dags, programs, work = tmp_path / "dags", tmp_path / "bin", tmp_path / "work"
    for folder in (dags, programs, work):
        folder.mkdir()
    (dags / "nightly.py").write_text(example("python").replace("/srv/scoring", str(work)), encoding="utf-8")
    program = programs / "score-images"
    program.write_text(
        '#!/bin/sh\npwd >> started\n[ "$END" = kill ] && kill -9 $$\nexit "$END"\n',
        encoding="utf-8",
    )
    program.chmod(0o755)

    result = subprocess.run(
        [airflow, Path(__file__).with_name("airflow_check.py"), dags, programs, "2026-11-22T02:15:00+00:00"],
        env={
            **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
            "AIRFLOW_HOME": str(tmp_path / "home"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        },
        capture_output=True,
        text=True,
        check=False,
    )

    assert result.returncode == 0, result.stderr[-4000:]
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["errors"] == {}
    assert found["dags"] == {
        "score_images": {"schedule": "15 2 * * *", "max_active_runs": 1, "tasks": {"score": 3}},
    }
    night = "run --config night.yaml --input photos --output scores --run-id 2026-11-22 --since-run latest"
    assert found["command"] == ["score-images", *night.split()]
    assert found["ends"] == {
        "0": "success",
        **dict.fromkeys(["1", "2", "3", "4", "5", "6"], "AirflowFailException"),
        **dict.fromkeys(["130", "137", "kill"], "AirflowException"),
    }
    assert (work / "started").read_text(encoding="utf-8") == f"{work}\n" * len(found["ends"])
