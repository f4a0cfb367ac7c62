"""Load a DAG with the real Airflow, render its task for a date and run it: airflow_check.py FOLDER BIN LOGICAL_DATE.

Runs in Airflow's environment, so it imports nothing of ours. Its last line is JSON.
"""

import json
import os
import sys
from datetime import datetime

from airflow.dag_processing.dagbag import DagBag


def main(folder: str, programs: str, logical_date: str) -> None:
    """Say how the DAG was read, what its task became, and how it ends for every exit code."""
    bag = DagBag(folder, bundle_path=None)
    found = {
        "errors": bag.import_errors,
        "dags": {
            name: {
                "schedule": str(dag.schedule),
                "max_active_runs": dag.max_active_runs,
                "tasks": {task.task_id: task.retries for task in dag.tasks},
            }
            for name, dag in bag.dags.items()
        },
    }
    (dag,) = bag.dags.values()
    (task,) = dag.tasks
    task.render_template_fields({"logical_date": datetime.fromisoformat(logical_date)})
    os.environ["PATH"] = f"{programs}:{os.environ['PATH']}"
    ends = {}
    for code in ("0", "2", "3", "4", "5", "6", "1", "130", "137", "kill"):
        os.environ["END"] = code
        try:
            task.execute({})
            ends[code] = "success"
        except Exception as error:  # noqa: BLE001  which one it is, is the question
            ends[code] = type(error).__name__
    sys.stdout.write(json.dumps({**found, "command": task.command, "ends": ends}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
