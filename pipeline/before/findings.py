"""What was found before a night: its checks, its sample, its prediction, and all of it as JSON."""

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from pipeline.before.pace import Pace
from pipeline.before.prediction import Duration, Interval, wilson
from pipeline.before.sampling import Listing
from pipeline.before.trial import Trial
from pipeline.config import RunConfig

State = Literal["ok", "note", "bad"]


class Check(NamedTuple):
    """One thing that a run needs."""

    name: str
    """What was looked at."""
    state: State
    """bad: the night would fail."""
    text: str
    """What was found."""


@dataclass(frozen=True)
class Prediction:
    """What the night will be like on a machine like this one."""

    duration: Duration
    """In seconds."""
    duration_error: float
    """Two standard errors of the measured pace, over all images; in seconds."""
    scores_bytes: float
    """Of the scores table's files, and of the challenger's."""
    failures_bytes: float
    """Of the failures table's files, and of the challenger's."""
    read_bytes: float
    """Of all images."""
    costs: dict[str, float]
    """By what is paid for."""
    currency: str
    """Of costs."""

    @property
    def output_bytes(self) -> float:
        """Of both tables."""
        return self.scores_bytes + self.failures_bytes


@dataclass
class Preflight:
    """What was found."""

    config: RunConfig | None = None
    """None where it is wrong."""
    checks: list[Check] = field(default_factory=list)
    """In the order in which they were made."""
    listing: Listing | None = None
    """None where nothing could be listed."""
    trial: Trial | None = None
    """None where the sample could not be scored."""
    pace: Pace | None = None
    """None where nothing could be timed."""
    prediction: Prediction | None = None
    """None where pace, size or number are not known."""

    @property
    def reasons(self) -> list[str]:
        """Why the night would fail; none where it would not."""
        return [f"{check.name}: {check.text}" for check in self.checks if check.state == "bad"]

    @property
    def failure_rate(self) -> Interval | None:
        """Share of failed images; None where none were tried."""
        if self.trial is None or self.listing is None or not self.trial.images:
            return None
        return self.rate_of(len(self.trial.failures))

    def rate_of(self, hits: int) -> Interval:
        """Return the share of the night's images that so many of the sample stand for."""
        if self.trial is None or self.listing is None:
            raise ValueError("nothing was tried")
        return wilson(hits, self.trial.images, self.listing.images if self.listing.exact else None)


def preflight_json(found: Preflight) -> dict[str, Any]:
    """Return everything that was found, but no pictures: JSON-like."""
    listing, trial, pace, predicted, rate = (
        found.listing, found.trial, found.pace, found.prediction, found.failure_rate,
    )  # fmt: skip
    told: dict[str, Any] = {
        "preflight_version": 1,
        "ready": not found.reasons,
        "reasons": found.reasons,
        "checks": [check._asdict() for check in found.checks],
    }
    if listing is not None:
        told["images"] = {
            "count": listing.images,
            "duplicates": listing.duplicates,
            "exact": listing.exact,
            "how": listing.how,
            "sampled": len(listing.sample),
        }
    if trial is not None and rate is not None:
        told["failures"] = {
            "rate": rate._asdict(),
            "by_code": {
                code: {"sampled": count, **found.rate_of(count)._asdict()}
                for code, count in trial.failures_by_code.most_common()
            },
            "examples": [
                {"path": failure.ref.path, "code": failure.code.value, "message": failure.message}
                for failure in trial.failures
            ],
        }
        told["sample"] = [
            {
                "path": row["image_path"],
                "format": row["image_format"],
                "width": row["image_width"],
                "height": row["image_height"],
                "bytes": row["image_bytes"],
                "top": [{"label": entry["label"], "probability": entry["probability"]} for entry in row["top_k"][:3]],
            }
            for row in trial.scores.select(
                ["image_path", "image_format", "image_width", "image_height", "image_bytes", "top_k"]
            ).to_pylist()
        ]
    if pace is not None and trial is not None:
        told["pace"] = {**pace._asdict(), "first_read_ms": trial.read_ms}
    if predicted is not None:
        told["prediction"] = {
            "duration_seconds": {**predicted.duration._asdict(), "total": predicted.duration.total},
            "duration_error_seconds": predicted.duration_error,
            "scores_bytes": round(predicted.scores_bytes),
            "failures_bytes": round(predicted.failures_bytes),
            "output_bytes": round(predicted.output_bytes),
            "read_bytes": round(predicted.read_bytes),
            "costs": predicted.costs,
            "currency": predicted.currency,
        }
    return told
