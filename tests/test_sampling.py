"""Samples of inputs: spread, reproducible, of every kind of input, in a bounded time."""

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.before.sampling import Listing, list_and_sample
from tests.runs import make_photo
from transforms.errors import InputError
from transforms.inputs import parse_input
from transforms.settings import InputSettings

COUNT = 20_000


def ticking(step: float) -> Callable[[], float]:
    """A clock that goes on by step each time it is looked at."""
    times: Iterator[float] = (step * number for number in range(10**9))
    return lambda: next(times)


def listed(*inputs: str, samples: int = 50, seed: int = 0, step: float = 0.0) -> Listing:
    """List with a second to do it in, by a clock that goes on by step."""
    sources = [parse_input(text) for text in inputs]
    return list_and_sample(sources, InputSettings(), samples, seed, 1.0, ticking(step))


def write_manifest(path: Path, names: list[str]) -> str:
    """Write a manifest of the kind that the path's suffix says."""
    if path.suffix == ".txt":
        path.write_text("".join(f"{name}\n" for name in names))
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps({"id": 7, "image_path": name}) + "\n" for name in names))
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([["id", "image_path"], *([7, name] for name in names)])
    else:
        pq.write_table(pa.table({"image_path": names}), path, row_group_size=500)
    return f"@{path}"


def names_of(listing: Listing) -> list[str]:
    """The paths of a sample."""
    return [entry.path for entry in listing.sample]


@pytest.mark.parametrize("kind", ["txt", "csv", "jsonl", "parquet"])
@pytest.mark.parametrize("step", [0.0, 2.0], ids=["in time", "too long"])
def test_manifests_are_counted_or_reckoned_and_sampled_all_over(tmp_path: Path, kind: str, step: float) -> None:
    """Twenty thousand lines: exactly in time; else within 3%, and the sample comes from every fifth of the file."""
    names = [f"/photos/{number:06}{'x' * (number % 7)}.jpg" for number in range(COUNT)]
    listing = listed(write_manifest(tmp_path / f"list.{kind}", names), step=step)
    assert listing.exact == (step == 0.0)
    assert listing.images == pytest.approx(COUNT, rel=0.03 if step else 0)
    assert len(listing.sample) == len(set(names_of(listing))) == 50
    assert set(names_of(listing)) <= set(names)
    places = Counter(5 * names.index(name) // COUNT for name in names_of(listing))
    assert min(places[fifth] for fifth in range(5)) >= 3
    assert ("list." in listing.how) == (step != 0.0)


def test_the_same_seed_gives_the_same_sample_and_another_seed_another(tmp_path: Path) -> None:
    """A preflight can be repeated."""
    manifest = write_manifest(tmp_path / "list.txt", [f"/photos/{number}.jpg" for number in range(1000)])
    assert names_of(listed(manifest)) == names_of(listed(manifest))
    assert names_of(listed(manifest)) != names_of(listed(manifest, seed=1))


def test_each_image_has_the_same_chance(tmp_path: Path) -> None:
    """Ten of forty, 400 times: each about a hundred times, within five standard deviations (8.7)."""
    manifest = write_manifest(tmp_path / "list.txt", [f"/photos/{number}.jpg" for number in range(40)])
    counts = Counter(name for seed in range(400) for name in names_of(listed(manifest, samples=10, seed=seed)))
    assert len(counts) == 40
    assert all(abs(count - 100) < 44 for count in counts.values())


def test_duplicates_count_once_and_are_told(tmp_path: Path) -> None:
    """The same image by a manifest twice, and by its folder."""
    photo = make_photo(tmp_path / "photos" / "a.png", 1)
    make_photo(tmp_path / "photos" / "b.png", 2)
    manifest = write_manifest(tmp_path / "list.txt", [str(photo), str(photo)])
    listing = listed(manifest, str(tmp_path / "photos"))
    assert (listing.images, listing.duplicates, listing.exact) == (2, 2, True)
    assert sorted(names_of(listing)) == sorted(map(str, (tmp_path / "photos").iterdir()))


def test_several_inputs_are_sampled_by_their_size(tmp_path: Path) -> None:
    """Of one input three times as large as the other come about three times as many."""
    large = write_manifest(tmp_path / "large.txt", [f"/large/{number}.jpg" for number in range(3000)])
    small = write_manifest(tmp_path / "small.txt", [f"/small/{number}.jpg" for number in range(1000)])
    names = names_of(listed(large, small, samples=40))
    assert Counter(name.split("/")[1] for name in names) == {"large": 30, "small": 10}


def test_a_folder_that_is_too_long_to_list_says_at_least(tmp_path: Path) -> None:
    """Nothing tells how many more there are."""
    for number in range(600):
        (tmp_path / f"{number:03}.png").touch()
    listing = listed(str(tmp_path), step=2.0)
    assert listing.images == 256
    assert not listing.exact
    assert f"at least: listing {tmp_path} was ended after" in listing.how


def test_a_manifest_without_line_ends_is_refused(tmp_path: Path) -> None:
    """What is no list of paths is not reckoned with."""
    path = tmp_path / "list.txt"
    path.write_text("".join(f"{n}\n" for n in range(600)) + "x" * 10_000_000)
    with pytest.raises(InputError, match="manifest .* has no line ends within 65,536 bytes; is it a list of paths?"):
        listed(f"@{path}", step=2.0)
