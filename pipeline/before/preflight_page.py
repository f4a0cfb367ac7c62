"""A preflight as one HTML page: the checks, the night, and a contact sheet of what the model really sees."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from pipeline.before.findings import Preflight
from pipeline.before.preflight_text import costs_text, headline, money_text, outlook, rate_text
from pipeline.before.trial import Seen
from pipeline.config import RunConfig
from pipeline.pages.charts import Bar, bars, histogram
from pipeline.pages.page import count_text, duration_text, percent_text, render_page, size_text
from pipeline.pages.thumbnails import Thumbnail, encode_thumbnail, thumbnails

_EXAMPLES = 30
_BINS = 12
_SMALL = 96
"""Pixels: smaller inputs of a model are shown larger, each of their pixels as a square."""
_MARKS = {"ok": "ok", "note": "note", "bad": "FAIL"}


def preflight_page(found: Preflight) -> str:
    """Draw a preflight.

    Args:
        found: What was found.
    """
    seen = found.trial.seen if found.trial is not None else ()
    as_given = any(one.pixels is None for one in seen)
    return render_page(
        "preflight.html.j2",
        badge="would fail" if found.reasons else "ready",
        state="bad" if found.reasons else "good",
        line=headline(found),
        reasons=found.reasons,
        cards=_cards(found),
        checks=[(_MARKS[check.state], check.name, check.text) for check in found.checks],
        outlook=[(name.strip(), text) for name, text in outlook(found)],
        pictures=_pictures(seen, found.config),
        seen=(
            "The model decodes images itself: these are the images, small."
            if as_given
            else "The very pixels that the model is given, after decoding, turning, cropping and resizing, before its "
            "graph scales their values; below, its strongest classes."
        ),
        charts=_charts(found),
        codes=_codes(found),
        examples=_examples(found),
    )


def _cards(found: Preflight) -> list[tuple[str, str, str]]:
    cards = []
    listing, rate, predicted = found.listing, found.failure_rate, found.prediction
    if listing is not None:
        note = "counted" if listing.exact else "not all counted"
        cards.append(("images", count_text(listing.images), f"{note}; {len(listing.sample)} tried"))
    if rate is not None:
        bounds = f"between {percent_text(rate.low)} and {percent_text(rate.high)}"
        cards.append(("will fail", percent_text(rate.share), "all were tried" if rate.low == rate.high else bounds))
    if predicted is not None:
        error = duration_text(predicted.duration_error)
        cards.append(("duration", duration_text(predicted.duration.total), f"images give or take {error}"))
        cards.append(("output", size_text(predicted.output_bytes), "Parquet"))
        if predicted.costs:
            total = sum(predicted.costs.values())
            cards.append(
                ("costs", f"{money_text(total)} {predicted.currency}", costs_text(found).partition(" (")[2][:-1])
            )
    return cards


def _pictures(seen: Sequence[Seen], config: RunConfig | None) -> list[tuple[Thumbnail, list[str]]]:
    given = [one.path for one in seen if one.pixels is None]
    made = thumbnails(given, config.decode) if given and config is not None else {}
    return [
        (
            made[one.path] if one.pixels is None else encode_thumbnail(one.path, _enlarged(one.pixels)),
            [f"{answer.label} {answer.probability:.3f}" for answer in one.top],
        )
        for one in seen
    ]


def _enlarged(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    times = -(-_SMALL // max(pixels.shape[:2]))
    return pixels.repeat(times, axis=0).repeat(times, axis=1) if times > 1 else pixels


def _charts(found: Preflight) -> list[tuple[str, Markup, str]]:
    if found.trial is None or not found.trial.scores.num_rows:
        return []
    scores = found.trial.scores
    of = f"of {scores.num_rows} that can be scored"
    formats = Counter(scores["image_format"].to_pylist()).most_common()
    rows = [Bar(name, count, f"{percent_text(count / scores.num_rows)}") for name, count in formats]
    sizes = scores["image_bytes"].to_numpy().astype(float)
    pixels = scores["image_width"].to_numpy().astype(float) * scores["image_height"].to_numpy()
    mean = f"mean {pixels.mean() / 1e6:.3g} megapixels"
    return [
        ("Formats", bars("Formats", rows), of),
        ("Size of the files", _histogram("Size of the files", sizes, ("KB", "MB")), f"mean {size_text(sizes.mean())}"),
        ("Size of the images", _histogram("Size of the images", pixels, ("thousand pixels", "megapixels")), mean),
    ]


def _histogram(title: str, values: npt.NDArray[np.float64], units: tuple[str, str]) -> Markup:
    """Draw values in thousands or in millions, whichever suits the largest."""
    large = bool(values.max() >= 1e6)
    values = values / (1e6 if large else 1e3)
    counts, edges = np.histogram(values, bins=_BINS, range=(0.0, float(values.max()) or 1.0))
    return histogram(title, edges.tolist(), counts.tolist(), units[large])


def _codes(found: Preflight) -> list[list[str]]:
    trial, listing = found.trial, found.listing
    if trial is None or listing is None:
        return []
    rows = []
    for code, count in trial.failures_by_code.most_common():
        rate = found.rate_of(count)
        low, high = round(listing.images * rate.low), round(listing.images * rate.high)
        night = count_text(low) if low == high else f"{count_text(low)} to {count_text(high)}"
        rows.append([code, count_text(count), rate_text(rate), night])
    return rows


def _examples(found: Preflight) -> list[list[str]]:
    failures = found.trial.failures if found.trial is not None else ()
    return [[failure.code.value, failure.ref.path, failure.message] for failure in failures[:_EXAMPLES]]
