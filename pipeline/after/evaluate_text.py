"""An evaluation as text for a person."""

from collections.abc import Sequence

from pipeline.after.evaluate import ClassResult, Evaluation
from pipeline.after.truth import MatchCounts
from transforms.redaction import printable

_TITLES = {
    "top_1": "top-1 accuracy",
    "top_5": "top-5 accuracy",
    "exact_match": "exact match",
    "log_loss": "log-loss",
    "brier": "Brier score",
    "ece": "ECE",
    "roc_auc": "ROC AUC",
    "average_precision": "average precision",
    "macro_roc_auc": "macro ROC AUC",
    "macro_average_precision": "macro average precision",
}
_UNITS = {
    "log_loss": "nats",
    "ece": "expected calibration error, 15 bins",
}


def matching_lines(counts: MatchCounts) -> list[str]:
    """Say which images were compared, and which were not."""
    missing = counts.truth_failed + counts.truth_not_in_run
    return [
        f"  images    {counts.matched} matched by {counts.matched_by}, labels read as {counts.reading}",
        f"            {counts.scored_without_truth} scored without truth"
        f"{_examples(counts.scored_without_truth_examples, counts.scored_without_truth)}",
        f"            {missing} in the truth without scores: {counts.truth_failed} failed, "
        f"{counts.truth_not_in_run} not in the run{_examples(counts.truth_without_scores_examples, missing)}",
    ]


def evaluation_text(evaluation: Evaluation, rows: int) -> str:
    """Say what a run is worth.

    Args:
        evaluation: From evaluate.
        rows: How many classes and kinds of mistakes to list.
    """
    lines = [
        f"run {evaluation.run_id} of model {printable(evaluation.model_id)}: {evaluation.task}, "
        f"{evaluation.num_classes} classes",
        *matching_lines(evaluation.counts),
        "",
    ]
    for name, value in evaluation.metrics.items():
        title = _TITLES.get(name, name.replace("_", " ").replace("f1", "F1"))
        lines.append(f"  {title:<24} {_number(value)}{_unit(name, evaluation)}")
    lines += ["", *_class_lines(evaluation, rows)]
    if evaluation.confusions:
        lines += ["", *_confusion_lines(evaluation, rows)]
    return "\n".join(lines)


def _unit(name: str, evaluation: Evaluation) -> str:
    if name == "macro_recall" and evaluation.task != "multi-label":
        return "  over the classes that occur"
    if name in ("roc_auc", "threshold_precision") and evaluation.task == "binary":
        return f"  of {_short(evaluation.per_class[1].label)}"
    return f"  {_UNITS[name]}" if name in _UNITS else ""


def _class_lines(evaluation: Evaluation, rows: int) -> list[str]:
    seen = [result for result in evaluation.per_class if result.images or result.predicted]
    weakest = sorted(seen, key=lambda result: (result.f1 or 0.0, -result.images, result.class_index))[:rows]
    curves = evaluation.task == "multi-label"
    head = ["label" if curves else "class", "images", "predicted", "precision", "recall", "F1"]
    table = [head + (["ROC AUC", "avg. precision"] if curves else []), *(_row(result, curves) for result in weakest)]
    title = f"  {len(seen)} classes occur or are predicted"
    more = len(weakest) < len(seen)
    title += f"; the {len(weakest)} weakest by F1 (--rows shows more, --json all):" if more else ", weakest first:"
    return [title, *_aligned(table)]


def _row(result: ClassResult, curves: bool) -> list[str]:
    numbers = [result.precision, result.recall, result.f1]
    if curves:
        numbers += [result.roc_auc, result.average_precision]
    return [_short(result.label), str(result.images), str(result.predicted), *map(_number, numbers)]


def _confusion_lines(evaluation: Evaluation, rows: int) -> list[str]:
    listed = evaluation.confusions[:rows]
    total = sum(confusion.images for confusion in evaluation.confusions)
    title = f"  {total} images confused, in {len(evaluation.confusions)} ways"
    title += f"; the {len(listed)} most frequent:" if len(listed) < len(evaluation.confusions) else ":"
    table = [["truth", "predicted", "images"]]
    table += [[_short(c.truth), _short(c.predicted), str(c.images)] for c in listed]
    return [title, *_aligned(table, texts=2)]


def _aligned(table: Sequence[Sequence[str]], texts: int = 1) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  "
        + "  ".join(
            cell.ljust(width) if place < texts else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _short(label: str) -> str:
    label = printable(label)
    return label if len(label) <= 40 else f"{label[:39]}…"


def _examples(names: Sequence[str], count: int) -> str:
    if not names:
        return ""
    return f": {', '.join(map(printable, names[:2]))}{', ...' if count > 2 else ''}"
