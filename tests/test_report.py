"""The report of a run: what it says, where it lies, and that it never decides how a run has ended."""

import dataclasses
import json
import logging
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from pipeline.after import report as report_module
from pipeline.after.ended import TableFile, find_ended, read_ended
from pipeline.after.report import has_report, write_report
from pipeline.after.report_advice import Spent
from pipeline.after.report_challenger import Answers, compare_answers
from pipeline.after.report_data import throughput
from pipeline.after.report_rows import Ticks
from pipeline.cli import main
from pipeline.run_records import RunResult
from pipeline.run_report import leave_missing_report, leave_report
from pipeline.summary import summary
from tests.model_zoo import pooled_model
from tests.published_runs import publish_scores
from tests.runs import make_photo, make_photos, read_table, run_quietly, small_config, tree
from transforms.errors import ConfigError, ExitCode, InputError
from transforms.layout import RunLayout
from transforms.settings import HealthSettings

ROOT = Path(__file__).parent.parent
HOSTILE = "<script>alert(1)</script>"
NAMES = ("\"quoted\" 'photo'.png", "b\u202egnp.png", "c.png", "d.png")


class Page(HTMLParser):
    """What a browser makes of a page: its elements, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.words: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]
        assert not [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def page_of(output: Path | str, run_id: str, *, refused: bool = False) -> Page:
    """Read the page of a run."""
    return Page(Path(RunLayout(str(output), run_id).report("html", refused=refused)).read_text(encoding="utf-8"))


def json_of(output: Path | str, run_id: str, *, refused: bool = False) -> dict[str, Any]:
    """Read the report of a run as a program does."""
    path = Path(RunLayout(str(output), run_id).report("json", refused=refused))
    return dict(json.loads(path.read_text(encoding="utf-8")))


@pytest.fixture
def photos(tmp_path: Path) -> list[str]:
    """Four photos whose names want to be something else."""
    return [str(make_photo(tmp_path / "photos" / name, seed)) for seed, name in enumerate(NAMES)]


@pytest.fixture
def output(tmp_path: Path, photos: list[str]) -> Path:
    """A published run of them, without a model; one more image has failed."""
    probabilities = [[0.4, 0.35, 0.25], [0.5, 0.48, 0.02], [0.1, 0.1, 0.8], [0.02, 0.95, 0.03]]
    publish_scores(tmp_path / "out", photos, probabilities, labels=(HOSTILE, "dog", "$emu$"), top_k=3,
                   failed=[str(tmp_path / "photos" / f"{HOSTILE}.jpg")], run_id="night")  # fmt: skip
    return tmp_path / "out"


def test_the_report_says_what_the_tables_say(output: Path, photos: list[str]) -> None:
    """Ledger, class mix, the least certain first, failures with their reasons."""
    write_report(find_ended(str(output)))
    said = json_of(output, "night")
    assert (said["report_version"], said["run_id"], said["output"]) == (1, "night", str(output))
    assert said["outcome"]["published"] is True
    assert said["ledger"] == {"listed": 5, "duplicates": 0, "unique": 5, "scored": 4, "failed": 1, "skipped": 0}
    assert said["distributions"]["class_counts"] == [2, 1, 1]
    assert said["distributions"]["labels"] == [HOSTILE, "dog", "$emu$"]
    assert said["least_certain"]["by"] == "margin"
    assert [row["image_path"] for row in said["least_certain"]["images"]] == [photos[number] for number in (1, 0, 2, 3)]
    first = said["least_certain"]["images"][0]
    assert [entry["label"] for entry in first["top"]] == [HOSTILE, "dog", "$emu$"]
    assert first["margin"] == pytest.approx(0.02)
    assert said["failures"]["by_code"] == {"not_found": 1}
    assert said["failures"]["by_stage"] == [{"stage": "read", "code": "not_found", "images": 1}]
    assert [row["message"] for row in said["failures"]["examples"]] == ["gone"]
    assert said["images"]["formats"] == {"png": 4}
    assert said["time"] is None


def test_the_page_is_text_whatever_names_and_labels_want(output: Path) -> None:
    """No script, nothing fetched, no turned writing; the photos are in it."""
    page = Path(write_report(find_ended(str(output))))
    html = page.read_text(encoding="utf-8")
    seen = Page(html)
    assert "script" not in seen.tags
    assert "\u202e" not in html
    fetched = {source.partition(",")[0] for source in seen.sources if not source.startswith("#")}
    assert fetched == {"data:", "data:image/jpeg;base64"}
    assert seen.tags.count("img") == 4
    for word in (HOSTILE, "$emu$", "\"quoted\" 'photo'.png", "b\\u202egnp.png", "not_found", "gone"):
        assert word in seen.text, word
    assert "this report was made after the run" in seen.text


def test_without_pictures_the_images_are_told(output: Path) -> None:
    """report.thumbnails: 0 shows no image to whoever may read the report."""
    write_report(find_ended(str(output)), thumbnails=0)
    page = page_of(output, "night")
    assert "img" not in page.tags
    assert "c.png" in page.text
    assert len(json_of(output, "night")["least_certain"]["images"]) == 4


def test_labels_that_do_not_exclude_each_other_are_uncertain_by_entropy(tmp_path: Path, photos: list[str]) -> None:
    """Two labels may both be right: a small margin says nothing."""
    probabilities = [[0.99, 0.98, 0.99], [0.5, 0.6, 0.4], [0.01, 0.02, 0.01], [0.9, 0.1, 0.2]]
    publish_scores(tmp_path / "out", photos, probabilities, activation="sigmoid", run_id="night")
    write_report(find_ended(str(tmp_path / "out")))
    least = json_of(tmp_path / "out", "night")["least_certain"]
    assert (least["by"], least["images"][0]["image_path"]) == ("entropy", photos[1])
    assert "of the largest entropy" in page_of(tmp_path / "out", "night").text


def test_a_refused_run_has_a_report_of_its_staged_rows(tmp_path: Path, photos: list[str]) -> None:
    """The on-call engineer sees why; it lies beside refused.json under a name of its own."""
    outcome = publish_scores(tmp_path / "out", photos, [[0.4, 0.6]] * 4, failed=["/x/a.jpg", "/x/b.jpg"],
                             max_failure_rate=0.1, run_id="night")  # fmt: skip
    assert outcome.exit_code is ExitCode.TOO_MANY_FAILURES
    for found in (find_ended(str(tmp_path / "out"), "night"), find_ended(str(tmp_path / "out" / "runs" / "night"))):
        assert write_report(found) == str(tmp_path / "out" / "runs" / "night" / "refused_report.html")
    said = json_of(tmp_path / "out", "night", refused=True)
    assert (said["outcome"]["published"], said["outcome"]["exit_code"]) == (False, 3)
    assert (said["distributions"]["rows"], said["failures"]["by_code"]) == (4, {"not_found": 2})
    page = page_of(tmp_path / "out", "night", refused=True)
    assert "refused: too many failures" in page.text
    assert "limits.max_failure_rate allows 10.00%" in page.text


@pytest.mark.parametrize("on_drift", ["warn", "refuse"])
def test_the_report_says_what_the_health_gate_found(tmp_path: Path, on_drift: Literal["warn", "refuse"]) -> None:
    """Published or refused: what moved, beside the share that it had."""
    for run_id, cats in (("monday", 30), ("tuesday", 10)):
        probabilities = [[0.9, 0.1]] * cats + [[0.2, 0.8]] * (40 - cats)
        health = HealthSettings(baseline="latest", min_images=10, on_drift=on_drift)
        paths = [f"/{number}.png" for number in range(40)]
        publish_scores(tmp_path, paths, probabilities, labels=(HOSTILE, "dog"), run_id=run_id, health=health)
    run = find_ended(str(tmp_path), "tuesday")
    write_report(run, thumbnails=0)
    assert run.refused == (on_drift == "refuse")
    said = json_of(tmp_path, "tuesday", refused=run.refused)
    assert said["health"]["baseline"] == "monday"
    page = page_of(tmp_path, "tuesday", refused=run.refused).text
    assert "The answers have drifted from run monday" in page
    assert "75% → 25%" in page
    assert ("refused: the health gate is closed" in page) == run.refused
    assert ("published, drifted" in page) != run.refused
    write_report(find_ended(str(tmp_path), "monday"), thumbnails=0)
    assert "The answers are not judged: " in page_of(tmp_path, "monday").text


def test_a_run_that_was_published_in_spite_of_its_drift_says_so_first(tmp_path: Path) -> None:
    """Not a green "published": somebody has overridden the gate."""
    paths = [f"/{number}.png" for number in range(40)]
    health = HealthSettings(baseline="latest", min_images=10, on_drift="refuse")
    for run_id, cats in (("monday", 30), ("tuesday", 10)):
        probabilities = [[0.9, 0.1]] * cats + [[0.2, 0.8]] * (40 - cats)
        publish_scores(tmp_path, paths, probabilities, run_id=run_id, health=health, publish_anyway=True)
    write_report(find_ended(str(tmp_path), "tuesday"), thumbnails=0)
    page = page_of(tmp_path, "tuesday").text
    assert "Run tuesday published in spite of the health gate" in page
    assert "The answers have drifted from run monday" in page


def test_small_means_are_those_of_the_rows(tmp_path: Path) -> None:
    """Of a thousand classes the margins may all lie in the first bin of a hundred: its middle is not their mean."""
    probabilities = [[0.001, 0.0008, *[0.9982 / 998] * 998]] * 3
    publish_scores(tmp_path, [f"/{number}.png" for number in range(3)], probabilities, top_k=2)
    write_report(find_ended(str(tmp_path)), thumbnails=0)
    said = json_of(tmp_path, "night")["means"]
    expected = 0.9982 / 998
    assert said["confidence"] == pytest.approx(expected, rel=1e-5)
    assert said["margin"] == pytest.approx(0, abs=1e-6)
    assert "0.001 in the mean" in page_of(tmp_path, "night").text


def test_the_report_compares_a_challenger(tmp_path: Path) -> None:
    """By the names of the classes, image by image, in whatever order the rows are; failed ones are not compared."""
    paths = [f"/{number}.png" for number in range(6)]
    sure = [[0.9, 0.1]] * 3 + [[0.2, 0.8]] * 3
    publish_scores(tmp_path / "a", paths, sure, labels=("cat", HOSTILE))
    # The challenger knows the classes in another order, has not scored the first image and says cat of the last.
    theirs = [[0.9, 0.1, 0.0]] * 2 + [[0.1, 0.7, 0.2]] * 2 + [[0.0, 0.8, 0.2]]
    some = [paths[number] for number in (4, 3, 2, 1, 5)]
    publish_scores(tmp_path / "b", some, theirs, labels=(HOSTILE, "cat", "emu"), model_id="rival@2")
    run, rival = (find_ended(str(tmp_path / name)) for name in "ab")
    files = [TableFile(f"{file.table}_challenger", file.path, file.rows) for file in rival.files]
    facts = {**run.facts, "challenger": {"failures_by_code": {"model_error": 1}}}
    write_report(dataclasses.replace(run, files=(*run.files, *files), facts=facts), thumbnails=0)
    found = json_of(tmp_path / "a", "night")["challenger"]
    assert found.pop("distributions")["rows"] == 5
    assert found == {
        "model_id": "rival@2",
        "failures_by_code": {"model_error": 1},
        "compared_images": 5,
        "agreeing_images": 4,
        "flips": [{"label": HOSTILE, "challenger_label": "cat", "images": 1}],
    }
    page = page_of(tmp_path / "a", "night").text
    assert "rival@2 has scored the same images." in page
    assert "80% agree of 5 compared" in page
    assert "1 failed 1 model_error" in page
    assert "Where they differ" in page
    table = (ROOT / "docs" / "report.md").read_text(encoding="utf-8").split("## report.json")[1]
    assert all(f"`{key}`" in table for key in (*found, *found["flips"][0], "distributions"))


def test_of_many_images_a_sample_of_the_same_is_compared(tmp_path: Path) -> None:
    """Sampled by their paths: each is found in both tables."""
    paths = [f"/{number}.png" for number in range(400)]
    for name, order in (("a", paths), ("b", paths[::-1])):
        publish_scores(tmp_path / name, order, [[0.9, 0.1]] * 400, group_rows=100)
    first, second = (Answers(find_ended(str(tmp_path / name)).paths("scores"), ("0", "1"), 400) for name in "ab")
    found = compare_answers(first, second, most=100)
    assert 50 < found["compared_images"] < 200
    assert found["agreeing_images"] == found["compared_images"]
    nothing = Answers((), (), 0)
    assert compare_answers(nothing, second)["compared_images"] == 0
    assert compare_answers(first, nothing)["compared_images"] == 0


def test_an_attempt_that_found_everything_done_draws_no_empty_chart(output: Path) -> None:
    """A gate that is overridden scores nothing again: no step took time, and 0 images a second is no pace."""
    run = find_ended(str(output))
    write_report(run, Spent({}, 8.4, 1.6, 0, 25, on_gpu=False))
    page = Path(run.layout.report("html", refused=False)).read_text(encoding="utf-8")
    assert "25 images were scored by an earlier attempt" in page
    assert "Time of the steps" not in page
    assert "images a second</span>" not in page
    write_report(run, Spent({"model_ms": 900}, 8.4, 1.6, 25, 0, on_gpu=False))
    page = Path(run.layout.report("html", refused=False)).read_text(encoding="utf-8")
    assert "Time of the steps" in page
    assert "images a second</span>" in page


def test_a_night_on_which_everything_failed_has_a_report(tmp_path: Path) -> None:
    """Refused without a file of scores, or published with one of no rows."""
    empty = np.zeros((0, 2), np.float32)
    publish_scores(tmp_path / "a", [], empty, failed=["/x/a.jpg"], max_failure_rate=0.1, run_id="night")
    publish_scores(tmp_path / "b", [], empty, failed=["/x/a.jpg"], run_id="night")
    write_report(find_ended(str(tmp_path / "a"), "night"))
    write_report(find_ended(str(tmp_path / "b")))
    assert json_of(tmp_path / "a", "night", refused=True)["distributions"]["labels"] == []
    assert json_of(tmp_path / "b", "night")["images"]["bytes"]["min"] is None
    assert "What the model said" not in page_of(tmp_path / "b", "night").text


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda out: (out / "runs" / "night" / "manifest.json").write_text("{"), "manifest.json cannot be read"),
        (lambda out: (out / "runs" / "night" / "manifest.json").write_text('{"manifest_version": 1}'),
         "manifest.json is damaged or of another version; score-images verify says"),
        (lambda out: (out / "scores" / "run_id=night" / "part-00000-of-00001.parquet").unlink(), "cannot be read"),
        (lambda out: (out / "failures" / "run_id=night" / "part-00000-of-00001.parquet").write_bytes(b"PAR1"),
         "the report of run night cannot be made: .*score-images report makes it again"),
        (lambda out: (out / "runs" / "night" / "_SUCCESS").unlink(), "is not published: it is under way, or it broke"),
    ],
)  # fmt: skip
def test_a_damaged_run_is_one_line(output: Path, spoil: Callable[[Path], object], message: str) -> None:
    """What is wrong and what to do; exit code 2 for the command."""
    spoil(output)
    with pytest.raises(ConfigError, match=message):
        write_report(find_ended(str(output)))
    assert main(["report", str(output)]) == 2


def test_a_folder_of_refused_runs_says_how_to_name_one(tmp_path: Path) -> None:
    """There is no newest published run, and the refused one is what somebody wants to see."""
    publish_scores(tmp_path, ["/a.png"], [[0.4, 0.6]], failed=["/b.png"], max_failure_rate=0.1, run_id="night")
    with pytest.raises(InputError, match="none was ever published .*--run-id names a run that was refused"):
        find_ended(str(tmp_path))


def test_a_run_that_is_not_there_is_named(output: Path) -> None:
    """By output and id."""
    with pytest.raises(InputError, match="there is no run day in"):
        find_ended(str(output), "day")
    with pytest.raises(ConfigError, match="run id '../x' is not allowed"):
        find_ended(str(output), "../x")


def test_the_command_makes_the_report_and_says_where(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line; a wrong number of pictures is refused."""
    assert main(["report", str(output), "--thumbnails", "1"]) == 0
    assert capsys.readouterr().out == f"{output}/runs/night/report.html\n"
    assert page_of(output, "night").tags.count("img") == 1
    assert main(["report", str(output), "--thumbnails", "201"]) == 2
    assert "--thumbnails must be 0 to 200, got 201" in capsys.readouterr().err


def test_every_key_of_the_report_is_documented(night: RunResult) -> None:
    """Those of report.json, and of what is in it; and the document names no key that is not there."""
    said = json_of(night.layout.output, night.layout.run_id)
    # So short a run may have no pace.
    ticks = Ticks()
    ticks.add(np.arange(10, dtype=np.int64) * 1_000_000)
    said["throughput"] = throughput(ticks)
    table = (ROOT / "docs" / "report.md").read_text(encoding="utf-8").split("## report.json")[1]
    documented = set(re.findall(r"`([a-z_]+)`", table))
    keys = set(said)
    for name in (
        "outcome",
        "ledger",
        "time",
        "throughput",
        "failures",
        "distributions",
        "least_certain",
        "images",
        "run",
    ):
        keys |= set(said[name] or {})
    inner = (said["time"]["busy"], said["time"]["thread_seconds"], said["images"]["bytes"], said["images"]["pixels"],
             said["failures"]["examples"][0], said["failures"]["by_stage"][0], said["least_certain"]["images"][0],
             said["least_certain"]["images"][0]["top"][0], said["distributions"]["margin"])  # fmt: skip
    keys = keys.union(*inner)
    # No challenger has scored these: another test looks at its keys.
    keys |= {"failures_by_code", "compared_images", "agreeing_images", "flips", "challenger_label", "model_id"}
    assert documented - keys <= {"null"}
    assert keys <= documented


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small SavedModel."""
    return pooled_model(tmp_path_factory.mktemp("model") / "pooled")


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory, model: Path) -> RunResult:
    """A whole run of 20 photos, one of them damaged, with its report."""
    folder = tmp_path_factory.mktemp("night")
    make_photos(folder / "photos", 20)
    (folder / "photos" / "bad.png").write_bytes(b"no image")
    config = small_config(model, report={"enabled": True, "thumbnails": 4}, limits={"max_failure_rate": 0.5},
                          load={"threads": 1})  # fmt: skip
    return run_quietly(config, [folder / "photos"], folder / "out", run_id="night")


def test_a_run_leaves_its_report(night: RunResult) -> None:
    """With what its launcher has counted; the summary says where; verify finds nothing to say against it."""
    layout = night.layout
    assert night.report == layout.report("html", refused=False)
    assert f"  report    {night.report}" in summary(night).splitlines()
    said = json_of(layout.output, layout.run_id)
    assert said["time"]["counters"] == dict(sorted(night.counts.items()))
    assert said["time"]["images"] == 21
    assert set(said["time"]["busy"]) == {"load", "device", "write"}
    assert 0 < said["time"]["busy"]["load"] <= 1.01
    assert 0 < said["time"]["busy"]["device"] <= 1.01
    manifest = json.loads(Path(layout.manifest).read_text())
    assert said["run"]["config"] == manifest["config"]
    assert said["run"]["fingerprints"] == manifest["fingerprints"]
    margins = read_table(layout, "scores").column("margin").to_pylist()
    assert [row["margin"] for row in said["least_certain"]["images"]] == sorted(margins)[:4]
    assert page_of(layout.output, layout.run_id).tags.count("img") == 4
    assert main(["verify", layout.output]) == 0


def test_a_counter_of_two_steps_is_their_sum(night: RunResult) -> None:
    """Both tables are written, each by a step of its own: bytes and time are those of both."""
    manifest = json.loads(Path(night.layout.manifest).read_text(encoding="utf-8"))
    assert {entry["table"] for entry in manifest["files"]} == {"scores", "failures"}
    assert night.counts["write_bytes"] == sum(entry["size_bytes"] for entry in manifest["files"])
    own = night.counts["write_scores_ms"] + night.counts["write_failures_ms"]
    assert night.counts["write_ms"] == pytest.approx(own, abs=4)  # each is cut to whole milliseconds


def test_making_a_report_again_keeps_what_the_launcher_counted(night: RunResult) -> None:
    """Nothing but the time of the report is different."""
    layout = night.layout
    before = json_of(layout.output, layout.run_id)
    assert main(["report", layout.output]) == 0
    again = json_of(layout.output, layout.run_id)
    assert {**again, "made_at": None} == {**before, "made_at": None}


def test_a_published_run_without_a_report_gets_it_by_running_again(night: RunResult, model: Path) -> None:
    """Its launcher has died before; one that has it keeps it, byte for byte."""
    layout = night.layout
    folder = Path(layout.output).parent
    config = small_config(model, report={"enabled": True, "thumbnails": 4}, limits={"max_failure_rate": 0.5},
                          load={"threads": 1})  # fmt: skip
    before = tree(folder)
    result = run_quietly(config, [folder / "photos"], folder / "out", run_id="night")
    assert tree(folder) == before
    assert summary(result).splitlines()[1:] == [f"  report    {layout.report('html', refused=False)}"]
    kept = {path: Path(path).read_bytes() for path in layout.reports}
    try:
        for path in layout.reports:
            Path(path).unlink()
        result = run_quietly(config, [folder / "photos"], folder / "out", run_id="night")
        assert result.report == layout.report("html", refused=False)
        assert json_of(layout.output, "night")["time"] is None
        off = config.model_copy(update={"report": config.report.model_copy(update={"enabled": False})})
        assert run_quietly(off, [folder / "photos"], folder / "out", run_id="night").report is None
    finally:
        for path, content in kept.items():
            Path(path).write_bytes(content)


def test_a_replacement_takes_the_report_of_what_it_replaces(tmp_path: Path, model: Path) -> None:
    """Never lies one of other rows beside a manifest; a refused replacement leaves both as they are."""
    make_photos(tmp_path / "photos", 4)
    config = small_config(model, report={"enabled": True})
    layout = run_quietly(config, [tmp_path / "photos"], tmp_path / "out", run_id="night").layout
    before = [Path(path).read_bytes() for path in layout.reports]
    (tmp_path / "photos" / "bad.png").write_bytes(b"no image")
    refused = run_quietly(config, [tmp_path / "photos"], tmp_path / "out", run_id="night", overwrite=True)
    assert refused.outcome.exit_code is ExitCode.TOO_MANY_FAILURES
    assert refused.report == layout.report("html", refused=True)
    assert f"  report    {refused.report}" in summary(refused).splitlines()
    assert [Path(path).read_bytes() for path in layout.reports] == before
    assert has_report(read_ended(layout, refused=False))
    again = {"run_id": "night", "overwrite": True, "publish_anyway": True}
    replaced = run_quietly(small_config(model), [tmp_path / "photos"], tmp_path / "out", **again)
    assert replaced.outcome.exit_code is ExitCode.PUBLISHED
    assert sorted(path.name for path in Path(layout.run_folder).iterdir()) == ["_SUCCESS", "manifest.json"]


@pytest.mark.parametrize("error", [OSError("the disk is full"), KeyboardInterrupt(), MemoryError()])
def test_a_report_that_cannot_be_made_changes_nothing(
    output: Path, error: BaseException, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is raised into the end of a run; a warning says how to make it."""

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(report_module, "collect", fail)
    layout = RunLayout(str(output), "night")
    with caplog.at_level(logging.WARNING):
        assert leave_report(layout, Spent({}, 1.0, 1.0, 5, 0, on_gpu=False), refused=False) is None
        assert leave_missing_report(layout) is None
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    for line in told:
        assert line.startswith("run night has no report: ")
        assert line.endswith(f"make it with: score-images report {output} --run-id night")
