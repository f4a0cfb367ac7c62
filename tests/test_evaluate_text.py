"""An evaluation and a calibration as text: names of images and classes are shown, and cannot act."""

from pipeline.after.calibrate import Calibration, Quality
from pipeline.after.calibrate_text import calibration_text
from pipeline.after.evaluate import ClassResult, Confusion, Evaluation
from pipeline.after.evaluate_text import evaluation_text
from pipeline.after.truth import MatchCounts
from transforms.settings import CalibrationSettings

COUNTS = MatchCounts(2, "path", "label texts", 1, ("/a\n  top-1 accuracy 1.0000",), 0, 1, ("/b\x1b[2J",))


def test_names_cannot_write_lines_of_an_evaluation() -> None:
    """Line ends, escapes and turned writing are shown; columns are as wide as what is shown."""
    classes = [
        ClassResult(0, "ant\x1b[31m", 1, 1, 1.0, 1.0, 1.0, None, None),
        ClassResult(1, "bee\u202eeeb", 1, 1, 0.5, 0.5, 0.5, None, None),
    ]
    confusions = (Confusion("ant\x1b[31m", "bee\u202eeeb", 0, 1, 1),)
    evaluation = Evaluation(
        "night", "toy\n@1", "binary", 2, COUNTS, {"roc_auc": 0.5}, tuple(classes), confusions
    )  # fmt: skip
    assert evaluation_text(evaluation, 10).split("\n") == [
        "run night of model toy\\n@1: binary, 2 classes",
        "  images    2 matched by path, labels read as label texts",
        "            1 scored without truth: /a\\n  top-1 accuracy 1.0000",
        "            1 in the truth without scores: 0 failed, 1 not in the run: /b\\x1b[2J",
        "",
        "  ROC AUC                  0.5000  of bee\\u202eeeb",
        "",
        "  2 classes occur or are predicted, weakest first:",
        "  class         images  predicted  precision  recall      F1",
        "  bee\\u202eeeb       1          1     0.5000  0.5000  0.5000",
        "  ant\\x1b[31m        1          1     1.0000  1.0000  1.0000",
        "",
        "  1 images confused, in 1 ways:",
        "  truth        predicted     images",
        "  ant\\x1b[31m  bee\\u202eeeb       1",
    ]


def test_names_cannot_write_lines_of_a_calibration() -> None:
    """Those that are pasted into a configuration above all."""
    settings = CalibrationSettings(temperature=2.0)
    quality = Quality(0.5, 0.25, 0.125)
    fitted = Calibration("night", "toy\n@1", COUNTS, "logits", settings, 2, 2, False, quality, quality)
    lines = calibration_text(fitted).split("\n")
    assert lines[0] == "run night of model toy\\n@1: temperature fitted from its logits"
    assert lines[2] == "            1 scored without truth: /a\\n  top-1 accuracy 1.0000"
    assert lines[-2:] == ["calibration:", "  temperature: 2.0"]
