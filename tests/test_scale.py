"""The numbers of docs/scale.md follow from its formulas, and its formulas from the code."""

import re
from pathlib import Path

import pytest

from transforms.manifest_splits import SPLIT_BYTES
from transforms.settings import WriteSettings
from transforms.shards import ENOUGH_SHARDS
from transforms.units import count_units, plan_units, score_row_bytes

TEXT = (Path(__file__).parent.parent / "docs" / "scale.md").read_text(encoding="utf-8")


def inputs() -> dict[str, float]:
    """The values of the table of inputs, by their letters."""
    rows = re.findall(r"^\| `(\w+)` \|[^|]*\| ([0-9][0-9,.]*) \|", TEXT, re.MULTILINE)
    return {name: float(value.replace(",", "")) for name, value in rows}


def results() -> dict[str, str]:
    """The worked numbers, by what they are of."""
    return dict(re.findall(r"^\| ([^|]+?) \| `[^|]+` \| ([0-9][^|]*?) \|", TEXT, re.MULTILINE))


def test_the_worked_numbers_follow_from_the_formulas() -> None:
    """Each formula of the page, carried out on the inputs of the page."""
    scope: dict[str, float] = inputs()
    formulas = re.findall(r"^\| ([^|]+?) \| `(\w+) = ([^|`]+)` \| ([0-9][0-9,.]*)", TEXT, re.MULTILINE)
    assert len(formulas) >= 20
    for what, name, formula, shown in formulas:
        value = eval(formula.replace("ceil", "-(-1)*round"), {"round": round}, scope)  # noqa: S307  it is our own text
        scope[name] = value
        digits = len(shown.partition(".")[2])
        assert shown == f"{value:,.{digits}f}", (what, value)


def test_the_inputs_that_the_code_decides_are_those_of_the_code() -> None:
    """Rows of a file, bytes of a row, splits and shards: read here, not remembered."""
    given = inputs()
    write = WriteSettings()
    row_bytes = score_row_bytes(int(given["C"]), 5)
    assert given["raw"] == row_bytes
    plan = plan_units(write, row_bytes, 0)
    assert given["rows"] == plan.rows
    assert count_units(int(given["N"]), plan) == round(given["N"] / given["rows"] + 0.5)
    assert given["split"] == SPLIT_BYTES
    assert given["shards"] == ENOUGH_SHARDS


@pytest.mark.parametrize("name", ["N", "b", "C", "host", "model", "gpu"])
def test_every_input_has_a_value(name: str) -> None:
    """A row that nobody can read would leave the others unchecked."""
    assert inputs()[name] > 0
