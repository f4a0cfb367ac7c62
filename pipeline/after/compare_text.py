"""A comparison as text for a person."""

from pipeline.after.compare import Comparison, Movement, Population, Side
from transforms.divergence import LEAST_EXPECTED, Divergence
from transforms.redaction import printable


def comparison_text(found: Comparison, rows: int) -> str:
    """Say how two runs differ.

    Args:
        found: The comparison.
        rows: Flips, classes and movements to list.
    """
    first, second = found.sides
    lines = [
        f"run {second.name} compared with run {first.name}",
        *(f"  {name}    {_side(side)}" for name, side in zip(("first ", "second"), found.sides, strict=True)),
        *(f"  note      {note}" for note in notes(found)),
        *_images(found),
        *_population("all images", found.all_images, rows),
    ]
    if found.joined.images:
        lines += _population("the same images", found.shared_images, 0)
        lines += _flips(found, rows)
        lines += _movements(found, rows)
    return "\n".join(printable(line) for line in lines)


def notes(found: Comparison) -> list[str]:
    """Say what has to be known of a comparison before its figures are believed."""
    first, second = found.sides
    told = [
        f"run {side.name} is a delta of {side.since_run}: only the images that it has scored itself count"
        for side in found.sides
        if side.since_run is not None
    ]
    different = [
        name
        for name in sorted({*first.fingerprints, *second.fingerprints})
        if first.fingerprints.get(name) != second.fingerprints.get(name)
    ]
    if different:
        told.append(f"the runs differ in their {', '.join(different)}")
    for side, labels in ((first, found.names.only_first), (second, found.names.only_second)):
        if labels:
            more = ", ..." if len(labels) > 3 else ""
            told.append(f"labels only in run {side.name}: {len(labels)} ({', '.join(labels[:3])}{more})")
    empty = [side.name for side in found.sides if not side.images]
    if empty:
        told.append(f"no image was scored by run {' and run '.join(empty)}: nothing can be compared")
    elif not found.joined.images:
        told.append("no image was scored by both runs: only their distributions are compared")
    return told


def _side(side: Side) -> str:
    published = f", published {side.published_at}" if side.published_at else ""
    return f"{side.name}: {side.images} scored, {side.failed} failed, model {side.model_id}{published}"


def _images(found: Comparison) -> list[str]:
    joined = found.joined
    first, second = found.sides
    lines = [
        f"  images    {joined.images} scored by both, {joined.changed} of them with another version of the file",
        f"            {joined.only_first} only by {first.name} ({joined.only_first_failed} failed in "
        f"{second.name}), {joined.only_second} only by {second.name} ({joined.only_second_failed} failed in "
        f"{first.name})",
    ]
    if found.flip_rate is not None:
        mean = joined.confidence_change / joined.images
        lines += [
            f"  answers   {joined.images - joined.flips} the same ({1 - found.flip_rate:.2%}), {joined.flips} flipped "
            f"({found.flip_rate:.2%}), {joined.changed_flips} of them with another version",
            f"            top-1 probability changed by {mean:.4f} in the mean",
        ]
    return lines


def _population(title: str, population: Population, rows: int) -> list[str]:
    if population.class_mix is None or population.confidence is None:
        return [f"  {title}: one of the runs has none"]
    lines = [
        f"  {title}",
        f"    class mix   {divergence_text(population.class_mix, paired=population.paired)}",
        f"    confidence  {divergence_text(population.confidence, paired=population.paired)}",
    ]
    totals = [sum(counts) for counts in zip(*((s.before, s.now) for s in population.shifts), strict=True)]
    for shift in population.shifts[:rows]:
        before, now = shift.before / totals[0], shift.now / totals[1]
        if before != now:
            lines.append(f"      {before:7.2%} to {now:7.2%}  {shift.label}")
    return lines


def divergence_text(found: Divergence, *, paired: bool) -> str:
    """Say PSI and Jensen-Shannon, and of different images whether chance alone may have made them."""
    if found.too_few and not paired:
        return f"too few images for two groups of at least {LEAST_EXPECTED} to compare"
    plural = "" if found.groups == 1 else "s"
    chance = ", which may be chance" if found.by_chance and not paired else ""
    return f"PSI {found.psi:.3f}, Jensen-Shannon {found.js:.4f} over {found.groups} group{plural}{chance}"


def _flips(found: Comparison, rows: int) -> list[str]:
    flips = found.flips
    lines = [f"  flips by class (different kinds: {len(flips)})"] if flips else []
    lines += [f"    {flip.images:7d}  {flip.before} -> {flip.now}" for flip in flips[:rows]]
    return lines


def _movements(found: Comparison, rows: int) -> list[str]:
    if not found.movements[:rows]:
        return []
    lines = [f"  moved furthest, by {found.movement}{found.searched and f', {found.searched}'}"]
    return lines + [f"    {_movement(moved)}" for moved in found.movements[:rows]]


def _movement(moved: Movement) -> str:
    old, new = moved.before[0], moved.now[0]
    version = ", another version" if moved.new_version else ""
    if moved.label is not None:
        return (
            f"{moved.change:.3f}  {moved.label} {moved.label_before:.3f} -> {moved.label_now:.3f}  "
            f"{moved.image_path}{version}"
        )
    return (
        f"{moved.change:.3f}  {old.label} {old.probability:.3f} -> {new.label} {new.probability:.3f}  "
        f"{moved.image_path}{version}"
    )
