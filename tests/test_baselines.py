"""Which run tonight is compared with: latest or pinned, one of a chain of deltas, older manifests, and none."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.published_runs import publish_scores
from transforms.baselines import open_baseline
from transforms.errors import ConfigError
from transforms.health import Baseline
from transforms.layout import RunLayout
from transforms.settings import HealthSettings

TWO = np.array([[0.9, 0.1], [0.2, 0.8]])


def publish_night(output: Path, run_id: str, rows: int = 4, **more: Any) -> None:
    """Publish a run of so many images."""
    publish_scores(output, [f"{i}.png" for i in range(rows)], np.resize(TWO, (rows, 2)), run_id=run_id, **more)


def find(output: Path, baseline: str | None, *, run_id: str = "tonight", min_images: int = 1) -> Baseline | str:
    """The baseline, or why there is none."""
    settings = HealthSettings(baseline=baseline, min_images=min_images)
    found, reason = open_baseline(RunLayout(str(output), run_id), settings)
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
    pinned = find(tmp_path, "few", min_images=5)
    assert isinstance(pinned, Baseline)
    assert pinned.run_id == "few"


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ({"distributions": {"version": 9}}, "they are of version 9"),
        ({"distributions": None, "files": []}, "its manifest names no file of scores"),
        ({"distributions": 3}, "they are no distributions"),
    ],
)
def test_a_damaged_baseline_is_named(tmp_path: Path, damage: dict[str, Any], reason: str) -> None:
    """What it is, and the way out."""
    publish_night(tmp_path, "night")
    path = tmp_path / "runs" / "night" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **damage}))
    with pytest.raises(ConfigError, match=f"the baseline, run night, cannot be read: {reason}.*; name another run in"):
        find(tmp_path, "night")
