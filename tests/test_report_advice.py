"""What limits a run, by table: the one of loading threads, model and writer that had no pause."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.after.report_advice import Spent, advise, use_of

STEPS = ("read_ms", "decode_ms", "model_ms", "write_scores_ms")
CAPACITIES = ("load_capacity_ms", "model_capacity_ms", "write_scores_capacity_ms")


def spent(*counts: int, on_gpu: bool = False, seconds: float = 10.0) -> Spent:
    """Counters in the order of STEPS and CAPACITIES."""
    return Spent(dict(zip((*STEPS, *CAPACITIES), counts, strict=True)), 5.0, seconds, 1000, 0, on_gpu)


@pytest.mark.parametrize(
    ("counts", "limit", "text"),
    [
        # Two threads of ten seconds that never rest, most of it reading.
        (
            (17_000, 2_600, 3_000, 50, 20_000, 10_000, 10_000),
            "read",
            "Reading limits: the loading threads were at work 98% of the time, 87% of that reading. More load.threads "
            "help, for reading is waiting; so does running nearer to the images.",
        ),
        (
            (600, 18_000, 3_000, 50, 20_000, 10_000, 10_000),
            "decode",
            "Decoding limits: the loading threads were at work 93% of the time, 97% of that decoding. More processors "
            "help, or smaller images; decode.jpeg_scaling: auto, where large JPEGs are decoded in full.",
        ),
        # The threads together took longer than the model, and yet had pauses: it did not.
        (
            (2_000, 9_000, 9_600, 50, 20_000, 10_000, 10_000),
            "device",
            "The model limits: it was at work 96% of the time. A GPU helps, or a smaller model; faster storage and "
            "more threads do not.",
        ),
        (
            (200, 900, 1_000, 9_000, 20_000, 10_000, 10_000),
            "write",
            "Writing limits: it was at work 90% of the time. A nearer storage helps, write.compression_level: 1, or to "
            "leave out what nobody reads (results.logits).",
        ),
        # Both loaders and model without a pause: two threads of two processors.
        (
            (100, 17_900, 9_500, 50, 20_000, 10_000, 10_000),
            "device",
            "The model limits: it was at work 95% of the time. Decoding is nearly as busy. A GPU helps, or a smaller "
            "model; faster storage and more threads do not.",
        ),
        # Clocks differ by a little.
        (
            (0, 100, 10_300, 50, 20_000, 10_000, 10_000),
            "device",
            "The model limits: it was at work 100% of the time. A GPU helps, or a smaller model; faster storage and "
            "more threads do not.",
        ),
        # Sixty-four workers of a cluster: no duration of the launcher says how many there were.
        (
            (50_000, 900_000, 600_000, 5_000, 1_000_000, 1_280_000, 1_280_000),
            "decode",
            "Decoding limits: the loading threads were at work 95% of the time, 95% of that decoding. More processors "
            "help, or smaller images; decode.jpeg_scaling: auto, where large JPEGs are decoded in full.",
        ),
        (
            (100, 900, 5_000, 50, 20_000, 10_000, 10_000),
            "nothing",
            "Nothing limits: the model was at work most, 50% of the time. In a run of 10 s, listing and the start and "
            "end of the pipeline count; a longer one tells.",
        ),
        # Nothing was tried: every image was skipped.
        (
            (0, 0, 0, 0, 0, 0, 0),
            "nothing",
            "Nothing limits: loading, scoring and writing took 0 s of the 10 s; listing and the start and end of the "
            "pipeline took the rest.",
        ),
        # A second of bundles, and nine of starting and ending: however busy the model was, it is not what took long.
        (
            (100, 200, 950, 20, 2_000, 1_000, 1_000),
            "nothing",
            "Nothing limits: loading, scoring and writing took 1 s of the 10 s; listing and the start and end of the "
            "pipeline took the rest.",
        ),
    ],
)
def test_what_had_no_pause_limits(counts: tuple[int, ...], limit: str, text: str) -> None:
    """To the letter."""
    assert advise(spent(*counts)) == (limit, text)


def test_writing_failures_is_no_use_of_the_time_of_writing_scores() -> None:
    """A retry that scores nothing anew writes its few failures beside the line: 166 ms in bundles of 60."""
    counts = {"write_ms": 166, "write_scores_ms": 2, "write_failures_ms": 164, "write_scores_capacity_ms": 60}
    found = Spent(counts, 0.5, 6.7, 5, 191, on_gpu=False)
    assert use_of(found).write == pytest.approx(2 / 60)
    assert found.thread_seconds["write"] == pytest.approx(0.166)
    assert advise(found).limit == "nothing"


def test_a_challenger_has_its_own_time() -> None:
    """Its calls are the device's, too."""
    counts = {"model_ms": 2_000, "challenge_model_ms": 7_000, "model_capacity_ms": 10_000}
    found = Spent(counts, 1.0, 10.0, 100, 0, on_gpu=False)
    assert (found.thread_seconds["model"], found.thread_seconds["challenger"]) == (2.0, 7.0)
    assert use_of(found).device == pytest.approx(0.9)
    assert advise(found).limit == "device"


def test_a_gpu_is_helped_otherwise() -> None:
    """Whoever has one is not told to get one."""
    advice = advise(spent(0, 100, 9_900, 50, 20_000, 10_000, 10_000, on_gpu=True))
    assert advice.text == (
        "The model limits: it was at work 99% of the time. More GPUs help, model.precision: bfloat16 or model.xla: "
        "true, or a smaller model; faster storage and more threads do not."
    )


def test_counters_that_are_missing_count_as_none() -> None:
    """A run of a version that did not count them."""
    assert use_of(Spent({}, 1.0, 1.0, 0, 0, on_gpu=False)) == (0, 0, 0)


@given(st.lists(st.integers(0, 10**9), min_size=7, max_size=7), st.integers(1, 1000))
def test_workers_change_neither_the_uses_nor_the_limit(counts: list[int], workers: int) -> None:
    """A thousand workers that do the same have a thousand times of everything."""
    one, many = spent(*counts), spent(*(count * workers for count in counts))
    assert use_of(many) == pytest.approx(use_of(one))
    assert advise(one).limit in ("read", "decode", "device", "write", "nothing")
