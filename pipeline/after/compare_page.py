"""A comparison as one HTML page that needs nothing else."""

from typing import Any

from markupsafe import Markup

from pipeline.after.compare import Answer, Comparison, Movement, Population
from pipeline.after.compare_text import divergence_text, notes
from pipeline.after.published import PublishedRun
from pipeline.pages.charts import Pair, histograms, pairs
from pipeline.pages.page import count_text, number_text, percent_text, render_page
from pipeline.pages.thumbnails import thumbnails
from transforms.settings import DecodeSettings

_CLASSES = 12
_FLIPS = 30
_BINS_A_BAR = 4


def comparison_page(found: Comparison, run: PublishedRun, seconds: float = 20.0) -> str:
    """Draw a comparison.

    Args:
        found: The comparison.
        run: The second run, whose limits on decoding hold for the thumbnails.
        seconds: What all thumbnails together may take.
    """
    rate = found.flip_rate
    names = (found.sides[0].name, found.sides[1].name)
    images = thumbnails([moved.image_path for moved in found.movements], decode_settings(run), seconds=seconds)
    return render_page(
        "compare.html.j2",
        names=names,
        badge="no shared images" if rate is None else f"{percent_text(1 - rate)} agree",
        line=f"{names[1]} compared with {names[0]}",
        notes=notes(found),
        cards=_cards(found),
        all_images=_population(found.all_images, names),
        same_images=_population(found.shared_images, names),
        flips=[(flip.before, flip.now, count_text(flip.images)) for flip in found.flips[:_FLIPS]],
        more_flips=max(len(found.flips) - _FLIPS, 0),
        movement=found.movement,
        searched=found.searched,
        movements=[(images[moved.image_path], _lines(moved)) for moved in found.movements],
        facts=_facts(found),
    )


def decode_settings(run: PublishedRun) -> DecodeSettings:
    """Return the limits on decoding that a run says it had; the defaults where it says none that are known."""
    try:
        return DecodeSettings.model_validate((run.manifest.get("config") or {}).get("decode") or {})
    except (ValueError, AttributeError):
        return DecodeSettings()


def _cards(found: Comparison) -> list[tuple[str, str, str]]:
    joined, rate = found.joined, found.flip_rate
    changed = f"{count_text(joined.changed)} are another version" if joined.changed else ""
    cards = [("scored by both", count_text(joined.images), changed)]
    if rate is not None:
        cards += [
            ("other answers", count_text(joined.flips), f"{percent_text(rate)} of them"),
            ("mean change of top-1", number_text(joined.confidence_change / joined.images), "probability"),
        ]
    for side, only, failed in zip(
        found.sides,
        (joined.only_first, joined.only_second),
        (joined.only_first_failed, joined.only_second_failed),
        strict=True,
    ):
        cards.append((f"only in {side.name}", count_text(only), f"{count_text(failed)} failed in the other"))
    return cards


def _population(
    population: Population, names: tuple[str, str]
) -> tuple[list[tuple[str, str]], list[tuple[str, Markup, str]]] | None:
    """Return figures and charts; None where one of the runs has no such image."""
    if population.class_mix is None or population.confidence is None:
        return None
    figures = [
        (name, divergence_text(found, paired=population.paired))
        for name, found in (("class mix", population.class_mix), ("confidence", population.confidence))
    ]
    return figures, _charts(population, names)


def _charts(population: Population, names: tuple[str, str]) -> list[tuple[str, Markup, str]]:
    totals = [max(sum(counts), 1) for counts in zip(*((s.before, s.now) for s in population.shifts), strict=True)]
    rows = []
    for shift in population.shifts[:_CLASSES]:
        before, now = shift.before / totals[0], shift.now / totals[1]
        rows.append(Pair(shift.label, before, now, f"{percent_text(before)} to {percent_text(now)}"))
    # Bins fine enough to measure by are too fine to look at.
    edges = population.confidences[0].edges[::_BINS_A_BAR].tolist()
    counts = [histogram.counts.reshape(-1, _BINS_A_BAR).sum(axis=1) for histogram in population.confidences]
    first, second = ((bars / max(bars.sum(), 1)).tolist() for bars in counts)
    of = len(population.shifts)
    caption = "Classes whose share moved most" if of > len(rows) else "Class mix"
    return [
        (caption, pairs(caption, names, rows), f"{len(rows)} of {of} labels" if of > len(rows) else ""),
        (
            "Top-1 probability",
            histograms("Top-1 probability", names, edges, first, second, "probability"),
            "share of the images of each run",
        ),
    ]


def _lines(moved: Movement) -> list[str]:
    lines = [f"moved by {moved.change:.3f}" + (", another version of the file" if moved.new_version else "")]
    if moved.label is not None:
        # What moved furthest need not be what is strongest.
        lines.append(f"{moved.label}: {moved.label_before:.3f} to {moved.label_now:.3f}")
    return [*lines, f"before: {_answer(moved.before[0])}", f"now: {_answer(moved.now[0])}"]


def _answer(answer: Answer) -> str:
    return f"{answer.label} {answer.probability:.3f}"


def _facts(found: Comparison) -> list[tuple[str, str]]:
    facts: list[tuple[str, Any]] = []
    for side in found.sides:
        facts += [
            (f"run {side.name}", side.output),
            ("model", side.model_id),
            ("published", side.published_at or "not said"),
            *((f"fingerprint of {name}", value) for name, value in sorted(side.fingerprints.items())),
        ]
    return facts
