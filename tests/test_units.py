"""Work units: their number follows from bytes, and each comes in one bundle."""

import math
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
from apache_beam.runners.portability.fn_api_runner.execution import GroupingBuffer
from apache_beam.testing.util import assert_that, equal_to
from hypothesis import given
from hypothesis import strategies as st

from pipeline import run_pipeline
from tests.model_zoo import pooled_model
from tests.runs import make_photos, read_table, run_quietly, small_config
from transforms.group_units import GroupUnits
from transforms.records import ImageBatch, ImageInfo, ImageRef
from transforms.settings import WriteSettings
from transforms.tables import scores_schema
from transforms.units import SMALLEST_UNIT, UNITS_A_SLOT, UnitPlan, count_units, plan_units, score_row_bytes, unit_of


@given(
    images=st.integers(0, 10**9),
    rows=st.integers(1, 10**6),
    megabytes=st.integers(1, 4096),
    row_bytes=st.integers(1, 10**6),
    slots=st.integers(0, 5000),
)
def test_the_number_of_units_follows_from_bytes(
    images: int, rows: int, megabytes: int, row_bytes: int, slots: int
) -> None:
    """A unit fits a part file; there are more than bytes ask for only to give every slot some, and none tiny."""
    write = WriteSettings(rows_per_file=rows, bytes_per_file=megabytes * 1024**2)
    plan = plan_units(write, row_bytes, slots)
    units = count_units(images, plan)
    fits = min(rows, megabytes * 1024**2 // row_bytes)
    assert units >= 1
    assert images / units <= max(1, fits)
    assert units >= min(slots * UNITS_A_SLOT, images // SMALLEST_UNIT)
    if units > math.ceil(images / plan.rows) and units > 1:
        assert units <= slots * UNITS_A_SLOT
        assert images / units > SMALLEST_UNIT / 2


def test_units_are_alike_and_fit_a_part_file() -> None:
    """A hundred thousand names as they are: no unit of 40 needs a second file, and none is half empty."""
    write = WriteSettings(rows_per_file=2700)
    plan = plan_units(write, 4000, 1)
    units = count_units(100_000, plan)
    assert units == 41
    sizes = Counter(
        unit_of(f"s3://photos/2026/11/{n % 30:02}/camera-{n % 977:03}/{n:09}.jpg", units) for n in range(100_000)
    )
    assert sorted(sizes) == list(range(units))
    assert min(sizes.values()) > 2200
    assert max(sizes.values()) <= write.rows_per_file


def test_row_bytes_are_about_those_of_a_row() -> None:
    """Reckoned against a real row of the schema: never less, and not half as much again."""
    for classes, logits in ((5, False), (1000, False), (1000, True)):
        schema = scores_schema(classes, with_logits=logits)
        vector = np.arange(classes, dtype=np.float32).tolist()
        filled: dict[str, Any] = {
            "image_path": "s3://photos/2026/11/22/camera-004/000000012.jpg",
            "image_version": "1764000000000000000-123456",
            "probabilities": vector, "logits": vector, "image_format": "jpeg", "image_decoder": "simplejpeg",
            "predicted_label": "a", "model_id": "m", "positive_labels": None,
            "top_k": [{"rank": n, "index": n, "label": "a", "probability": 0.5} for n in range(5)],
            "scored_at": 1,
        }  # fmt: skip
        one = {field.name: filled.get(field.name, 1) for field in schema}
        batch = pa.RecordBatch.from_pylist([one] * 100, schema=schema)
        measured = sum(c.indices.nbytes if pa.types.is_dictionary(c.type) else c.nbytes for c in batch.columns) / 100
        assert measured <= score_row_bytes(classes, 5, logits=logits) <= 2 * measured


class _Mark(beam.DoFn):
    """Says for each element which bundle it came in."""

    def start_bundle(self) -> None:
        self._bundle = uuid.uuid4().hex

    def process(self, path: str) -> Iterator[tuple[str, str]]:
        yield path, self._bundle


def _itself(path: str) -> str:
    return path


@pytest.mark.parametrize("count", [0, 1, 1000])
def test_group_units_gives_each_element_once_and_a_unit_in_one_bundle(count: int) -> None:
    """Four workers, sixteen units: no unit is cut in two."""
    names = [f"/{number}.jpg" for number in range(count)]
    plan = UnitPlan(rows=70, spread=0)

    def check(found: list[tuple[str, str]]) -> None:
        assert sorted(path for path, _ in found) == sorted(names)
        bundles = defaultdict(set)
        for path, bundle in found:
            bundles[unit_of(path, count_units(count, plan))].add(bundle)
        assert all(len(of_unit) == 1 for of_unit in bundles.values())
        assert count < 1000 or (len(bundles) == 15 and len(set.union(*bundles.values())) > 1)

    flags = ["--runner=FnApiRunner", "--direct_num_workers=4", "--direct_running_mode=multi_threading"]
    with beam.Pipeline(argv=flags) as pipeline:
        grouped = pipeline | beam.Create(names) | GroupUnits(plan, _itself)
        assert_that(grouped | beam.ParDo(_Mark()), check, "bundles")
        assert_that(grouped, equal_to(names), "elements")


@pytest.fixture
def shuffled(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What the runner's shuffles are given, as the bytes that they are given."""
    seen: list[bytes] = []
    append = GroupingBuffer.append

    def append_and_note(self: GroupingBuffer, data: bytes) -> None:
        seen.append(bytes(data))
        append(self, data)

    monkeypatch.setattr(GroupingBuffer, "append", append_and_note)
    return seen


def test_pixels_in_a_shuffle_are_seen(shuffled: list[bytes]) -> None:
    """The check below can fail: a batch that is grouped shows."""
    batch = ImageBatch(
        (ImageRef("a", 1, "v"),), np.zeros((1, 2, 2, 3), np.uint8), (ImageInfo(2, 2, "png", 1, "pillow"),)
    )
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        _ = pipeline | beam.Create([1]) | beam.Map(lambda _: (1, batch)) | beam.GroupByKey()
    assert any(b"numpy" in data and b"ImageBatch" in data for data in shuffled)


def test_a_spread_run_gives_the_rows_of_a_plain_one_and_shuffles_paths_only(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, shuffled: list[bytes]
) -> None:
    """In units of few images: the same tables, files by units, and between the stages no pixels, bytes or rows."""
    place = tmp_path_factory.mktemp("spread")
    model = pooled_model(place / "model")
    make_photos(place / "photos" / "a", 70)
    make_photos(place / "photos" / "b" / "c", 70)
    for number in range(6):
        (place / "photos" / f"bad{number}.jpg").write_text("this is no picture")
    config = small_config(model, write={"rows_per_file": 40}, limits={"max_failure_rate": 0.5})
    inputs = [place / "photos", place / "photos" / "a" / "000.png"]
    plain = run_quietly(config, inputs, place / "plain")

    shuffled.clear()
    monkeypatch.setattr(run_pipeline, "count_slots", lambda _: 4)
    flags = ["--direct_num_workers=4", "--direct_running_mode=multi_threading"]
    spread = run_quietly(config, inputs, place / "spread", beam_flags=flags)

    assert spread.outcome.ledger == plain.outcome.ledger
    assert spread.outcome.ledger.duplicates == 1
    for table, time in (("scores", "scored_at"), ("failures", "failed_at")):
        one, other = (read_table(result.layout, table).drop_columns([time]) for result in (plain, spread))
        # Batches are of other images, and the model's last bit may be another: what is compared is what it says.
        numbers = ["probabilities", "predicted_probability", "margin", "entropy", "top_k"]
        inexact = numbers if table == "scores" else []
        assert one.drop_columns(inexact).equals(other.drop_columns(inexact))
        for name in inexact[:1]:
            pairs = zip(one[name].to_pylist(), other[name].to_pylist(), strict=True)
            assert all(np.allclose(*pair, atol=1e-6) for pair in pairs)
    crossed = b"".join(shuffled)
    assert b"ImageRef" in crossed
    assert not [name for name in (b"numpy", b"pyarrow", b"ImageBatch", b"ndarray") if name in crossed]
    # Each path crosses twice, to be found once and to come into its unit: with its class names, not with its pixels.
    assert len(crossed) < 147 * 2 * 1000
    assert len(list((place / "spread" / "failures").rglob("*.parquet"))) == 1
