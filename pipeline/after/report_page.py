"""report.html: what report.json says, drawn for people, with pictures of the images that are worth a look."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import yaml

from pipeline.after.report_data import class_mix, pictured
from pipeline.pages import charts
from pipeline.pages.charts import Bar, Pair
from pipeline.pages.page import (
    count_text,
    duration_text,
    moment_text,
    number_text,
    percent_text,
    render_page,
    size_text,
)
from pipeline.pages.thumbnails import Thumbnail
from transforms.errors import ExitCode

_MOST_CLASSES = 12
_BINS = 25
"""Bars of a histogram: the counted bins, four at a time."""
_FEWEST_STEPS = 3
"""Fewer show no course."""
_STEPS = {
    "read": "reading",
    "decode": "decoding and resizing",
    "model": "model",
    "challenger": "challenger",
    "write": "writing",
}
_REFUSALS = {
    ExitCode.TOO_MANY_FAILURES: "too many failures",
    ExitCode.LEDGER_MISMATCH: "the ledger does not add up",
    ExitCode.HEALTH_GATE_CLOSED: "the health gate is closed",
}


def report_html(report: Mapping[str, Any], pictures: Mapping[str, Thumbnail], thumbnails: int) -> str:
    """Make the page of a report.

    Args:
        report: From report_data.collect.
        pictures: By path; an image without one is told by its path alone.
        thumbnails: How many were asked for.
    """
    uncertain, failed = pictured(report, thumbnails)
    by_path = {row["image_path"]: row for row in report["least_certain"]["images"]}
    return render_page(
        "report.html.j2",
        report=report,
        **_head(report),
        ledger=_ledger(report),
        time=_time(report["time"]),
        pace=_pace(report["throughput"]),
        health=_health(report["health"]),
        answers=_answers(report),
        challenger=_challenger(report),
        uncertain=[(pictures[path], _uncertain_lines(by_path[path])) for path in uncertain if path in pictures],
        told=[] if uncertain else list(map(_uncertain_row, report["least_certain"]["images"])),
        codes=_codes(report),
        examples=[[row["code"], row["image_path"], row["message"]] for row in report["failures"]["examples"]],
        # The table has all of them: what has no picture is not said twice.
        failed=[
            (pictures[row.image_path], [f"{row.code}: {row.message}"])
            for row in failed
            if row.image_path in pictures and pictures[row.image_path].uri
        ],
        images=_images(report["images"]),
        facts=_facts(report),
        versions=[(name, version) for name, version in (report["run"]["versions"] or {}).items()],
        config=yaml.safe_dump(report["run"]["config"] or {}, sort_keys=False, allow_unicode=True, width=100),
    )


def _head(report: Mapping[str, Any]) -> dict[str, Any]:
    outcome = report["outcome"]
    lines = [f"model {report['run']['model_id']}"] if report["run"]["model_id"] else []
    for name, verb in (("started_at", "started"), ("published_at", "published")):
        if outcome[name]:
            lines.append(f"{verb} {moment_text(datetime.fromisoformat(outcome[name]))}")
    code = ExitCode(outcome["exit_code"])
    overridden = report["run"]["limits_overridden"]
    if not outcome["published"]:
        badge, state = f"refused: {_REFUSALS.get(code, f'exit code {int(code)}')}", "bad"
    elif overridden:
        badge, state = "published in spite of its limits", "warn"
    elif (report["health"] or {}).get("overridden"):
        badge, state = "published in spite of the health gate", "warn"
    elif (report["health"] or {}).get("breaches"):
        badge, state = "published, drifted", "warn"
    else:
        badge, state = "published", "good"
    message = outcome["message"] if overridden or not outcome["published"] else ""
    return {"badge": badge, "state": state, "line": " · ".join(lines), "message": message}


def _ledger(report: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    ledger = report["ledger"]
    tried = ledger["scored"] + ledger["failed"]
    rate = f"{percent_text(ledger['failed'] / tried)} of those tried" if tried else ""
    return [
        ("listed", count_text(ledger["listed"]), ""),
        ("duplicates", count_text(ledger["duplicates"]), "listed again"),
        ("unique", count_text(ledger["unique"]), ""),
        ("scored", count_text(ledger["scored"]), ""),
        ("failed", count_text(ledger["failed"]), rate),
        ("skipped", count_text(ledger["skipped"]), "scored by an earlier run"),
    ]


def _time(time: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if time is None:
        return None
    spent = time["thread_seconds"]
    whole = sum(spent.values())
    parts = [
        Bar(_STEPS[step], seconds, f"{duration_text(seconds)} ({percent_text(seconds / whole if whole else 0.0)})")
        for step, seconds in spent.items()
        if seconds or step != "challenger"  # only where there is one
    ]
    cards = [
        ("start-up", duration_text(time["startup_seconds"]), "libraries, checks, model"),
        ("pipeline", duration_text(time["pipeline_seconds"]), f"{count_text(time['images'])} images"),
    ]
    if time["images_per_second"]:  # all may have been scored by an earlier attempt
        cards.append(("images a second", number_text(time["images_per_second"]), "from launch to end"))
    busy = time["busy"]
    cards += [
        ("device busy", percent_text(_share(busy["device"])), "of the time of its calls"),
        ("loading threads busy", percent_text(_share(busy["load"])), "reading and decoding"),
        ("writing", percent_text(_share(busy["write"])), "of the time"),
    ]
    return {
        "cards": cards,
        "chart": charts.share("Time of the steps, summed over threads", parts) if whole else "",
        "advice": time["advice"],
        "adopted": time["adopted_images"],
    }


def _share(value: float) -> float:
    """Clocks of threads and bundles differ by a little: nothing is at work more than all the time."""
    return min(round(value, 3), 1.0)


def _pace(pace: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if pace is None or len(pace["images_by_step"]) < _FEWEST_STEPS:
        return None
    start = datetime.fromisoformat(pace["first_scored_at"])
    step = pace["step_seconds"]
    rates = [count / step for count in pace["images_by_step"]]
    edges = [start + timedelta(seconds=step * number) for number in range(len(rates) + 1)]
    return {
        "chart": charts.timeline("Images a second over time", edges, rates),
        "note": f"{number_text(pace['images_per_second'])} in the mean, in steps of {duration_text(step)}",
    }


def _health(health: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if health is None:
        return None
    moved = [
        Pair(
            row["label"], row["share_before"], row["share_now"],
            f"{percent_text(row['share_before'])} → {percent_text(row['share_now'])}",
        )
        for row in health["moved"]
    ]  # fmt: skip
    names = (f"run {health['baseline']}", "this run")
    return {
        "message": f"The answers have {health['message']}" if health["breaches"] else
        f"The answers are {health['message']}",
        "state": "bad" if health["breaches"] else "",
        "chart": charts.pairs("Classes that have moved most", names, moved) if moved else "",
    }  # fmt: skip


def _answers(report: Mapping[str, Any]) -> dict[str, Any] | None:
    counted = report["distributions"]
    if not counted["rows"]:
        return None
    mix = class_mix(report)
    top = list(mix.items())[:_MOST_CLASSES]
    rest = sum(mix.values()) - sum(count for _, count in top)
    rows = [Bar(label, count, f"{count_text(count)} ({percent_text(count / counted['rows'])})") for label, count in top]
    drawn = []
    for name, caption in (("confidence", "Top-1 confidence"), ("margin", "Margin"), ("entropy", "Entropy")):
        edges, counts = coarse(counted[name]["edges"], counted[name]["counts"])
        label = {"confidence": "probability of the strongest class", "margin": "p1 - p2", "entropy": "nats"}[name]
        note = f"{number_text(report['means'][name])} in the mean"
        drawn.append((caption, charts.histogram(caption, edges, counts, label), note))
    seen = f"{count_text(len(mix))} of {count_text(len(counted['labels']))} classes were predicted"
    if rest:
        seen += (
            f"; the {count_text(len(mix) - len(top))} that are not drawn have {count_text(rest)} images "
            f"({percent_text(rest / counted['rows'])})"
        )
    return {"histograms": drawn, "mix": charts.bars("Class mix", rows), "seen": seen}


def _challenger(report: Mapping[str, Any]) -> dict[str, Any] | None:
    found = report["challenger"]
    if found is None:
        return None
    compared = found["compared_images"]
    failed = found["failures_by_code"]
    codes = ", ".join(f"{count_text(count)} {code}" for code, count in failed.items())
    ours, theirs = (counted["confidence"] for counted in (report["distributions"], found["distributions"]))
    (edges, first), (_, second) = (coarse(side["edges"], side["counts"]) for side in (ours, theirs))
    names = ("model", "challenger")
    return {
        "line": f"{found['model_id'] or 'A second model'} has scored the same images.",
        "cards": [
            ("agree", percent_text(found["agreeing_images"] / compared) if compared else "-",
             f"of {count_text(compared)} compared"),
            ("scored", count_text(found["distributions"]["rows"]), "by the challenger"),
            ("failed", count_text(sum(failed.values())), codes),
        ],
        "chart": charts.histograms("Top-1 confidence", names, edges, first, second,
                                   "probability of the strongest class"),
        "flips": [[flip["label"], flip["challenger_label"], count_text(flip["images"])] for flip in found["flips"]],
    }  # fmt: skip


def coarse(edges: list[float], counts: list[int], bins: int = _BINS) -> tuple[list[float], list[int]]:
    """Join neighbouring bins, so that a bar is seen.

    >>> coarse([0, 1, 2, 3, 4], [1, 2, 3, 4], 2)
    ([0, 2, 4], [3, 7])
    """
    width = max(1, len(counts) // bins)
    joined = [sum(counts[start : start + width]) for start in range(0, len(counts), width)]
    return [*edges[:-1:width], edges[-1]], joined


def _uncertain_lines(row: Mapping[str, Any]) -> list[str]:
    return [f"{entry['label']} {percent_text(entry['probability'])}" for entry in row["top"]]


def _uncertain_row(row: Mapping[str, Any]) -> list[str]:
    return [", ".join(_uncertain_lines(row)), number_text(row["margin"]), row["image_path"]]


def _codes(report: Mapping[str, Any]) -> list[Bar] | str:
    codes = report["failures"]["by_code"]
    whole = sum(codes.values())
    if not whole:
        return ""
    rows = [Bar(code, count, f"{count_text(count)} ({percent_text(count / whole)})") for code, count in codes.items()]
    return charts.bars("Failures by code", rows)


def _images(images: Mapping[str, Any]) -> dict[str, Any] | None:
    count = images["bytes"]["count"]
    if not count:
        return None
    sizes, pixels = images["bytes"], images["pixels"]
    formats = [Bar(name, found, f"{count_text(found)} ({percent_text(found / count)})") for name, found
               in images["formats"].items()]  # fmt: skip
    return {
        "cards": [
            ("encoded", size_text(sizes["total"]), "all scored images"),
            ("a file", size_text(sizes["total"] / count), f"{size_text(sizes['min'])} to {size_text(sizes['max'])}"),
            ("megapixels", _megapixels(pixels["total"] / count),
             f"{_megapixels(pixels['min'])} to {_megapixels(pixels['max'])}"),
        ],
        "charts": [
            ("Formats", charts.bars("Formats", formats)),
            ("Sizes of files", charts.bars("Sizes of files", _ranges(sizes, size_text))),
            ("Megapixels", charts.bars("Megapixels", _ranges(pixels, _megapixels))),
        ],
        "decoders": ", ".join(f"{name} {count_text(found)}" for name, found in images["decoders"].items()),
    }  # fmt: skip


def _megapixels(pixels: float) -> str:
    return number_text(pixels / 1e6) if pixels >= 1000 else "under 0.001"


def _ranges(spread: Mapping[str, Any], text: Any) -> list[Bar]:
    """Return the bins from the first to the last one that holds anything."""
    edges, counts = spread["edges"], spread["counts"]
    held = [number for number, count in enumerate(counts) if count]
    rows = []
    for number in range(held[0], held[-1] + 1):
        low, high = edges[number], edges[number + 1] if number + 1 < len(edges) else None
        label = f"under {text(high)}" if not low else f"{text(low)} and more" if high is None else (
            f"{text(low)} to {text(high)}"
        )  # fmt: skip
        rows.append(Bar(label, counts[number], count_text(counts[number])))
    return rows


def _facts(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    run = report["run"]
    found = [("output", report["output"]), ("model", run["model_id"])]
    found += [("input", f"{entry['kind']} {entry['path']}") for entry in run["inputs"] or ()]
    if run["activation"]:
        found.append(("output means", f"{run['output']}, {run['activation']}: {run['activation_reason']}"))
    found += [(f"fingerprint of {name}", value) for name, value in (run["fingerprints"] or {}).items()]
    found += [(name.replace("_", " "), value) for name, value in (run["execution"] or {}).items() if value]
    if run["since_run"]:
        found.append(("delta since", run["since_run"]["run_id"]))
    if run["limits_overridden"]:
        found.append(("limits overridden", run["limits_overridden"]["message"]))
    if run["beam_flags"]:
        found.append(("flags of Beam", " ".join(run["beam_flags"])))
    return [(name, str(value)) for name, value in found if value]
