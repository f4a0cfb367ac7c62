"""What a sample lets expect: intervals, limits, bytes and money, by their formulas."""

import doctest
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.before import preflight_text
from pipeline.before.prediction import (
    Duration,
    Interval,
    TableSizes,
    Volume,
    costs,
    judge_failures,
    table_bytes,
    wilson,
)
from pipeline.before.table_sizes import measure_table
from transforms.part_files import PartWriter
from transforms.settings import LimitSettings, PriceSettings, WriteSettings

Z = 1.959963984540054


@given(st.integers(1, 2000), st.data())
def test_the_bounds_of_wilson_are_those_shares_that_the_sample_is_just_compatible_with(
    trials: int, data: st.DataObject
) -> None:
    """Each bound p solves |share - p| = z sqrt(p (1 - p) / n), from which the formula comes."""
    hits = data.draw(st.integers(0, trials))
    low, share, high = wilson(hits, trials)
    assert share == hits / trials
    assert 0 <= low <= share <= high <= 1
    for bound in (low, high):
        if 0 < bound < 1:
            assert abs(share - bound) == pytest.approx(Z * math.sqrt(bound * (1 - bound) / trials), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(
    ("hits", "trials", "whole", "expected"),
    [
        (0, 0, None, Interval(0.0, 0.0, 1.0)),  # nothing tried, nothing known
        (3, 10, 10, Interval(0.3, 0.3, 0.3)),  # all tried, nothing open
        (5, 100, 1000, Interval(0.02154, 0.05, 0.11175)),  # statsmodels' proportion_confint(5, 100, method="wilson")
        (100, 100, None, Interval(0.96301, 1.0, 1.0)),
    ],
)
def test_intervals(hits: int, trials: int, whole: int | None, expected: Interval) -> None:
    """Known values."""
    assert wilson(hits, trials, whole) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("codes", "limits", "surely", "maybe"),
    [
        ({}, {}, None, None),
        ({"not_found": 5}, {}, None, None),  # exactly what is allowed
        (
            {"not_found": 8},
            {},
            None,
            "8.00% of the images will fail, limits.max_failure_rate allows 5.00%",
        ),  # may be chance
        (
            {"not_found": 10, "corrupt_image": 10},  # together: neither code alone is surely over
            {},
            "at least 13.34% of the images will fail, limits.max_failure_rate allows 5.00%",
            "20.00% of the images will fail, limits.max_failure_rate allows 5.00%",
        ),
        ({"not_found": 20}, {"allowances": {"not_found": 2500}}, None, None),
        (
            {"not_found": 20},
            {"allowances": {"not_found": 100}},
            "at least 12.46% of the images will fail besides limits.allowances, limits.max_failure_rate allows 5.00%",
            "19.19% of the images will fail besides limits.allowances, limits.max_failure_rate allows 5.00%",
        ),
        (
            {"not_found": 4},
            {"max_failures": 100},
            "at least 157 images will fail, limits.max_failures allows 100",
            "400 images will fail, limits.max_failures allows 100",
        ),
    ],
)
def test_failures_are_held_against_the_limits(
    codes: dict[str, int], limits: dict[str, object], surely: str | None, maybe: str | None
) -> None:
    """A hundred of ten thousand images: what is sure is told apart from what may be chance."""
    assert judge_failures(codes, 100, 10_000, LimitSettings.model_validate(limits)) == (surely, maybe)


def _random_table(rows: int) -> pa.Table:
    random = np.random.default_rng(rows)
    return pa.table(
        {
            "image_path": [f"/photos/2026-11-22/{number:012}.jpg" for number in random.integers(0, 10**9, rows)],
            "label": pa.array(random.choice(["cat", "dog", "horse"], rows)).dictionary_encode(),
            "probabilities": pa.FixedSizeListArray.from_arrays(
                pa.array(random.dirichlet([0.3] * 50, rows).astype(np.float32).ravel()), 50
            ),
        }
    )


@pytest.mark.parametrize("settings", [{}, {"rows_per_file": 700}, {"row_group_bytes": 64 * 1024}])
def test_bytes_of_a_table_are_close_to_those_of_its_files(tmp_path: Path, settings: dict[str, int]) -> None:
    """From a hundred rows to three thousand other ones, in one file, in several, and in many row groups."""
    write = WriteSettings.model_validate(settings)
    metadata = {"labels": "x" * 3000}
    sample, night = _random_table(100), _random_table(3000)
    sizes = measure_table("scores", sample, 3000, metadata, write)
    writer = PartWriter(str(tmp_path), "scores", night.schema, metadata, write)
    files = [file for batch in night.to_batches(max_chunksize=50) for file in writer.write(batch)]
    real = sum(file.size_bytes for file in [*files, *writer.close()])
    assert table_bytes(sizes, 3000, 10.0, write) == pytest.approx(real, rel=0.08)


def test_files_that_are_closed_by_time_are_counted() -> None:
    """A slow night has more files, and each says what it is of."""
    sizes = TableSizes(empty=1000, row_group=50, row=100.0, raw_row=100.0)
    write = WriteSettings(seconds_per_file=60)
    assert table_bytes(sizes, 1000, 30.0, write) == 1000 + 50 + 100_000
    assert table_bytes(sizes, 1000, 600.0, write) == 10 * (1000 + 50) + 100_000
    assert table_bytes(sizes, 0, 0.0, write) == 1000  # a table without rows is one file


def test_costs_are_those_that_have_a_price() -> None:
    """Two hours with one GPU, a million images of 100 KB from a store, 4 GB kept."""
    volume = Volume(hours=2, gpus=1, remote_images=1e6, remote_bytes=1e11, stored_bytes=4e9)
    prices = PriceSettings(machine_hour=0.5, gpu_hour=2, read_gb=0.01, stored_gb_month=0.02, requests_1000=0.0004)
    assert costs(volume, prices) == pytest.approx(
        {"machine": 1.0, "GPU": 4.0, "reading": 1.0, "requests": 0.8004, "a month of storage": 0.08}
    )
    assert costs(volume, PriceSettings(gpu_hour=0)) == {"GPU": 0.0}
    assert costs(volume, PriceSettings()) == {}


def test_a_duration_is_the_sum_of_its_parts() -> None:
    """No part is forgotten."""
    assert Duration(1, 20, 300, 4000).total == 4321


def test_amounts_of_money_are_written_for_people() -> None:
    """Cents, small parts of them, and nothing in the notation of a calculator."""
    assert doctest.testmod(preflight_text).failed == 0
