"""Reading a truth, matching it with a run, and counting what does not match."""

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.after.published import PublishedRun, find_run
from pipeline.after.truth import MatchCounts, Truth, join, read_joined, read_truth
from tests.published_runs import publish_scores
from transforms.errors import InputError

PETS = ("cat", "dog", "crane")


def truth_of(folder: Path, text: str, labels: tuple[str, ...] = PETS, *, independent: bool = False) -> Truth:
    """Read a truth with this text."""
    path = folder / "truth.csv"
    path.write_bytes(text.encode())
    return read_truth(str(path), labels, independent=independent)


UNDERSTOOD = [
    # text of the file, reading
    ("image_path,label\n/1.png,cat\n/2.png,crane\n", "label texts"),
    ("image_path,label\n/1.png,0\n/2.png,2\n", "class indices"),
    ("\ufeffimage_path,label\r\n/1.png,cat\r\n/2.png,crane", "label texts"),  # Excel's byte order mark and line ends
    ("label,taken,image_path\ncat,2026,/1.png\ncrane,2025,/2.png\n", "label texts"),  # any order, further columns
    ('image_path,label\n"/1.png"," cat "\n\n/2.png,crane\n', "label texts"),  # quotes, spaces, an empty line
    ("image_path,label\n/1.png,cat\n/2.png,crane\n/1.png,cat\n", "label texts"),  # said twice
]


@pytest.mark.parametrize(("text", "reading"), UNDERSTOOD)
def test_labels_are_texts_or_indices(tmp_path: Path, text: str, reading: str) -> None:
    """All of these say that 1 is a cat and 2 a crane."""
    truth = truth_of(tmp_path, text)
    assert (truth.paths, truth.classes, truth.reading) == (("/1.png", "/2.png"), ((0,), (2,)), reading)
    assert truth.true_classes(np.array([1, 0, 1])).tolist() == [2, 0, 2]


def test_a_label_that_looks_like_an_index_is_a_label(tmp_path: Path) -> None:
    """Texts come first: the class that is called 7 is meant, not the eighth."""
    truth = truth_of(tmp_path, "image_path,label\n/1.png,7\n", ("5", "7"))
    assert (truth.classes, truth.reading) == (((1,),), "label texts")


@pytest.mark.parametrize(
    "text",
    [
        "image_path,label\n/1.png,cat;crane\n/2.png,\n",
        "image_path,label\n/1.png, crane ; cat ;\n/2.png,\n",  # spaces, and a separator too many
        "image_path,label\n/1.png,crane\n/1.png,cat\n/2.png,\n",  # a row a label
        "image_path,label\n/1.png,0;2\n/2.png,\n",
    ],
)
def test_independent_labels_add_up_and_may_be_none(tmp_path: Path, text: str) -> None:
    """1 shows a cat and a crane, 2 neither of the three."""
    truth = truth_of(tmp_path, text, independent=True)
    assert truth.classes == ((0, 2), ())
    np.testing.assert_array_equal(truth.true_labels(np.array([1, 0]), 3), [[0, 0, 0], [1, 0, 1]])


def test_a_label_may_hold_the_separator(tmp_path: Path) -> None:
    """A cell that is a label as a whole is not split."""
    text = "image_path,label\n/1.png,cat;dog\n"
    assert truth_of(tmp_path, text, ("cat;dog", "cat", "dog"), independent=True).classes == ((0,),)


def test_relative_paths_start_at_the_folder_of_the_truth(tmp_path: Path) -> None:
    """As those of a manifest do; file:// is the path that it names."""
    truth = truth_of(tmp_path, "image_path,label\nsub/1.png,cat\n../2.png,dog\nfile:///3.png,dog\n")
    assert truth.paths == (f"{tmp_path}/sub/1.png", str(tmp_path.parent / "2.png"), "/3.png")
    assert truth.matched_by == "path"


def test_columns_may_have_other_names(tmp_path: Path) -> None:
    """As in a file that was made for something else."""
    path = tmp_path / "truth.csv"
    path.write_text("file,wnid,class_index\n1.png,n1,2\n")
    truth = read_truth(str(path), PETS, independent=False, path_column="file", label_column="class_index")
    assert (truth.paths, truth.classes, truth.matched_by) == (("1.png",), ((2,),), "file name")


REFUSED = [
    # text, message
    ("", "has no column image_path; its first line has nothing; name the right one with --path-column"),
    ("image_path,class\n/1.png,cat\n", "has no column label; its first line has image_path, class; name the right one "
     "with --label-column"),
    ("image_path,label\n", "names no image: it has a header and nothing else"),
    ("image_path,label\n/1.png,cat\n/2.png,a,b\n", "line 3 has 3 cells, the header has 2; put a cell that holds a "
     "comma in double quotes"),
    ("image_path,label\n,cat\n", "line 2 has no image_path; give one in each row"),
    ("image_path,label\n/1.png,\n", "line 2: /1.png has no label; each image needs one"),
    ("image_path,label\n/1.png,cat\n/2.png,dog\n/1.png,dog\n", "/1.png is cat in line 2 and dog in line 4; the classes "
     "of this run exclude each other, keep one"),
    ("image_path,label\n/1.png,cat;dog\n", "line 2: 'cat;dog' is neither a label of the run nor a class index from 0 "
     "to 2"),  # only independent labels come in lists
    ("image_path,label\n/1.png,cat\n/2.png,carne\n", "line 3: 'carne' is neither a label of the run nor a class index "
     "from 0 to 2; did you mean crane?"),
    ("image_path,label\n/1.png,zebra\n", "a class index from 0 to 2; the first labels are cat, dog, crane"),
    ("image_path,label\n/1.png,1\n/2.png,3\n", "line 3: '3' is neither a label of the run nor a class index from 0 to "
     "2; do these indices count from 1, or a background class first?"),
    ("image_path,label\n/1.png,cat\n/2.png,2\n", "gives label cat in line 2 and class index 2 in line 3; give label "
     "texts or class indices throughout"),
    ('image_path,label\n"/1.png,cat\n', "line 2 is not CSV: unexpected end of data"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), REFUSED)
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    """A wrong truth measures a wrong thing: nothing is left out of it in silence."""
    with pytest.raises(InputError, match=re.escape(message)) as raised:
        truth_of(tmp_path, text)
    assert str(raised.value).startswith(f"truth {tmp_path}/truth.csv")


def test_a_text_that_two_classes_share_is_refused(tmp_path: Path) -> None:
    """ImageNet has two cranes: only the index tells the bird from the machine."""
    labels = ("crane", "dog", "crane")
    with pytest.raises(InputError, match="line 3: crane is the label of the classes 0 and 2; give class indices"):
        truth_of(tmp_path, "image_path,label\n/1.png,dog\n/2.png,crane\n", labels)
    assert truth_of(tmp_path, "image_path,label\n/1.png,1\n/2.png,2\n", labels).classes == ((1,), (2,))
    assert truth_of(tmp_path, "image_path,label\n/1.png,dog\n", labels).classes == ((1,),)  # no crane, no question


def test_a_truth_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """Missing, and not UTF-8."""
    with pytest.raises(InputError, match=r"truth /nowhere\.csv cannot be read: .*; check the path"):
        read_truth("/nowhere.csv", PETS, independent=False)
    (tmp_path / "truth.csv").write_bytes("image_path,label\n/é.png,cat\n".encode("latin-1"))
    with pytest.raises(InputError, match="is not UTF-8: .*; save it as UTF-8"):
        read_truth(str(tmp_path / "truth.csv"), PETS, independent=False)


@pytest.fixture
def run(tmp_path: Path) -> PublishedRun:
    """Five scored images in three row groups, and one that failed."""
    paths = ["/a/1.png", "/a/2.png", "/a/3.png", "/b/4.png", "/b/5.png"]
    scores = np.eye(3)[[0, 1, 2, 0, 1]]
    publish_scores(tmp_path / "out", paths, scores, labels=PETS, failed=["/b/6.png"])
    return find_run(str(tmp_path / "out"))


def joined_rows(run: PublishedRun, truth: Truth) -> list[tuple[str, int]]:
    """Return the matched paths of a run, each with its place in the truth."""
    tables = list(read_joined(run, join(run, truth), ["image_path"]))
    paths = pa.concat_tables([table for table, _ in tables])["image_path"].to_pylist()
    return list(zip(paths, np.concatenate([position for _, position in tables]).tolist(), strict=True))


def test_paths_are_matched_and_the_rest_is_counted(run: PublishedRun, tmp_path: Path) -> None:
    """Both ways: scored without truth; in the truth, but failed; in the truth, and not in the run at all."""
    text = "image_path,label\n/b/5.png,dog\n/gone.png,cat\n/a/2.png,crane\n/b/6.png,cat\n"
    truth = truth_of(tmp_path, text)
    assert joined_rows(run, truth) == [("/a/2.png", 2), ("/b/5.png", 0)]
    assert join(run, truth).counts == MatchCounts(
        matched=2,
        matched_by="path",
        reading="label texts",
        scored_without_truth=3,
        scored_without_truth_examples=("/a/1.png", "/a/3.png", "/b/4.png"),
        truth_failed=1,
        truth_not_in_run=1,
        truth_without_scores_examples=("/gone.png", "/b/6.png"),
    )


def test_bare_file_names_match_wherever_the_images_lie(run: PublishedRun, tmp_path: Path) -> None:
    """The truth has no folders at all."""
    truth = truth_of(tmp_path, "image_path,label\n4.png,0\n1.png,0\n6.png,0\n9.png,0\n")
    assert joined_rows(run, truth) == [("/a/1.png", 1), ("/b/4.png", 0)]
    counts = join(run, truth).counts
    assert (counts.matched_by, counts.truth_failed, counts.truth_not_in_run) == ("file name", 1, 1)


def test_one_folder_in_the_truth_makes_all_of_it_paths(run: PublishedRun, tmp_path: Path) -> None:
    """A file is read in one way: 1.png beside /b/4.png is a path, relative to the truth."""
    truth = truth_of(tmp_path, "image_path,label\n/b/4.png,0\n1.png,0\n")
    assert joined_rows(run, truth) == [("/b/4.png", 0)]


def test_a_file_name_of_two_images_is_refused(tmp_path: Path) -> None:
    """Which of them is meant cannot be known; a third one that nobody asks for does not matter."""
    publish_scores(tmp_path / "out", ["/a/1.png", "/a/2.png", "/b/2.png", "/b/1.png"], np.eye(2)[[0, 0, 1, 1]])
    run = find_run(str(tmp_path / "out"))
    with pytest.raises(
        InputError,
        match=r"gives file names only, and 1\.png is in the run twice, as /a/1\.png and /b/1\.png; give their paths",
    ):
        join(run, truth_of(tmp_path, "image_path,label\n1.png,0\n", ("0", "1")))
    assert joined_rows(run, truth_of(tmp_path, "image_path,label\n/b/1.png,0\n", ("0", "1"))) == [("/b/1.png", 0)]


def test_nothing_in_common_is_refused_with_a_name_of_each_side(run: PublishedRun, tmp_path: Path) -> None:
    """Seeing both shows what has to be mended."""
    with pytest.raises(
        InputError,
        match=r"share no image, compared by path: the truth has /c/1\.png, the run /a/1\.png; name the column of",
    ):
        join(run, truth_of(tmp_path, "image_path,label\n/c/1.png,cat\n"))


def test_row_groups_without_truth_are_not_read(run: PublishedRun, tmp_path: Path) -> None:
    """Measuring a hundred images of a hundred million costs the paths of the rest, not their probabilities."""
    joined = join(run, truth_of(tmp_path, "image_path,label\n/b/4.png,cat\n"))
    assert [len(rows) for rows in joined.rows] == [0, 1, 0]
    assert [table["image_path"].to_pylist() for table, _ in read_joined(run, joined, ["image_path"])] == [["/b/4.png"]]
