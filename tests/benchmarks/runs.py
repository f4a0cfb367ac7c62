"""Look figures up in the runs of results.json."""

from collections.abc import Mapping, Sequence
from typing import Any

from tests.benchmarks import figures


class Runs:
    """Runs by workload, contestant, size and round.

    Args:
        runs: As in results.json.
    """

    def __init__(self, runs: Sequence[Mapping[str, Any]]) -> None:
        self._runs = runs
        self.workloads = {run["workload"] for run in runs}

    def sizes(self, workload: str) -> list[int]:
        """Return the sizes that were measured, ascending."""
        return sorted({run["size"] for run in self._runs if run["workload"] == workload})

    def column(self, workload: str, contestant: str, size: int, key: str) -> dict[int, float]:
        """Return one figure of a contestant by round: wall_s, cpu_s, peak_mb or processes."""
        return {run["round"]: run[key] for run in self._select(workload, contestant, size)}

    def found(self, workload: str, contestant: str, key: str, size: int | None = None) -> dict[int, Any]:
        """Return by round what a limit has found itself, at the largest size where none is given."""
        size = size or max(self.sizes(workload), default=0)
        chosen = self._select(workload, contestant, size)
        return {run["round"]: run["found"][key] for run in chosen if key in run["found"]}

    def slopes(self, workload: str, contestant: str, key: str) -> dict[int, float]:
        """Return by round what one item more costs between the smallest and the largest size; empty for one size."""
        sizes = self.sizes(workload)
        if len(sizes) < 2:
            return {}
        small, large = (self.column(workload, contestant, size, key) for size in (sizes[0], sizes[-1]))
        return figures.slopes(small, large, sizes[-1] - sizes[0])

    def _select(self, workload: str, contestant: str, size: int) -> list[Mapping[str, Any]]:
        wanted = (workload, contestant, size)
        return [run for run in self._runs if (run["workload"], run["contestant"], run["size"]) == wanted]
