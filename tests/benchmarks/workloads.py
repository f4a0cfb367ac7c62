"""What is measured, at which sizes, and who takes part."""

from typing import Literal, NamedTuple

from tests.benchmarks import contestants as who
from tests.benchmarks.contestants import Contestant


class Workload(NamedTuple):
    """One kind of work."""

    name: str
    """As given on the command line."""
    title: str
    """As in the report."""
    items: str
    """What is counted."""
    sizes: tuple[int, ...]
    """Of what is measured; what one item costs is the slope between the smallest and the largest."""
    model: Literal["free", "lite0"] | None
    """Which model; None where no photo is scored."""
    batch: int
    """Images a call of the model, for those who do not measure it."""
    contestants: tuple[Contestant, ...]
    """Who takes part."""
    rounds: int | None = None
    """How often; None as often as asked for."""
    once: tuple[Contestant, ...] = ()
    """Limits that have no size: measured at the largest only."""
    reference: bool = False
    """Agreement with the plain road is told."""


_PHOTOS = (who.OURS, *who.PEERS)

WORKLOADS = (
    Workload(
        "host",
        "Host path: a nearly free model with 1,000 outputs",
        "photos",
        (3000, 9000),
        "free",
        64,
        (*_PHOTOS, who.HOST_BARE, who.HOST_OURS),
        reference=True,
    ),
    Workload(
        "real",
        "Real model: EfficientNet-Lite0",
        "photos",
        (250, 1000),
        "lite0",
        16,
        (*_PHOTOS, who.HOST_OURS, who.PLAIN_LOOP),
        once=(who.MODEL,),
        reference=True,
    ),
    Workload(
        "start-up",
        "Start-up: one batch of 16 photos, from the command to the published run",
        "photos",
        (16,),
        "lite0",
        16,
        (who.OURS, who.START_UP),
    ),
    Workload(
        "wide",
        "Wide: rows of 1,000 logits through probabilities to Parquet",
        "rows",
        (200_000,),
        None,
        64,
        (who.WIDE, who.WRITE),
    ),
    Workload(
        "paths",
        "Paths: listing, de-duplication, shuffle and ledger without pixels",
        "paths",
        (250_000, 500_000, 1_000_000),
        None,
        0,
        (who.PATHS,),
    ),
    Workload("memory", "Memory: the nearly free model", "photos", (1000, 10_000), "free", 64, (who.OURS,)),
    Workload(
        "accuracy",
        "Accuracy: EfficientNet-Lite0 against the plain full-decode road in float32",
        "photos",
        (200,),
        "lite0",
        16,
        (who.OURS, who.PLAIN_ROAD),
        rounds=1,
        reference=True,
    ),
    Workload("profile-host", "Profile: host path", "photos", (3000,), "free", 64, (who.PROFILE,), rounds=1),
    Workload("profile-real", "Profile: real model", "photos", (500,), "lite0", 16, (who.PROFILE,), rounds=1),
)
