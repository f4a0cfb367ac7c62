"""From what a sample has cost to what a night will: shares with their intervals, bytes, seconds and money.

Arithmetic only: nothing here is measured or read.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

from transforms.settings import LimitSettings, PriceSettings, WriteSettings

_NORMAL_95 = 1.959963984540054
_GB = 1e9
_HOUR = 3600.0
LISTED_A_REQUEST = 1000
"""Objects that S3 and GCS list at a time."""
REQUESTS_AN_IMAGE = 2
"""One that describes the object, and one that reads it."""


class Interval(NamedTuple):
    """A share of the images, and between which bounds it lies in 95 of 100 samples."""

    low: float
    """Lower bound, 0 to 1."""
    share: float
    """Of the sample, 0 to 1."""
    high: float
    """Upper bound, 0 to 1."""


def wilson(hits: int, trials: int, whole: int | None = None) -> Interval:
    """Return a share with Wilson's interval of 95% (Wilson 1927, JASA 22: 209), which holds at 0 and at 1, too.

    Args:
        hits: Images of the sample that have it.
        trials: Images of the sample.
        whole: Images that there are, where that is known: a sample of all of them leaves nothing open.

    >>> wilson(0, 100)
    Interval(low=0.0, share=0.0, high=0.03699...)
    >>> wilson(1, 4, whole=4)
    Interval(low=0.25, share=0.25, high=0.25)
    """
    if not trials:
        return Interval(0.0, 0.0, 1.0)
    share = hits / trials
    if whole is not None and trials >= whole:
        return Interval(share, share, share)
    square = _NORMAL_95**2
    middle = (share + square / (2 * trials)) / (1 + square / trials)
    reach = _NORMAL_95 / (1 + square / trials) * math.sqrt(share * (1 - share) / trials + square / (4 * trials**2))
    # At both ends the formula gives the end itself, up to rounding.
    low = 0.0 if not hits else max(0.0, middle - reach)
    high = 1.0 if hits == trials else min(1.0, middle + reach)
    return Interval(low, share, high)


class Outlook(NamedTuple):
    """What limits would say of a night that fails like its sample."""

    surely_over: str | None
    """Why the night is not published even where the sample was unlucky; None where it may be."""
    maybe_over: str | None
    """Why it is not published if it is just like the sample; None where it is."""


def judge_failures(codes: Mapping[str, int], sampled: int, images: int, limits: LimitSettings) -> Outlook:
    """Hold the failures that a sample lets expect against the limits of the night.

    Args:
        codes: Failed images of the sample, by code.
        sampled: Images of the sample.
        images: Images of the night.
        limits: What is allowed.
    """
    expected = _over(codes, sampled, images, limits, lowest=False)
    # Each code by its own lower bound, but those without an allowance together: their sum is known better.
    return Outlook(_over(codes, sampled, images, limits, lowest=True), expected)


def _over(codes: Mapping[str, int], sampled: int, images: int, limits: LimitSettings, *, lowest: bool) -> str | None:
    def count(hits: int) -> float:
        found = wilson(hits, sampled, images)
        return images * (found.low if lowest else found.share)

    free = count(sum(hits for code, hits in codes.items() if code not in limits.allowances))
    spared = {code: count(codes[code]) for code in codes if code in limits.allowances}
    counted = free + sum(max(0.0, hits - limits.allowances[code]) for code, hits in spared.items())
    scored = images - free - sum(spared.values())
    judged = counted + scored
    rate = counted / judged if judged else 0.0
    how = "at least " if lowest else ""
    besides = " besides limits.allowances" if spared else ""
    if rate > limits.max_failure_rate:
        allowed = f"limits.max_failure_rate allows {limits.max_failure_rate:.2%}"
        return f"{how}{rate:.2%} of the images will fail{besides}, {allowed}"
    if limits.max_failures is not None and counted > limits.max_failures:
        return f"{how}{counted:,.0f} images will fail{besides}, limits.max_failures allows {limits.max_failures:,}"
    return None


class TableSizes(NamedTuple):
    """What the rows of a table take in its files."""

    empty: float
    """Bytes of a file without rows: the schema and what the file says of itself."""
    row_group: float
    """Bytes that a row group takes besides its rows: its part of the footer, and its dictionaries."""
    row: float
    """Bytes that one more row adds."""
    raw_row: float
    """Bytes a row before it is encoded, by which row groups are cut."""


def table_bytes(sizes: TableSizes, rows: int, seconds: float, settings: WriteSettings) -> float:
    """Return the bytes of all files of a table.

    Args:
        sizes: Of the sample's rows.
        rows: Of the table.
        seconds: That they are written in.
        settings: When a file and a row group are closed.
    """
    content = rows * sizes.row
    files = max(
        1.0, rows / settings.rows_per_file, content / settings.bytes_per_file, seconds / settings.seconds_per_file
    )
    groups = max(files if rows else 0.0, rows * sizes.raw_row / settings.row_group_bytes)
    return math.ceil(files) * sizes.empty + math.ceil(groups) * sizes.row_group + content


class Duration(NamedTuple):
    """How long a night takes, in seconds."""

    start: float
    """Libraries, model, golden images."""
    fixed: float
    """What a run does besides, however few images it has: launching, publishing, the report."""
    listing: float
    """Naming all images."""
    images: float
    """Reading, decoding, scoring and writing them."""

    @property
    def total(self) -> float:
        """From the command to its end."""
        return self.start + self.fixed + self.listing + self.images


class Volume(NamedTuple):
    """What prices are multiplied with."""

    hours: float
    """Of the machine."""
    gpus: int
    """That the model works on."""
    remote_images: float
    """That are read from a store."""
    remote_bytes: float
    """That are read from a store."""
    stored_bytes: float
    """Of the output."""


def costs(volume: Volume, prices: PriceSettings) -> dict[str, float]:
    """Return what a night costs, by what it is paid for; without that which has no price."""
    requests = volume.remote_images * (REQUESTS_AN_IMAGE + 1 / LISTED_A_REQUEST)
    amounts = {
        "machine": (prices.machine_hour, volume.hours),
        "GPU": (prices.gpu_hour, volume.hours * volume.gpus),
        "reading": (prices.read_gb, volume.remote_bytes / _GB),
        "requests": (prices.requests_1000, requests / 1000),
        "a month of storage": (prices.stored_gb_month, volume.stored_bytes / _GB),
    }
    return {name: price * amount for name, (price, amount) in amounts.items() if price is not None}
