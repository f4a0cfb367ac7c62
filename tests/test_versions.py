"""Launcher and workers have the same versions, or the run stops."""

from pathlib import Path

import apache_beam as beam
import pytest

from tests.runs import small_config
from transforms.errors import ExitCode, RunError
from transforms.score_batches import ScoreBatches
from transforms.versions import CODE, PACKAGES, check_versions, code_digest, read_versions


def test_versions_of_this_process_are_known() -> None:
    """Every package that takes part, Python's first two numbers, and our own code."""
    found = read_versions()
    assert set(found) == {"python", *PACKAGES, CODE}
    assert "none" not in found.values()
    assert found["python"].count(".") == 1
    check_versions(found)


def test_every_difference_is_named_with_the_way_out() -> None:
    """Both versions, the launcher's first."""
    with pytest.raises(RunError) as caught:
        check_versions({"python": "3.11", "numpy": "2.4.6", "keras": "3.15.1"}, {"python": "3.12", "numpy": "2.4.6"})
    assert caught.value.exit_code is ExitCode.WRONG_INPUT
    assert str(caught.value) == (
        "launcher and worker have other versions: python 3.11 and 3.12, keras 3.15.1 and none; launch from the image "
        "that the workers have, or build the workers' image from the launcher's version"
    )


def test_an_edited_module_is_another_version(tmp_path: Path) -> None:
    """The number of a package says nothing of a copy that somebody has changed; other files do not count."""
    (tmp_path / "transforms").mkdir()
    module = tmp_path / "transforms" / "a.py"
    module.write_text("x = 1\n")
    first = code_digest(tmp_path)
    (tmp_path / "transforms" / "a.pyc").write_bytes(b"x")
    assert code_digest(tmp_path) == first
    module.write_text("x = 2\n")
    second = code_digest(tmp_path)
    module.write_text("x = 1\n")
    module.rename(tmp_path / "transforms" / "b.py")
    assert len({first, second, code_digest(tmp_path)}) == 3
    assert len(first) == 12


def test_a_worker_of_another_version_stops_before_it_loads_the_model(tmp_path: Path) -> None:
    """The model is not even there."""
    plan = small_config(tmp_path / "gone").scorer_plan()
    older = {**read_versions(), "pillow": "1.0"}
    with (
        pytest.raises(Exception, match=r"launcher and worker have other versions: pillow 1\.0 and "),
        beam.Pipeline(runner="FnApiRunner") as pipeline,
    ):
        pipeline | beam.Create([]) | ScoreBatches(plan, versions=older)
