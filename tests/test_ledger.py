"""The arithmetic of the ledger: right for every mixture of attempts and earlier runs, wrong as soon as one is lost."""

from collections import defaultdict

import numpy as np

from transforms.earlier_runs import EarlierRow
from transforms.ledger import Counts, Ledger, count_ledger
from transforms.records import ImageRef, WrittenFile
from transforms.worklist import choose


def file(table: str, rows: int) -> WrittenFile:
    """A closed file."""
    return WrittenFile(table, "a.parquet", rows, 1, "")


def test_every_count_has_its_place() -> None:
    """Two attempts, a delta, a duplicate and an image that is gone."""
    adopted = [file("scores", 3), file("scores", 2)]  # one of the five is not listed any more
    written = [file("scores", 4), file("failures", 1)]
    counts = Counts(listed=20, duplicates=1, unique=5, unlisted=1, skipped=10)
    ledger = count_ledger(written, adopted, counts)
    assert ledger == Ledger(listed=21, duplicates=1, unique=20, scored=9, failed=1, skipped=10)
    assert ledger.mismatch() is None
    assert list(ledger.to_json()) == ["listed", "duplicates", "unique", "scored", "failed", "skipped"]


def test_a_scored_image_that_the_challenger_lost_is_told() -> None:
    """Adopted files of the challenger count as images of the first model, which have been counted, and not twice."""
    adopted = [file("scores", 3), file("scores_challenger", 2), file("failures_challenger", 1)]
    counts = Counts(listed=2, duplicates=0, unique=2, unlisted=3, skipped=0)
    ledger = count_ledger([file("scores", 2), file("scores_challenger", 1)], adopted, counts, with_challenger=True)
    assert ledger == Ledger(5, 0, 5, 5, 0, 0, challenger_scored=3, challenger_failed=1)
    assert ledger.mismatch() == "scored 5 is not challenger_scored 3 + challenger_failed 1: +1"
    none = count_ledger([file("scores", 2)], [], Counts(2, 0, 2, 0, 0), with_challenger=True)
    assert none.mismatch() == "scored 2 is not challenger_scored 0 + challenger_failed 0: +2"


def test_the_ledger_adds_up_for_every_night_and_for_none_that_lost_an_image() -> None:
    """Random listings, attempts and earlier rows, decided path by path; then one count off by one."""
    rng = np.random.default_rng(0)
    seen: defaultdict[str, int] = defaultdict(int)
    for _ in range(300):
        listed, unlisted, duplicates, skipped, todo, adopted = 0, 0, 0, 0, 0, 0
        for path in map(str, range(rng.integers(0, 12))):
            versions = [None, "v1", "v2"]
            entries = [ImageRef(path, None, versions[rng.integers(3)]) for _ in range(rng.integers(0, 4))]
            rows: list[EarlierRow | None] = [
                EarlierRow(int(rng.integers(3)), versions[rng.integers(3)]) for _ in range(rng.integers(0, 3))
            ]
            if rng.random() < 0.3:
                rows.append(None)
                adopted += 1
            choice = choose(entries, rows)
            listed += len(entries)
            unlisted += choice.unlisted
            duplicates += choice.duplicates
            # What had to be asked for is skipped or scored: both must add up.
            unchanged = choice.skipped or (choice.unasked is not None and rng.random() < 0.5)
            skipped += unchanged
            todo += choice.todo is not None or (choice.unasked is not None and not unchanged)
        failed = int(rng.integers(0, todo + 1))
        written = [file("scores", todo - failed), file("failures", failed)]
        counts = Counts(listed, duplicates, todo, unlisted, skipped)
        ledger = count_ledger(written, [file("scores", adopted)], counts)
        assert ledger.mismatch() is None
        assert ledger.listed - ledger.duplicates == ledger.scored + ledger.failed + ledger.skipped
        rival_failed = int(rng.integers(0, ledger.scored + 1))
        files = [file("scores_challenger", ledger.scored - rival_failed), file("failures_challenger", rival_failed)]
        both = count_ledger([*written, *files], [file("scores", adopted)], counts, with_challenger=True)
        assert both == ledger._replace(challenger_scored=files[0].rows, challenger_failed=files[1].rows)
        assert both.mismatch() is None
        for name, count in both._asdict().items():
            seen[name] += count
        # Each count alone, one more or one less, is found out: three laws, and none of the counts is in none.
        for name in Ledger._fields:
            for off in (-1, 1):
                assert both._replace(**{name: getattr(both, name) + off}).mismatch() is not None
        lost = count_ledger([*written, file("scores", -1)], [file("scores", adopted)], counts)
        assert lost.mismatch() is not None
    assert all(seen[name] > 100 for name in Ledger._fields)
