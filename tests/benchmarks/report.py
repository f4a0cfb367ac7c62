"""The report of a run in Markdown, made from results.json alone: every figure in it was measured in that run."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tests.benchmarks import figures
from tests.benchmarks.contestants import Contestant
from tests.benchmarks.figures import Rounds, Spread
from tests.benchmarks.findings import findings
from tests.benchmarks.runs import Runs
from tests.benchmarks.workloads import WORKLOADS, Workload

_PROFILE_LINES = 15


def render(results: Mapping[str, Any]) -> str:
    """Render results, whole or of an interrupted run."""
    runs = Runs(results["runs"])
    parts = [_head(results)]
    parts += [_section(workload, runs, results) for workload in WORKLOADS if workload.name in runs.workloads]
    measured = list(findings(runs, results))
    if measured:
        parts.append("\n".join(["## Against the limits", "", *(f"- {line}" for line in measured)]))
    if results["skipped"]:
        lines = [f"- {title}: {reason}" for title, reason in results["skipped"].items()]
        parts.append("\n".join(["## Skipped", "", *lines]))
    if results["failed"]:
        lines = [f"- {failure['what']}: {failure['why'].splitlines()[0]}" for failure in results["failed"]]
        parts.append("\n".join(["## Failed", "", *lines]))
    return "\n\n".join(parts) + "\n"


def _head(results: Mapping[str, Any]) -> str:
    machine, settings = results["machine"], results["settings"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return "\n".join(
        [
            "# Benchmarks",
            "",
            f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gb']} GB, {machine['system']}, "
            f"Python {machine['python']}; begun {machine['started']}.",
            f"{versions}.",
            "",
            f"Interpolation of everybody: {settings['interpolation']}. Rounds: {settings['rounds']}, the order turned "
            "each time. Whole processes: wall time from the command to its end, processor time of everything that it "
            "started, largest memory at one moment. Figures are medians; ratios are taken within a round, "
            "median (smallest to largest), and say how many times as much as score-images the others take.",
        ]
    )


def _section(workload: Workload, runs: Runs, results: Mapping[str, Any]) -> str:
    parts = [f"## {workload.title}"]
    if workload.name in results["profiles"]:
        return "\n\n".join([*parts, _profile(results["profiles"][workload.name])])
    parts += [_table(workload, runs, size) for size in runs.sizes(workload.name)]
    if len(runs.sizes(workload.name)) > 1:
        parts.append(_steady(workload, runs))
    entries = [entry for entry in results["agreement"] if entry["workload"] == workload.name]
    if entries:
        parts.append(_agreement(workload, entries))
    return "\n\n".join(parts)


def _table(workload: Workload, runs: Runs, size: int) -> str:
    """One size, all contestants."""
    lines = [
        f"| {size:,} {workload.items} | wall s | {workload.items}/s | CPU s | peak MB | processes | wall, of ours | "
        "CPU, of ours |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for contestant in workload.contestants:
        wall, cpu = (runs.column(workload.name, contestant.name, size, key) for key in ("wall_s", "cpu_s"))
        if not wall:
            continue
        peak, processes = (
            figures.spread(runs.column(workload.name, contestant.name, size, key).values())
            for key in ("peak_mb", "processes")
        )
        rate = figures.spread(size / seconds for seconds in wall.values())
        compared = [
            _of_ours(contestant, values, runs.column(workload.name, "ours", size, key))
            for key, values in (("wall_s", wall), ("cpu_s", cpu))
        ]
        cells = [
            contestant.title,
            _number(figures.spread(wall.values()), 1),
            _number(rate, 1),
            _number(figures.spread(cpu.values()), 1),
            _number(peak, 0),
            _number(processes, 0),
            *compared,
        ]
        lines.append(_row(cells))
    return "\n".join(lines)


def _steady(workload: Workload, runs: Runs) -> str:
    """What one item more costs: the slope between the smallest and the largest size."""
    sizes = runs.sizes(workload.name)
    small, large = sizes[0], sizes[-1]
    lines = [
        f"One {workload.items.removesuffix('s')} more, from the slope between {small:,} and {large:,}; start-up is "
        "what remains at none:",
        "",
        "| steady state | CPU ms | wall ms | start-up s | start-up CPU s | CPU, of ours | wall, of ours |",
        "|---|---|---|---|---|---|---|",
    ]
    for contestant in workload.contestants:
        cpu, wall = (runs.slopes(workload.name, contestant.name, key) for key in ("cpu_s", "wall_s"))
        if not cpu:
            continue
        starts = [
            figures.intercepts(runs.column(workload.name, contestant.name, small, key), slope, small)
            for key, slope in (("wall_s", wall), ("cpu_s", cpu))
        ]
        compared = [
            _of_ours(contestant, slope, runs.slopes(workload.name, "ours", key))
            for key, slope in (("cpu_s", cpu), ("wall_s", wall))
        ]
        cells = [
            contestant.title,
            *(_number(figures.spread(1e3 * value for value in slope.values()), 3) for slope in (cpu, wall)),
            *(_number(figures.spread(start.values()), 1) for start in starts),
            *compared,
        ]
        lines.append(_row(cells))
    return "\n".join(lines)


def _agreement(workload: Workload, entries: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        "| predictions | photos | missing | top-1 as ours | top-1 as the plain road | mean difference from it | "
        "largest | top-1 true |",
        "|---|---|---|---|---|---|---|---|",
    ]
    titles = {contestant.name: contestant.title for contestant in workload.contestants}
    for entry in entries:
        ours, plain = entry.get("with_ours"), entry.get("with_plain_road")
        cells = [
            titles[entry["contestant"]],
            f"{ours['photos']:,}" if ours else "",
            f"{ours['missing']:,}" if ours else "",
            _percent(ours and ours["same_top_1"]),
            _percent(plain and plain["same_top_1"]),
            f"{plain['mean_difference']:.2e}" if plain else "",
            f"{plain['largest_difference']:.2e}" if plain else "",
            _percent(entry["top_1"]),
        ]
        lines.append(_row(cells))
    return "\n".join(lines)


def _profile(profile: Mapping[str, Any]) -> str:
    def rows(title: str, shares: Mapping[str, float]) -> Iterator[str]:
        yield f"| {title} | share of samples |"
        yield "|---|---|"
        for name, share in list(shares.items())[:_PROFILE_LINES]:
            yield _row([f"`{name}`", f"{100 * share:.1f}%"])

    head = f"{profile['samples']} samples of threads that had the processor; time in C belongs to its Python caller."
    tables = {"function, itself": "functions", "our function, with all it calls": "callers", "thread": "threads"}
    return "\n".join([head, *(line for title, key in tables.items() for line in ("", *rows(title, profile[key])))])


def _of_ours(contestant: Contestant, values: Rounds, ours: Rounds) -> str:
    if contestant.kind == "ours":
        return ""
    return _ratio(figures.ratios(values, ours))


def _ratio(spread: Spread | None) -> str:
    return "" if spread is None else f"{spread.median:.2f} ({spread.low:.2f} to {spread.high:.2f})"


def _number(spread: Spread | None, digits: int) -> str:
    return "" if spread is None else f"{spread.median:,.{digits}f}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.2f}%"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
