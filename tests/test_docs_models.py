"""docs/models.md names real tests, and leaves no row without one."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`(test_\w+\.py(?:::\w+)+)`", TEXT)))


def collected(body: list[ast.stmt], prefix: str) -> Iterator[str]:
    """The tests of a module or class, as pytest names them."""
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield from collected(node.body, f"{prefix}::{node.name}")
        elif isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            yield f"{prefix}::{node.name}"


@pytest.mark.parametrize("module", sorted({name.partition("::")[0] for name in NAMED}))
def test_named_tests_exist(module: str) -> None:
    """Each is in the module that it is said to be in."""
    source = (ROOT / "tests" / module).read_text(encoding="utf-8")
    there = set(collected(ast.parse(source).body, module))
    assert {name for name in NAMED if name.startswith(f"{module}::")} <= there


def test_every_row_names_a_test() -> None:
    """A promise without a test is none."""
    rows = [
        line
        for line in TEXT.splitlines()
        if line.startswith("|") and not line.startswith(("|---", "| what | what the", "| mistake |"))
    ]
    assert len(rows) > 50
    assert [row for row in rows if "`test_" not in row.split("|")[3]] == []
