"""Which run tonight is compared with: latest or pinned, one of a chain of deltas, older manifests, and none."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.published_runs import publish_scores
from transforms import baselines, publishing
from transforms.baselines import open_baseline
from transforms.errors import ConfigError
from transforms.health import Baseline
from transforms.layout import RunLayout
from transforms.settings import HealthSettings

TWO = np.array([[0.9, 0.1], [0.2, 0.8]])


def publish_night(output: Path, run_id: str, rows: int = 4, **more: Any) -> None:
    """Publish a run of so many images."""
    publish_scores(output, [f"{i}.png" for i in range(rows)], np.resize(TWO, (rows, 2)), run_id=run_id, **more)


def find(
    output: Path,
    baseline: str | None,
    *,
    run_id: str = "tonight",
    min_images: int = 1,
    labels: Sequence[str] | None = ("0", "1"),
) -> Baseline | str:
    """The baseline, or why there is none."""
    settings = HealthSettings(baseline=baseline, min_images=min_images)
    found, reason = open_baseline(RunLayout(str(output), run_id), settings, labels)
    assert (found is None) == bool(reason)
    return found or reason


def test_without_a_baseline_nothing_is_read(tmp_path: Path) -> None:
    """Nor where there is nothing to read yet."""
    assert find(tmp_path, None) == "no baseline is set (health.baseline)"
    assert find(tmp_path, "latest") == f"no run is published in {tmp_path} yet that this one could be compared with"


def test_latest_is_the_newest_run_and_an_id_is_pinned(tmp_path: Path) -> None:
    """With the answers that its manifest says."""
    publish_night(tmp_path, "first", 4)
    publish_night(tmp_path, "second", 6)
    for baseline, run_id, rows in (("latest", "second", 6), ("first", "first", 4)):
        found = find(tmp_path, baseline)
        assert isinstance(found, Baseline)
        assert (found.run_id, found.distributions.by_label()) == (run_id, {"0": rows // 2, "1": rows // 2})


def test_a_baseline_that_is_gone_is_named_before_the_night(tmp_path: Path) -> None:
    """One that was never published, too."""
    publish_night(tmp_path, "first")
    with pytest.raises(
        ConfigError, match=f"run other, is not published in {tmp_path}; name another run in health.base"
    ):
        find(tmp_path, "other")


def test_the_pinned_run_itself_has_no_baseline(tmp_path: Path) -> None:
    """A configuration may name it before it is there; once it is, a new version is compared with the old one."""
    assert find(tmp_path, "night", run_id="night") == "run night is the baseline itself"
    publish_night(tmp_path, "night")
    assert isinstance(find(tmp_path, "night", run_id="night"), Baseline)


def test_older_manifests_are_answered_from_the_files(tmp_path: Path) -> None:
    """The same distributions as if it had said them."""
    for independent in (False, True):
        activation = "sigmoid" if independent else "softmax"
        publish_night(tmp_path, "new", 10, activation=activation)
        publish_night(tmp_path, "old", 10, activation=activation, with_distributions=False)
        assert "distributions" not in json.loads((tmp_path / "runs" / "old" / "manifest.json").read_text())
        new, old = find(tmp_path, "new"), find(tmp_path, "old")
        assert isinstance(new, Baseline)
        assert isinstance(old, Baseline)
        assert old.distributions.independent is independent
        assert old.distributions.to_json() == new.distributions.to_json()
        for path in tmp_path.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def test_latest_is_the_newest_of_a_chain_with_images_enough(tmp_path: Path) -> None:
    """A night of a few new images is no baseline; where none has enough it is the newest, and tonight is not judged."""
    publish_night(tmp_path, "full", 20)
    publish_night(tmp_path, "middle", 10, since_run={"chain": ["full"]})
    publish_night(tmp_path, "few", 2, since_run={"chain": ["middle", "deleted", "full"]})
    for least, run_id in ((1, "few"), (5, "middle"), (11, "full"), (100, "few")):
        found = find(tmp_path, "latest", min_images=least)
        assert isinstance(found, Baseline)
        assert found.run_id == run_id


def test_a_small_run_in_between_does_not_open_the_gate(tmp_path: Path) -> None:
    """Somebody tries five images in the same output: the next night is compared with what that was compared with."""
    latest = HealthSettings(baseline="latest", min_images=10)
    publish_night(tmp_path, "night", 20)
    publish_night(tmp_path, "try", 5, health=latest)
    publish_night(tmp_path, "empty", 0, health=latest, failed=["gone.png"])
    found = find(tmp_path, "latest", min_images=10)
    assert isinstance(found, Baseline)
    assert found.run_id == "night"


def test_runs_that_name_each_other_are_each_asked_once(tmp_path: Path) -> None:
    """A small run that was replaced, and compared with its former self; one that is gone, and one that has no name."""
    for run_id, baseline in (("one", "two"), ("two", "one"), ("three", "gone"), ("four", 7)):
        publish_night(tmp_path, run_id, 3)
        path = tmp_path / "runs" / run_id / "manifest.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "health": {"baseline": baseline}}))
        found = find(tmp_path, "latest", min_images=10)
        assert isinstance(found, Baseline)
        assert found.run_id == run_id


@pytest.mark.parametrize("rows", [0, 4])
def test_a_pinned_run_that_no_night_can_be_compared_with_is_refused(tmp_path: Path, rows: int) -> None:
    """It would leave the gate open every night, and nobody would see it."""
    publish_night(tmp_path, "few", rows, failed=["gone.png"])
    with pytest.raises(ConfigError) as caught:
        find(tmp_path, "few", min_images=5)
    assert str(caught.value) == (
        f"the baseline, run few, has {rows} scored images, and health.min_images asks for 5: no night would be judged; "
        "lower that, or name another run in health.baseline, or leave it out to compare with none"
    )


def test_a_pinned_run_of_other_labels_is_refused(tmp_path: Path) -> None:
    """Of another model altogether; where the labels are not known yet, nothing is said."""
    publish_night(tmp_path, "night", 4, labels=["cat", "dog"])
    with pytest.raises(ConfigError) as caught:
        find(tmp_path, "night", labels=["car", "bus", "tram"])
    assert str(caught.value) == (
        "the baseline, run night, has no label in common with the model of this run ('cat' and 1 more, 'car' and 2 "
        "more): no night would be judged; name another run in health.baseline, or leave it out to compare with none"
    )
    for baseline, labels in (("night", None), ("night", ["dog"]), ("latest", ["car"])):
        assert isinstance(find(tmp_path, baseline, labels=labels), Baseline)


def interrupt(output: Path, run_id: str, rows: int, **more: Any) -> None:
    """Leave the publishing of a run at its first step."""
    with pytest.MonkeyPatch.context() as killed:
        killed.setattr(publishing, "carry_out", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            publish_night(output, run_id, rows, **more)


@pytest.mark.parametrize("baseline", ["latest", "night"])
@pytest.mark.parametrize("replaced", [False, True])
def test_a_baseline_whose_publishing_was_interrupted_is_read_from_its_plan(
    tmp_path: Path, baseline: str, replaced: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Its answers were counted and judged: what it will be is compared with, and what completes it is said."""
    publish_night(tmp_path, "night", 4)
    if not replaced:
        layout = RunLayout(str(tmp_path), "night")
        Path(layout.success).unlink()
        shutil.rmtree(layout.published_table("scores"))
    interrupt(tmp_path, "night", 6, overwrite=replaced)
    found = find(tmp_path, baseline)
    assert isinstance(found, Baseline)
    assert (found.run_id, found.distributions.rows) == ("night", 6)
    said = "its publishing is under way, or was interrupted: run again with --run-id night to complete it"
    assert found.note == said
    assert caplog.messages == [f"the baseline is run night: {said}"]
    assert publishing.complete(RunLayout(str(tmp_path), "night"))
    after = find(tmp_path, baseline)
    assert isinstance(after, Baseline)
    assert (after.note, after.distributions.to_json()) == ("", found.distributions.to_json())


def test_an_interrupted_baseline_that_cannot_be_read_says_how_it_is_completed(tmp_path: Path) -> None:
    """A plan of an older version, which does not say the answers; one that is damaged; and none at all."""
    publish_night(tmp_path, "night", 4)
    interrupt(tmp_path, "night", 6, overwrite=True, with_distributions=False)
    way_out = "name another run in health.baseline, or leave it out to compare with none"
    plan = Path(RunLayout(str(tmp_path), "night").plan)
    for change, message in (
        (
            lambda: None,
            f"the baseline, run night, is not published in {tmp_path}: its publishing is under way, or was "
            f"interrupted; run again with --run-id night to complete it, or {way_out}",
        ),
        (
            lambda: plan.write_text("{"),
            f"the baseline, run night, is not published: its publishing was interrupted, and {plan} is damaged; delete "
            f"{plan} to publish anew, or {way_out}",
        ),
        (
            plan.unlink,
            f"the baseline, run night, is not published in {tmp_path} (health.baseline is latest, and "
            f"{tmp_path}/latest.json names it); {way_out}",
        ),
    ):
        change()
        with pytest.raises(ConfigError) as caught:
            find(tmp_path, "latest")
        assert str(caught.value) == message


def test_a_baseline_that_is_published_while_it_is_looked_for_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its manifest goes just when it is read, and the new one is there when its plan is not any more."""
    publish_night(tmp_path, "night", 4)
    manifest, success = (tmp_path / "runs" / "night" / name for name in ("manifest.json", "_SUCCESS"))
    kept = manifest.read_text()
    read = baselines.read_manifest

    def taken(*args: Any) -> Any:
        monkeypatch.undo()
        monkeypatch.setattr(baselines, "pending_manifest", put_back)
        success.unlink()
        manifest.unlink()
        return read(*args)

    def put_back(*_: Any) -> None:
        manifest.write_text(kept)
        success.touch()

    monkeypatch.setattr(baselines, "read_manifest", taken)
    found = find(tmp_path, "night")
    assert isinstance(found, Baseline)
    assert (found.distributions.rows, found.note) == (4, "")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ({"distributions": {"version": 9}}, "they are of version 9"),
        ({"distributions": None, "files": []}, "its manifest names no file of scores"),
        ({"distributions": 3}, "they are no distributions"),
        ({"fingerprints": 3}, "'int' object is not iterable"),
    ],
)
def test_a_damaged_baseline_is_named(tmp_path: Path, damage: dict[str, Any], reason: str) -> None:
    """What it is, and the way out."""
    publish_night(tmp_path, "night")
    path = tmp_path / "runs" / "night" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **damage}))
    with pytest.raises(ConfigError, match=f"the baseline, run night, cannot be read: {reason}.*; name another run in"):
        find(tmp_path, "night")
