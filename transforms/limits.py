"""How many failed images a run may have, and by how much a run has more."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from transforms.settings import LimitSettings


class Overrun(NamedTuple):
    """A run with more failed images than its limits allow."""

    failed: int
    """Failed images."""
    allowed: dict[str, int]
    """Those of them that limits.allowances takes out of all counts, by code."""
    scored: int
    """Scored images."""
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
        """Failed images that count, over these and the scored ones."""
        judged = self.counted + self.scored
        return self.counted / judged if judged else 0.0

    def __str__(self) -> str:
        rate = f" ({self.rate:.2%})" if self.limit == "max_failure_rate" else ""
        value = f"{self.value:.2%}" if self.limit == "max_failure_rate" else f"{self.value}"
        failed = f"{self.failed} of {self.failed + self.scored} images failed"
        if not self.allowed:
            return f"{failed}{rate}, limits.{self.limit} allows {value}"
        taken = ", ".join(f"{count} {code}" for code, count in self.allowed.items())
        return (
            f"{failed}; {self.counted} of {self.counted + self.scored}{rate} besides {taken} of limits.allowances, "
            f"limits.{self.limit} allows {value}"
        )

    def record(self) -> dict[str, Any]:
        """Return it for a manifest: JSON-like."""
        return {**self._asdict(), "counted": self.counted, "message": str(self)}


def find_overrun(codes: Mapping[str, int], scored: int, limits: LimitSettings) -> Overrun | None:
    """Return by how much a run has more failed images than it may; None where it has not.

    Skipped images count for nothing: a million of them would hide that tonight's new images have all failed.

    Args:
        codes: Failed images by code.
        scored: Scored images.
        limits: What is allowed.
    """
    taken = {code: min(count, limits.allowances.get(code, 0)) for code, count in codes.items()}
    allowed = {code: count for code, count in taken.items() if count}
    found = Overrun(sum(codes.values()), allowed, scored, "max_failure_rate", limits.max_failure_rate)
    if found.rate > limits.max_failure_rate:
        return found
    if limits.max_failures is not None and found.counted > limits.max_failures:
        return found._replace(limit="max_failures", value=limits.max_failures)
    return None
