"""The house keeps its floors: nouns know no Beam, transforms know no pipeline, nothing runs in circles."""

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

VERBS = {
    "list_images", "skip_scored", "stat_images", "group_units", "load_batches", "score_batches", "write_tables",
    "write_groups",
    "publish_run", "observe", "coders", "bundles", "spreading", "write_parts",
}  # fmt: skip

# What verbs share: the rooms of Beam that they may import.
SHARED = {"observe", "coders", "bundles", "spreading", "write_parts"}

# Floors from the ground up; a module may import from its own floor or below, verbs never each other.
NOUNS = {path.stem for path in (ROOT / "transforms").glob("*.py")} - VERBS - {"__init__"}


def imports_of(source: str, package: str) -> Iterator[str]:
    """Yield the full names of all modules that a source text imports, inside functions too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                module = f"{package}.{module}".rstrip(".")
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def breaches(modules: dict[str, str]) -> list[str]:
    """Return every breach of the house rules among modules, given as name -> source text."""
    found = []
    graph: dict[str, set[str]] = {}
    for name, source in modules.items():
        package, _, stem = name.rpartition(".")
        imported = set(imports_of(source, package))
        graph[name] = {other for other in modules if other in imported and other != name}
        if package == "transforms" and stem not in VERBS and any(i.split(".")[0] == "apache_beam" for i in imported):
            found.append(f"noun {name} imports apache_beam")
        if package == "transforms" and any(i.split(".")[0] == "pipeline" for i in imported):
            found.append(f"{name} imports pipeline")
        others = {f"transforms.{verb}" for verb in VERBS - SHARED - {stem}}
        if package == "transforms" and stem not in VERBS and imported & {f"transforms.{verb}" for verb in VERBS}:
            found.append(f"noun {name} imports a verb")
        if package == "transforms" and stem in VERBS and imported & others:
            found.append(f"verb {name} imports another verb")
        if name.startswith("pipeline.after.") and any(i.split(".")[0] == "apache_beam" for i in imported):
            found.append(f"{name} reads published runs and imports apache_beam")
        if name.startswith("pipeline.pages.") and any(i.split(".")[0] == "apache_beam" for i in imported):
            found.append(f"{name} makes pages and imports apache_beam")
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        found.append("circle: " + " -> ".join(error.args[1]))
    return found


def house() -> dict[str, str]:
    """Return the real modules, name -> source text."""
    modules = {}
    for package in ("transforms", "pipeline"):
        for path in (ROOT / package).rglob("*.py"):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            modules[name.removesuffix(".__init__")] = path.read_text(encoding="utf-8")
    return modules


def test_the_house_keeps_its_rules() -> None:
    """No module of the project breaches a rule."""
    modules = house()
    assert {"transforms.images", "transforms.load_batches", "pipeline.graph"} <= set(modules)
    assert breaches(modules) == []


@pytest.mark.parametrize(
    ("modules", "breach"),
    [
        ({"transforms.images": "import apache_beam as beam"}, "noun transforms.images imports apache_beam"),
        (
            {"transforms.images": "def f():\n    from apache_beam import io"},
            "noun transforms.images imports apache_beam",
        ),
        (
            {"transforms.load_batches": "from pipeline.config import RunConfig"},
            "transforms.load_batches imports pipeline",
        ),
        ({"transforms.tables": "from transforms import observe"}, "noun transforms.tables imports a verb"),
        (
            {"transforms.load_batches": "from transforms.score_batches import ScoreBatches"},
            "verb transforms.load_batches imports another verb",
        ),
        (
            {"pipeline.after.report": "import apache_beam"},
            "pipeline.after.report reads published runs and imports apache_beam",
        ),
        (
            {"pipeline.pages.charts": "import apache_beam"},
            "pipeline.pages.charts makes pages and imports apache_beam",
        ),
        (
            {"transforms.a": "from transforms import b", "transforms.b": "from transforms import a"},
            "circle: transforms.a -> transforms.b -> transforms.a",
        ),
    ],
)
def test_a_planted_breach_is_found(modules: dict[str, str], breach: str) -> None:
    """The check can fail: each rule, broken on purpose, is reported."""
    assert breach in breaches(modules)


@pytest.mark.parametrize("package", ["transforms", "pipeline"])
def test_packages_hold_a_docstring_and_nothing_else(package: str) -> None:
    """Importing a package runs nothing."""
    body = ast.parse((ROOT / package / "__init__.py").read_text(encoding="utf-8")).body
    assert [type(node) for node in body] == [ast.Expr]


def test_no_module_imports_tensorflow_or_beam_at_start() -> None:
    """The command line answers at once: heavy packages are imported where they are used."""
    beam_modules = (
        "elsewhere", "graph", "run", "run_pipeline", "options", "model_handler", "launch", "dataflow", "submitting",
    )  # fmt: skip
    allowed = {f"transforms.{verb}" for verb in VERBS} | {f"pipeline.{name}" for name in beam_modules}
    heavy = {"tensorflow", "tensorflow_hub", "keras", "tf_keras"}
    for name, source in house().items():
        top = ast.Module([node for node in ast.parse(source).body if isinstance(node, ast.Import | ast.ImportFrom)], [])
        roots = {imported.split(".")[0] for imported in imports_of(ast.unparse(top), name.rpartition(".")[0])}
        assert not roots & heavy, name
        assert "apache_beam" not in roots or name in allowed, name
