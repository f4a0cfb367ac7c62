"""Evaluation: the numbers of scikit-learn on the same predictions, what is not defined, and what is printed."""

import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from sklearn import metrics

from pipeline import cli
from pipeline.after import evaluate as evaluating
from pipeline.after.evaluate import Confusion, Evaluation, evaluate
from pipeline.after.evaluate_text import evaluation_text
from pipeline.after.published import find_run
from pipeline.after.truth import read_truth
from tests.digits import LABELS, Digits, write_truth
from tests.published_runs import publish_scores
from tests.runs import read_table
from transforms import calibration
from transforms.errors import ConfigError, InputError


def evaluation_of(run_folder: object, truth: Path, threshold: float | None = None, **columns: str) -> Evaluation:
    """Evaluate a published run."""
    run = find_run(str(run_folder))
    return evaluate(run, read_truth(str(truth), run.labels, independent=run.independent, **columns), threshold)


def evaluated(
    folder: Path, probabilities: npt.ArrayLike, truth: list[Any], decide_at: float | None = None, **run: Any
) -> Evaluation:
    """Publish probabilities and evaluate them."""
    paths = [f"/{i}.png" for i in range(len(truth))]
    publish_scores(folder / "out", paths, probabilities, **run)
    return evaluation_of(folder / "out", write_truth(folder / "t.csv", zip(paths, truth, strict=True)), decide_at)


def published(digits: Digits, kind: str) -> tuple[Any, npt.NDArray[np.float32], npt.NDArray[np.intp]]:
    """Return a run's rows and probabilities as an analyst reads them, and for each row its place in the photos."""
    table = read_table(digits.layouts[kind], "scores")
    places = {str(path): i for i, path in enumerate(digits.photos)}
    order = np.array([places[path] for path in table["image_path"].to_pylist()])
    return table, np.array(table["probabilities"].to_pylist(), np.float32), order


def test_ten_classes_measure_as_scikit_learn_does(digits: Digits, tmp_path: Path) -> None:
    """A softmax over real images: every number, and every class."""
    truth = write_truth(tmp_path / "t.csv", [(p.name, n) for p, n in zip(digits.photos, digits.numbers, strict=True)])
    result = evaluation_of(digits.layouts["ten"].run_folder, truth)
    table, p, order = published(digits, "ten")
    y, top = digits.numbers[order], np.array(table["predicted_index"].to_pylist())
    normal = p / p.sum(axis=1, dtype=np.float64, keepdims=True)
    macro = metrics.precision_recall_fscore_support(y, top, average="macro", zero_division=0.0)
    assert 0.6 < metrics.accuracy_score(y, top) < 1  # there is something to measure
    assert result.metrics == pytest.approx(
        {
            "top_1": metrics.accuracy_score(y, top),
            "top_5": metrics.top_k_accuracy_score(y, p, k=5),
            "log_loss": metrics.log_loss(y, normal),
            "brier": metrics.brier_score_loss(y, normal, labels=range(10)),
            "ece": calibration.ece(p, y),
            "macro_precision": macro[0],
            "macro_recall": metrics.balanced_accuracy_score(y, top),
            "macro_f1": macro[2],
        },
        rel=1e-12,
    )
    assert result.metrics["log_loss"] == pytest.approx(calibration.nll(p, y), rel=1e-6)  # what calibrate prints
    assert result.metrics["brier"] == pytest.approx(calibration.brier(p, y), rel=1e-6)
    report = metrics.classification_report(y, top, output_dict=True)
    for found in result.per_class:
        expected = report[str(found.class_index)]
        assert (found.precision, found.recall, found.f1, found.images) == tuple(expected.values())
    matrix = metrics.confusion_matrix(y, top)
    assert [c.images for c in result.confusions] == sorted(matrix[(matrix > 0) & ~np.eye(10, dtype=bool)])[::-1]
    assert all(matrix[c.truth_index, c.predicted_index] == c.images for c in result.confusions)


def test_one_unit_measures_as_scikit_learn_does(digits: Digits, tmp_path: Path) -> None:
    """A one-unit sigmoid over real images: AUC and accuracy are those of its positive class."""
    names = np.where(digits.numbers == 8, "positive", "negative")
    truth = write_truth(tmp_path / "t.csv", zip(digits.photos, names, strict=True))
    result = evaluation_of(digits.layouts["eight"].run_folder, truth)
    _, p, order = published(digits, "eight")
    y, positive = digits.numbers[order] == 8, p[:, 1]
    decided = positive >= 0.5
    assert result.task == "binary"
    expected = {
        "top_1": metrics.accuracy_score(y, decided),
        "roc_auc": metrics.roc_auc_score(y, positive),
        "average_precision": metrics.average_precision_score(y, positive),
        "threshold_accuracy": metrics.accuracy_score(y, decided),
        "threshold_precision": metrics.precision_score(y, decided),
        "threshold_recall": metrics.recall_score(y, decided),
        "threshold_f1": metrics.f1_score(y, decided),
    }
    assert 0.8 < expected["roc_auc"] < 1
    assert {name: result.metrics[name] for name in expected} == pytest.approx(expected, rel=1e-12)
    assert result.metrics["log_loss"] == pytest.approx(metrics.log_loss(y, positive.astype(np.float64)), rel=1e-6)
    one_sided = metrics.brier_score_loss(y, positive.astype(np.float64))
    assert result.metrics["brier"] == pytest.approx(2 * one_sided, rel=1e-6)  # both classes, as for more than two


def test_another_threshold_decides_anew(digits: Digits, tmp_path: Path) -> None:
    """The published probabilities serve any threshold; top-1 stays what it is."""
    truth = write_truth(
        tmp_path / "t.csv", [(p, int(n == 8)) for p, n in zip(digits.photos, digits.numbers, strict=True)]
    )
    folder = digits.layouts["eight"].run_folder
    result = evaluation_of(folder, truth, 0.1)
    _, p, order = published(digits, "eight")
    y, decided = digits.numbers[order] == 8, p[:, 1] >= np.float32(0.1)
    assert result.metrics["threshold_recall"] == metrics.recall_score(y, decided)
    assert result.metrics["threshold_precision"] == metrics.precision_score(y, decided)
    assert result.metrics["top_1"] == evaluation_of(folder, truth).metrics["top_1"]


def test_independent_labels_measure_as_scikit_learn_does(digits: Digits, tmp_path: Path) -> None:
    """A sigmoid over three labels of real images, some of which show none of the three."""
    rows = [
        (path, ";".join(label for label, holds in zip(LABELS, row, strict=True) if holds))
        for path, row in zip(digits.photos, digits.holds, strict=True)
    ]
    result = evaluation_of(digits.layouts["labels"].run_folder, write_truth(tmp_path / "t.csv", rows))
    _, p, order = published(digits, "labels")
    y, decided = digits.holds[order], p >= 0.5
    assert not digits.holds.any(axis=1).all()
    macro = metrics.precision_recall_fscore_support(y, decided, average="macro")
    micro = metrics.precision_recall_fscore_support(y, decided, average="micro")
    assert 0.8 < metrics.roc_auc_score(y, p) < 1
    assert result.metrics == pytest.approx(
        {
            "exact_match": metrics.accuracy_score(y, decided),
            "log_loss": metrics.log_loss(y.ravel(), p.ravel().astype(np.float64)),
            "brier": metrics.brier_score_loss(y.ravel(), p.ravel().astype(np.float64)),
            "ece": calibration.ece(p, y),
            "micro_precision": micro[0],
            "micro_recall": micro[1],
            "micro_f1": micro[2],
            "macro_precision": macro[0],
            "macro_recall": macro[1],
            "macro_f1": macro[2],
            "macro_roc_auc": metrics.roc_auc_score(y, p, average="macro"),
            "macro_average_precision": metrics.average_precision_score(y, p, average="macro"),
        },
        rel=1e-12,
    )
    for i, found in enumerate(result.per_class):
        assert (found.label, found.images, found.predicted) == (LABELS[i], y[:, i].sum(), decided[:, i].sum())
        assert found.f1 == pytest.approx(metrics.f1_score(y[:, i], decided[:, i]))
        assert found.roc_auc == pytest.approx(metrics.roc_auc_score(y[:, i], p[:, i]))
        assert found.average_precision == pytest.approx(metrics.average_precision_score(y[:, i], p[:, i]))


def test_small_blocks_give_the_same_numbers(digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are measured in blocks that bound the memory; where they are cut does not show."""
    truth = write_truth(tmp_path / "t.csv", zip(digits.photos, digits.numbers, strict=True))
    whole = evaluation_of(digits.layouts["ten"].run_folder, truth)
    monkeypatch.setattr(evaluating, "_BLOCK_ELEMENTS", 70)  # seven rows of ten classes
    blocks = evaluation_of(digits.layouts["ten"].run_folder, truth)
    assert blocks.metrics == pytest.approx(whole.metrics, rel=1e-12)
    assert blocks.per_class == whole.per_class


def test_only_images_with_a_truth_are_measured(tmp_path: Path) -> None:
    """Two of five rows, in two row groups; the class that none of the two shows has no recall."""
    paths = [f"/{i}.png" for i in range(5)]
    publish_scores(tmp_path / "out", paths, np.eye(3)[[0, 1, 2, 0, 1]], labels=["a", "b", "c"])
    result = evaluation_of(tmp_path / "out", write_truth(tmp_path / "t.csv", [("/4.png", "b"), ("/0.png", "b")]))
    assert (result.counts.matched, result.counts.scored_without_truth) == (2, 3)
    assert result.metrics["top_1"] == 0.5
    a, b, c = result.per_class
    assert (a.images, a.predicted, a.precision, a.recall) == (0, 1, 0.0, None)
    assert (b.images, b.predicted, b.precision, b.recall) == (2, 1, 1.0, 0.5)
    assert (c.images, c.predicted, c.precision, c.recall, c.f1) == (0, 0, None, None, None)
    assert result.confusions == (Confusion("b", "a", 1, 0, 1),)
    assert "top_5" not in result.metrics  # of three classes five always hold the true one
    assert result.metrics["log_loss"] == pytest.approx(-math.log(2**-52) / 2)  # scikit-learn's clip, in float64


def test_confusions_come_most_frequent_first_then_by_index(tmp_path: Path) -> None:
    """Equal counts keep the order of the classes."""
    result = evaluated(tmp_path, np.eye(3)[[1, 1, 2, 0, 0]], [0, 0, 1, 2, 1])
    assert [(c.truth, c.predicted, c.images) for c in result.confusions] == [
        ("0", "1", 2), ("1", "0", 1), ("1", "2", 1), ("2", "0", 1),
    ]  # fmt: skip


def test_a_curve_needs_both_kinds_of_images(tmp_path: Path) -> None:
    """Without a positive or a negative image there is no AUC: null, never a number, and no part of the mean."""
    p = [[0.9, 0.2, 0.6], [0.1, 0.3, 0.7], [0.2, 0.1, 0.4]]
    result = evaluated(tmp_path, p, ["0;2", "2", "2"], activation="sigmoid")
    assert [found.roc_auc for found in result.per_class] == [1.0, None, None]
    assert [found.average_precision for found in result.per_class] == [1.0, None, None]
    assert (result.metrics["macro_roc_auc"], result.metrics["exact_match"]) == (1.0, 2 / 3)
    assert json.loads(json.dumps(result.to_json()))["per_class"][1]["roc_auc"] is None


def test_published_decisions_count_unless_a_threshold_is_given(tmp_path: Path) -> None:
    """The run decided at 0.7; what it published is judged, not another threshold."""
    p, truth = [[0.6, 0.4], [0.8, 0.1], [0.2, 0.9]], ["0", "0", "1"]
    assert evaluated(tmp_path / "a", p, truth, activation="sigmoid", threshold=0.7).metrics["exact_match"] == 2 / 3
    assert evaluated(tmp_path / "b", p, truth, 0.5, activation="sigmoid", threshold=0.7).metrics["exact_match"] == 1.0


def test_two_classes_of_a_softmax_have_curves_and_a_threshold_when_asked(tmp_path: Path) -> None:
    """Class 1 is the positive one."""
    p, truth = [[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.3, 0.7]], [0, 1, 1, 0]
    result = evaluated(tmp_path / "a", p, truth)
    assert (result.task, result.metrics["roc_auc"]) == ("binary", 0.75)
    assert "threshold_f1" not in result.metrics
    result = evaluated(tmp_path / "b", p, truth, 0.3)
    assert result.metrics["threshold_recall"] == 1.0
    assert result.metrics["threshold_accuracy"] == 0.75


def test_rough_probabilities_are_scaled_for_log_loss(tmp_path: Path) -> None:
    """A quantised softmax (activation none) sums to nearly 1; a row of zeros says nothing at all."""
    rough = [[0.5, 0.25, 0.2], [0.1, 0.8, 0.2]]
    result = evaluated(tmp_path / "a", rough, [0, 1], activation="none")
    assert result.metrics["log_loss"] == pytest.approx(-(math.log(0.5 / 0.95) + math.log(0.8 / 1.1)) / 2, rel=1e-6)
    with pytest.raises(InputError, match="run night holds a row whose probabilities are all 0"):
        evaluated(tmp_path / "b", [[0.0, 0.0, 0.0], *rough], [0, 0, 1], activation="none")


@pytest.mark.parametrize(
    ("threshold", "message"),
    [
        (1.5, "--threshold must be a probability from 0 to 1, got 1.5"),
        (math.nan, "--threshold must be a probability from 0 to 1, got nan"),
        (0.5, "the 3 classes of run night exclude each other, the strongest wins; leave it out"),
    ],
)
def test_a_threshold_that_makes_no_sense_is_refused(tmp_path: Path, threshold: float, message: str) -> None:
    """Over the range, and where nothing is decided by it."""
    with pytest.raises(ConfigError, match=re.escape(message)):
        evaluated(tmp_path, [[1.0, 0.0, 0.0]], [0], threshold)


def test_two_labels_of_one_name_need_a_threshold(tmp_path: Path) -> None:
    """positive_labels says `crane`: which of the two cannot be known."""
    p, labels = [[0.9, 0.1, 0.2], [0.1, 0.9, 0.3]], ["crane", "cat", "crane"]
    with pytest.raises(InputError, match="run night has two labels crane: .* give --threshold to decide anew"):
        evaluated(tmp_path / "a", p, [0, 1], activation="sigmoid", labels=labels)
    assert evaluated(tmp_path / "b", p, [0, 1], 0.5, activation="sigmoid", labels=labels).metrics["exact_match"] == 1.0


def test_without_scikit_learn_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain installation has no scikit-learn."""
    monkeypatch.setattr("pipeline.after.extras.find_spec", lambda name: None if name == "sklearn" else sys)
    with pytest.raises(
        ConfigError,
        match=re.escape("evaluate needs sklearn, not installed here: pip install 'score-images[evaluate]'"),
    ):
        evaluated(tmp_path, [[1.0, 0.0]], [0])


TEXT = """\
run night of model toy@1: multi-class, 3 classes
  images    4 matched by path, labels read as label texts
            1 scored without truth: /4.png
            2 in the truth without scores: 1 failed, 1 not in the run: /5.png, /6.png

  top-1 accuracy           0.5000
  log-loss                 0.9658  nats
  Brier score              0.6100
  ECE                      0.1000  expected calibration error, 15 bins
  macro precision          0.4444
  macro recall             0.6667  over the classes that occur
  macro F1                 0.5000

  3 classes occur or are predicted; the 2 weakest by F1 (--rows shows more, --json all):
  class  images  predicted  precision  recall      F1
  dog         2          0          -  0.0000  0.0000
  cat         1          3     0.3333  1.0000  0.5000

  2 images confused, in 1 ways:
  truth  predicted  images
  dog    cat             2
"""


@pytest.fixture
def pets(tmp_path: Path) -> list[str]:
    """The arguments that evaluate a small run."""
    paths = [f"/{i}.png" for i in range(5)]
    p = [[0.7, 0.2, 0.1], [0.7, 0.2, 0.1], [0.2, 0.3, 0.5], [0.5, 0.3, 0.2], [0.4, 0.3, 0.3]]
    publish_scores(tmp_path / "out", paths, p, labels=["cat", "dog", "crane"], failed=["/5.png"])
    truth = [
        ("/0.png", "cat"),
        ("/1.png", "dog"),
        ("/2.png", "crane"),
        ("/3.png", "dog"),
        ("/5.png", "dog"),
        ("/6.png", "dog"),
    ]
    return ["evaluate", "--scores", str(tmp_path / "out"), "--truth", str(write_truth(tmp_path / "t.csv", truth))]


def test_the_command_prints_text(pets: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """What a person reads: which images, how good, and where it is weak."""
    assert cli.main([*pets, "--rows", "2"]) == 0
    assert capsys.readouterr().out == TEXT


def test_the_command_prints_json(pets: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Everything, for a program."""
    assert cli.main([*pets, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["counts"] == {
        "matched": 4,
        "matched_by": "path",
        "reading": "label texts",
        "scored_without_truth": 1,
        "scored_without_truth_examples": ["/4.png"],
        "truth_failed": 1,
        "truth_not_in_run": 1,
        "truth_without_scores_examples": ["/5.png", "/6.png"],
    }
    assert printed["metrics"]["top_1"] == 0.5
    assert [found["label"] for found in printed["per_class"]] == ["cat", "dog", "crane"]
    assert printed["confusions"] == [
        {"truth": "dog", "predicted": "cat", "truth_index": 1, "predicted_index": 0, "images": 2}
    ]


def test_a_wrong_run_ends_the_command_with_exit_code_2(pets: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """One line, no traceback."""
    assert cli.main([*pets[:2], "/nowhere", *pets[3:]]) == 2
    assert capsys.readouterr().err.startswith("score-images: run /nowhere: there is no run at /nowhere; give the ")


def test_text_of_independent_labels_shows_their_curves(tmp_path: Path) -> None:
    """Long names are cut, and what is not defined is a dash."""
    labels = ["a" * 50, "b", "c"]
    p = [[0.9, 0.2, 0.6], [0.1, 0.3, 0.7], [0.2, 0.1, 0.4]]
    text = evaluation_text(evaluated(tmp_path, p, ["0;2", "2", "2"], activation="sigmoid", labels=labels), 10)
    table = [line.split() for line in text.split("\n") if line.startswith(("  label", "  a", "  c"))]
    assert table == [
        ["label", "images", "predicted", "precision", "recall", "F1", "ROC", "AUC", "avg.", "precision"],
        ["c", "3", "2", "1.0000", "0.6667", "0.8000", "-", "-"],
        ["a" * 39 + "…", "1", "1", "1.0000", "1.0000", "1.0000", "1.0000", "1.0000"],
    ]
