"""What is counted of a run's answers: exact counts, sums of parts, JSON there and back, damaged tables refused."""

import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.published_runs import publish_scores
from transforms import distributions
from transforms.distributions import BINS, COLUMNS, Distributions, count, empty, entropy_edges, measure
from transforms.probabilities import sigmoid, softmax, summarise

LABELS = ("cat", "dog", "cow")


def batch_of(probabilities: np.ndarray, *, independent: bool = False) -> pa.RecordBatch:
    """The four columns, as scoring computes them."""
    summary = summarise(probabilities, 1, independent=independent)
    columns = (summary.top_k.index[:, 0], summary.top_k.probability[:, 0], summary.margin, summary.entropy)
    return pa.record_batch([pa.array(column) for column in columns], names=list(COLUMNS))


def told(found: Distributions) -> str:
    """Everything that it says, to compare two by."""
    return json.dumps(found.to_json())


def random_probabilities(seed: int, rows: int, classes: int = 3) -> np.ndarray:
    """float32[rows, classes], some decided and some not."""
    return softmax(np.random.default_rng(seed).normal(0, 3, (rows, classes)))


def test_every_row_is_counted_in_its_bin() -> None:
    """Two rows by hand: classes, top-1 0.5 and 1.0, margin 0.25 and 1.0, entropy 1.04 and 0."""
    found = count(batch_of(np.array([[0.25, 0.5, 0.25], [1, 0, 0]], np.float32)), LABELS, independent=False)
    assert found.rows == 2
    assert found.by_label() == {"cat": 1, "dog": 1, "cow": 0}
    assert np.flatnonzero(found.confidence.counts).tolist() == [50, 99]
    assert np.flatnonzero(found.margin.counts).tolist() == [25, 99]
    entropy = -(0.5 * math.log(0.5) + 0.5 * math.log(0.25))
    assert np.flatnonzero(found.entropy.counts).tolist() == [0, int(entropy / math.log(3) * BINS)]


@given(st.integers(0, 2**32 - 1), st.integers(0, 50), st.booleans())
def test_counts_are_those_of_numpys_histogram(seed: int, rows: int, independent: bool) -> None:
    """Of each column, over the edges that it states; no row outside of them."""
    logits = np.random.default_rng(seed).normal(0, 4, (rows, 5))
    batch = batch_of((sigmoid if independent else softmax)(logits), independent=independent)
    found = count(batch, "abcde", independent=independent)
    for name, histogram in zip(COLUMNS[1:], (found.confidence, found.margin, found.entropy), strict=True):
        values = np.asarray(batch.column(name), np.float64)
        assert values.max(initial=0) <= histogram.edges[-1] + 1e-6
        expected = np.histogram(np.clip(values, histogram.edges[0], histogram.edges[-1]), histogram.edges)[0]
        assert histogram.counts.tolist() == expected.tolist()
    assert found.class_counts.tolist() == np.bincount(batch.column("predicted_index"), minlength=5).tolist()


@given(st.lists(st.integers(0, 9), max_size=4), st.integers(0, 2**32 - 1))
def test_parts_add_up_to_the_whole(sizes: list[int], seed: int) -> None:
    """However the rows are cut."""
    batch = batch_of(random_probabilities(seed, sum(sizes)))
    total = empty(LABELS, independent=False)
    start = 0
    for size in sizes:
        total += count(batch.slice(start, size), LABELS, independent=False)
        start += size
    assert told(total) == told(count(batch, LABELS, independent=False))


@given(st.integers(0, 2**32 - 1), st.integers(0, 30))
def test_json_leads_there_and_back(seed: int, rows: int) -> None:
    """Through text, as a manifest holds it."""
    found = count(batch_of(random_probabilities(seed, rows)), LABELS, independent=False)
    assert told(Distributions.from_json(json.loads(told(found)))) == told(found)


@pytest.mark.parametrize("num_classes", [1, 2, 1000])
def test_entropy_has_bins_up_to_its_greatest_value(num_classes: int) -> None:
    """Equal steps up to ln C of classes that exclude each other, C ln 2 of labels, where low ones are closer."""
    exclusive = entropy_edges(num_classes, independent=False)
    assert exclusive[[0, -1]].tolist() == pytest.approx([0, math.log(max(num_classes, 2))])
    independent = entropy_edges(num_classes, independent=True)
    assert independent[-1] == pytest.approx(num_classes * math.log(2))
    assert (np.diff(independent, 2) > 0).all()


def test_labels_that_two_classes_share_are_one() -> None:
    """ImageNet has two cranes."""
    found = count(batch_of(np.eye(3, dtype=np.float32)), ("crane", "cat", "crane"), independent=False)
    assert found.by_label() == {"crane": 2, "cat": 1}


def test_distributions_over_other_labels_do_not_add_up() -> None:
    """Compared they can be, by label; added they mean nothing."""
    with pytest.raises(ValueError, match="over different labels do not add up: compare them by label"):
        empty(LABELS, independent=False) + empty(LABELS[:2], independent=False)


def test_files_are_measured_as_their_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many row groups and batches, several files: the sum of all rows."""
    monkeypatch.setattr(distributions, "_BATCH_ROWS", 3)
    tables = [random_probabilities(seed, 11) for seed in range(6)]
    files = []
    for number, probabilities in enumerate(tables):
        publish_scores(tmp_path, [f"{i}.png" for i in range(11)], probabilities, labels=LABELS, run_id=f"n{number}")
        files += [str(path) for path in (tmp_path / "scores" / f"run_id=n{number}").iterdir()]
    found = measure(files, LABELS, independent=False)
    assert told(found) == told(count(batch_of(np.concatenate(tables)), LABELS, independent=False))


def test_no_files_are_no_rows() -> None:
    """A night without images."""
    assert measure([], LABELS, independent=False).rows == 0


def test_a_table_that_no_run_wrote_is_refused_by_name(tmp_path: Path) -> None:
    """The file, and what is wrong: a class without a label, a column that is gone, a value that is no number."""
    good = batch_of(random_probabilities(1, 4))
    path = tmp_path / "part.parquet"
    for batch, reason in (
        (batch_of(np.eye(4, dtype=np.float32)), "predicted_index goes from 0 to 3, and there are 3 labels"),
        (good.drop_columns(["margin"]), "it has no column margin"),
        (good.set_column(3, "entropy", pa.array([math.nan] * 4, pa.float32())), "entropy holds a value that is no"),
    ):
        pq.write_table(pa.Table.from_batches([batch]), path)
        with pytest.raises(ValueError, match=f"{path}: {reason}"):
            measure([str(path)], LABELS, independent=False)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ({"version": 9}, "of version 9"),
        ({"class_counts": [1]}, "3 counts of at least 0"),
        ({"class_counts": [-1, 1, 1]}, "at least 0"),
        ({"class_counts": [9, 9, 9]}, "contradict each other: 2 rows, 27"),
        ({"margin": {"edges": [0, 0], "counts": [2]}}, "edges must ascend"),
        ({"margin": {"edges": [0, 0.5, 1], "counts": [1, 1]}}, "the edges of margin are not 100 equal steps"),
        ({"margin": 7}, "no distributions: TypeError"),
        ({"labels": None}, "no distributions: TypeError"),
    ],
)
def test_damaged_json_is_refused(damage: dict, reason: str) -> None:
    """What a manifest says is not trusted."""
    good = count(batch_of(random_probabilities(1, 2)), LABELS, independent=False).to_json()
    with pytest.raises(ValueError, match=reason):
        Distributions.from_json({**good, **damage})
    with pytest.raises(ValueError, match="no distributions: KeyError 'version'"):
        Distributions.from_json({})
