"""Read what images really show, and bring it together with the rows of a published run.

A truth is a CSV file with a header: one column of paths, one of labels. Labels are written as the run's label texts
or as class indices: all of a file in one of the two ways, texts first, because a class may be called "7". For a run
of independent labels (sigmoid) a cell may hold several, parted by `;`, or none; several rows of one path add up. A
label that is not named does not hold. For classes that exclude each other each path has one.
"""

import csv
import difflib
import io
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.after.published import PublishedRun
from transforms import storage
from transforms.errors import InputError
from transforms.inputs import DEFAULT_PATH_COLUMN

DEFAULT_LABEL_COLUMN = "label"
SEPARATOR = ";"
_EXAMPLES = 5

MatchedBy = Literal["path", "file name"]
Reading = Literal["label texts", "class indices"]


class Truth(NamedTuple):
    """What M images really show."""

    source: str
    """The file, as the user named it."""
    paths: tuple[str, ...]
    """M different paths: absolute, or bare file names where the file gives nothing else."""
    matched_by: MatchedBy
    """What `paths` are compared with: the run's paths, or their last parts."""
    reading: Reading
    """How the label column was understood."""
    classes: tuple[tuple[int, ...], ...]
    """M sorted tuples of class indices; exactly one each where classes exclude each other."""

    def true_classes(self, positions: npt.NDArray[np.intp]) -> npt.NDArray[np.int64]:
        """Return int64[N], the one class of each of some images."""
        return np.array([self.classes[i][0] for i in positions], np.int64)

    def true_labels(self, positions: npt.NDArray[np.intp], num_classes: int) -> npt.NDArray[np.bool_]:
        """Return bool[N, C], which labels hold for each of some images."""
        holds = np.zeros((len(positions), num_classes), np.bool_)
        for row, position in enumerate(positions):
            holds[row, list(self.classes[position])] = True
        return holds


class MatchCounts(NamedTuple):
    """How many images a run and a truth share; nothing is dropped without being counted here."""

    matched: int
    """Images that have scores and a truth."""
    matched_by: MatchedBy
    """Whole paths or file names."""
    reading: Reading
    """How the labels of the truth were understood."""
    scored_without_truth: int
    """Rows of the scores table that the truth does not name."""
    scored_without_truth_examples: tuple[str, ...]
    """The first few of them."""
    truth_failed: int
    """Images of the truth that are in the failures table."""
    truth_not_in_run: int
    """Images of the truth that are in neither table."""
    truth_without_scores_examples: tuple[str, ...]
    """The first few of both kinds."""


class Join(NamedTuple):
    """Which rows of a run have a truth; small, however wide the run is."""

    counts: MatchCounts
    """For the user."""
    rows: tuple[npt.NDArray[np.intp], ...]
    """For each row group of the scores table, in order, the rows that have a truth."""
    positions: tuple[npt.NDArray[np.intp], ...]
    """For each of these rows, its image in the truth."""


def read_truth(
    path: str,
    labels: Sequence[str],
    *,
    independent: bool,
    path_column: str = DEFAULT_PATH_COLUMN,
    label_column: str = DEFAULT_LABEL_COLUMN,
) -> Truth:
    """Read a truth file.

    Args:
        path: A CSV file, local or remote. Relative paths in it start at its folder, as those of a manifest do; where
            all of them are bare file names, they are matched by file name, wherever the images lie.
        labels: The names of the run's classes.
        independent: An image may have several labels or none.
        path_column: The column of paths.
        label_column: The column of labels.

    Raises:
        InputError: The file cannot be read, or says something that does not fit the run, with its line.
    """
    rows = _read_rows(path, path_column, label_column)
    bare = all("/" not in name for _, name, _ in rows)
    folder = storage.parent(storage.absolute(path))
    whole = set(labels)
    tokens = [(line, _split(cell, whole) if independent else ([cell] if cell else [])) for line, _, cell in rows]
    reading, index = _index_of(path, tokens, labels)
    found: dict[str, tuple[int, ...]] = {}
    lines: dict[str, int] = {}
    for (line, name, _), (_, named) in zip(rows, tokens, strict=True):
        key = name if bare else storage.absolute(name, folder)
        classes = tuple(index[token] for token in named)
        if not independent and not classes:
            raise InputError(f"truth {path} line {line}: {name} has no label; each image needs one")
        if not independent and found.get(key, classes) != classes:
            raise InputError(
                f"truth {path}: {name} is {labels[found[key][0]]} in line {lines[key]} and {labels[classes[0]]} in "
                f"line {line}; the classes of this run exclude each other, keep one"
            )
        found[key] = tuple(sorted({*found.get(key, ()), *classes}))
        lines.setdefault(key, line)
    return Truth(path, tuple(found), "file name" if bare else "path", reading, tuple(found.values()))


def _read_rows(path: str, path_column: str, label_column: str) -> list[tuple[int, str, str]]:
    try:
        text = storage.read_bytes(storage.absolute(path)).decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"truth {path} cannot be read: {error}; check the path and its permissions") from error
    except UnicodeDecodeError as error:
        raise InputError(f"truth {path} is not UTF-8: {error}; save it as UTF-8") from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows = []
    try:
        header = next(reader, [])
        for column, option in ((path_column, "--path-column"), (label_column, "--label-column")):
            if column not in header:
                raise InputError(
                    f"truth {path} has no column {column}; its first line has {', '.join(header) or 'nothing'}; name "
                    f"the right one with {option}"
                )
        at_path, at_label = header.index(path_column), header.index(label_column)
        for row in reader:
            if not row:
                continue
            if len(row) != len(header):
                raise InputError(
                    f"truth {path} line {reader.line_num} has {len(row)} cells, the header has {len(header)}; put a "
                    "cell that holds a comma in double quotes"
                )
            if not row[at_path]:
                raise InputError(f"truth {path} line {reader.line_num} has no {path_column}; give one in each row")
            rows.append((reader.line_num, row[at_path], row[at_label].strip()))
    except csv.Error as error:
        raise InputError(f"truth {path} line {reader.line_num} is not CSV: {error}") from error
    if not rows:
        raise InputError(f"truth {path} names no image: it has a header and nothing else")
    return rows


def _split(cell: str, labels: set[str]) -> list[str]:
    if cell in labels:  # a label may hold the separator
        return [cell]
    return [token for part in cell.split(SEPARATOR) if (token := part.strip())]


def _index_of(
    path: str, tokens: Sequence[tuple[int, Sequence[str]]], labels: Sequence[str]
) -> tuple[Reading, dict[str, int]]:
    """Find the one way in which every label of the file can be read."""
    first_line: dict[str, int] = {}
    for line, named in tokens:
        for token in named:
            first_line.setdefault(token, line)
    places: dict[str, list[int]] = {}
    for index, label in enumerate(labels):
        places.setdefault(label, []).append(index)
    no_label = [token for token in first_line if token not in places]
    if not no_label:
        for token, line in first_line.items():
            if len(places[token]) > 1:
                indices = " and ".join(map(str, places[token]))
                raise InputError(
                    f"truth {path} line {line}: {token} is the label of the classes {indices}; give class indices "
                    "instead of label texts, in a column named with --label-column"
                )
        return "label texts", {token: places[token][0] for token in first_line}
    no_index = [token for token in first_line if not (token.isdecimal() and int(token) < len(labels))]
    if not no_index:
        return "class indices", {token: int(token) for token in first_line}
    neither = [token for token in no_label if token in set(no_index)]
    if not neither:
        text, number = no_index[0], no_label[0]
        raise InputError(
            f"truth {path} gives label {text} in line {first_line[text]} and class index {number} in line "
            f"{first_line[number]}; give label texts or class indices throughout"
        )
    wrong = neither[0]
    close = difflib.get_close_matches(wrong, list(places), n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]}?" if close else f"; the first labels are {', '.join(labels[:3])}"
    if wrong.isdecimal():
        hint = "; do these indices count from 1, or a background class first?"
    raise InputError(
        f"truth {path} line {first_line[wrong]}: {wrong!r} is neither a label of the run nor a class index from 0 to "
        f"{len(labels) - 1}{hint}"
    )


def join(run: PublishedRun, truth: Truth) -> Join:
    """Find the images that a run and a truth share, reading nothing but the paths of the run.

    Raises:
        InputError: There is none, or a file name stands for two images of the run.
    """
    keys = pa.array(truth.paths, pa.string())
    scored = np.zeros(len(keys), np.bool_)
    holders: dict[int, str] = {}
    rows, positions = [], []
    without = 0
    examples: list[str] = []
    for group in run.row_groups(run.table):
        paths = group.read(["image_path"]).column(0).combine_chunks()
        place = pc.index_in(_keys_of(paths, truth.matched_by), value_set=keys)
        matched = np.flatnonzero(place.is_valid().to_numpy(zero_copy_only=False))
        at = place.drop_null().to_numpy().astype(np.intp)
        for position, path in zip(at.tolist(), paths.take(pa.array(matched)).to_pylist(), strict=True):
            if holders.setdefault(position, path) != path:
                raise InputError(
                    f"truth {truth.source} gives file names only, and {truth.paths[position]} is in the run twice, as "
                    f"{holders[position]} and {path}; give their paths"
                )
        scored[at] = True
        without += len(paths) - len(matched)
        if len(examples) < _EXAMPLES:
            examples += paths.filter(place.is_null()).slice(0, _EXAMPLES - len(examples)).to_pylist()
        rows.append(matched)
        positions.append(at)
    if not scored.any():
        raise InputError(
            f"truth {truth.source} and run {run.layout.run_id} share no image, compared by {truth.matched_by}: the "
            f"truth has {truth.paths[0]}, the run {examples[0] if examples else 'has no scores'}; name the column of "
            "paths with --path-column, or mend the paths"
        )
    failed = _failed(run, truth, keys) & ~scored
    missing = [path for path, has in zip(truth.paths, scored, strict=True) if not has]
    counts = MatchCounts(
        matched=int(scored.sum()),
        matched_by=truth.matched_by,
        reading=truth.reading,
        scored_without_truth=without,
        scored_without_truth_examples=tuple(examples),
        truth_failed=int(failed.sum()),
        truth_not_in_run=len(missing) - int(failed.sum()),
        truth_without_scores_examples=tuple(missing[:_EXAMPLES]),
    )
    return Join(counts, tuple(rows), tuple(positions))


def read_joined(
    run: PublishedRun, joined: Join, columns: Sequence[str]
) -> Iterator[tuple[pa.Table, npt.NDArray[np.intp]]]:
    """Yield the rows that have a truth, a row group at a time; groups without one are not read.

    Yields:
        The columns of N rows, and intp[N], the image of each in the truth.
    """
    for group, rows, positions in zip(run.row_groups(run.table), joined.rows, joined.positions, strict=True):
        if len(rows):
            yield group.read(columns).take(pa.array(rows)), positions


def _keys_of(paths: pa.Array, matched_by: MatchedBy) -> pa.Array:
    if matched_by == "path":
        return paths
    return pc.replace_substring_regex(paths, pattern="(?s)^.*/", replacement="")


def _failed(run: PublishedRun, truth: Truth, keys: pa.Array) -> npt.NDArray[np.bool_]:
    failed = np.zeros(len(keys), np.bool_)
    for group in (group for table in run.failures_tables for group in run.row_groups(table)):
        paths = group.read(["image_path"]).column(0).combine_chunks()
        place = pc.index_in(_keys_of(paths, truth.matched_by), value_set=keys).drop_null()
        failed[place.to_numpy()] = True
    return failed
