"""How many failed images a run may have, and by how much a run has more."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from transforms.settings import LimitSettings


class Overrun(NamedTuple):
    """A run with more failed images than its limits allow."""

    failed: int
    """Failed images."""
    allowed: dict[str, int]
    """Those of them that limits.allowances takes out of the count, by code."""
    images: int
    """All different images: scored, failed and skipped."""
    limit: str
    """The setting that is broken: max_failure_rate or max_failures."""
    value: float
    """What it allows."""

    @property
    def counted(self) -> int:
        """Failed images that count."""
        return self.failed - sum(self.allowed.values())

    @property
    def rate(self) -> float:
        """Failed images that count, over all images."""
        return self.counted / self.images

    def __str__(self) -> str:
        rate = f" ({self.rate:.2%})" if self.limit == "max_failure_rate" else ""
        value = f"{self.value:.2%}" if self.limit == "max_failure_rate" else f"{self.value}"
        if not self.allowed:
            return f"{self.failed} of {self.images} images failed{rate}, limits.{self.limit} allows {value}"
        taken = ", ".join(f"{count} {code}" for code, count in self.allowed.items())
        return (
            f"{self.failed} of {self.images} images failed, {self.counted}{rate} besides {taken} of limits.allowances; "
            f"limits.{self.limit} allows {value}"
        )

    def record(self) -> dict[str, Any]:
        """Return it for a manifest: JSON-like."""
        return {**self._asdict(), "counted": self.counted, "message": str(self)}


def find_overrun(codes: Mapping[str, int], images: int, limits: LimitSettings) -> Overrun | None:
    """Return by how much a run has more failed images than it may; None where it has not.

    Args:
        codes: Failed images by code.
        images: All different images. Skipped ones are scored ones of an earlier night: without them, a delta of few
            images would be refused for the files that are broken every night.
        limits: What is allowed.
    """
    taken = {code: min(count, limits.allowances.get(code, 0)) for code, count in codes.items()}
    allowed = {code: count for code, count in taken.items() if count}
    by_rate = Overrun(sum(codes.values()), allowed, images, "max_failure_rate", limits.max_failure_rate)
    if by_rate.counted and by_rate.rate > limits.max_failure_rate:
        return by_rate
    if limits.max_failures is not None and by_rate.counted > limits.max_failures:
        return by_rate._replace(limit="max_failures", value=limits.max_failures)
    return None
