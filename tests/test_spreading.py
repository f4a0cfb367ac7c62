"""Elements are shared out by what they are."""

from pathlib import Path

import apache_beam as beam
from apache_beam.testing.util import assert_that, equal_to

from transforms.inputs import parse_input
from transforms.settings import InputSettings
from transforms.shards import plan_shards
from transforms.spreading import Spread, _by_itself


def test_elements_come_out_as_they_went_in() -> None:
    """Twice where they went in twice."""
    with beam.Pipeline() as pipeline:
        spread = pipeline | beam.Create([("b", 2), ("a", 1), ("b", 2)]) | Spread()
        assert_that(spread, equal_to([("a", 1), ("b", 2), ("b", 2)]))


def test_the_splits_of_a_manifest_have_a_key_each(tmp_path: Path) -> None:
    """The same in every attempt: a runner that repeats a step sends them to the same worker."""
    file = tmp_path / "list.txt"
    file.write_text("".join(f"/photos/{number:06}.jpg\n" for number in range(1000)))
    splits = [list(plan_shards(parse_input(f"@{file}"), InputSettings(), 2048)) for _ in range(2)]
    keys = [[_by_itself(split)[0] for split in attempt] for attempt in splits]

    assert len(set(keys[0])) == len(keys[0]) == 10
    assert keys[0] == keys[1]
    assert not any(" at 0x" in key for key in keys[0])
