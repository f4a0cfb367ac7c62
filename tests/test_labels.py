"""Labels and thresholds from text, CSV and JSON: what is understood, and what each refusal says."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from transforms.errors import InputError
from transforms.labels import load_labels, load_thresholds
from transforms.settings import LabelSettings


def reader(content: str | bytes) -> Callable[[str], bytes]:
    """Return a read function whose every file holds this content."""
    data = content.encode() if isinstance(content, str) else content
    return lambda _path: data


def never_read(path: str) -> bytes:
    """Fail: no file is declared, none may be read."""
    raise AssertionError(path)


def labels_of(path: str, content: str | bytes, classes: int, **settings: Any) -> tuple[str, ...]:
    """Load labels from a file with this content."""
    return load_labels(LabelSettings(path=path, **settings), classes, reader(content), None)


UNDERSTOOD = [
    # file, content
    ("l.txt", "cat\ndog\ncrane\n"),
    ("l.txt", "cat\ndog\ncrane"),  # no end of the last line
    ("l.txt", "cat\r\ndog\r\ncrane\r\n"),  # Windows
    ("l.txt", "cat\rdog\rcrane"),  # an old Mac
    ("l.txt", "\ufeffcat\ndog\ncrane\n\n\n"),  # byte order mark, and empty lines at the end
    ("labels", "  cat\ndog \ncrane"),  # any other name is text; spaces around a label are none of it
    ("l.csv", "index,label\n0,cat\n1,dog\n2,crane\n"),
    ("L.CSV", "index,label\r\n2,crane\r\n0,cat\r\n1,dog\r\n"),  # in any order
    ("l.csv", "\ufefflabel\ncat\ndog\ncrane\n"),
    ("l.csv", "label,wnid,index\ncat,n1,0\ndog,n2,1\ncrane,n3,2\n"),  # further columns, any order
    ("l.csv", 'index, label\n0, "cat"\n1, dog\n2, crane\n'),
    ("l.json", '["cat", "dog", "crane"]'),
    ("l.json", '{"0": "cat", "2": "crane", "1": "dog"}'),
    ("l.json", '{"0": ["n1", "cat"], "1": ["n2", "dog"], "2": ["n3", "crane"]}'),  # Keras's imagenet_class_index
    ("l.json", '[["n1", "cat"], ["n2", "dog"], ["n3", "crane"]]'),
]


@pytest.mark.parametrize(("path", "content"), UNDERSTOOD)
def test_labels_are_read_from_every_common_form(path: str, content: str) -> None:
    """All of these say cat, dog, crane."""
    assert labels_of(path, content, 3) == ("cat", "dog", "crane")


def test_labels_keep_commas_spaces_separators_and_doubles() -> None:
    """A label is what stands in its line; two classes may share one, as ImageNet's cranes do."""
    lines = ("tench, Tinca tinca", "crane", "crane", "a\u2028b", "Äpfel 🍏")
    assert labels_of("l.txt", "\n".join(lines), 5) == lines
    assert labels_of("l.json", json.dumps(lines), 5) == lines
    assert labels_of("l.csv", 'label\n"tench, Tinca tinca"\ncrane\n', 2) == lines[:2]


def test_without_labels_the_index_serves() -> None:
    """No file, none in the model: 0, 1, 2."""
    assert load_labels(LabelSettings(), 3, never_read, None) == ("0", "1", "2")


def test_one_unit_is_negative_or_positive_without_labels() -> None:
    """Two classes of one unit have names that say what they are."""
    assert load_labels(LabelSettings(), 2, never_read, None, one_unit=True) == ("negative", "positive")
    assert load_labels(LabelSettings(path="l"), 2, reader("ham\nspam"), None, one_unit=True) == ("ham", "spam")


def test_the_models_own_labels_serve_unless_a_file_is_declared() -> None:
    """The declaration comes first."""
    assert load_labels(LabelSettings(), 2, never_read, ["a", "b"]) == ("a", "b")
    assert load_labels(LabelSettings(path="l"), 2, reader("c\nd"), ["a", "b"]) == ("c", "d")


OFFSETS = [
    # offset, labels in the file, classes, result
    (0, "bg\na\nb", 3, ("bg", "a", "b")),
    (-1, "a\nb", 3, ("nothing", "a", "b")),  # the model has a background class that the labels leave out
    (1, "bg\na\nb", 2, ("a", "b")),  # the labels have one that the model leaves out
]


@pytest.mark.parametrize(("offset", "content", "classes", "expected"), OFFSETS)
def test_offset_moves_labels_along_the_classes(
    offset: int, content: str, classes: int, expected: tuple[str, ...]
) -> None:
    """Class i takes label i + offset; a class before the first label takes the background's name."""
    assert labels_of("l.txt", content, classes, offset=offset, background="nothing") == expected


def test_offset_counts_for_the_models_own_labels_too() -> None:
    """Hub models carry 1,000 labels for 1,001 classes as well."""
    assert load_labels(LabelSettings(offset=-1), 3, never_read, ["a", "b"]) == ("background", "a", "b")


WRONG_COUNTS = [
    # labels, classes, offset, end of the message
    (
        1000, 1001, 0,
        "labels.path l.txt holds 1000 labels, the model has 1001 classes; if the model's class 0 is a background "
        "class that the labels leave out, write labels.offset: -1, and labels.background to name it",
    ),
    (
        1001, 1000, 0,
        "labels.path l.txt holds 1001 labels, the model has 1000 classes; if the first label is a background class "
        "that the model does not have, write labels.offset: 1",
    ),
    (
        80, 1000, 0,
        "labels.path l.txt holds 80 labels, the model has 1000 classes; give the labels that the model was trained "
        "with, one for each class",
    ),
    (
        1000, 1000, -1,
        "labels.path l.txt holds 1000 labels, the model has 1000 classes and labels.offset is -1, which takes 999 "
        "labels; leave labels.offset out",
    ),
    (
        1001, 1000, -1,
        "labels.path l.txt holds 1001 labels, the model has 1000 classes and labels.offset is -1, which takes 999 "
        "labels; if the first label is a background class that the model does not have, write labels.offset: 1",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("found", "classes", "offset", "message"), WRONG_COUNTS)
def test_wrong_number_of_labels_names_both_counts_and_the_way_out(
    found: int, classes: int, offset: int, message: str
) -> None:
    """Off by one is the background class, and the message says which offset mends it."""
    with pytest.raises(InputError) as caught:
        labels_of("l.txt", "\n".join(f"class {i}" for i in range(found)), classes, offset=offset)
    assert str(caught.value) == message


def test_wrong_number_of_the_models_own_labels_is_told_as_such() -> None:
    """Nobody declared a file, so none is named."""
    with pytest.raises(InputError, match=r"^the model's own label file holds 2 labels, the model has 9 classes; give"):
        load_labels(LabelSettings(), 9, never_read, ["a", "b"])


def test_one_label_for_one_unit_is_not_enough() -> None:
    """The rows have two columns, and each needs a name."""
    with pytest.raises(InputError, match=r"holds 1 labels, the model has 2 classes \(one output p .* give two labels"):
        load_labels(LabelSettings(path="l"), 2, reader("cat"), None, one_unit=True)


BROKEN = [
    # file, content, message after "labels.path <file>"
    ("l.txt", "cat\n\ncrane", ": line 2 is empty; each line is one label, so that none may be left out"),
    ("l.txt", "\ncat", ": line 1 is empty"),
    ("l.txt", "", " holds no labels; give one for each class"),
    ("l.txt", b"\xffcat", " is not UTF-8: byte 0xff at 0; save it as UTF-8"),
    ("l.csv", "name\ncat\n", " has the columns name; it needs label, or index and label"),
    ("l.csv", "", " has the columns none; it needs label"),
    ("l.csv", "label\n", " holds no labels"),
    ("l.csv", "label\ncat\n\ncrane\n", ": line 3 has no label; give one in each row"),
    ("l.csv", "index,label\n0,cat\n1\n", ": line 3 has no label"),
    ("l.csv", "label\ntench, Tinca tinca\n", ": line 2 has 2 cells, the header has 1; put a label that holds a comma"),
    ("l.csv", 'label\n"cat\n', ": line 2 is not CSV: unexpected end of data"),
    ("l.csv", "index,label\n0,cat\n0,dog\n", ": index 0 is there twice, with 'cat' and 'dog'; keep one"),
    ("l.csv", "index,label\n1,cat\n2,dog\n", ": index 0 is missing, but 2 is there; indices run from 0"),
    ("l.csv", "index,label\n-1,cat\n", ": index must be a whole number from 0 on, got '-1'"),
    ("l.csv", "label,index\ncat\n", ": index must be a whole number from 0 on, got ''"),
    ("l.json", "[", " is not JSON: Expecting value"),
    ("l.json", '"cat"', ' must hold a JSON list, or an object of index to label, got "cat"'),
    ("l.json", "[]", " holds no labels"),
    ("l.json", "{}", " holds no labels"),
    ("l.json", '["cat", 7]', ": label 1 must be text that is not empty, got 7"),
    ("l.json", '["cat", " "]', ': label 1 must be text that is not empty, got " "'),
    ("l.json", '["cat", []]', ": label 1 must be text that is not empty, got []"),
    ("l.json", '{"cat": 0, "dog": 1}', ": index must be a whole number from 0 on, got 'cat'; this object goes from"),
    ("l.json", '{"0": "cat", "0": "dog"}', ": index 0 is there twice"),
    ("l.json", '{"0": "cat", "2": "dog"}', ": index 1 is missing, but 2 is there"),
]


@pytest.mark.parametrize(("path", "content", "message"), BROKEN)
def test_broken_label_file_is_refused_where_it_breaks(path: str, content: str | bytes, message: str) -> None:
    """The message names the file, the line or index, and what is needed; no label moves up unseen."""
    with pytest.raises(InputError) as caught:
        labels_of(path, content, 2)
    assert str(caught.value).startswith(f"labels.path {path}{message}")


def test_unreadable_file_is_named() -> None:
    """The cause stays attached."""

    def read(path: str) -> bytes:
        raise FileNotFoundError(2, "No such file or directory", path)

    with pytest.raises(
        InputError, match=r"labels.path l.txt cannot be read: .*No such file.*; check the path"
    ) as caught:
        load_labels(LabelSettings(path="l.txt"), 2, read, None)
    assert isinstance(caught.value.__cause__, FileNotFoundError)


def test_one_threshold_serves_all_labels() -> None:
    """A number is repeated."""
    got = load_thresholds(LabelSettings(thresholds=0.3), 3, never_read)
    np.testing.assert_array_equal(got, np.full(3, 0.3, np.float32))
    assert got.dtype == np.float32


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("t.txt", "0.25\n0\n1e0\n"),
        ("t.csv", "index,threshold\n2,1\n0,0.25\n1,0\n"),
        ("t.csv", "label,threshold\ncat,0.25\ndog,0\ncrane,1\n"),
        ("t.json", "[0.25, 0, 1]"),
        ("t.json", '{"1": 0, "0": 0.25, "2": 1}'),
    ],
)
def test_thresholds_are_read_from_every_common_form(path: str, content: str) -> None:
    """All of these say 0.25, 0, 1."""
    got = load_thresholds(LabelSettings(thresholds=path), 3, reader(content))
    np.testing.assert_array_equal(got, [0.25, 0, 1])


WRONG_THRESHOLDS = [
    # thresholds, content, message
    (1.5, "", "labels.thresholds must be a probability from 0 to 1, got 1.5"),
    ("t.txt", "0.5\nhalf\n", "labels.thresholds t.txt: threshold 1 must be a probability from 0 to 1, got 'half'"),
    ("t.json", "[0.5, true]", "labels.thresholds t.json: threshold 1 must be a probability from 0 to 1, got True"),
    ("t.json", "[0.5, [1]]", "labels.thresholds t.json: threshold 1 must be a probability from 0 to 1, got [1]"),
    ("t.json", "[0.5, null]", "labels.thresholds t.json: threshold 1 must be a probability from 0 to 1, got None"),
    ("t.txt", "0.5\n", "labels.thresholds t.txt holds 1 thresholds, the model has 2 classes; give one for each"),
    ("t.csv", "label\ncat\n", "labels.thresholds t.csv has the columns label; it needs threshold, or index and"),
    ("t.txt", "0.5\n\n0.5", "labels.thresholds t.txt: line 2 is empty; each line is one threshold"),
]


@pytest.mark.parametrize(("thresholds", "content", "message"), WRONG_THRESHOLDS)
def test_wrong_threshold_is_refused(thresholds: float | str, content: str, message: str) -> None:
    """Numbers outside [0, 1], things that are no numbers, and wrong counts."""
    with pytest.raises(InputError) as caught:
        load_thresholds(LabelSettings(thresholds=thresholds), 2, reader(content))
    assert str(caught.value).startswith(message)


def test_an_offset_without_labels_is_refused() -> None:
    """It would move nothing, in silence."""
    with pytest.raises(InputError, match=r"labels.offset 1 moves labels, and there are none"):
        load_labels(LabelSettings(offset=1), 4, lambda _: b"", None)
