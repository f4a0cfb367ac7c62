"""The part of docs/analytics.md on BigQuery, held against published files and BigQuery's rules for Parquet."""

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlglot
from sqlglot import exp

from tests.bigquery_rules import columns
from tests.published_runs import publish_scores
from tests.test_docs_analytics import DOCUMENT, RECIPES

DDL = RECIPES["BigQuery", "BigQuery table"]
EXTERNAL = RECIPES["BigQuery", "BigQuery external table"]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of independent labels with logits: every kind of column has values."""
    folder = tmp_path_factory.mktemp("bigquery")
    publish_scores(
        folder, ["/a.jpg", "/b.jpg"], [[0.9, 0.6], [0.2, 0.1]], labels=["cat", "dog"], activation="sigmoid",
        raw=[[2.0, 0.4], [-1.0, -2.0]], failed=["/c.jpg"],
    )  # fmt: skip
    return folder


def declared(statement: exp.Create) -> dict[str, str]:
    """The columns of a CREATE TABLE, types and modes as BigQuery writes them."""
    assert isinstance(statement.this, exp.Schema)
    return {column.name: column.sql(dialect="bigquery").partition(" ")[2] for column in statement.this.expressions}


@pytest.mark.parametrize(("table", "number"), [("scores", 0), ("failures", 1)])
def test_the_tables_are_what_bigquery_makes_of_our_files(table: str, number: int, published: Path) -> None:
    """The columns of the document: names, order, types and modes are those of a published file, and run_id."""
    statement = sqlglot.parse(DDL, read="bigquery")[number]
    assert isinstance(statement, exp.Create)
    (part,) = (published / table).rglob("*.parquet")
    made = columns(pq.ParquetFile(part))
    if table == "scores":
        # As the document says of results.logits.
        assert list(made)[-3:] == ["logits", "model_id", "scored_at"]
        assert made.pop("logits") == "ARRAY<FLOAT64>"
    assert list(declared(statement).items()) == [*made.items(), ("run_id", "STRING")]


def test_every_statement_is_bigquery_sql() -> None:
    """The parser knows each, none is taken for a command that it does not look into."""
    clause = "WITH PARTITION COLUMNS (run_id STRING)\n"
    assert EXTERNAL.count(clause) == 1  # the one clause that sqlglot does not know
    for text, count in ((DDL, 4), (EXTERNAL.replace(clause, ""), 2)):
        statements = sqlglot.parse(text, read="bigquery")
        assert [type(statement) for statement in statements if statement] == [exp.Create] * count


def test_names_in_statements_and_commands_fit_together() -> None:
    """Tables that are loaded, asked and deleted from are those that are created; both ways infer lists."""
    created = {
        statement.find(exp.Table).sql()
        for statement in sqlglot.parse(DDL, read="bigquery")
        if isinstance(statement, exp.Create)
    }
    assert created == {"nightly.scores", "nightly.failures", "nightly.published", "nightly.tonight"}
    (load,) = (block for block in re.findall(r"```sh\n(.*?)```", DOCUMENT, re.DOTALL) if "bq load" in block)
    assert "for TABLE in scores failures" in load
    assert '"nightly.$TABLE" "gs://bucket/scores/$TABLE/run_id=$NIGHT/*.parquet"' in load
    assert "--parquet_enable_list_inference" in load
    assert "INSERT INTO nightly.published" in load
    assert "enable_list_inference = true" in EXTERNAL


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        (pa.array([[[1]]]), "list of lists"),
        (pa.array([1], pa.timestamp("ns")), "only milliseconds and microseconds"),
        (pa.array([1], pa.uint64()), "which is not converted"),
        (pa.array([{"a b": 1}]), "no name of a column"),
    ],
)
def test_the_rules_can_be_broken(column: pa.Array, reason: str, tmp_path: Path) -> None:
    """The checker finds what BigQuery would refuse or read otherwise."""
    pq.write_table(pa.table({"x": column}), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=reason):
        columns(pq.ParquetFile(tmp_path / "x.parquet"))


def test_lists_of_two_levels_are_found(tmp_path: Path) -> None:
    """Older writers call the element `item`; inference would then give other names."""
    pq.write_table(pa.table({"x": [[1]]}), tmp_path / "x.parquet", use_compliant_nested_type=False)
    with pytest.raises(ValueError, match=r"x has no list\.element"):
        columns(pq.ParquetFile(tmp_path / "x.parquet"))
