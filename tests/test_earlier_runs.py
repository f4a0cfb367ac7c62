"""The chain of a delta: which runs it has, which of their rows may be relied on, and what is said of a broken one."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from transforms.earlier_runs import (
    Chain,
    EarlierFile,
    EarlierRow,
    EarlierRun,
    check_since,
    find_chain,
    open_chain,
    read_earlier_rows,
)
from transforms.errors import ConfigError, ExitCode
from transforms.layout import RunLayout
from transforms.ledger import Ledger
from transforms.part_files import PartWriter
from transforms.publishing import RunFacts, publish
from transforms.settings import LimitSettings, WriteSettings
from transforms.tables import FAILURES_SCHEMA, FINGERPRINT_KEY, file_metadata

SCORES = pa.schema(
    [
        pa.field("image_path", pa.string(), nullable=False),
        pa.field("image_version", pa.string()),
        pa.field("model_id", pa.string()),
        pa.field("scored_at", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)
SAME = {"model": "m", "preprocessing": "p", "scoring": "s"}
WAY_OUT = "restore it, give another run to --since-run, or leave --since-run out to score every image"


def night(
    output: Path,
    run_id: str,
    rows: Sequence[tuple[str, str | None, int]] = (),
    chain: Sequence[str] = (),
    used: Sequence[str] = (),
    **other: str,
) -> Path:
    """Publish a run with rows of path, version and time, and return its one scores file."""
    metadata = file_metadata({FINGERPRINT_KEY + name: value for name, value in {**SAME, **other}.items()})
    facts = RunFacts(
        layout=RunLayout(str(output), run_id),
        limits=LimitSettings(),
        write=WriteSettings(),
        schemas={"scores": SCORES, "failures": FAILURES_SCHEMA},
        file_metadata=metadata,
        manifest={
            "fingerprints": {**SAME, **other},
            "since_run": {"run_id": chain[0], "chain": list(chain), "used": list(used)} if chain else None,
        },
    )
    writer = PartWriter(facts.layout.staged_table("scores"), "scores", SCORES, metadata, facts.write)
    paths, versions, times = zip(*rows, strict=True) if rows else ((), (), ())
    columns = [pa.array(paths, pa.string()), pa.array(versions, pa.string()), pa.nulls(len(rows), pa.string())]
    scored_at = pa.array(times, pa.int64()).cast(SCORES.field("scored_at").type)
    writer.write(pa.record_batch([*columns, scored_at], schema=SCORES))
    count = len(rows)
    outcome = publish(facts, writer.close(), Ledger(count, 0, count, count, 0, 0))
    assert outcome.exit_code == ExitCode.PUBLISHED
    return Path(facts.layout.part("scores", 0, 1))


def earlier(path: Path) -> EarlierFile:
    """What open_chain says of the file of a night of the same fingerprints, as it is now."""
    return EarlierFile(str(path), path.stat().st_size, "n1", reusable=True, fingerprints=SAME)


def layout(output: Path, run_id: str = "tonight") -> RunLayout:
    """The run that is to be made."""
    return RunLayout(str(output), run_id)


def edit_manifest(output: Path, run_id: str, **changes: Any) -> None:
    """Change a published manifest, as a hand or a fault may."""
    path = Path(layout(output, run_id).manifest)
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def refusal(output: Path, since: str, run_id: str = "tonight") -> str:
    """Return what is said of a run that cannot be followed."""
    with pytest.raises(ConfigError) as caught:
        open_chain(layout(output, run_id), find_chain(layout(output, run_id), since), SAME)
    return str(caught.value)


def test_chain_is_a_run_and_what_it_recorded(tmp_path: Path) -> None:
    """Newest first, by the manifest's own record."""
    night(tmp_path, "n1")
    night(tmp_path, "n2", chain=["n1"])
    night(tmp_path, "n3", chain=["n2", "n1"])
    assert find_chain(layout(tmp_path), "n3") == ("n3", "n2", "n1")
    assert find_chain(layout(tmp_path), "n2") == ("n2", "n1")
    assert find_chain(layout(tmp_path), "n1") == ("n1",)


def test_latest_is_the_run_published_last(tmp_path: Path) -> None:
    """Whatever its name; without any published run there is nothing to follow."""
    assert find_chain(layout(tmp_path), "latest") == ()
    night(tmp_path, "z")
    night(tmp_path, "a")
    assert find_chain(layout(tmp_path), "latest") == ("a",)


def test_full_night_for_lack_of_runs_is_said_in_one_line(tmp_path: Path) -> None:
    """And recorded as a delta of nothing."""
    chain = open_chain(layout(tmp_path), (), SAME)
    assert str(chain) == "no run is published yet that this one could follow: every image is scored"
    assert chain.record() == {"run_id": None, "chain": [], "used": []}
    assert chain.files == []


def test_one_line_says_how_many_rows_of_which_runs(tmp_path: Path) -> None:
    """And why none of the others; only what lies before the oldest usable run is read."""
    night(tmp_path, "n1", [("a", "v1", 1)], model="old")
    second = night(tmp_path, "n2", [("a", "v1", 2), ("b", "v1", 2)], ["n1"])
    third = night(tmp_path, "n3", [("b", "v1", 3)], ["n2", "n1"], model="other", preprocessing="other")
    fourth = night(tmp_path, "n4", [("c", "v1", 4)], ["n3", "n2", "n1"])
    chain = open_chain(layout(tmp_path), find_chain(layout(tmp_path), "n4"), SAME)
    assert str(chain) == (
        "since run n4: rows that may be relied on: 1 of n4, 0 of n3 (other model, preprocessing), 2 of n2, "
        "0 of n1 (other model)"
    )
    assert chain.files == [
        EarlierFile(str(fourth), fourth.stat().st_size, "n4", True, SAME),
        EarlierFile(
            str(third), third.stat().st_size, "n3", False, {**SAME, "model": "other", "preprocessing": "other"}
        ),
        EarlierFile(str(second), second.stat().st_size, "n2", True, SAME),
    ]
    assert chain.record() == {"run_id": "n4", "chain": ["n4", "n3", "n2", "n1"], "used": ["n4", "n3", "n2"]}


def test_useless_runs_in_a_row_are_named_together() -> None:
    """A year of an old model is no page of log."""
    runs = [EarlierRun(f"n{n}", (), rows, why) for n, rows, why in (
        (9, 5, ""), (8, 4, ""), (7, 0, "other model"), (6, 0, "other model"), (5, 0, "other model"),
        (4, 0, "it is gone"), (3, 7, ""), (2, 0, "other model"),
    )]  # fmt: skip
    assert str(Chain(tuple(runs))) == (
        "since run n9: rows that may be relied on: 5 of n9, 4 of n8, 0 of n7 to n5 (other model), "
        "0 of n4 (it is gone), 7 of n3, 0 of n2 (other model)"
    )


@pytest.mark.parametrize("name", ["model", "preprocessing", "scoring"])
def test_any_other_fingerprint_makes_a_run_useless(tmp_path: Path, name: str) -> None:
    """Its own name is in the log; nothing is read."""
    night(tmp_path, "n1", [("a", "v1", 1)], **{name: "other"})
    chain = open_chain(layout(tmp_path), ("n1",), SAME)
    assert str(chain) == f"since run n1: rows that may be relied on: 0 of n1 (other {name})"
    assert chain.files == []
    assert chain.record() == {"run_id": "n1", "chain": ["n1"], "used": []}


def test_used_runs_end_with_the_oldest_usable_one() -> None:
    """For every pattern of usable and useless runs."""
    for pattern in range(2**5):
        usable = [number for number in range(5) if pattern >> number & 1]
        runs = [EarlierRun(str(number), (), 0, "" if number in usable else "other model") for number in range(5)]
        used = [run.run_id for run in Chain(tuple(runs)).used]
        assert used == [str(number) for number in range(max(usable, default=-1) + 1)]


def test_rows_are_path_version_and_time(tmp_path: Path) -> None:
    """A run of other fingerprints gives no version: its rows only make older ones old."""
    path = night(tmp_path, "n1", [("a", "v1", 7), ("b", None, 8)])
    assert list(read_earlier_rows(earlier(path))) == [
        ("a", EarlierRow(7, "v1")),
        ("b", EarlierRow(8, None)),
    ]
    assert list(read_earlier_rows(earlier(path)._replace(reusable=False))) == [
        ("a", EarlierRow(7, None)),
        ("b", EarlierRow(8, None)),
    ]


def test_run_that_is_not_published_is_refused(tmp_path: Path) -> None:
    """Never heard of, or still under way: both have their way out."""
    assert refusal(tmp_path, "n0") == (
        f"run n0 is not published in {tmp_path}; give another run to --since-run, or leave --since-run out to score "
        "every image"
    )
    night(tmp_path, "n1")
    Path(layout(tmp_path, "n1").success).unlink()
    assert refusal(tmp_path, "latest").startswith(f"run n1 is not published in {tmp_path}; give another run")


def test_run_that_relies_on_itself_is_refused(tmp_path: Path) -> None:
    """By its own id, by `latest`, or through a run that relies on it: its rows are about to be replaced."""
    night(tmp_path, "n1")
    way_out = (
        "run n1 cannot rely on rows that it replaces; give a run that was published before it, or leave --since-run "
        "out to score every image"
    )
    assert refusal(tmp_path, "latest", "n1") == f"--since-run latest is n1, the run itself: {way_out}"
    night(tmp_path, "n2", chain=["n1"])
    assert refusal(tmp_path, "n2", "n1") == f"--since-run n2 is a delta of n1: {way_out}"
    assert refusal(tmp_path, "latest", "n1") == f"--since-run latest is n2, a delta of n1: {way_out}"
    with pytest.raises(ConfigError) as caught:
        check_since(layout(tmp_path, "n1"), "n1")
    assert str(caught.value) == f"--since-run n1 is the run itself: {way_out}"


def test_name_that_no_run_can_have_is_refused(tmp_path: Path) -> None:
    """Before it becomes a path; `latest` and other runs pass."""
    with pytest.raises(ConfigError, match="run id '../n1' is not allowed"):
        check_since(layout(tmp_path), "../n1")
    check_since(layout(tmp_path), "latest")
    check_since(layout(tmp_path), "n1")


def test_run_that_is_needed_and_gone_is_named(tmp_path: Path) -> None:
    """Deleted before its time: not a full night in silence."""
    night(tmp_path, "n1")
    night(tmp_path, "n2", chain=["n1"], used=["n1"])
    shutil.rmtree(tmp_path / "runs" / "n1")
    assert refusal(tmp_path, "n2") == f"run n1, which run n2 relies on, is gone from {tmp_path}; {WAY_OUT}"


def test_run_that_nobody_has_used_may_be_deleted(tmp_path: Path) -> None:
    """The nights of an old model: the log says so once, and the next manifest names them no more."""
    night(tmp_path, "n1", [("a", "v1", 1)], model="old")
    night(tmp_path, "n2", [("a", "v1", 2)], chain=["n1"], used=[])
    shutil.rmtree(tmp_path / "runs" / "n1")
    chain = open_chain(layout(tmp_path), find_chain(layout(tmp_path), "n2"), SAME)
    assert str(chain) == "since run n2: rows that may be relied on: 1 of n2, 0 of n1 (it is gone)"
    assert chain.record() == {"run_id": "n2", "chain": ["n2"], "used": ["n2"]}


@pytest.mark.parametrize("how", ["file", "folder"])
def test_file_that_is_missing_is_named(tmp_path: Path, how: str) -> None:
    """Before the run is begun."""
    path = night(tmp_path, "n1", [("a", "v1", 1)])
    shutil.rmtree(path.parent) if how == "folder" else path.unlink()
    assert refusal(tmp_path, "n1") == f"{path} of run n1 is missing; {WAY_OUT}"


def test_file_of_another_size_is_named(tmp_path: Path) -> None:
    """Cut short, or exchanged: before the run is begun."""
    path = night(tmp_path, "n1", [("a", "v1", 1)])
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-1])
    assert refusal(tmp_path, "n1") == (
        f"{path} of run n1 is damaged: it has {size - 1:,} bytes, its manifest says {size:,}; {WAY_OUT}"
    )


def test_page_with_a_wrong_byte_is_named(tmp_path: Path) -> None:
    """When it is read: no row is made of it."""
    path = night(tmp_path, "n1", [(f"image-{number}", "v1", 1) for number in range(500)])
    column = pq.read_metadata(path).row_group(0).column(0)
    data = bytearray(path.read_bytes())
    data[column.data_page_offset + column.total_compressed_size - 5] ^= 0x10  # of the values, not of their header
    path.write_bytes(data)
    with pytest.raises(ConfigError) as caught:
        list(read_earlier_rows(earlier(path)))
    assert str(caught.value).startswith(f"{path} of run n1 cannot be read: ")
    assert str(caught.value).endswith(WAY_OUT)
    assert "\n" not in str(caught.value)


def test_file_without_versions_is_named(tmp_path: Path) -> None:
    """A table that another tool has rewritten."""
    path = tmp_path / "a.parquet"
    metadata = pq.read_schema(night(tmp_path, "n1")).metadata
    pq.write_table(pa.table({"image_path": ["a"], "scored_at": [1]}).replace_schema_metadata(metadata), path)
    with pytest.raises(ConfigError, match=f"{path} of run n1 cannot be read: .*image_version"):
        list(read_earlier_rows(earlier(path)))


@pytest.mark.parametrize("reusable", [True, False])
def test_run_that_is_replaced_while_it_is_followed_is_named(tmp_path: Path, reusable: bool) -> None:
    """By the size or the fingerprints of its file, also where the new one has the name and the size of the old."""
    night(tmp_path, "n1", [("a", "v1", 1)])
    (file,) = open_chain(layout(tmp_path), ("n1",), SAME).files
    file = file._replace(reusable=reusable)
    assert len(list(read_earlier_rows(file))) == 1
    path = Path(file.path)
    shutil.rmtree(tmp_path / "runs")
    shutil.rmtree(tmp_path / "scores")
    assert night(tmp_path, "n1", [("a", "v1", 1)], model="n", scoring="t") == path
    assert path.stat().st_size == file.size_bytes
    with pytest.raises(ConfigError) as caught:
        list(read_earlier_rows(file))
    assert str(caught.value) == (
        f"{path} of run n1 was replaced: it was made with other model, scoring than its manifest said; {WAY_OUT}"
    )
    shutil.rmtree(tmp_path / "runs")
    shutil.rmtree(tmp_path / "scores")
    assert night(tmp_path, "n1", [(f"image-{number}", "v1", 1) for number in range(500)]) == path
    size = path.stat().st_size
    with pytest.raises(ConfigError) as caught:
        list(read_earlier_rows(file))
    assert str(caught.value) == (
        f"{path} of run n1 is damaged: it has {size:,} bytes, its manifest says {file.size_bytes:,}; {WAY_OUT}"
    )
    path.unlink()
    with pytest.raises(ConfigError, match=f"{path} of run n1 cannot be read: .*; {WAY_OUT}"):
        list(read_earlier_rows(file))


def test_file_that_says_nothing_of_what_made_it_is_named(tmp_path: Path) -> None:
    """Written by another tool: all fingerprints are missing."""
    path = night(tmp_path, "n1", [("a", "v1", 1)])
    pq.write_table(pq.read_table(path, partitioning=None).replace_schema_metadata(), path)
    with pytest.raises(
        ConfigError, match=f"{path} of run n1 was replaced: .* other model, preprocessing, scoring than"
    ):
        list(read_earlier_rows(earlier(path)))


@pytest.mark.parametrize("damage", ["", "[]", "{}", '{"run_id": 3}'])
def test_damaged_pointer_has_a_way_out(tmp_path: Path, damage: str) -> None:
    """A latest.json that names no run."""
    Path(layout(tmp_path).latest).write_text(damage)
    said = refusal(tmp_path, "latest")
    assert said.startswith(f"{tmp_path}/latest.json is damaged")
    assert said.endswith("; publish a run anew, or name a run by its id")


def test_damaged_manifest_has_a_way_out(tmp_path: Path) -> None:
    """Torn, of another version, or without what is needed of it."""
    night(tmp_path, "n1")
    manifest = layout(tmp_path, "n1").manifest
    edit_manifest(tmp_path, "n1", manifest_version=2)
    assert refusal(tmp_path, "n1") == f"{manifest} is no manifest of version 1; {WAY_OUT}"
    Path(manifest).write_text('{"manifest_version": 1}')
    assert refusal(tmp_path, "n1") == f"{manifest} is damaged: it names no fingerprints or no files; {WAY_OUT}"
    Path(manifest).write_text("{")
    assert refusal(tmp_path, "n1") == f"{manifest} is damaged; {WAY_OUT}"


def test_only_runs_of_the_same_challenger_may_be_relied_on_where_there_is_one(tmp_path: Path) -> None:
    """Another one, or none, has no row for it; a run without a challenger relies on runs with any."""
    rival = {"model": "r", "preprocessing": "p", "scoring": "s"}
    night(tmp_path, "n1", [("a", "1", 1)])
    for run_id, made_with in (("n2", rival), ("n3", {**rival, "model": "q"})):
        night(tmp_path, run_id, [("a", "1", 1)])
        edit_manifest(tmp_path, run_id, challenger={"fingerprints": made_with})
    nights = ("n3", "n2", "n1")
    with_rival = open_chain(layout(tmp_path), nights, SAME, rival)
    assert [run.useless for run in with_rival.runs] == ["other challenger", "", "other challenger"]
    assert [file.reusable for file in with_rival.files] == [False, True]
    assert [run.useless for run in open_chain(layout(tmp_path), nights, SAME).runs] == ["", "", ""]
    both = open_chain(layout(tmp_path), nights, {**SAME, "scoring": "t"}, rival).runs
    assert [run.useless for run in both] == ["other scoring, challenger", "other scoring", "other scoring, challenger"]


def test_a_manifest_of_before_there_were_challengers_had_none(tmp_path: Path) -> None:
    """It does not say so."""
    night(tmp_path, "n1", [("a", "1", 1)])
    path = Path(layout(tmp_path, "n1").manifest)
    path.write_text(
        json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != "challenger"})
    )
    assert open_chain(layout(tmp_path), ("n1",), SAME).runs[0].useless == ""
    assert open_chain(layout(tmp_path), ("n1",), SAME, SAME).runs[0].useless == "other challenger"
