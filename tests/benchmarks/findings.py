"""What the figures say about the limits: one sentence each, with how it is reckoned."""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from tests.benchmarks import figures
from tests.benchmarks.contestants import PEERS
from tests.benchmarks.figures import Rounds, Spread
from tests.benchmarks.runs import Runs


def findings(runs: Runs, results: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for every comparison whose figures are there."""
    yield from _host(runs)
    for workload in ("host", "real"):
        yield from _peers(runs, workload)
    yield from _real(runs)
    yield from _start_up(runs)
    yield from _wide(runs)
    yield from _paths(runs)
    yield from _memory(runs)
    yield from _agreement(results)


def _host(runs: Runs) -> Iterator[str]:
    ours = runs.slopes("host", "ours", "wall_s")
    for limit, what in (("host-limit", "the libraries alone"), ("host-limit-ours", "our decoder alone")):
        share = figures.ratios(_seconds_each(runs, "host", limit), ours)
        if share:
            yield (
                f"Host path in steady state: {_text(share)} of the rate of {what} in as many threads as cores "
                "(its own stopwatch over the slope of our wall time)."
            )
        cpu = figures.ratios(runs.slopes("host", limit, "cpu_s"), runs.slopes("host", "ours", "cpu_s"))
        if cpu:
            yield f"CPU a photo in steady state: {_text(cpu)} of ours is spent by {what}."


def _peers(runs: Runs, workload: str) -> Iterator[str]:
    sizes = runs.sizes(workload)
    if not sizes:
        return
    largest = sizes[-1]
    walls = {peer.title: runs.column(workload, peer.name, largest, "wall_s") for peer in PEERS}
    fastest = _least(walls)
    if fastest and (ratio := figures.ratios(walls[fastest], runs.column(workload, "ours", largest, "wall_s"))):
        yield (
            f"{workload}, end to end at {largest:,} photos: {_text(ratio)} times as fast as the fastest peer, "
            f"{fastest}."
        )
    slopes = {peer.title: runs.slopes(workload, peer.name, "cpu_s") for peer in PEERS}
    thriftiest = _least(slopes)
    if thriftiest and (ratio := figures.ratios(runs.slopes(workload, "ours", "cpu_s"), slopes[thriftiest])):
        yield (f"{workload}, CPU a photo in steady state: {_text(ratio)} of that of the thriftiest peer, {thriftiest}.")


def _real(runs: Runs) -> Iterator[str]:
    ours = runs.slopes("real", "ours", "wall_s")
    rate = runs.found("real", "model-limit", "images_per_second").get(0)
    if not ours or not rate:
        return
    batch = runs.found("real", "model-limit", "batch")[0]
    model = dict.fromkeys(ours, 1 / rate)
    share = figures.ratios(model, ours)
    if share:
        yield (
            f"Real model in steady state: {_text(share)} of the model limit ({rate:.1f} images/s at its best batch, "
            f"{batch})."
        )
    host = _seconds_each(runs, "real", "host-limit-ours")
    both = figures.ratios({number: model[number] + host[number] for number in ours.keys() & host.keys()}, ours)
    if both:
        yield (
            f"With decoding accounted for: {_text(both)} of the limit that model and decoder share. Both use "
            "every core, so that a photo takes at least the sum of what each takes alone."
        )


def _start_up(runs: Runs) -> Iterator[str]:
    sizes = runs.sizes("start-up")
    if not sizes:
        return
    ours = runs.column("start-up", "ours", sizes[-1], "wall_s")
    limit = runs.column("start-up", "start-up-limit", sizes[-1], "wall_s")
    ratio = figures.ratios(ours, limit)
    if ratio:
        yield (
            f"Start-up: the whole run of {sizes[-1]} photos, from the command to its published end, takes "
            f"{_text(ratio)} times as long as a process that imports TensorFlow and loads the model."
        )


def _wide(runs: Runs) -> Iterator[str]:
    share = figures.ratios(runs.found("wide", "write-limit", "seconds"), runs.found("wide", "ours", "seconds"))
    if share:
        yield f"Wide: {_text(share)} of the write limit (both by their own stopwatch, without imports and preparation)."


def _paths(runs: Runs) -> Iterator[str]:
    sizes = runs.sizes("paths")
    if len(sizes) < 2:
        return
    for small, large in itertools.pairwise(sizes):
        seconds, memory = (
            figures.spread(
                figures.slopes(_paths_column(runs, small, key), _paths_column(runs, large, key), large - small).values()
            )
            for key in ("seconds", "peak_mb")
        )
        if seconds and memory:
            yield (
                f"Paths, from {small:,} to {large:,}: {1e6 * seconds.median:.1f} microseconds and "
                f"{memory.median * 1024:.2f} KB of memory a path more."
            )


def _paths_column(runs: Runs, size: int, key: str) -> Rounds:
    if key == "seconds":
        return runs.found("paths", "ours", "seconds", size)
    return runs.column("paths", "ours", size, key)


def _memory(runs: Runs) -> Iterator[str]:
    sizes = runs.sizes("memory")
    if len(sizes) < 2:
        return
    small, large = (runs.column("memory", "ours", size, "peak_mb") for size in (sizes[0], sizes[-1]))
    ratio = figures.ratios(large, small)
    if ratio:
        yield f"Memory: the peak at {sizes[-1]:,} photos is {_text(ratio)} of the peak at {sizes[0]:,}."


def _agreement(results: Mapping[str, Any]) -> Iterator[str]:
    for entry in results["agreement"]:
        plain = entry.get("with_plain_road")
        if entry["contestant"] == "ours" and plain:
            yield (
                f"Predictions, {entry['workload']}: {100 * plain['same_top_1']:.2f}% of {plain['photos']} photos get "
                f"the same class as on the plain full-decode road; probabilities differ by "
                f"{plain['mean_difference']:.2e} on average and {plain['largest_difference']:.2e} at most."
            )


def _seconds_each(runs: Runs, workload: str, contestant: str) -> dict[int, float]:
    """Seconds a photo by a limit's own stopwatch, at the largest size."""
    seconds = runs.found(workload, contestant, "seconds")
    images = runs.found(workload, contestant, "images")
    return {number: seconds[number] / images[number] for number in seconds}


def _least(columns: Mapping[str, Rounds]) -> str | None:
    medians = {name: spread.median for name, values in columns.items() if (spread := figures.spread(values.values()))}
    medians = {name: median for name, median in medians.items() if median > 0}  # the rest is noise
    return min(medians, key=lambda name: medians[name]) if medians else None


def _text(spread: Spread) -> str:
    return f"{spread.median:.2f} ({spread.low:.2f} to {spread.high:.2f})"
