"""Work units: images that are loaded, scored and written together, so that the number of files follows from bytes.

A runner cuts its bundles as it likes: Flink after so many elements or seconds, Dataflow wherever a worker is idle. A
part file never crosses bundles, so that the number of files would be the runner's whim. So images are grouped first: as
many as fill a part file, or fewer where every worker is to have some.
"""

import math
import zlib
from typing import NamedTuple

from transforms.settings import WriteSettings

# Of a row besides its probabilities: path and version 150, the columns of numbers and times 60.
_ROW_BYTES = 210
# Of an entry of top_k: rank, index, the index of its label, probability.
_TOP_BYTES = 16
FAILURE_BYTES = 400
"""Of a row of the failures table: path, version, message of one sentence."""
SMALLEST_UNIT = 64
"""Fewer images are not worth a unit: a few batches."""
UNITS_A_SLOT = 4
"""So that a slow image, or a slow worker, does not hold the run up for long at its end."""


class UnitPlan(NamedTuple):
    """How large work units should be."""

    rows: int
    """Images that fill a part file: more are not put into a unit."""
    spread: int
    """Units that there should be, if the images are enough for them."""


def plan_units(write: WriteSettings, row_bytes: int, slots: int) -> UnitPlan:
    """Return how large work units should be.

    Args:
        write: When a part file is closed.
        row_bytes: Bytes of a row, before it is encoded: what is encoded is smaller, so that a unit is one file.
        slots: How many units may be worked on at a time; 0 where that does not matter.
    """
    rows = min(write.rows_per_file, write.bytes_per_file // row_bytes)
    # Which unit an image is in is a hash's choice: the number of its images scatters around the mean by the root of it.
    # Four times that below the limit, one unit in 30,000 needs a second file.
    return UnitPlan(max(1, int(rows - 4 * math.sqrt(rows))), slots * UNITS_A_SLOT)


def count_units(images: int, plan: UnitPlan) -> int:
    """Return into how many units so many images are put.

    >>> count_units(100_000_000, UnitPlan(rows=49_000, spread=256))
    2041
    >>> count_units(3_000, UnitPlan(rows=49_000, spread=256))
    47
    """
    by_bytes = math.ceil(images / plan.rows)
    return max(1, by_bytes, min(plan.spread, math.ceil(images / SMALLEST_UNIT)))


def unit_of(path: str, units: int) -> int:
    """Return the unit of an image: the same in every attempt, on every machine.

    >>> unit_of("s3://photos/1.jpg", 47)
    37
    """
    return zlib.crc32(path.encode("utf-8", "surrogatepass")) % units


def score_row_bytes(classes: int, top_k: int, *, logits: bool = False) -> int:
    """Return about how many bytes a row of the scores table has before it is encoded.

    >>> score_row_bytes(1000, 5)
    4290
    """
    return _ROW_BYTES + 4 * classes * (1 + logits) + _TOP_BYTES * min(top_k, classes)
