"""Give every class its name, and every label its threshold.

Both come from files of three kinds, told by the end of the name: .csv, .json, and text for any other. Labels need
not differ: ImageNet has two cranes and two maillots, and the index tells them apart.
"""

import csv
import io
import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from transforms.errors import InputError
from transforms.settings import LabelSettings

Read = Callable[[str], bytes]


def load_labels(
    settings: LabelSettings,
    num_classes: int,
    read: Read,
    model_labels: Sequence[str] | None,
    *,
    one_unit: bool = False,
) -> tuple[str, ...]:
    """Name the classes: from the file that is declared, else the model's assets, else by their index.

    A text file has one label a line (UTF-8, with or without byte order mark, any line ends). A CSV file has a header
    with the column label, and index where the rows are in another order; further columns are ignored. A JSON file
    holds a list, or an object of index to label; where a label is a list, its last element counts, as in Keras's
    imagenet_class_index.json ({"0": ["n01440764", "tench"], ...}).

    Args:
        settings: Where the labels lie; class i takes label i + offset of the file.
        num_classes: Columns of the probabilities: the model's outputs, or 2 for one unit.
        read: Returns a file's bytes, or raises OSError.
        model_labels: Labels found in the model itself, if any; offset counts for them too.
        one_unit: The model has one output for two classes: they are called negative and positive without labels.

    Returns:
        num_classes labels.

    Raises:
        InputError: The file cannot be read or understood, or holds another number of labels than there are classes.
    """
    if settings.path is not None:
        source = f"labels.path {settings.path}"
        found: Sequence[str] = _parse_labels(settings.path, _read_text(settings.path, read, "labels.path"))
    elif model_labels is not None:
        source, found = "the model's own label file", model_labels
    elif settings.offset:
        raise InputError(
            f"labels.offset {settings.offset} moves labels, and there are none: labels.path is not given and the model "
            "carries no label file; give labels.path or leave the offset out"
        )
    elif one_unit:
        return ("negative", "positive")
    else:
        return tuple(str(i) for i in range(num_classes))
    if len(found) != num_classes + settings.offset:
        raise InputError(_count_message(source, len(found), num_classes, settings.offset, one_unit))
    return tuple(
        found[i] if i >= 0 else settings.background for i in range(settings.offset, num_classes + settings.offset)
    )


def load_thresholds(settings: LabelSettings, num_classes: int, read: Read) -> npt.NDArray[np.float32]:
    """Read from which probability on each label counts as positive.

    A text file has one number a line, a CSV file a column threshold (and index where the rows are in another order),
    a JSON file a list, or an object of index to number; all in the order of the classes, without offset.

    Args:
        settings: One number for all labels, or a file.
        num_classes: Columns of the probabilities.
        read: Returns a file's bytes, or raises OSError.

    Returns:
        float32[num_classes] in [0, 1].

    Raises:
        InputError: The file cannot be read or understood, holds another number of thresholds, or a threshold lies
            outside [0, 1].
    """
    given = settings.thresholds
    if isinstance(given, str):
        entries = _parse(given, _read_text(given, read, "labels.thresholds"), "labels.thresholds", "threshold")
        values = [_number(entry, f"labels.thresholds {given}: threshold {i}") for i, entry in enumerate(entries)]
    else:
        values = [_number(given, "labels.thresholds")] * num_classes
    if len(values) != num_classes:
        raise InputError(
            f"labels.thresholds {given} holds {len(values)} thresholds, the model has {num_classes} classes; give one "
            "for each class, or one number for all"
        )
    return np.array(values, np.float32)


def _count_message(source: str, found: int, num_classes: int, offset: int, one_unit: bool) -> str:
    counts = f"{source} holds {found} labels, the model has {num_classes} classes"
    if one_unit:
        return (
            f"{counts} (one output p becomes two: 1 - p and p); give two labels, the negative class's first, or leave "
            "labels out for negative and positive"
        )
    if offset:
        counts += f" and labels.offset is {offset}, which takes {num_classes + offset} labels"
    if found == num_classes:
        return f"{counts}; leave labels.offset out"
    if found == num_classes - 1:
        return (
            f"{counts}; if the model's class 0 is a background class that the labels leave out, write "
            "labels.offset: -1, and labels.background to name it"
        )
    if found == num_classes + 1:
        return (
            f"{counts}; if the first label is a background class that the model does not have, write labels.offset: 1"
        )
    return f"{counts}; give the labels that the model was trained with, one for each class"


def _read_text(path: str, read: Read, key: str) -> str:
    try:
        data = read(path)
    except OSError as error:
        raise InputError(f"{key} {path} cannot be read: {error}; check the path and its permissions") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{key} {path} is not UTF-8: byte {data[error.start]:#04x} at {error.start}; save it as UTF-8"
        ) from error


def _parse_labels(path: str, text: str) -> list[str]:
    labels = []
    for i, entry in enumerate(_parse(path, text, "labels.path", "label")):
        label = entry[-1] if isinstance(entry, list) and entry else entry
        if not isinstance(label, str) or not label.strip():
            raise InputError(f"labels.path {path}: label {i} must be text that is not empty, got {json.dumps(entry)}")
        labels.append(label.strip())
    return labels


def _parse(path: str, text: str, key: str, column: str) -> list[Any]:
    where = f"{key} {path}"
    kind = path.lower().rpartition(".")[2]
    if kind == "csv":
        entries = _parse_csv(text, where, column)
    elif kind == "json":
        entries = _parse_json(text, where, column)
    else:
        entries = _parse_lines(text, where, column)
    if not entries:
        raise InputError(f"{where} holds no {column}s; give one for each class")
    return entries


def _parse_lines(text: str, where: str, column: str) -> list[Any]:
    # Not str.splitlines, which also cuts at separators that a label may hold, such as U+2028.
    lines = text.replace("\r\n", "\n").replace("\r", "\n").rstrip().split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip() and len(lines) > 1:
            raise InputError(
                f"{where}: line {number} is empty; each line is one {column}, so that none may be left out"
            )
    return [line for line in lines if line.strip()]


def _parse_csv(text: str, where: str, column: str) -> list[Any]:
    # Not csv.DictReader, which passes over empty lines: all labels after one would move up.
    reader = csv.reader(io.StringIO(text.rstrip(), newline=""), skipinitialspace=True, strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        if column not in header:
            raise InputError(
                f"{where} has the columns {', '.join(header) or 'none'}; it needs {column}, or index and {column}"
            )
        placed: list[tuple[Any, Any]] = []
        for row in reader:
            if len(row) > len(header):
                raise InputError(
                    f"{where}: line {reader.line_num} has {len(row)} cells, the header has {len(header)}; put a "
                    f"{column} that holds a comma in double quotes"
                )
            cells = dict(zip(header, row, strict=False))  # a short row lacks its last cells
            if not cells.get(column, "").strip():
                raise InputError(f"{where}: line {reader.line_num} has no {column}; give one in each row")
            placed.append((cells.get("index", "") if "index" in header else len(placed), cells[column]))
    except csv.Error as error:
        raise InputError(f"{where}: line {reader.line_num} is not CSV: {error}") from error
    return _in_order(placed, where, column)


def _parse_json(text: str, where: str, column: str) -> list[Any]:
    try:
        # Pairs and not a dict, which would keep the last of two equal keys without a word.
        content = json.loads(text, object_pairs_hook=tuple)
    except ValueError as error:
        raise InputError(f"{where} is not JSON: {error}") from error
    if isinstance(content, list):
        return content
    if isinstance(content, tuple):
        return _in_order(list(content), where, column)
    raise InputError(
        f"{where} must hold a JSON list, or an object of index to {column}, got {json.dumps(content)[:60]}"
    )


def _in_order(placed: list[tuple[Any, Any]], where: str, column: str) -> list[Any]:
    ordered: dict[int, Any] = {}
    for index, entry in placed:
        if not str(index).strip().isdecimal():
            turned = "; this object goes from label to index, turn it round" if isinstance(entry, int) else ""
            raise InputError(f"{where}: index must be a whole number from 0 on, got {index!r}{turned}")
        place = int(index)
        if place in ordered:
            raise InputError(f"{where}: index {place} is there twice, with {ordered[place]!r} and {entry!r}; keep one")
        ordered[place] = entry
    for place in range(len(ordered)):
        if place not in ordered:
            raise InputError(
                f"{where}: index {place} is missing, but {max(ordered)} is there; indices run from 0 without gaps, "
                f"each with its {column}"
            )
    return [ordered[place] for place in range(len(ordered))]


def _number(entry: Any, where: str) -> float:
    try:
        value = math.nan if isinstance(entry, bool | list | tuple) or entry is None else float(entry)
    except ValueError:
        value = math.nan
    if not 0.0 <= value <= 1.0:
        raise InputError(f"{where} must be a probability from 0 to 1, got {entry!r}")
    return value
