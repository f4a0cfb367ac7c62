"""The names of a run's files, run ids and fingerprints."""

import json
import math
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.errors import ConfigError
from transforms.layout import TABLES, RunLayout, absolute_folder, check_run_id, fingerprint, new_run_id


@pytest.mark.parametrize("output", ["/out", "/out/", "s3://bucket", "gs://bucket/nights/"])
def test_every_file_of_a_run_has_its_place(output: str) -> None:
    """The tree of design.md, local and remote, with or without a slash at the end."""
    layout = RunLayout(output, "n.1")
    root = output.rstrip("/")
    assert {
        "run_folder": layout.run_folder,
        "manifest": layout.manifest,
        "success": layout.success,
        "refused": layout.refused,
        "staging": layout.staging,
        "plan": layout.plan,
        "identity": layout.staged_identity,
        "latest": layout.latest,
        "staged": [layout.staged_table(table) for table in TABLES],
        "published": [layout.published_table(table) for table in TABLES],
        "parts": [layout.part("scores", 0, 4), layout.part("failures", 12, 123456)],
    } == {
        "run_folder": f"{root}/runs/n.1",
        "manifest": f"{root}/runs/n.1/manifest.json",
        "success": f"{root}/runs/n.1/_SUCCESS",
        "refused": f"{root}/runs/n.1/refused.json",
        "staging": f"{root}/runs/n.1/_staging",
        "plan": f"{root}/runs/n.1/_staging/publish.json",
        "identity": f"{root}/runs/n.1/_staging/identity.json",
        "latest": f"{root}/latest.json",
        "staged": [f"{root}/runs/n.1/_staging/scores", f"{root}/runs/n.1/_staging/failures"],
        "published": [f"{root}/scores/run_id=n.1", f"{root}/failures/run_id=n.1"],
        "parts": [
            f"{root}/scores/run_id=n.1/part-00000-of-00004.parquet",
            f"{root}/failures/run_id=n.1/part-00012-of-123456.parquet",
        ],
    }


def test_output_can_be_the_root_folder() -> None:
    """No second slash, which would be a second name."""
    assert RunLayout("/", "n1").manifest == "/runs/n1/manifest.json"


@pytest.mark.parametrize("run_id", ["1", "2026-11-22", "20261122T023000Z-ab12", "Night_1.a", "a" * 128])
def test_run_ids_that_can_be_a_folder_are_taken(run_id: str) -> None:
    """Letters, digits, dot, underscore, hyphen."""
    assert check_run_id(run_id) == run_id


@pytest.mark.parametrize(
    "run_id",
    [
        "",
        ".",
        "..",  # would be the folder above
        "../other",
        "a/b",
        "_staging",  # engines skip folders that begin so
        "-rf",
        "a b",
        "a=b",  # a partition of its own
        "a\n",
        "ñ",
        "a" * 129,
    ],
)
def test_other_run_ids_are_refused(run_id: str) -> None:
    """The message shows an example."""
    with pytest.raises(ConfigError) as caught:
        check_run_id(run_id)
    assert str(caught.value) == (
        f"run id {run_id!r} is not allowed: use 1 to 128 letters, digits, '.', '_' or '-', starting with a letter or "
        "digit, 2026-11-22 for example"
    )


def test_new_run_ids_sort_by_time_and_are_allowed() -> None:
    """Whatever zone the clock is in; two of one second differ."""
    start = datetime(2026, 11, 22, 23, 59, 59, tzinfo=timezone(timedelta(hours=-5)))
    ids = [new_run_id(start + timedelta(seconds=seconds)) for seconds in range(3)]
    assert [run_id.rpartition("-")[0] for run_id in ids] == [
        "20261123T045959Z", "20261123T050000Z", "20261123T050001Z",
    ]  # fmt: skip
    assert [check_run_id(run_id) for run_id in ids] == sorted(ids)
    assert len({new_run_id(datetime(2026, 1, 1, tzinfo=UTC)) for _ in range(20)}) > 1


JSON_LIKE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@given(value=JSON_LIKE, other=JSON_LIKE)
def test_fingerprints_are_equal_exactly_where_values_are(value: Any, other: Any) -> None:
    """As JSON tells values apart: 1 is not 1.0 and not true, and the order of keys is nothing."""
    turned = dict(reversed(value.items())) if isinstance(value, dict) else value
    assert fingerprint(turned) == fingerprint(value)
    same = json.dumps(value, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (fingerprint(value) == fingerprint(other)) == same


def test_fingerprints_are_the_same_in_every_process() -> None:
    """Hash seeds, locales and versions of Python do not matter: this one is written down."""
    expected = "7879026096caf11dd330bfc26abf8c7f26df3c8ff1200f8ad8fe62dea3fd2633"
    value = {"b": [1, 2.5, None], "ä": "🍏"}
    code = f"from transforms.layout import fingerprint; print(fingerprint({value!r}))"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "7"}
    )
    assert out.stdout.strip() == fingerprint(value) == expected


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_without_json_have_no_fingerprint(value: float) -> None:
    """NaN is not equal to itself: nothing could be compared."""
    with pytest.raises(ValueError, match="JSON"):
        fingerprint({"x": value})


@pytest.mark.parametrize(
    ("text", "folder"),
    [
        ("/out/", "/out"),
        ("/", "/"),
        ("/a//b/../c", "/a/c"),  # on a disk these mean what they say
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket/", "s3://bucket"),
        ("S3://bucket/a/b//", "s3://bucket/a/b"),
        ("gs://bucket/a..b/.c", "gs://bucket/a..b/.c"),
    ],
)
def test_every_folder_has_one_name(text: str, folder: str) -> None:
    """With or without slashes at its end."""
    assert absolute_folder(text) == folder


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("s3://bucket//x", "has two slashes in a row, and a store has no such folders; write s3://bucket/x"),
        ("gs://bucket/a//b", "has two slashes in a row, and a store has no such folders; write gs://bucket/a/b"),
        ("s3://bucket/x/../y", "has the part '..', and a store has no such folders; write s3://bucket/y"),
        ("s3://bucket/./y", "has the part '.', and a store has no such folders; write s3://bucket/y"),
        ("s3://bucket/..", "has the part '..', and a store has no such folders; write s3://bucket"),
    ],
)
def test_a_folder_that_stores_do_not_agree_on_is_refused(text: str, says: str) -> None:
    """With the one that was meant."""
    with pytest.raises(ConfigError) as caught:
        absolute_folder(text)
    assert str(caught.value) == f"folder {text} {says}"


def test_no_run_may_be_called_latest() -> None:
    """That name means another run in --since-run."""
    with pytest.raises(ConfigError, match="run id 'latest' is not allowed: it means the run that was published last"):
        check_run_id("latest")
