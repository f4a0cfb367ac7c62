"""Nights that follow each other: exactly what is new or has changed is scored, and every ledger adds up."""

import json
import logging
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest

from pipeline.cli import main
from pipeline.config import RunConfig
from pipeline.run_records import RunResult
from pipeline.summary import summary
from tests.model_zoo import pooled_model
from tests.runs import make_photo, make_photos, read_table, run_quietly, small_config, tree
from transforms import storage
from transforms.errors import ConfigError, ExitCode, RunError
from transforms.layout import RunLayout
from transforms.ledger import Ledger

pytest_plugins = ["tests.s3_store"]

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SavedModel of four classes."""
    return pooled_model(tmp_path_factory.mktemp("model") / "pooled")


@pytest.fixture(scope="module")
def new_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another one."""
    return pooled_model(tmp_path_factory.mktemp("new") / "pooled", head=lambda logits: {"logits": logits * 2})


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of six photos."""
    make_photos(tmp_path / "photos", 6)
    return tmp_path / "photos"


def manifest_of(result: RunResult) -> dict[str, Any]:
    """Read what a run has recorded."""
    return json.loads(storage.read_bytes(result.layout.manifest))


def scored(result: RunResult) -> list[str]:
    """Names of the images that a run has scored."""
    return [path.rpartition("/")[2] for path in read_table(result.layout, "scores")["image_path"].to_pylist()]


def test_a_delta_scores_exactly_what_is_new_or_changed(
    model: Path, new_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Night 1 has 200 images; night 2 changes 3, adds 2 and deletes 1, night 3 nothing.

    So night 2 lists 200 - 1 + 2 = 201 images: 3 + 2 = 5 are scored, and 200 - 1 deleted - 3 changed = 196 skipped.
    Night 3 skips all 201: 5 for their rows of night 2, 196 for their rows of night 1, which night 2 relies on. Another
    model or another preprocessing scores all 201 again.
    """
    photos, out = tmp_path / "photos", tmp_path / "out"
    make_photos(photos, 200)
    config = small_config(model, batch={"size": 1})
    caplog.set_level(logging.INFO)

    first = run_quietly(config, [photos], out, run_id="n1", since_run="latest")
    assert first.outcome.ledger == Ledger(200, 0, 200, 200, 0, 0)
    assert "no run is published yet that this one could follow: every image is scored" in caplog.text
    assert manifest_of(first)["since_run"] == {"run_id": None, "chain": [], "used": []}

    for name in ("000", "100", "199"):
        make_photo(photos / f"{name}.png", 7000 + int(name))
    make_photos(photos / "new", 2)
    (photos / "050.png").unlink()
    second = run_quietly(config, [photos], out, run_id="n2", since_run="n1")
    assert second.outcome.ledger == Ledger(listed=201, duplicates=0, unique=201, scored=5, failed=0, skipped=196)
    assert scored(second) == ["000.png", "100.png", "199.png", "000.png", "001.png"]
    assert "since run n1: rows that may be relied on: 200 of n1" in caplog.text
    assert manifest_of(second)["since_run"] == {"run_id": "n1", "chain": ["n1"], "used": ["n1"]}
    assert "  skipped   196 are as run n1, or one that it relies on, has scored them" in summary(second).splitlines()

    third = run_quietly(config, [photos], out, run_id="n3", since_run="latest")
    assert third.outcome.ledger == Ledger(201, 0, 201, 0, 0, 201)
    assert len(read_table(third.layout, "scores")) == 0
    assert "since run n2: rows that may be relied on: 5 of n2, 200 of n1" in caplog.text
    assert manifest_of(third)["since_run"] == {"run_id": "n2", "chain": ["n2", "n1"], "used": ["n2", "n1"]}

    # What an analyst sees of the three nights is what one full night would have made.
    full = run_quietly(config, [photos], tmp_path / "full", run_id="full")
    state = duckdb.sql(
        f"SELECT * FROM '{out}/scores/*/*.parquet' WHERE image_path != '{photos}/050.png' "
        "QUALIFY row_number() OVER (PARTITION BY image_path ORDER BY scored_at DESC) = 1 ORDER BY image_path"
    )
    expected = read_table(full.layout, "scores").drop_columns(["scored_at"])
    assert state.select(*expected.column_names).to_arrow_table().to_pylist() == expected.to_pylist()

    other = run_quietly(small_config(new_model, batch={"size": 1}), [photos], out, run_id="n4", since_run="n3")
    assert other.outcome.ledger == Ledger(201, 0, 201, 201, 0, 0)
    assert "since run n3: rows that may be relied on: 0 of n3 to n1 (other model)" in caplog.text
    assert manifest_of(other)["since_run"] == {"run_id": "n3", "chain": ["n3", "n2", "n1"], "used": []}

    prepared = small_config(model, batch={"size": 1}, preprocess={"value_range": "-1_1"})
    again = run_quietly(prepared, [photos], out, run_id="n5", since_run="n3")
    assert again.outcome.ledger == Ledger(201, 0, 201, 201, 0, 0)
    assert "since run n3: rows that may be relied on: 0 of n3 to n1 (other preprocessing)" in caplog.text


def test_a_newer_row_of_another_model_outdates_an_older_one(model: Path, new_model: Path, tmp_path: Path) -> None:
    """Two of six images were scored by another model in between: they, and no others, are scored again."""
    photos = make_photos(tmp_path / "photos", 6)
    run_quietly(small_config(model), [tmp_path / "photos"], tmp_path / "out", run_id="n1")
    run_quietly(small_config(new_model), [*photos[:2]], tmp_path / "out", run_id="n2", since_run="n1")
    third = run_quietly(small_config(model), [tmp_path / "photos"], tmp_path / "out", run_id="n3", since_run="n2")
    assert third.outcome.ledger == Ledger(6, 0, 6, 2, 0, 4)
    assert scored(third) == ["000.png", "001.png"]


def test_lines_of_a_manifest_are_asked_for_their_versions(model: Path, photos: Path, tmp_path: Path) -> None:
    """What a manifest named is skipped whichever way it is listed again; missing images fail in every night."""
    config = small_config(model, limits={"allowances": {"not_found": 1}})
    listed = tmp_path / "list.txt"
    names = [f"photos/{number:03}.png" for number in range(6)]
    listed.write_text("\n".join([*names, names[0], "photos/missing.png"]) + "\n")
    out = tmp_path / "out"
    run_quietly(config, [f"@{listed}"], out, run_id="n1")
    make_photo(photos / "003.png", 99)
    (photos / "005.png").unlink()
    config = small_config(model, limits={"allowances": {"not_found": 2}})
    second = run_quietly(config, [f"@{listed}"], out, run_id="n2", since_run="n1")
    assert second.outcome.ledger == Ledger(listed=8, duplicates=1, unique=7, scored=1, failed=2, skipped=4)
    assert scored(second) == ["003.png"]
    assert read_table(second.layout, "failures")["code"].to_pylist() == ["not_found", "not_found"]
    assert second.counts["stat_images"] == 6  # with a row: the missing one has none, and is read anyway
    assert second.counts["skipped_images"] == 4
    by_folder = run_quietly(config, [photos], out, run_id="n3", since_run="n2")
    assert by_folder.outcome.ledger == Ledger(5, 0, 5, 0, 0, 5)
    assert "stat_images" not in by_folder.counts
    both = run_quietly(config, [photos, f"@{listed}"], out, run_id="n4", since_run="n3")
    assert both.outcome.ledger == Ledger(13, 6, 7, 0, 2, 5)


def test_a_delta_in_several_bundles_loses_nothing(model: Path, photos: Path, tmp_path: Path) -> None:
    """With two workers, versions are asked for in two bundles, and every image still has one fate."""
    listed = tmp_path / "list.txt"
    listed.write_text("".join(f"photos/{number:03}.png\n" for number in range(6)))
    flags = ["--direct_num_workers=2"]
    run_quietly(small_config(model), [f"@{listed}"], tmp_path / "out", run_id="n1", beam_flags=flags)
    make_photo(photos / "004.png", 44)
    delta = run_quietly(
        small_config(model), [f"@{listed}"], tmp_path / "out", run_id="n2", since_run="n1", beam_flags=flags
    )
    assert delta.outcome.ledger == Ledger(6, 0, 6, 1, 0, 5)
    assert scored(delta) == ["004.png"]


@pytest.mark.heavy
def test_a_delta_in_an_object_store(model: Path, tmp_path: Path, bucket: str) -> None:
    """Images and runs in a bucket: what a folder's listing named is skipped by a manifest, and the reverse."""
    for number in range(4):
        data = make_photo(tmp_path / "a.png", number).read_bytes()
        storage.write_bytes(f"{bucket}/photos/{number}.png", data)
    listed = tmp_path / "list.txt"
    listed.write_text("".join(f"{bucket}/photos/{number}.png\n" for number in range(4)))
    folder, manifest = f"{bucket}/photos", f"@{listed}"

    def night(run_id: str, way: str, since: str | None) -> Ledger:
        output: Any = f"{bucket}/out"
        return run_quietly(small_config(model), [way], output, run_id=run_id, since_run=since).outcome.ledger

    assert night("n1", folder, None) == Ledger(4, 0, 4, 4, 0, 0)
    assert night("n2", manifest, "n1") == Ledger(4, 0, 4, 0, 0, 4)
    storage.write_bytes(f"{bucket}/photos/2.png", make_photo(tmp_path / "a.png", 9, (20, 30)).read_bytes())
    assert night("n3", manifest, "n2") == Ledger(4, 0, 4, 1, 0, 3)
    assert night("n4", folder, "latest") == Ledger(4, 0, 4, 0, 0, 4)
    assert night("n5", manifest, "latest") == Ledger(4, 0, 4, 0, 0, 4)


def test_failed_images_are_tried_again_every_night(model: Path, photos: Path, tmp_path: Path) -> None:
    """Unchanged and still broken: a failure again, which is expected; mended in place: a row."""
    (photos / "bad.png").write_text("no picture")
    config = small_config(model, limits={"max_failures": 0, "allowances": {"unsupported_format": 1}})
    out = tmp_path / "out"
    run_quietly(config, [photos], out, run_id="n1")
    second = run_quietly(config, [photos], out, run_id="n2", since_run="n1")
    assert second.outcome.exit_code == ExitCode.PUBLISHED
    assert second.outcome.ledger == Ledger(7, 0, 7, 0, 1, 6)
    make_photo(photos / "bad.png", 3)
    third = run_quietly(config, [photos], out, run_id="n3", since_run="n2")
    assert third.outcome.ledger == Ledger(7, 0, 7, 1, 0, 6)
    assert scored(third) == ["bad.png"]


def test_a_continued_delta_follows_the_runs_that_it_was_begun_with(
    model: Path, photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Begun since `latest`, refused, and continued since `latest`: a run published in between changes nothing."""
    out = tmp_path / "out"
    strict = small_config(model, limits={"max_failures": 0})
    run_quietly(strict, [photos], out, run_id="n1")
    make_photo(photos / "000.png", 50)
    (photos / "bad.png").write_text("no picture")
    refused = run_quietly(strict, [photos], out, run_id="n2", since_run="latest")
    assert refused.outcome.exit_code == ExitCode.TOO_MANY_FAILURES
    assert refused.outcome.ledger == Ledger(7, 0, 7, 1, 1, 5)

    run_quietly(small_config(model), [photos / "001.png"], out, run_id="between")
    with pytest.raises(ConfigError, match="run n2 was begun with other since_run: one run never mixes two"):
        run_quietly(strict, [photos], out, run_id="n2", since_run="between")
    with pytest.raises(ConfigError, match="run n2 was begun with other since_run"):
        run_quietly(strict, [photos], out, run_id="n2")
    make_photo(photos / "bad.png", 51)
    caplog.set_level(logging.INFO)
    continued = run_quietly(strict, [photos], out, run_id="n2", since_run="latest")
    assert continued.adopted == 1
    assert continued.outcome.ledger == Ledger(7, 0, 7, 2, 0, 5)
    assert "since run n1: rows that may be relied on: 6 of n1" in caplog.text
    assert manifest_of(continued)["since_run"] == {"run_id": "n1", "chain": ["n1"], "used": ["n1"]}


def test_a_night_begun_without_any_run_stays_a_full_one(model: Path, photos: Path, tmp_path: Path) -> None:
    """Since `latest` of nothing: a run published before it is continued is not followed."""
    out = tmp_path / "out"
    strict = small_config(model, limits={"max_failures": 0})
    (photos / "bad.png").write_text("no picture")
    run_quietly(strict, [photos], out, run_id="n1", since_run="latest")
    run_quietly(small_config(model), [photos / "001.png"], out, run_id="between")
    (photos / "bad.png").unlink()
    continued = run_quietly(strict, [photos], out, run_id="n1", since_run="latest")
    assert continued.outcome.ledger == Ledger(6, 0, 6, 6, 0, 0)
    assert manifest_of(continued)["since_run"] == {"run_id": None, "chain": [], "used": []}


def test_a_run_begun_as_a_full_night_is_not_continued_as_a_delta(model: Path, photos: Path, tmp_path: Path) -> None:
    """Another --run-id would be a delta."""
    out = tmp_path / "out"
    strict = small_config(model, limits={"max_failures": 0})
    run_quietly(strict, [photos], out, run_id="n1")
    (photos / "bad.png").write_text("no picture")
    run_quietly(strict, [photos], out, run_id="n2")
    with pytest.raises(ConfigError, match="run n2 was begun with other since_run: one run never mixes two"):
        run_quietly(strict, [photos], out, run_id="n2", since_run="latest")


def test_publish_anyway_publishes_a_refused_delta(model: Path, photos: Path, tmp_path: Path) -> None:
    """Adopted, failed and skipped add up, and the night after relies on both."""
    out = tmp_path / "out"
    strict = small_config(model, limits={"max_failures": 0})
    run_quietly(strict, [photos], out, run_id="n1")
    make_photo(photos / "000.png", 50)
    (photos / "bad.png").write_text("no picture")
    assert run_quietly(strict, [photos], out, run_id="n2", since_run="latest").outcome.exit_code == 3
    result = run_quietly(strict, [photos], out, run_id="n2", since_run="latest", publish_anyway=True)
    assert result.outcome.exit_code == ExitCode.PUBLISHED
    assert result.adopted == 1
    assert result.outcome.ledger == Ledger(7, 0, 7, 1, 1, 5)
    overridden = manifest_of(result)["limits_overridden"]["message"]
    assert overridden == "1 of 2 images failed (50.00%), limits.max_failure_rate allows 5.00%"
    (photos / "bad.png").unlink()
    third = run_quietly(strict, [photos], out, run_id="n3", since_run="latest")
    assert third.outcome.ledger == Ledger(6, 0, 6, 0, 0, 6)


def test_an_overwritten_run_may_follow_an_older_one_and_never_itself(model: Path, photos: Path, tmp_path: Path) -> None:
    """Night 2 made anew since night 1; not since itself, nor since night 3, which relies on it."""
    out = tmp_path / "out"
    config = small_config(model)
    run_quietly(config, [photos], out, run_id="n1")
    run_quietly(config, [photos], out, run_id="n2", since_run="n1")
    before = tree(out)
    with pytest.raises(ConfigError, match="--since-run latest is n2, the run itself: run n2 cannot rely on rows that"):
        run_quietly(config, [photos], out, run_id="n2", since_run="latest", overwrite=True)
    assert tree(out) == before
    make_photo(photos / "001.png", 50)
    again = run_quietly(config, [photos], out, run_id="n2", since_run="n1", overwrite=True)
    assert again.outcome.ledger == Ledger(6, 0, 6, 1, 0, 5)
    run_quietly(config, [photos], out, run_id="n3", since_run="n2")
    with pytest.raises(ConfigError, match="--since-run n3 is a delta of n2"):
        run_quietly(config, [photos], out, run_id="n2", since_run="n3", overwrite=True)


@pytest.mark.parametrize(
    ("asked", "recorded", "found"),
    [
        ("n1", {"run_id": "n1", "chain": ["n1"], "used": ["n1"]}, True),
        ("latest", {"run_id": "n1", "chain": ["n1"], "used": ["n1"]}, True),
        ("latest", {"run_id": None, "chain": [], "used": []}, True),
        (None, None, True),
        (None, {"run_id": "n1", "chain": ["n1"], "used": ["n1"]}, False),
        ("latest", None, False),
        ("n0", {"run_id": "n1", "chain": ["n1"], "used": ["n1"]}, False),
    ],
)
def test_an_interrupted_overwrite_is_complete_only_for_the_same_delta(
    model: Path, photos: Path, tmp_path: Path, asked: str | None, recorded: dict[str, Any] | None, found: bool
) -> None:
    """What follows another run is something else, as another configuration is."""
    from pipeline.beginning import _asks_for
    from pipeline.run_records import RunRequest

    config = small_config(model)
    inputs = [{"kind": "folder", "path": str(photos)}]
    manifest = {"inputs": inputs, "config": config.model_dump(mode="json"), "since_run": recorded}
    request = RunRequest(config, [str(photos)], str(tmp_path), since_run=asked)
    assert _asks_for(request, manifest) == found


def begun(model: Path, photos: Path, tmp_path: Path) -> tuple[RunConfig, Path, Path]:
    """Publish night 1, and return configuration, output and its scores file."""
    config = small_config(model)
    result = run_quietly(config, [photos], tmp_path / "out", run_id="n1")
    return config, tmp_path / "out", Path(result.layout.part("scores", 0, 1))


@pytest.mark.parametrize("damage", ["missing", "short"])
def test_a_broken_earlier_run_stops_a_delta_before_it_is_begun(
    model: Path, photos: Path, tmp_path: Path, damage: str
) -> None:
    """Never a full night in silence: exit 2, and nothing written."""
    config, out, path = begun(model, photos, tmp_path)
    path.unlink() if damage == "missing" else path.write_bytes(path.read_bytes()[:-9])
    before = tree(out)
    with pytest.raises(ConfigError, match=f"{path} of run n1 is .*; restore it, give another run to --since-run, or"):
        run_quietly(config, [photos], out, run_id="n2", since_run="n1")
    assert tree(out) == before


def test_a_damaged_page_of_an_earlier_run_stops_a_delta(model: Path, photos: Path, tmp_path: Path) -> None:
    """Found by a worker: exit 2 all the same, with the file's name, and the run can be continued once it is mended."""
    config, out, path = begun(model, photos, tmp_path)
    whole = path.read_bytes()
    column = pq.read_metadata(path).row_group(0).column(0)
    data = bytearray(whole)
    data[column.data_page_offset + column.total_compressed_size - 5] ^= 0x10  # of the values, not of their header
    path.write_bytes(data)
    with pytest.raises(RunError, match=f"{path} of run n1 cannot be read: .*; restore it, give another") as caught:
        run_quietly(config, [photos], out, run_id="n2", since_run="n1")
    assert caught.value.exit_code == ExitCode.WRONG_INPUT
    assert not (out / "scores" / "run_id=n2").exists()
    path.write_bytes(whole)
    assert run_quietly(config, [photos], out, run_id="n2", since_run="n1").outcome.ledger == Ledger(6, 0, 6, 0, 0, 6)


CONFIG = """\
model: {{path: {model}, output: logits, activation: softmax}}
preprocess: {{value_range: 0_1, resize: exact}}
results: {{top_k: 2}}
write: {{rows_per_file: 8}}
load: {{threads: 1}}
decode: {{jpeg_scaling: "off"}}
batch: {{size: 4}}
"""


def test_the_command_says_what_cannot_be_followed(
    model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 2 and one line; nothing is written."""
    file = tmp_path / "c.yaml"
    file.write_text(CONFIG.format(model=model))
    common = ["run", "--config", str(file), "--input", str(photos), "--output", str(tmp_path / "out")]
    for since, message in (
        ("n0", f"run n0 is not published in {tmp_path}/out; give another run to --since-run, or leave --since-run out"),
        ("n1", "--since-run n1 is the run itself: run n1 cannot rely on rows that it replaces"),
        ("../n0", "run id '../n0' is not allowed"),
    ):
        assert main([*common, "--run-id", "n1", "--since-run", since]) == 2
        assert capsys.readouterr().err.strip().splitlines()[-1].startswith(f"score-images: {message}")
        assert not (tmp_path / "out").exists()


@pytest.mark.heavy
def test_a_delta_that_is_killed_is_continued(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Kill -9 in the middle of night 2: adopted, scored and skipped add up, and each image has one newest row."""
    photos, out = tmp_path / "photos", tmp_path / "out"
    make_photos(photos, 150, ".jpg")
    file = tmp_path / "c.yaml"
    file.write_text(CONFIG.format(model=model))
    common = ["run", "--config", str(file), "--input", str(photos), "--output", str(out)]
    assert main([*common, "--run-id", "n1"]) == 0
    for number in range(100):
        # Large enough that scoring them takes seconds.
        make_photo(photos / f"{number:03}.jpg", 1000 + number, (1200, 1200))
    arguments = [*common, "--run-id", "n2", "--since-run", "latest"]
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    )
    staged = Path(RunLayout(str(out), "n2").staged_table("scores"))
    deadline = time.monotonic() + 100
    while not list(staged.glob("*.parquet")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert not (out / "scores" / "run_id=n2").exists()
    adopted = sum(pq.read_metadata(path).num_rows for path in staged.glob("*.parquet"))
    assert 8 <= adopted < 100
    capsys.readouterr()

    assert main(arguments) == 0
    said = capsys.readouterr().out.splitlines()
    assert "  unique    150 = 100 scored + 0 failed + 50 skipped" in said
    assert f"  resumed   {adopted} of the scored images come from an earlier attempt" in said
    assert "  skipped   50 are as run n1, or one that it relies on, has scored them" in said
    rows = read_table(RunLayout(str(out), "n2"), "scores")["image_path"].to_pylist()
    assert rows == [str(photos / f"{number:03}.jpg") for number in range(100)]
