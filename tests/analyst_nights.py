"""A week of published nights as docs/analytics.md assumes it, with what must not be read beside it."""

from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tests.published_runs import publish_scores
from transforms.errors import ExitCode, FailureCode

LABELS = ("cat", "dog", "owl")
BROKEN_OFF, REFUSED = "2026-11-21-late", "2026-11-20-bad"
NIGHTS = tuple(f"2026-11-{day}" for day in range(16, 23))


class Night(NamedTuple):
    """What one night has published."""

    run_id: str
    """Its name."""
    paths: tuple[str, ...]
    """N images."""
    probabilities: npt.NDArray[np.float32]
    """float32[N, 3]."""
    failed: dict[str, FailureCode]
    """The images that could not be scored."""

    @property
    def predicted(self) -> list[int]:
        """The strongest class of each image."""
        return [max(range(3), key=lambda c, row=row: row[c]) for row in self.probabilities.tolist()]


def publish_week(output: Path) -> tuple[Night, ...]:
    """Publish seven nights of 30 images each, 25 of them those of the night before; from the fifth on, owls abound.

    Beside them lie a run that broke off while it was published and one that was refused: newer, with other scores.
    """
    random = np.random.default_rng(10)
    nights = []
    for number, run_id in enumerate(NIGHTS):
        paths = tuple(f"/photos/{index:03}.jpg" for index in range(5 * number, 5 * number + 30))
        p = random.dirichlet((1, 1, 1) if number < 4 else (0.6, 0.5, 4), len(paths)).astype(np.float32)
        if number == 2:  # a night without dogs
            p[:, 1] = 0
            p /= p.sum(axis=1, keepdims=True)
        failed = {f"/photos/bad{index}.jpg": FailureCode.TRUNCATED_IMAGE for index in range(number % 3)}
        failed["/photos/gone.jpg"] = FailureCode.NOT_FOUND
        nights.append(Night(run_id, paths, p, failed))
    *earlier, last = nights
    for day, night in enumerate(earlier, 16):
        _publish(output, night, day)
    _publish(output, nights[0]._replace(run_id=BROKEN_OFF), day=28)
    (output / "runs" / BROKEN_OFF / "_SUCCESS").unlink()
    refused = publish_scores(
        output, ["/photos/000.jpg"], [[1, 0, 0]], labels=LABELS, failed=["/x"], run_id=REFUSED, max_failure_rate=0
    )
    assert refused.exit_code == ExitCode.TOO_MANY_FAILURES
    # The last one, so that latest.json names it.
    _publish(output, last, day=22)
    return tuple(nights)


def _publish(output: Path, night: Night, day: int) -> None:
    outcome = publish_scores(
        output, night.paths, night.probabilities, labels=LABELS, run_id=night.run_id, top_k=2, failed=night.failed,
        group_rows=10, scored_at=datetime(2026, 11, day, 3, tzinfo=UTC),
    )  # fmt: skip
    assert outcome.exit_code == ExitCode.PUBLISHED


def write_truth(path: Path) -> dict[str, str]:
    """Write what 40 images really show, most of them none of the newest night."""
    truth = {f"/photos/{index:03}.jpg": LABELS[index % 3] for index in range(20, 60) if index % 7}
    path.write_text("image_path,label\n" + "".join(f"{name},{label}\n" for name, label in truth.items()))
    return truth
