"""Count what inputs name, and take a sample that is spread over all of it, in a bounded time.

What is listed in time is counted, and each image of it has the same chance. A manifest that is longer than that is
counted from its footer (Parquet) or reckoned from places spread over it, and the sample is taken at such places.
"""

import csv
import json
import os
import random
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from transforms import storage
from transforms.errors import InputError
from transforms.inputs import BadName, InputSource, list_input, resolve
from transforms.records import ImageRef
from transforms.settings import InputSettings

_REMEMBERED = 1_000_000
"""Paths that are looked at for duplicates: about 100 MB."""
_BLOCK = 64 * 1024
_PLACES = 64
_LOOK_AT_CLOCK = 256

Entry = ImageRef | BadName


class Listing(NamedTuple):
    """What inputs name."""

    images: int
    """Different images, as far as duplicates were looked for."""
    duplicates: int
    """Entries that name an image again."""
    how: str
    """Where the number comes from: counted, reckoned or a lower bound, in words."""
    exact: bool
    """Whether all was counted."""
    seconds: float
    """That listing all of it takes: measured, or reckoned from what was listed in time."""
    sample: tuple[Entry, ...]
    """Different ones, in the order of the listing."""


class _Counted(NamedTuple):
    entries: int
    """Seen."""
    fresh: int
    """Seen for the first time."""
    total: int
    """All, by the best that is known."""
    note: str | None
    """Why total is not what was counted; None where it is."""
    seconds: float
    """That listing took."""
    sample: list[Entry]


def list_and_sample(
    sources: Sequence[InputSource],
    settings: InputSettings,
    samples: int,
    seed: int,
    seconds: float,
    clock: Callable[[], float] = time.monotonic,
) -> Listing:
    """List inputs as a run does, for some time, and sample them.

    Args:
        sources: What to list.
        settings: Which files of a folder count.
        samples: How many images to take.
        seed: The same seed gives the same sample of the same listing.
        seconds: What listing may take; shared by the sources.
        clock: In seconds, always forward.

    Raises:
        InputError: A manifest cannot be read.
        OSError: The storage does not list.
    """
    chance = random.Random(seed)  # noqa: S311  a sample, no secret
    seen: set[int] = set()
    counted = [_count(source, settings, samples, chance, seen, seconds / len(sources), clock) for source in sources]
    entries, fresh = sum(part.entries for part in counted), sum(part.fresh for part in counted)
    total = sum(part.total for part in counted)
    notes = [part.note for part in counted if part.note]
    if len(seen) >= _REMEMBERED:
        notes.append(f"duplicates were looked for among the first {_REMEMBERED:,}")
    unique = round(total * fresh / entries) if entries else 0
    spent = sum(part.seconds * max(1.0, part.total / max(1, part.entries)) for part in counted)
    return Listing(
        images=unique,
        duplicates=total - unique,
        how="; ".join(notes) or "counted",
        exact=not notes,
        seconds=spent,
        sample=_merge(counted, samples, chance),
    )


def _count(
    source: InputSource,
    settings: InputSettings,
    samples: int,
    chance: random.Random,
    seen: set[int],
    seconds: float,
    clock: Callable[[], float],
) -> _Counted:
    """List one source for some time; every image seen has the same chance to be kept (Vitter's algorithm R)."""
    started = clock()
    kept: list[tuple[int, Entry]] = []
    entries = fresh = 0
    for entry in list_input(source, settings):
        if entries % _LOOK_AT_CLOCK == 0 and entries and clock() - started > seconds:
            break
        entries += 1
        if len(seen) < _REMEMBERED:
            known = hash(entry.path)
            if known in seen:
                continue
            seen.add(known)
        fresh += 1
        if len(kept) < samples:
            kept.append((fresh, entry))
        elif (place := chance.randrange(fresh)) < samples:
            kept[place] = (fresh, entry)
    else:
        return _Counted(entries, fresh, entries, None, clock() - started, _in_order(kept))
    spent = clock() - started
    if source.kind in ("file", "folder", "glob"):
        note = f"at least: listing {source.text} was ended after {spent:.0f} s, and the sample is of what it had named"
        return _Counted(entries, fresh, entries, note, spent, _in_order(kept))
    total, how, sample = _look_into(source, samples, chance)
    note = f"{source.text} is too long to be read in {seconds:.0f} s and {how}"
    return _Counted(entries, fresh, max(total, entries), note, spent, sample)


def _in_order(kept: list[tuple[int, Entry]]) -> list[Entry]:
    return [entry for _, entry in sorted(kept, key=lambda pair: pair[0])]


def _merge(counted: Sequence[_Counted], samples: int, chance: random.Random) -> tuple[Entry, ...]:
    """Take of each source as many as its share of the images."""
    total = sum(part.total for part in counted)
    taken: dict[str, Entry] = {}
    rest: list[Entry] = []
    for part in counted:
        wanted = min(len(part.sample), samples * part.total // max(1, total))
        chosen = set(chance.sample(range(len(part.sample)), wanted))
        for index, entry in enumerate(part.sample):
            if index in chosen:
                taken.setdefault(entry.path, entry)
            else:
                rest.append(entry)
    # Shares are rounded down, and places in a manifest may give the same image twice: others fill up.
    chance.shuffle(rest)
    for entry in rest:
        if len(taken) >= samples:
            break
        taken.setdefault(entry.path, entry)
    return tuple(taken.values())


def _look_into(source: InputSource, samples: int, chance: random.Random) -> tuple[int, str, list[Entry]]:
    """Return how many entries a long manifest has, how that is known, and a sample of them."""
    if source.kind == "parquet":
        return _look_into_parquet(source, samples, chance)
    filesystem, inner = storage.filesystem(source.path)
    size = filesystem.get_file_info(inner).size
    lines: list[bytes] = []
    length = blocks = 0
    places = max(_PLACES, samples)
    with filesystem.open_input_file(inner) as file:
        header = file.read(_BLOCK).partition(b"\n")[0]
        for number in range(places):
            # One place in each of as many equal parts of the file.
            start = int(size * (number + chance.random()) / places)
            file.seek(max(0, min(start, size - _BLOCK)))
            whole = file.read(_BLOCK).split(b"\n")[1:-1]
            whole = [line for line in whole if line.strip()]
            if whole:
                length += sum(len(line) + 1 for line in whole)
                blocks += len(whole)
                lines.append(chance.choice(whole))
    if not blocks:
        raise InputError(f"manifest {source.text} has no line ends within {_BLOCK:,} bytes; is it a list of paths?")
    total = round(size / (length / blocks))
    folder = storage.parent(source.path)
    named = [_named(source, line, header) for line in lines]
    sample = [resolve(text, folder) for text in named if text]
    return total, f"was reckoned from {blocks:,} lines at {places} places", sample


def _named(source: InputSource, line: bytes, header: bytes) -> str | None:
    """Return what a line of a text manifest names, read as manifests.py does."""
    text = os.fsdecode(line.removesuffix(b"\r"))
    if source.kind == "txt":
        return text
    if source.kind == "jsonl":
        try:
            value = json.loads(text).get(source.path_column)
        except (ValueError, AttributeError) as error:
            raise InputError(f"manifest {source.text} cannot be read as jsonl: {text:.60}: {error}") from error
        return value if isinstance(value, str) else None
    names = next(csv.reader([header.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")]))
    row = next(csv.reader([text]), [])
    position = names.index(source.path_column)
    return row[position] if position < len(row) else None


def _look_into_parquet(source: InputSource, samples: int, chance: random.Random) -> tuple[int, str, list[Entry]]:
    filesystem, inner = storage.filesystem(source.path)
    folder = storage.parent(source.path)
    sample: list[Entry] = []
    with filesystem.open_input_file(inner) as file:
        parquet = pq.ParquetFile(file)
        total, groups = parquet.metadata.num_rows, parquet.metadata.num_row_groups
        chosen = sorted(chance.sample(range(groups), min(groups, _PLACES)))
        rows = sum(parquet.metadata.row_group(group).num_rows for group in chosen)
        for group in chosen:
            column = parquet.read_row_group(group, columns=[source.path_column]).column(0).cast(pa.string())
            wanted = min(len(column), -(-samples * len(column) // rows))
            names = column.take(sorted(chance.sample(range(len(column)), wanted))).to_pylist()
            sample += [resolve(text, folder) for text in names if text]
    return total, f"was counted by its footer; the sample is of {len(chosen)} of its {groups} row groups", sample
