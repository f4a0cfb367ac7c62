"""The benchmark suite measures what it says: its arithmetic, its accounting, and its scripts on a few photos."""

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.benchmarks import agreement, contestants, figures, materials, profiles, suite
from tests.benchmarks.limits import host
from tests.benchmarks.measuring import CommandFailed, measure
from tests.benchmarks.peers.common import prepare
from tests.benchmarks.report import render
from tests.benchmarks.runs import Runs
from tests.benchmarks.workloads import WORKLOADS
from tests.runs import make_photo


def test_a_spread_is_median_and_extremes() -> None:
    """Of an even number of rounds the median lies between the middle two; of none there is nothing to say."""
    assert figures.spread([4.0, 1.0, 3.0, 2.0]) == (2.5, 1.0, 4.0)
    assert figures.spread([]) is None


def test_ratios_are_taken_within_a_round() -> None:
    """A slow minute hits both and cancels out; a round that only one has finished counts for nothing."""
    ours, theirs = {0: 1.0, 1: 10.0, 2: 2.0}, {0: 2.0, 1: 20.0, 3: 99.0}
    assert figures.ratios(theirs, ours) == (2.0, 2.0, 2.0)
    assert figures.ratios({0: 1.0}, {1: 1.0}) is None
    assert figures.ratios({0: -1.0, 1: 1.0}, {0: 1.0, 1: 0.0}) is None  # slopes that noise has swallowed


def test_a_slope_takes_start_up_out() -> None:
    """8 s of start-up and 3 ms an item come apart again, round by round."""
    small = {0: 8.0 + 0.003 * 3000, 1: 9.0 + 0.004 * 3000}
    large = {0: 8.0 + 0.003 * 9000, 1: 9.0 + 0.004 * 9000, 2: 1.0}
    slope = figures.slopes(small, large, 6000)
    assert slope == pytest.approx({0: 0.003, 1: 0.004})
    assert figures.intercepts(small, slope, 3000) == pytest.approx({0: 8.0, 1: 9.0})


def test_a_slope_between_equal_sizes_is_refused() -> None:
    """There would be nothing to divide by."""
    with pytest.raises(ValueError, match="the sizes must differ by at least 1 item, got 0"):
        figures.slopes({0: 1.0}, {0: 1.0}, 0)


BUSY = "import time\nwhile time.process_time() < 0.5: pass\n"


@pytest.mark.parametrize(
    ("program", "cpu_s"),
    [
        (BUSY, 0.5),  # the command itself
        (f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {BUSY!r}])", 0.5),  # a child it waits for
        # A child in a session of its own that nobody waits for, and that outlives its parent, as servers do.
        (f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {BUSY!r}], start_new_session=True)", 0.5),
        # A child whose end the command ignores: the system keeps no account of it, only looking at it does.
        (
            "import signal, subprocess, sys\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
            f"child = subprocess.Popen([sys.executable, '-c', {BUSY.replace('0.5', '0.9')!r}])\nchild.wait()",
            0.5,
        ),
    ],
)
def test_processor_time_counts_whatever_was_started(tmp_path: Path, program: str, cpu_s: float) -> None:
    """In the command, in its children, in those that it has lost sight of."""
    measured = measure([sys.executable, "-c", program], tmp_path / "log", timeout_s=60)
    assert cpu_s <= measured.cpu_s < cpu_s + 1.5


def test_memory_is_that_of_the_whole_tree(tmp_path: Path) -> None:
    """Two processes of 60 MB each at a time are more than 120 MB, whatever this process has held when it began them."""
    held_before = bytearray(b"x") * (400 * 2**20)
    del held_before
    hold = "import time\nheld = bytearray(b'x') * (60 * 2**20)\ntime.sleep(1.5)\n"
    both = f"import subprocess, sys\nchild = subprocess.Popen([sys.executable, '-c', {hold!r}])\n{hold}\nchild.wait()"
    measured = measure([sys.executable, "-c", both], tmp_path / "log", timeout_s=60)
    assert 120 < measured.peak_mb < 220
    assert measured.processes == 2


def test_a_failed_command_shows_its_last_words(tmp_path: Path) -> None:
    """A measurement of a broken program is none."""
    with pytest.raises(CommandFailed, match=r"ended with code 3\nno such thing"):
        measure(
            [sys.executable, "-c", "import sys; print('no such thing'); sys.exit(3)"], tmp_path / "log", timeout_s=60
        )


def test_a_command_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    """Nothing of it is left to disturb the next one."""
    sleep = "import time; time.sleep(600)"
    program = (
        f"import subprocess, sys\nchild = subprocess.Popen([sys.executable, '-c', {sleep!r}], start_new_session=True)\n"
        f"print(child.pid, flush=True)\n{sleep}"
    )
    with pytest.raises(CommandFailed, match="did not end within 1 s"):
        measure([sys.executable, "-c", program], tmp_path / "log", timeout_s=1)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "log").read_text()), 0)


def test_a_linked_photo_knows_what_it_shows(tmp_path: Path) -> None:
    """Names run on, photos come again in their order, and whatever a tool puts before a path is no matter."""
    for name in ("b_1.jpg", "a.jpg"):
        make_photo(tmp_path / "photos" / name, 1)
    folder = materials.link_photos(tmp_path / "photos", tmp_path / "links", 5)
    links = sorted(folder.iterdir())
    assert [materials.photo_of(f"file:{link}") for link in links] == ["a.jpg", "b_1.jpg", "a.jpg", "b_1.jpg", "a.jpg"]
    assert links[1].read_bytes() == (tmp_path / "photos" / "b_1.jpg").read_bytes()


def test_photos_that_are_not_there_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With both ways of giving them."""
    monkeypatch.delenv("IMAGE_DATA_DIR", raising=False)
    with pytest.raises(FileNotFoundError, match=r"--photos, or set IMAGE_DATA_DIR to the folder that holds photos/"):
        materials.find_photos(None, tmp_path / "repository")


def predictions(**rows: list[float]) -> agreement.Predictions:
    """Probabilities by name."""
    return {name: np.array(row, np.float32) for name, row in rows.items()}


def test_predictions_are_compared_name_by_name() -> None:
    """The order of the rows is each tool's own; what only one has counts as missing."""
    ours = predictions(a=[0.75, 0.25], b=[0.25, 0.75], c=[1.0, 0.0])
    theirs = predictions(b=[0.75, 0.25], a=[0.75, 0.25], d=[0.5, 0.5])
    assert agreement.compare(theirs, ours) == (2, 2, 0.5, 0.25, 0.5)


def test_predictions_with_nothing_in_common_are_no_agreement() -> None:
    """No photo, no share."""
    with pytest.raises(ValueError, match="no photo was predicted by both"):
        agreement.compare(predictions(a=[1.0]), predictions(b=[1.0]))


@pytest.mark.parametrize("kind", [pa.list_(pa.float32()), pa.list_(pa.float32(), 2), pa.large_list(pa.float64())])
def test_predictions_are_read_from_lists_of_any_kind(tmp_path: Path, kind: pa.DataType) -> None:
    """Ours are of fixed size, the tools' are not; files without probabilities are passed over."""
    rows = pa.array([[0.25, 0.75], [1.0, 0.0]], kind)
    (tmp_path / "deep").mkdir()
    table = pa.table({"image_path": ["file:/photos/0_a.jpg", "/photos/1_a.jpg"], "probabilities": rows})
    pq.write_table(table, tmp_path / "deep" / "part.parquet")
    pq.write_table(pa.table({"image_path": ["/photos/2_a.jpg"]}), tmp_path / "failures.parquet")
    found = agreement.read_predictions(tmp_path)
    assert {name: row.tolist() for name, row in found.items()} == {"0_a.jpg": [0.25, 0.75], "1_a.jpg": [1.0, 0.0]}
    single = agreement.one_a_photo(found)
    assert {name: row.tolist() for name, row in single.items()} == {"a.jpg": [0.25, 0.75]}
    assert agreement.top_1(single, {"a.jpg": 1}) == 1.0
    assert agreement.top_1(single, {}) is None


def test_a_photo_with_two_rows_is_refused(tmp_path: Path) -> None:
    """A tool that repeats itself has not done the same work."""
    table = pa.table({"image_path": ["/a.jpg", "/a.jpg"], "probabilities": [[1.0], [1.0]]})
    pq.write_table(table, tmp_path / "part.parquet")
    with pytest.raises(ValueError, match=r"a\.jpg has two rows"):
        agreement.read_predictions(tmp_path)


def test_a_profile_counts_functions_threads_and_callers(tmp_path: Path) -> None:
    """Threads of a pool are one; a function of ours that calls itself counts once; blanks in names are no matter."""
    stacks = [
        "thread (7): load_0;run (transforms/loading.py);decode (b.py) 3",
        "thread (8): load_1;run (transforms/loading.py);run (transforms/loading.py);read file (c.py) 1",
        "thread (9): Thread-12 (run);main (pipeline/cli.py) 4",
    ]
    (tmp_path / "folded").write_text("\n".join([*stacks, ""]), encoding="utf-8")
    assert profiles.busiest(tmp_path / "folded") == {
        "samples": 8,
        "threads": {"load": 0.5, "Thread": 0.5},
        "functions": {"main (pipeline/cli.py)": 0.5, "decode (b.py)": 0.375, "read file (c.py)": 0.125},
        "callers": {"run (transforms/loading.py)": 0.5, "main (pipeline/cli.py)": 0.5},
    }


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (["hots=5"], "no workload is called 'hots'; write host=60,120 for example"),
        (["host=many"], "write whole numbers with commas between, host=60,120 for example"),
    ],
)
def test_a_size_that_is_not_understood_is_refused(sizes: list[str], message: str) -> None:
    """By what is wrong, with an example."""
    with pytest.raises(ValueError, match=message):
        suite.choose(["host"], sizes)


def test_a_missing_peer_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is skipped with that reason, and the others are measured."""
    monkeypatch.setattr(contestants, "find_spec", lambda _: None)
    reasons = {peer.name: peer.missing() for peer in contestants.PEERS}
    assert reasons["daft"] == "daft is not installed: make bench installs it"
    assert reasons["tf-data"] is None
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", "")
    assert contestants.PEERS[-1].missing() == "there is no Java: Spark 4 needs 17 or newer"


def synthetic_results() -> dict[str, Any]:
    """Results of two rounds in which everything takes a known time."""
    runs: list[dict[str, Any]] = []

    def add(workload: str, name: str, size: int, wall: float, peak: float = 100.0, **found: Any) -> None:
        for number in (0, 1):
            slow = 1.0 + number  # the second round meets a busy machine
            found_now = {key: value * slow if key == "seconds" else value for key, value in found.items()}
            measured = {"wall_s": wall * slow, "cpu_s": wall * slow, "peak_mb": peak, "processes": 1}
            place = {"workload": workload, "contestant": name, "size": size, "round": number}
            runs.append({**place, **measured, "found": found_now})

    for size in (1000, 3000):
        add("host", "ours", size, 5 + 0.002 * size)
        add("host", "tf-data", size, 6 + 0.005 * size)
        add("host", "daft", size, 9 + 0.004 * size)
        add("host", "host-limit", size, 0.001 * size, seconds=0.001 * size, images=size)
        add("real", "ours", size, 5 + 0.010 * size)
        add("real", "host-limit-ours", size, 1 + 0.001 * size, seconds=0.001 * size, images=size)
    runs.append({**runs[0], "workload": "real", "contestant": "model-limit", "size": 3000, "found": {}})
    runs[-1]["found"] = {"images_per_second": 125.0, "batch": 16}
    add("start-up", "ours", 16, 6.0)
    add("start-up", "start-up-limit", 16, 5.0)
    add("wide", "ours", 1000, 9.0, seconds=4.0)
    add("wide", "write-limit", 1000, 9.0, seconds=3.0)
    for size in (1000, 2000, 4000):
        add("paths", "ours", size, 4.0, peak=100 + size / 1024, seconds=0.00001 * size)
    add("memory", "ours", 1000, 4.0, peak=500.0)
    add("memory", "ours", 10000, 4.0, peak=525.0)
    return {
        "machine": suite.describe_machine(),
        "settings": {"interpolation": "bicubic", "rounds": 2},
        "runs": runs,
        "agreement": [
            {
                "workload": "host",
                "contestant": "ours",
                "with_plain_road": agreement.Agreement(200, 0, 0.995, 1e-5, 1e-3)._asdict(),
                "top_1": None,
            }
        ],
        "profiles": {},
        "skipped": {"Spark": "there is no Java"},
        "failed": [{"what": "host 3000 ray round 1", "why": "ended with code 1\ntraceback"}],
    }


def test_the_report_reckons_every_limit_from_the_runs() -> None:
    """Round 2 is twice as slow for all: what is taken within a round does not move."""
    report = render(synthetic_results())
    lines = report[report.index("## Against the limits") :].splitlines()[2:]
    assert lines[: lines.index("")] == [
        "- Host path in steady state: 0.50 (0.50 to 0.50) of the rate of the libraries alone in as many threads as "
        "cores (its own stopwatch over the slope of our wall time).",
        "- CPU a photo in steady state: 0.50 (0.50 to 0.50) of ours is spent by the libraries alone.",
        "- host, end to end at 3,000 photos: 1.91 (1.91 to 1.91) times as fast as the fastest peer, tf.data by hand.",
        "- host, CPU a photo in steady state: 0.50 (0.50 to 0.50) of that of the thriftiest peer, Daft.",
        "- Real model in steady state: 0.60 (0.40 to 0.80) of the model limit (125.0 images/s at its best batch, 16).",
        "- With decoding accounted for: 0.70 (0.50 to 0.90) of the limit that model and decoder share. Both use every "
        "core, so that a photo takes at least the sum of what each takes alone.",
        "- Start-up: the whole run of 16 photos, from the command to its published end, takes 1.20 (1.20 to 1.20) "
        "times as long as a process that imports TensorFlow and loads the model.",
        "- Wide: 0.75 (0.75 to 0.75) of the write limit (both by their own stopwatch, without imports and "
        "preparation).",
        "- Paths, from 1,000 to 2,000: 15.0 microseconds and 1.00 KB of memory a path more.",
        "- Paths, from 2,000 to 4,000: 15.0 microseconds and 1.00 KB of memory a path more.",
        "- Memory: the peak at 10,000 photos is 1.05 (1.05 to 1.05) of the peak at 1,000.",
        "- Predictions, host: 99.50% of 200 photos get the same class as on the plain full-decode road; probabilities "
        "differ by 1.00e-05 on average and 1.00e-03 at most.",
    ]
    assert "- Spark: there is no Java" in report
    assert "- host 3000 ray round 1: ended with code 1" in report


def test_the_report_puts_everybody_into_one_table() -> None:
    """Medians of the rounds, ratios to ours, and the slope with its start-up."""
    lines = render(synthetic_results()).splitlines()
    assert "| score-images | 16.5 | 204.5 | 16.5 | 100 | 1 |  |  |" in lines  # 11 and 22 s for 3,000
    daft = next(line for line in lines if line.startswith("| Daft | 31.5"))  # 21 and 42 s
    assert daft.endswith("| 1.91 (1.91 to 1.91) | 1.91 (1.91 to 1.91) |")
    assert "| score-images | 3.000 | 3.000 | 7.5 | 7.5 |  |  |" in lines  # 2 and 4 ms, 5 and 10 s


@pytest.mark.parametrize("keep", [0, 1, 5, 20])
def test_the_report_of_an_interrupted_run_is_a_report(keep: int) -> None:
    """Whatever has not been measured is left out."""
    results = synthetic_results()
    assert render({**results, "runs": results["runs"][:keep]}).startswith("# Benchmarks")


def test_every_figure_of_a_limit_is_found_by_its_round() -> None:
    """At the size asked for, and else at the largest."""
    runs = Runs(synthetic_results()["runs"])
    assert runs.found("host", "host-limit", "images") == {0: 3000, 1: 3000}
    assert runs.found("host", "host-limit", "images", 1000) == {0: 1000, 1: 1000}
    assert runs.slopes("memory", "ours", "peak_mb") == pytest.approx({0: 25 / 9000, 1: 25 / 9000})
    assert runs.slopes("wide", "ours", "wall_s") == {}


@pytest.mark.parametrize("interpolation", suite.INTERPOLATIONS)
def test_the_decoder_of_the_peers_and_the_bare_limit_make_our_pixels(tmp_path: Path, interpolation: str) -> None:
    """Crop first, then resize, by the same method: whoever did something else would be measured at other work."""
    for number, size in enumerate([(500, 375), (333, 517), (224, 224)]):
        path = make_photo(tmp_path / f"{number}.jpg", number, size)
        pixels = host.ours(str(path), interpolation).astype(int)
        assert np.abs(host.bare(str(path), interpolation) - pixels).max() <= 1  # plain bilinear rounds otherwise
        assert np.abs(prepare(path.read_bytes(), interpolation) - pixels).max() <= 1


@pytest.fixture(scope="module")
def small_results(tmp_path_factory: pytest.TempPathFactory) -> suite.Results:
    """A run of the suite over six photos: ourselves, tf.data, every limit that takes seconds."""
    folder = tmp_path_factory.mktemp("bench")
    for number in range(6):
        make_photo(folder / "photos" / f"{number}.jpg", number, (300 + 7 * number, 260))
    chosen = suite.choose(["host", "wide", "paths"], ["host=6", "wide=640", "paths=500"])
    names = frozenset({"ours", "tf-data", "host-limit", "host-limit-ours", "write-limit"})
    request = suite.Request(chosen, folder / "photos", folder / "output", rounds=1, only=names, timeout_s=120)
    scratch = folder / "scratch"
    materials.free_model(scratch / "free")  # here TensorFlow has most likely been imported already
    results = suite.Suite(request, scratch).run()
    assert results.failed == []
    assert dataclasses.asdict(results) == json.loads((folder / "output" / "results.json").read_text())
    return results


@pytest.mark.heavy
def test_the_scripts_run_over_six_photos(small_results: suite.Results) -> None:
    """Everyone asked for has run once and taken time and memory."""
    ran = {(run["workload"], run["contestant"]) for run in small_results.runs}
    assert ran == {
        ("host", "ours"), ("host", "tf-data"), ("host", "host-limit"), ("host", "host-limit-ours"),
        ("wide", "ours"), ("wide", "write-limit"), ("paths", "ours"),
    }  # fmt: skip
    assert all(run["wall_s"] > 0 and run["cpu_s"] > 0 and run["peak_mb"] > 10 for run in small_results.runs)


@pytest.mark.heavy
def test_ours_and_a_peer_have_predicted_the_same_photos_alike(small_results: suite.Results) -> None:
    """All six, by the same crop and the same interpolation: every probability within a thousandth."""
    by_name = {entry["contestant"]: entry for entry in small_results.agreement}
    assert by_name["tf-data"]["with_ours"]["photos"] == 6
    assert by_name["tf-data"]["with_ours"]["missing"] == 0
    assert by_name["tf-data"]["with_ours"]["largest_difference"] < 1e-3
    assert by_name["ours"]["with_plain_road"]["largest_difference"] < 1e-5


@pytest.mark.heavy
def test_limits_count_what_they_have_done(small_results: suite.Results) -> None:
    """Rows and images are counted in what was written and decoded, not taken from the command line."""
    found = {(run["workload"], run["contestant"]): run["found"] for run in small_results.runs}
    assert found["wide", "ours"]["rows"] == found["wide", "write-limit"]["rows"] == 640
    assert found["host", "host-limit"]["images"] == 6
    paths = {key: found["paths", "ours"][key] for key in ("listed", "duplicates", "unique", "unlisted")}
    assert paths == {"listed": 500, "duplicates": 5, "unique": 495, "unlisted": 0}


def test_contestants_of_a_workload_have_names_of_their_own() -> None:
    """Figures are looked up by workload and name."""
    for workload in WORKLOADS:
        names = [one.name for one in (*workload.contestants, *workload.once)]
        assert len(set(names)) == len(names)
