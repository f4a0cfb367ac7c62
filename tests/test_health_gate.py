"""The gate where it stands: published, warned of, refused and overridden, and what is left on storage each time."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.after.compare import compare
from pipeline.after.published import find_run
from tests.published_runs import publish_scores
from transforms import publishing
from transforms.errors import ConfigError, ExitCode
from transforms.layout import RunLayout
from transforms.outcomes import is_published, read_attempt, read_outcome
from transforms.settings import HealthSettings

pytest_plugins = ["tests.s3_store"]

WARN = HealthSettings(baseline="latest")
REFUSE = HealthSettings(baseline="latest", on_drift="refuse")


def night(seed: int, rows: int = 400, *, cats: float = 0.5, sure: float = 2.0) -> npt.NDArray[np.float64]:
    """Probabilities of cats and dogs."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1, rows) + np.where(rng.random(rows) < cats, sure, -sure)
    p = 1 / (1 + np.exp(-logits))
    return np.stack([p, 1 - p], axis=1)


def publish_night(output: Path | str, run_id: str, probabilities: npt.NDArray[np.float64], **more: Any) -> Any:
    """Publish it in a hundred rows a row group."""
    paths = [f"{number}.png" for number in range(len(probabilities))]
    return publish_scores(output, paths, probabilities, labels=["cat", "dog"], run_id=run_id, group_rows=100, **more)


def manifest_of(output: Path, run_id: str) -> dict[str, Any]:
    """What it says."""
    return json.loads((output / "runs" / run_id / "manifest.json").read_text(encoding="utf-8"))


def test_every_manifest_says_how_the_answers_are_distributed(tmp_path: Path) -> None:
    """Whether a gate is set or not: tomorrow's gate may ask."""
    publish_night(tmp_path, "first", night(1))
    manifest = manifest_of(tmp_path, "first")
    assert manifest["health"] is None
    told = manifest["distributions"]
    assert (told["rows"], told["labels"], sum(told["class_counts"])) == (400, ["cat", "dog"], 400)
    assert read_outcome(RunLayout(str(tmp_path), "first")).health == ""


def test_a_first_run_passes_and_says_so(tmp_path: Path) -> None:
    """Published; nothing was judged."""
    outcome = publish_night(tmp_path, "first", night(1), health=REFUSE)
    assert (outcome.exit_code, outcome.drifted) == (ExitCode.PUBLISHED, False)
    assert outcome.health == f"not judged: no run is published in {tmp_path} yet that this one could be compared with"
    assert outcome.message == f"run first is published in {tmp_path}"


def test_a_night_like_the_last_is_published(tmp_path: Path) -> None:
    """And the next one is compared with it."""
    publish_night(tmp_path, "first", night(1))
    outcome = publish_night(tmp_path, "second", night(2), health=REFUSE)
    assert (outcome.exit_code, outcome.drifted) == (ExitCode.PUBLISHED, False)
    assert outcome.health == "like run first: class mix PSI 0.000, confidence PSI 0.017"
    publish_night(tmp_path, "third", night(3), health=REFUSE)
    assert manifest_of(tmp_path, "third")["health"]["baseline"] == "second"


def test_drift_is_warned_of_and_published(tmp_path: Path) -> None:
    """The message, now and for whoever asks later, and the figures in the manifest."""
    publish_night(tmp_path, "first", night(1))
    outcome = publish_night(tmp_path, "second", night(2, cats=0.9), health=WARN)
    assert (outcome.exit_code, outcome.drifted) == (ExitCode.PUBLISHED, True)
    assert outcome.message.startswith(
        f"run second is published in {tmp_path}; its answers have drifted from run first: class mix PSI 0."
    )
    told = manifest_of(tmp_path, "second")["health"]
    assert (told["judged"], told["overridden"]) == (True, False)
    assert {breach["setting"] for breach in told["breaches"]} == {"max_class_mix_psi", "max_class_ratio"}
    assert read_outcome(RunLayout(str(tmp_path), "second")) == outcome


def test_a_closed_gate_publishes_nothing(tmp_path: Path) -> None:
    """Exit 5: what moved, the limit and the ways out in the message and in refused.json; staged files are kept."""
    publish_night(tmp_path, "first", night(1))
    outcome = publish_night(tmp_path, "second", night(2, sure=0.5), health=REFUSE)
    layout = RunLayout(str(tmp_path), "second")
    assert outcome.exit_code == ExitCode.HEALTH_GATE_CLOSED
    assert outcome.message == (
        "the answers of run second have drifted from run first: confidence PSI 1.707, health.max_confidence_psi allows "
        '0.1; moved most: "cat" 48.75% to 51.75%, "dog" 51.25% to 48.25%; nothing is published; what was scored is '
        f"kept in {tmp_path}/runs/second/_staging; look for the cause in images, model and configuration; if it is "
        "mended, score anew under another run id; if the images have really changed, run again with --run-id second "
        "--publish-anyway, and name second in health.baseline where the old one is pinned"
    )
    assert not is_published(layout)
    assert read_attempt(layout) == outcome
    refused = json.loads(Path(layout.refused).read_text(encoding="utf-8"))
    assert refused["health"]["confidence"]["groups"] == 9
    assert refused["distributions"]["rows"] == 400
    assert list(Path(layout.staged_table("scores")).glob("*.parquet"))
    assert json.loads(Path(layout.latest).read_text(encoding="utf-8"))["run_id"] == "first"


def test_publish_anyway_opens_the_gate_and_records_it(tmp_path: Path) -> None:
    """Exit 0, with what moved; a gate that only warns has nothing to override."""
    publish_night(tmp_path, "first", night(1))
    drifted = night(2, sure=0.5)
    pinned = REFUSE.model_copy(update={"baseline": "first"})
    outcome = publish_night(tmp_path, "second", drifted, health=pinned, publish_anyway=True)
    assert outcome.exit_code == ExitCode.PUBLISHED
    assert outcome.message.startswith(
        f"run second is published in {tmp_path} in spite of the health gate; its answers have drifted from run "
    )
    assert manifest_of(tmp_path, "second")["health"]["overridden"] is True
    publish_night(tmp_path, "third", drifted, health=WARN.model_copy(update={"baseline": "first"}), publish_anyway=True)
    assert manifest_of(tmp_path, "third")["health"]["overridden"] is False


def test_a_closed_gate_before_a_replacement_says_how_it_is_opened(tmp_path: Path) -> None:
    """--publish-anyway alone would find the old run published, and do nothing."""
    publish_night(tmp_path, "first", night(1))
    outcome = publish_night(tmp_path, "first", night(2, sure=0.5), health=REFUSE, overwrite=True)
    assert outcome.exit_code == ExitCode.HEALTH_GATE_CLOSED
    assert "if the images have really changed, run again with --run-id first --overwrite --publish-any" in (
        outcome.message
    )


def test_limits_on_failures_come_before_the_gate(tmp_path: Path) -> None:
    """Exit 3, not 5: of a night with too many failures the answers say little."""
    publish_night(tmp_path, "first", night(1))
    failed = [f"bad{number}" for number in range(100)]
    outcome = publish_night(tmp_path, "second", night(2, sure=0.5), health=REFUSE, failed=failed, max_failure_rate=0.05)
    assert outcome.exit_code == ExitCode.TOO_MANY_FAILURES
    assert "health" not in json.loads((tmp_path / "runs" / "second" / "refused.json").read_text(encoding="utf-8"))


def test_independent_labels_are_judged_by_the_strongest(tmp_path: Path) -> None:
    """Sigmoid: the mix of strongest labels, and their probability."""
    rng = np.random.default_rng(1)
    first, second = (rng.beta(1, 3, (500, 3)) for _ in range(2))
    paths = [str(number) for number in range(500)]
    more: dict[str, Any] = {"activation": "sigmoid", "group_rows": 500, "health": REFUSE}
    publish_scores(tmp_path, paths, first, run_id="first", **more)
    outcome = publish_scores(tmp_path, paths, second, run_id="second", **more)
    assert outcome.health.startswith("like run first: class mix PSI 0.")
    outcome = publish_scores(tmp_path, paths, second * [1, 1, 0.5], run_id="third", **more)
    assert outcome.exit_code == ExitCode.HEALTH_GATE_CLOSED


@pytest.mark.parametrize("baseline", ["-x", "a/b", ""])
def test_a_baseline_that_no_run_can_be_called_is_refused(baseline: str) -> None:
    """Before anything is read."""
    with pytest.raises(ValueError, match="baseline must be latest or the id of a published run, got"):
        HealthSettings(baseline=baseline)


def test_a_baseline_that_is_not_there_stops_the_run_at_its_start(tmp_path: Path) -> None:
    """Not after a night of scoring."""
    with pytest.raises(ConfigError, match="the baseline, run gone, is not published"):
        publish_night(tmp_path, "first", night(1), health=HealthSettings(baseline="gone"))


def test_the_gate_and_the_comparison_work_in_a_store(bucket: str) -> None:
    """On s3:// as on a disk: one night passes, one is refused, and both are compared."""
    publish_night(bucket, "first", night(1))
    assert publish_night(bucket, "second", night(2), health=REFUSE).health.startswith("like run first")
    assert publish_night(bucket, "third", night(3, cats=0.9), health=REFUSE).exit_code == ExitCode.HEALTH_GATE_CLOSED
    found = compare(find_run(f"{bucket}/runs/first"), find_run(bucket))
    assert (found.joined.images, found.sides[1].run_id) == (400, "second")


def test_a_kill_after_the_judgement_publishes_the_judged_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever carries the plan out again judges nothing anew: figures and distributions are in it."""
    publish_night(tmp_path, "first", night(1))
    with monkeypatch.context() as killed:
        killed.setattr(publishing, "carry_out", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            publish_night(tmp_path, "second", night(2, cats=0.9), health=WARN)
    layout = RunLayout(str(tmp_path), "second")
    assert not is_published(layout)
    monkeypatch.setattr(publishing, "judge", lambda *_: 1 / 0)
    assert publishing.complete(layout)
    outcome = read_outcome(layout)
    assert (outcome.exit_code, outcome.drifted) == (ExitCode.PUBLISHED, True)
    assert manifest_of(tmp_path, "second")["distributions"]["rows"] == 400
