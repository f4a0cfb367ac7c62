"""Every recipe of docs/analytics.md, run on published nights, gives what a slow computation of the same gives."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import pytest
import sqlglot
from sqlglot import exp

from tests.analyst_nights import BROKEN_OFF, LABELS, NIGHTS, REFUSED, Night, publish_week, write_truth
from tests.published_runs import publish_scores

ROOT = Path(__file__).parent.parent
DOCUMENT = (ROOT / "docs" / "analytics.md").read_text(encoding="utf-8")
OPEN = "Open the tables"
TOOLS = ("DuckDB", "Spark", "BigQuery", "Polars", "pandas")

Rows = list[tuple[Any, ...]]


def recipes() -> dict[tuple[str, str], str]:
    """The text of each block by (question, tool); a block for several tools has an entry for each."""
    found = {}
    for section in re.split(r"^## ", DOCUMENT, flags=re.MULTILINE)[1:]:
        question = section.splitlines()[0]
        for tools, text in re.findall(r"^\*\*([^*]+)\*\*\n\n```(?:sql|python)\n(.*?)```", section, re.M | re.DOTALL):
            found.update({(question, tool.strip()): text for tool in tools.split(",")})
    return found


RECIPES = recipes()


class Week(NamedTuple):
    """Where the nights lie, and what is in them."""

    folder: Path
    nights: tuple[Night, ...]
    truth: dict[str, str]

    @property
    def tonight(self) -> Night:
        """The newest."""
        return self.nights[-1]


@pytest.fixture(scope="module")
def week(tmp_path_factory: pytest.TempPathFactory) -> Week:
    """The folder that the document assumes: scores/ and truth.csv."""
    folder = tmp_path_factory.mktemp("analytics")
    return Week(folder, publish_week(folder / "scores"), write_truth(folder / "truth.csv"))


def top_k(week: Week) -> Rows:
    """Sort every image's three probabilities."""
    rows: Rows = []
    for path, p in zip(week.tonight.paths, week.tonight.probabilities.tolist(), strict=True):
        order = sorted(range(3), key=lambda c: (-p[c], c))
        rows += [(path, rank, LABELS[c], p[c]) for rank, c in enumerate(order[:2], 1)]
    return rows


def least_certain(week: Week) -> Rows:
    """Compute every margin and entropy in float64."""
    rows = []
    for path, p in zip(week.tonight.paths, week.tonight.probabilities.tolist(), strict=True):
        first, second, _ = sorted(p, reverse=True)
        entropy = -sum(x * math.log(x) for x in p if x)
        rows.append((path, LABELS[p.index(first)], first, first - second, entropy))
    return sorted(rows, key=lambda row: (row[3], row[0]))[:20]


def flips(week: Week) -> Rows:
    """Look every image of the last night up in the one before."""
    before, after = week.nights[-2:]
    rows = []
    for path, new, p in zip(after.paths, after.predicted, after.probabilities.tolist(), strict=True):
        if path in before.paths:
            place = before.paths.index(path)
            old = before.predicted[place]
            if old != new:
                rows.append((path, LABELS[old], LABELS[new], p[new] - float(before.probabilities[place, old])))
    return rows


def sweep(week: Week) -> Rows:
    """Count for each threshold anew."""
    rows = []
    for threshold in (0.4, 0.5, 0.6, 0.7, 0.8):
        right = [
            LABELS[c] == week.truth[path]
            for path, c, p in zip(week.tonight.paths, week.tonight.predicted, week.tonight.probabilities, strict=True)
            if path in week.truth and p[c] >= threshold
        ]
        rows.append((threshold, len(right), sum(right) / len(right)))
    return rows


def confusions(week: Week) -> Rows:
    """Count pairs."""
    pairs = Counter(
        (week.truth[path], LABELS[c])
        for path, c in zip(week.tonight.paths, week.tonight.predicted, strict=True)
        if path in week.truth and week.truth[path] != LABELS[c]
    )
    return sorted(((*pair, images) for pair, images in pairs.items()), key=lambda row: (-row[2], row[0], row[1]))


def drift(week: Week) -> Rows:
    """Sum the PSI class by class."""
    shares = [[max(night.predicted.count(c) / len(night.paths), 1e-4) for c in range(3)] for night in week.nights]
    return [
        (night.run_id, sum((s - f) * math.log(s / f) for s, f in zip(share, shares[0], strict=True)))
        for night, share in zip(week.nights, shares, strict=True)
    ]


def newest(week: Week) -> Rows:
    """Let every night overwrite the one before."""
    state = {}
    for night in week.nights:
        for path, c, p in zip(night.paths, night.predicted, night.probabilities.tolist(), strict=True):
            state[path] = (path, LABELS[c], p[c], night.run_id)
    return [state[path] for path in sorted(state)]


def failures(week: Week) -> Rows:
    """Count the codes of three nights."""
    rows = []
    for night in week.nights[4:]:
        codes = Counter(night.failed.values())
        examples = {code: min(path for path, c in night.failed.items() if c == code) for code in codes}
        for code, images in sorted(codes.items(), key=lambda item: (-item[1], item[0])):
            rows.append((night.run_id, str(code), images, examples[code]))
    return rows


def one_class(week: Week) -> Rows:
    """Take the third probability."""
    pairs = zip(week.tonight.paths, week.tonight.probabilities.tolist(), strict=True)
    return [(path, p[2]) for path, p in pairs if p[2] >= 0.3]


SLOW = {
    "The top-k, a row a class": top_k,
    "The least certain images": least_certain,
    "Two nights: which images changed their class": flips,
    "Threshold sweep": sweep,
    "Confusions with the ground truth": confusions,
    "Drift over a week": drift,
    "The newest row of every image": newest,
    "Failures by code": failures,
    "The probability of one class": one_class,
}


def check(found: Iterable[Sequence[Any]], expected: Rows) -> None:
    """Compare rows in order: texts and counts exactly, other numbers to float32's precision."""
    rows = [tuple(row) for row in found]
    assert len(rows) == len(expected) > 1
    for row, want in zip(rows, expected, strict=True):
        assert len(row) == len(want)
        for value, wanted in zip(row, want, strict=True):
            if isinstance(wanted, float):
                assert float(value) == pytest.approx(wanted, rel=1e-5, abs=1e-6), (row, want)
            else:
                assert value == wanted, (row, want)


def test_every_question_is_answered_for_every_tool() -> None:
    """No recipe is without a test, and no question without a recipe for each tool."""
    assert {question for question, _ in RECIPES} == {*SLOW, OPEN, "BigQuery", "Exports"}
    for question in SLOW:
        assert {tool for q, tool in RECIPES if q == question} >= set(TOOLS), question


@pytest.fixture(scope="module")
def database(week: Week) -> Iterator[duckdb.DuckDBPyConnection]:
    """DuckDB with the views of the document."""
    opening = RECIPES[OPEN, "DuckDB"]
    # Relative names in a view are looked up when it is asked: no test changes the folder of the process for it.
    opening = opening.replace("'scores/", f"'{week.folder}/scores/").replace(
        "'truth.csv'", f"'{week.folder}/truth.csv'"
    )
    with duckdb.connect() as connection:
        connection.execute(opening)
        yield connection


@pytest.mark.parametrize("question", SLOW)
def test_the_recipe_for_duckdb_is_right(question: str, week: Week, database: duckdb.DuckDBPyConnection) -> None:
    """Its rows are those of the slow computation."""
    check(database.execute(RECIPES[question, "DuckDB"]).fetchall(), SLOW[question](week))


@pytest.mark.parametrize("question", SLOW)
def test_the_recipe_for_bigquery_is_right(question: str, week: Week, database: duckdb.DuckDBPyConnection) -> None:
    """It parses as BigQuery's SQL, and what it says, said in DuckDB's, gives the rows of the slow computation."""
    (statement,) = sqlglot.parse(RECIPES[question, "BigQuery"], read="bigquery")
    assert isinstance(statement, exp.Select)
    check(database.execute(statement.sql(dialect="duckdb")).fetchall(), SLOW[question](week))


@pytest.mark.parametrize("question", SLOW)
@pytest.mark.parametrize("tool", ["Polars", "pandas"])
def test_the_recipe_in_python_is_right(tool: str, question: str, week: Week, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its `result` holds the rows of the slow computation."""
    monkeypatch.chdir(week.folder)
    names: dict[str, Any] = {}
    exec(compile(RECIPES[OPEN, tool], f"{OPEN}, {tool}", "exec"), names)  # noqa: S102  it is our own text
    exec(compile(RECIPES[question, tool], f"{question}, {tool}", "exec"), names)  # noqa: S102
    result = names["result"]
    check(result.rows() if tool == "Polars" else result.itertuples(index=False), SLOW[question](week))


def test_the_labels_are_read_from_a_file(week: Week, monkeypatch: pytest.MonkeyPatch) -> None:
    """The class that the recipes name by its index has that index."""
    monkeypatch.chdir(week.folder)
    names: dict[str, Any] = {}
    exec(RECIPES["The probability of one class", "pyarrow"], names)  # noqa: S102  it is our own text
    assert names["result"] == LABELS.index("owl") == 2


def test_runs_with_and_without_logits_are_read_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the options that the document names, and not without: either order of the files."""
    publish_scores(tmp_path / "scores", ["/a"], [[0.2, 0.8]], run_id="b-without")
    for run_id in ("a-with", "c-with"):
        publish_scores(tmp_path / "scores", ["/a"], [[0.2, 0.8]], raw=[[1, 2]], run_id=run_id)
    (tmp_path / "truth.csv").write_text("image_path,label\n/a,0\n")
    monkeypatch.chdir(tmp_path)
    option, options = re.findall(r"needs `([^`]+)`, and Polars' `scan_parquet` `([^`]+)`", DOCUMENT)[0]
    opening = RECIPES[OPEN, "DuckDB"]
    with duckdb.connect() as connection:
        with pytest.raises(duckdb.InvalidInputException, match="schema mismatch"):
            connection.execute(opening + "SELECT * FROM scores").fetchall()
        connection.execute(opening.replace("hive_partitioning = true", f"hive_partitioning = true, {option}"))
        assert connection.execute("SELECT count(*), count(logits) FROM scores").fetchall() == [(3, 2)]
    names: dict[str, Any] = {}
    opening = RECIPES[OPEN, "Polars"]
    exec(opening.replace("hive_partitioning=True", f"hive_partitioning=True, {options}"), names)  # noqa: S102
    assert names["scores"].select("run_id", "logits").collect()["logits"].null_count() == 1


def test_the_week_has_what_the_recipes_must_get_right(week: Week) -> None:
    """A night lacks a class, rows of unpublished runs lie about, and the last nights have drifted."""
    assert week.nights[2].predicted.count(1) == 0
    assert (week.folder / "scores" / "scores" / f"run_id={BROKEN_OFF}").exists()
    assert not (week.folder / "scores" / "scores" / f"run_id={REFUSED}").exists()
    assert drift(week)[1][1] < 0.2 < drift(week)[-1][1]
    assert json.loads((week.folder / "scores" / "latest.json").read_text())["run_id"] == NIGHTS[-1]


_SPARK = """
import json, sys
opening, questions = json.load(sys.stdin)
names = {}
exec(opening, names)
spark = names["spark"]
assert spark.conf.get("spark.sql.sources.partitionColumnTypeInference.enabled") == "false"
found = {
    question: [tuple(row) for row in spark.sql(text.rstrip().rstrip(";")).collect()] for question, text in questions
}
print(json.dumps(found, default=float))
spark.stop()
"""


@pytest.mark.heavy
@pytest.mark.timeout(660)
@pytest.mark.skipif(shutil.which("java") is None, reason="Spark needs Java")
def test_the_recipes_for_spark_are_right(week: Week) -> None:
    """PySpark, one thread: each statement gives the rows of the slow computation."""
    questions = [(question, RECIPES[question, "Spark"]) for question in SLOW]
    options = "--master local[1] --conf spark.ui.enabled=false --conf spark.sql.shuffle.partitions=1 pyspark-shell"
    done = subprocess.run(
        [sys.executable, "-c", _SPARK],
        input=json.dumps([RECIPES[OPEN, "Spark"], questions]),
        capture_output=True, text=True, cwd=week.folder, timeout=600, check=False,
        env={**os.environ, "PYSPARK_SUBMIT_ARGS": options, "PYSPARK_PYTHON": sys.executable},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    for question in SLOW:
        check(found[question], SLOW[question](week))
