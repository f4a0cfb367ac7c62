"""Limits on failures: what counts, what is taken out of the count, and what is said where it is too much."""

import json

import numpy as np
import pytest

from transforms.errors import FailureCode
from transforms.limits import Overrun, find_overrun
from transforms.settings import LimitSettings

# 30 of 200 images failed.
CODES = {"not_found": 22, "corrupt_image": 8}


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_failure_rate": 0.15}, None),  # exactly what is allowed
        ({"max_failure_rate": 0.14}, "30 of 200 images failed (15.00%), limits.max_failure_rate allows 14.00%"),
        ({"max_failure_rate": 1, "max_failures": 30}, None),
        ({"max_failure_rate": 1, "max_failures": 29}, "30 of 200 images failed, limits.max_failures allows 29"),
        # 8 of 178 are left, 4.49%; the allowance of another code helps nobody
        ({"max_failure_rate": 0.045, "allowances": {"not_found": 22, "empty_file": 9}}, None),
        (
            {"max_failure_rate": 0.04, "allowances": {"not_found": 100}},
            "30 of 200 images failed; 8 of 178 (4.49%) besides 22 not_found of limits.allowances, "
            "limits.max_failure_rate allows 4.00%",
        ),
        (
            {"max_failure_rate": 1, "max_failures": 8, "allowances": {"not_found": 20, "corrupt_image": 1}},
            "30 of 200 images failed; 9 of 179 besides 20 not_found, 1 corrupt_image of limits.allowances, "
            "limits.max_failures allows 8",
        ),
        ({"max_failure_rate": 0, "max_failures": 0, "allowances": {"not_found": 22, "corrupt_image": 8}}, None),
        ({"allowances": {"not_found": 0}, "max_failure_rate": 0.1},
         "30 of 200 images failed (15.00%), limits.max_failure_rate allows 10.00%"),
    ],
)  # fmt: skip
def test_allowances_are_taken_out_of_rate_and_count(limits: dict, message: str | None) -> None:
    """Up to their number, by code; what is broken is said with both."""
    found = find_overrun(CODES, 170, LimitSettings(**limits))
    assert (None if found is None else str(found)) == message


def test_allowed_failures_do_not_hide_that_the_rest_has_failed() -> None:
    """300 files are broken every night, and tonight's ten new images fail, too: all of what counts."""
    limits = LimitSettings(allowances={"corrupt_image": 300})
    assert find_overrun({"corrupt_image": 300}, 0, limits) is None
    found = find_overrun({"corrupt_image": 300, "read_error": 10}, 0, limits)
    assert found is not None
    assert found.rate == 1.0


def test_run_without_images_has_no_rate() -> None:
    """And no division by zero."""
    assert find_overrun({}, 0, LimitSettings(max_failure_rate=0, max_failures=0)) is None


def test_record_says_by_how_much() -> None:
    """For the manifest, as JSON."""
    found = find_overrun(CODES, 170, LimitSettings(max_failure_rate=0.01, allowances={"not_found": 20}))
    assert found is not None
    assert json.loads(json.dumps(found.record())) == {
        "failed": 30,
        "counted": 10,
        "allowed": {"not_found": 20},
        "scored": 170,
        "limit": "max_failure_rate",
        "value": 0.01,
        "message": "30 of 200 images failed; 10 of 180 (5.56%) besides 20 not_found of limits.allowances, "
        "limits.max_failure_rate allows 1.00%",
    }


def test_what_counts_agrees_with_counting_image_by_image() -> None:
    """Against the slow obvious way, over random failures, allowances and limits."""
    rng = np.random.default_rng(0)
    names = [code.value for code in FailureCode][:4]
    found_some = 0
    for _ in range(500):
        codes = {name: int(rng.integers(1, 9)) for name in names if rng.random() < 0.7}
        scored = int(rng.integers(0, 20))
        allowances = {name: int(rng.integers(0, 12)) for name in names if rng.random() < 0.5}
        most = int(rng.integers(0, 12))
        limits = LimitSettings(max_failure_rate=float(rng.random()), max_failures=most, allowances=allowances)
        left, counted = dict(allowances), 0
        for name, count in codes.items():
            for _ in range(count):
                if left.get(name, 0):
                    left[name] -= 1
                else:
                    counted += 1
        broken = counted > most or (counted > 0 and counted / (counted + scored) > limits.max_failure_rate)
        overrun = find_overrun(codes, scored, limits)
        assert (overrun is not None) == broken
        if isinstance(overrun, Overrun):
            found_some += 1
            assert overrun.counted == counted
            assert overrun.failed == sum(codes.values())
    assert 0 < found_some < 500
