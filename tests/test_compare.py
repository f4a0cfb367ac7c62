"""Two runs compared: what is counted, against a slow obvious version, and what is said, shown and refused."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.after.compare import CANDIDATES, Comparison, compare
from pipeline.after.compare_join import match_names, movement_bound
from pipeline.after.compare_page import comparison_page, decode_settings
from pipeline.after.compare_text import comparison_text
from pipeline.after.published import find_run
from pipeline.cli import main
from tests.published_runs import publish_scores
from tests.runs import make_photo, tree
from transforms.errors import InputError
from transforms.probabilities import sigmoid, softmax

LABELS = ("cat", "dog", "cow", "owl")


def publish_pair(
    output: Path, first: npt.ArrayLike, second: npt.ArrayLike, one: dict[str, Any], two: dict[str, Any]
) -> Comparison:
    """Publish two runs, `old` and `new`, and compare them."""
    for run_id, probabilities, more in (("old", first, one), ("new", second, two)):
        rows = len(np.asarray(probabilities))
        values: dict[str, Any] = {"labels": LABELS, "paths": [f"{number}.png" for number in range(rows)], **more}
        publish_scores(output, values.pop("paths"), probabilities, run_id=run_id, **values)
    return compare(find_run(f"{output}/runs/old"), find_run(f"{output}/runs/new"), 5)


def probabilities(seed: int, rows: int, classes: int = 4) -> npt.NDArray[np.float32]:
    """float32[rows, classes], some decided and some not."""
    return softmax(np.random.default_rng(seed).normal(0, 2, (rows, classes)))


def test_every_image_is_counted_where_it_belongs(tmp_path: Path) -> None:
    """Shared, changed, only in one, failed in the other; flips by class; the means."""
    first = [[0.7, 0.1, 0.1, 0.1], [0.1, 0.6, 0.2, 0.1], [0.1, 0.1, 0.7, 0.1], [0.4, 0.3, 0.2, 0.1]]
    second = [[0.1, 0.8, 0.0, 0.1], [0.1, 0.7, 0.1, 0.1], [0.1, 0.6, 0.2, 0.1], [1, 0, 0, 0]]
    found = publish_pair(
        tmp_path,
        first,
        second,
        {"paths": ["a", "b", "c", "d"], "versions": ["1", "1", "1", "1"]},
        {"paths": ["c", "b", "a", "z"], "versions": ["2", "1", "1", "1"], "failed": ["d", "e"]},
    )
    joined = found.joined
    assert (joined.images, joined.changed, joined.flips, joined.changed_flips) == (3, 1, 2, 1)
    assert (joined.only_first, joined.only_first_failed) == (1, 1)
    assert (joined.only_second, joined.only_second_failed) == (1, 0)
    assert found.flip_rate == pytest.approx(2 / 3)
    assert joined.confidence_change == pytest.approx(0.1 + 0.1 + 0.1)
    assert [tuple(flip) for flip in found.flips] == [("cat", "dog", 1), ("cow", "dog", 1)]
    assert [mix.tolist() for mix in joined.mixes] == [[1, 1, 1, 0], [0, 3, 0, 0]]
    assert [(shift.label, shift.before, shift.now) for shift in found.all_images.shifts] == [
        ("dog", 1, 3),
        ("cat", 2, 1),
        ("cow", 1, 0),
    ]
    moved = {movement.image_path: (movement.change, movement.new_version) for movement in found.movements}
    assert moved == {
        "c": (pytest.approx(0.7), True),
        "a": (pytest.approx(0.6), False),
        "b": (pytest.approx(0.1), False),
    }
    assert [answer.label for answer in found.movements[0].before] == ["cow", "cat", "dog"]


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 12), st.integers(1, 4))
def test_the_join_is_what_two_dictionaries_say(
    tmp_path_factory: pytest.TempPathFactory, seed: int, rows: int, others: int, group_rows: int
) -> None:
    """Of any two runs, in any order of rows, cut anyhow: counts, flips and total variations."""
    rng = np.random.default_rng(seed)
    names = np.array([f"{number}.png" for number in range(15)])
    paths = [rng.permutation(names)[:count].tolist() for count in (rows, others)]
    p = [probabilities(seed + number, len(some)) for number, some in enumerate(paths)]
    versions = [rng.choice(["1", "2"], len(some)).tolist() for some in paths]
    found = publish_pair(
        tmp_path_factory.mktemp("runs"),
        *p,
        *({"paths": some, "versions": v, "group_rows": group_rows} for some, v in zip(paths, versions, strict=True)),
    )
    old, new = (
        dict(zip(some, zip(q, v, strict=True), strict=True)) for some, q, v in zip(paths, p, versions, strict=True)
    )
    shared = [path for path in paths[0] if path in new]
    flips = Counter(
        (LABELS[old[path][0].argmax()], LABELS[new[path][0].argmax()])
        for path in shared
        if old[path][0].argmax() != new[path][0].argmax()
    )
    joined = found.joined
    assert joined.images == len(shared)
    assert (joined.only_first, joined.only_second) == (rows - len(shared), others - len(shared))
    assert joined.changed == sum(old[path][1] != new[path][1] for path in shared)
    assert {(flip.before, flip.now): flip.images for flip in found.flips} == flips
    variation = {path: np.abs(old[path][0] - new[path][0]).sum() / 2 for path in shared}
    # So few images are all candidates: the order is exact.
    assert len(shared) <= 5 * CANDIDATES
    assert (found.candidates, found.searched) == (len(shared), "")
    expected = sorted(variation.values(), reverse=True)[:5]
    assert [movement.change for movement in found.movements] == pytest.approx(expected, abs=1e-6)
    assert all(movement.change == pytest.approx(variation[movement.image_path]) for movement in found.movements)


@given(st.integers(0, 2**32 - 1), st.integers(2, 6))
def test_the_bound_of_a_movement_never_exceeds_the_total_variation(seed: int, classes: int) -> None:
    """Of classes that exclude each other: what the strongest answers prove is not more than what is."""
    p, q = probabilities(seed, 50, classes), probabilities(seed + 1, 50, classes)
    bound = movement_bound(
        p.max(axis=1).astype(float), q.max(axis=1).astype(float), p.argmax(axis=1) != q.argmax(axis=1), exclusive=True
    )
    variation = np.abs(p.astype(float) - q).sum(axis=1) / 2
    assert (bound <= variation + 1e-6).all()
    assert (bound >= 0).all()


def test_the_furthest_are_found_among_many(tmp_path: Path) -> None:
    """Three of 400 have turned right round: they come first, though only candidates are read."""
    first = np.tile(np.array([0.85, 0.05, 0.05, 0.05]), (400, 1))
    second = first + np.random.default_rng(1).uniform(-0.01, 0.01, first.shape)
    for place in (7, 200, 399):
        second[place] = [0.02, 0.94, 0.02, 0.02]
    found = publish_pair(tmp_path, first, second, {"group_rows": 50}, {"group_rows": 30})
    assert {movement.image_path for movement in found.movements[:3]} == {"7.png", "200.png", "399.png"}
    assert found.movements[3].change < 0.05
    assert found.to_json()["movement_candidates"] == found.candidates == 5 * CANDIDATES


def test_it_is_said_where_an_image_that_moved_far_may_be_missing(tmp_path: Path) -> None:
    """One of 400 keeps its answer and exchanges all others, which the strongest answers do not show."""
    first = np.tile(np.array([0.4, 0.3, 0.3, 0.0]), (400, 1))
    second = np.tile(np.array([0.41, 0.29, 0.3, 0.0]), (400, 1))
    second[7] = [0.4, 0.0, 0.3, 0.3]
    found = publish_pair(tmp_path, first, second, {"group_rows": 50}, {"group_rows": 30})
    assert "7.png" not in {movement.image_path for movement in found.movements}
    assert found.searched == "among the 20 images whose strongest answers moved most"
    assert f"  moved furthest, by total variation, {found.searched}" in comparison_text(found, 3).splitlines()
    page = comparison_page(found, find_run(f"{tmp_path}/runs/new"))
    assert f"By total variation, {found.searched}: what is said of each image is exact, but one that moved far" in page


def test_labels_are_matched_by_name(tmp_path: Path) -> None:
    """Another order, one less and one more: equal answers agree, and what is unmapped is told."""
    p = np.array([[0.7, 0.1, 0.1, 0.1], [0.1, 0.7, 0.1, 0.1]])
    found = publish_pair(tmp_path, p, p[:, [1, 0, 2, 3]], {}, {"labels": ("dog", "cat", "cow", "emu")})
    assert found.flip_rate == 0
    assert (found.names.only_first, found.names.only_second) == (("owl",), ("emu",))
    assert found.movements[0].change == pytest.approx(0.1)  # owl's tenth is emu's
    text = comparison_text(found, 3)
    assert "labels only in run old: 1 (owl)" in text
    assert "labels only in run new: 1 (emu)" in text


def test_two_classes_of_one_name_stay_apart_where_the_labels_are_equal() -> None:
    """ImageNet has two cranes; other label sets can only be matched by name."""
    same = match_names(("crane", "cat", "crane"), ("crane", "cat", "crane"))
    assert same.first.tolist() == same.second.tolist() == [0, 1, 2]
    other = match_names(("crane", "cat", "crane"), ("cat", "crane"))
    assert (other.labels, other.first.tolist(), other.second.tolist()) == (("crane", "cat"), [0, 1, 0], [1, 0])


def test_runs_without_a_label_in_common_are_refused(tmp_path: Path) -> None:
    """With an example of both, and the way out."""
    p = probabilities(1, 3)
    with pytest.raises(
        InputError, match=r"no label in common: the first has 'cat', the second 'a' and so on; give two"
    ):
        publish_pair(tmp_path, p, p, {}, {"labels": "abcd"})


def test_a_run_is_not_compared_with_itself(tmp_path: Path) -> None:
    """However it is named."""
    publish_scores(tmp_path, ["a"], [[0.2, 0.8]])
    with pytest.raises(
        InputError, match=r"run night cannot be compared with itself; give two runs, <output>/runs/<id>"
    ):
        compare(find_run(str(tmp_path)), find_run(f"{tmp_path}/runs/night"))


def test_runs_of_one_id_in_two_outputs_are_told_apart(tmp_path: Path) -> None:
    """Two models on trial in outputs of their own: each figure says whose it is."""
    for folder in ("a", "b"):
        publish_scores(tmp_path / folder, ["x"], [[0.2, 0.8]])
    found = compare(find_run(f"{tmp_path}/a"), find_run(f"{tmp_path}/b"))
    assert "0 only by night (first) (0 failed in night (second)), 0 only by night (second)" in comparison_text(found, 3)


def test_nights_of_other_images_are_compared_by_their_distributions(tmp_path: Path) -> None:
    """No agreement can be told, the mix can; the same from manifests that do not say it."""
    one, two = probabilities(1, 300), probabilities(2, 300)
    found = publish_pair(
        tmp_path, one, two, {"group_rows": 99}, {"paths": [f"x{i}" for i in range(300)], "group_rows": 99}
    )
    assert (found.flip_rate, found.movements, found.shared_images.class_mix) == (None, (), None)
    assert found.all_images.class_mix is not None
    assert found.all_images.class_mix.by_chance
    assert "no image was scored by both runs: only their distributions are compared" in comparison_text(found, 3)
    older = publish_pair(
        tmp_path / "older",
        one,
        two,
        {"group_rows": 99, "with_distributions": False},
        {"paths": [f"x{i}" for i in range(300)], "group_rows": 99, "with_distributions": False},
    )
    assert older.all_images.to_json() == found.all_images.to_json()


def test_a_delta_says_that_it_holds_only_its_own_images(tmp_path: Path) -> None:
    """Nobody takes its few images for the whole night."""
    p = probabilities(1, 3)
    found = publish_pair(tmp_path, p, p, {}, {"since_run": {"run_id": "old", "chain": ["old"]}})
    assert "run new is a delta of old: only the images that it has scored itself count" in comparison_text(found, 3)


def test_independent_labels_move_by_their_largest_change(tmp_path: Path) -> None:
    """Sigmoid: rows do not sum to 1, so that total variation has no meaning."""
    p = sigmoid(np.random.default_rng(1).normal(0, 1, (20, 4)))
    q = p.copy()
    q[3, 1] = 1 - q[3, 1]
    found = publish_pair(tmp_path, p, q, {"activation": "sigmoid"}, {"activation": "sigmoid"})
    assert found.movement == "largest change of a label's probability"
    assert found.movements[0].image_path == "3.png"
    assert found.movements[0].change == pytest.approx(abs(2 * p[3, 1] - 1), abs=1e-6)
    # The label that moved, and not the strongest one, which may not have moved at all.
    first = found.movements[0]
    moved = (first.label, first.label_before, first.label_now)
    assert moved == ("dog", pytest.approx(p[3, 1], abs=1e-6), pytest.approx(q[3, 1], abs=1e-6))
    line = f"{first.change:.3f}  dog {p[3, 1]:.3f} -> {q[3, 1]:.3f}  3.png"
    assert line in comparison_text(found, 3)


def test_empty_runs_are_compared(tmp_path: Path) -> None:
    """A night without images is a night."""
    found = publish_pair(tmp_path, np.zeros((0, 4)), probabilities(1, 3), {}, {})
    assert (found.joined.only_second, found.flip_rate, found.all_images.class_mix) == (3, None, None)
    text = comparison_text(found, 3)
    assert "all images: one of the runs has none" in text
    assert "no image was scored by run old: nothing can be compared" in text
    assert "only their distributions" not in text


def test_a_damaged_table_is_named(tmp_path: Path) -> None:
    """The file that cannot be read."""
    publish_pair(tmp_path, probabilities(1, 3), probabilities(2, 3), {}, {})
    (part,) = (tmp_path / "scores" / "run_id=new").iterdir()
    data = bytearray(part.read_bytes())
    data[4:200] = bytes(196)
    part.write_bytes(bytes(data))
    with pytest.raises(InputError, match="run"):
        compare(find_run(f"{tmp_path}/runs/old"), find_run(f"{tmp_path}/runs/new"))


def test_the_command_prints_and_writes_what_it_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Text on stdout, JSON and a page where they are wanted, and nothing in the runs."""
    photos = [make_photo(tmp_path / "photos" / f"{number}.png", number) for number in range(3)]
    one, two = [[0.8, 0.2], [0.6, 0.4], [0.1, 0.9]], [[0.7, 0.3], [0.1, 0.9], [0.1, 0.9]]
    output = tmp_path / "out"
    for run_id, p in (("old", one), ("new", two)):
        publish_scores(output, [str(photo) for photo in photos], p, labels=("cat", "dog"), run_id=run_id)
    before = tree(output)
    runs = [f"{output}/runs/old", str(output)]
    assert main(["compare", *runs, "--json", f"{tmp_path}/c.json", "--html", f"{tmp_path}/c.html"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "run new compared with run old"
    assert lines[3:] == [
        "  images    3 scored by both, 0 of them with another version of the file",
        "            0 only by old (0 failed in new), 0 only by new (0 failed in old)",
        "  answers   2 the same (66.67%), 1 flipped (33.33%), 0 of them with another version",
        "            top-1 probability changed by 0.1333 in the mean",
        "  all images",
        "    class mix   too few images for two groups of at least 5 to compare",
        "    confidence  too few images for two groups of at least 5 to compare",
        "       66.67% to  33.33%  cat",
        "       33.33% to  66.67%  dog",
        "  the same images",
        "    class mix   PSI 0.255, Jensen-Shannon 0.0817 over 2 groups",
        "    confidence  PSI 0.000, Jensen-Shannon 0.0000 over 1 group",
        "  flips by class (different kinds: 1)",
        "          1  cat -> dog",
        "  moved furthest, by total variation",
        f"    0.500  cat 0.600 -> dog 0.900  {photos[1]}",
        f"    0.100  cat 0.800 -> cat 0.700  {photos[0]}",
        f"    0.000  dog 0.900 -> dog 0.900  {photos[2]}",
    ]
    told = json.loads((tmp_path / "c.json").read_text(encoding="utf-8"))
    assert (told["flip_rate"], told["images"]["shared"], told["movement"]) == (
        pytest.approx(1 / 3),
        3,
        "total variation",
    )
    assert "by_chance" in told["all_images"]["class_mix"]
    assert "by_chance" not in told["shared_images"]["class_mix"]
    page = (tmp_path / "c.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg;base64,") == 3
    assert "By total variation, of all images that both have scored." in page
    assert tree(output) == before


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 2 and the way out."""
    publish_pair(tmp_path, probabilities(1, 3), probabilities(2, 3), {}, {})
    runs = [f"{tmp_path}/runs/old", f"{tmp_path}/runs/new"]
    (tmp_path / "file").write_text("")
    assert main(["compare", *runs, "--json", f"{tmp_path}/file/c.json"]) == 2
    assert "c.json cannot be written: " in capsys.readouterr().err
    assert main(["compare", *runs, "--rows", "-1"]) == 2
    assert "--rows must be at least 0, got -1" in capsys.readouterr().err


def test_labels_and_paths_are_text_in_the_page(tmp_path: Path) -> None:
    """Never markup, wherever they stand; an image that is gone says so."""
    label, path = "<script>alert(1)</script>", "/gone/a \"b\" & 'c' <i>.png"
    found = publish_pair(
        tmp_path,
        [[0.9, 0.1]] * 3,
        [[0.1, 0.9]] * 3,
        {"labels": ("cat", label), "paths": [path, "b", "c"]},
        {"labels": ("cat", label), "paths": [path, "b", "c"]},
    )
    page = comparison_page(found, find_run(f"{tmp_path}/runs/new"))
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<i>" not in page
    assert "/gone/a &#34;b&#34; &amp; &#39;c&#39; &lt;i&gt;.png" in page
    assert page.count("not_found") == 3


def test_limits_on_decoding_are_those_of_the_run(tmp_path: Path) -> None:
    """From its manifest; the defaults where that says nothing known."""
    publish_scores(tmp_path, ["a"], [[0.2, 0.8]])
    run = find_run(str(tmp_path))
    for config, limit in (
        ({"decode": {"max_file_bytes": 7}}, 7),
        ({"decode": {"unknown": 7}}, 64 * 1024**2),
        ("odd", 64 * 1024**2),
        (None, 64 * 1024**2),
    ):
        run.manifest["config"] = config
        assert decode_settings(run).max_file_bytes == limit
