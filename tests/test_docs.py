"""What the documentation says is true: queries and programs run, lists are complete, links lead somewhere."""

import re
import shlex
import subprocess
from pathlib import Path

import duckdb
import pytest

from pipeline.cli import main
from tests.model_zoo import pooled_model
from tests.runs import make_photo, make_photos
from transforms.errors import ExitCode, FailureCode
from transforms.layout import RunLayout
from transforms.tables import FAILURES_SCHEMA, scores_schema

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the README assumes it: photos/, configs/local.yaml, and a model in MODEL."""
    folder = tmp_path_factory.mktemp("readme")
    make_photos(folder / "photos" / "deep", 4, ".jpg")
    make_photos(folder / "photos", 1, ".jpg")
    (folder / "photos" / "000.jpg").rename(folder / "photos" / "cat.jpg")
    (folder / "configs").mkdir()
    config = (ROOT / "configs" / "local.yaml").read_text(encoding="utf-8")
    (folder / "configs" / "local.yaml").write_text(config.replace("top_k: 5", "top_k: 4"), encoding="utf-8")
    pooled_model(folder / "model")
    return folder


@pytest.fixture
def in_workplace(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work there."""
    monkeypatch.chdir(workplace)
    monkeypatch.setenv("MODEL", str(workplace / "model"))
    return workplace


def test_the_commands_of_the_readme_run(in_workplace: Path) -> None:
    """Every score-images line, in order; installing is what the test environment has done."""
    lines = [line for block in blocks(README, "sh") for line in block.splitlines()]
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("score-images ")]
    assert len(commands) >= 2
    assert [main(command) for command in commands] == [0] * len(commands)
    assert (in_workplace / "scores" / "runs" / "2026-11-22" / "_SUCCESS").exists()


def test_the_tree_of_the_readme_is_the_tree_of_a_run(in_workplace: Path) -> None:
    """The files that it shows are the files that are there."""
    test_the_commands_of_the_readme_run(in_workplace)
    shown = [line.split()[0] for line in README.split("## What comes out")[1].split("```")[1].splitlines()[1:]]
    assert sorted(shown) == sorted(
        str(path.relative_to(in_workplace)) for path in (in_workplace / "scores").rglob("*") if path.is_file()
    )


def test_the_queries_of_the_readme_run(in_workplace: Path) -> None:
    """Each statement, on a published run."""
    test_the_commands_of_the_readme_run(in_workplace)
    statements = [s for block in blocks(README, "sql") for s in block.split(";") if s.strip()]
    assert len(statements) == 5
    assert [len(duckdb.sql(statement).fetchall()) > 0 for statement in statements] == [True, True, True, False, True]


def test_the_query_over_several_nights_gives_each_image_once(in_workplace: Path) -> None:
    """A second night, a delta: the changed photo has its new row, the rest the rows of the first night."""
    test_the_commands_of_the_readme_run(in_workplace)
    command = ["run", "--config", "configs/local.yaml", "--input", "photos/**/*.jpg", "--output", "nights"]
    assert main([*command, "--run-id", "2026-11-22"]) == 0
    make_photo(in_workplace / "photos" / "cat.jpg", 77)
    assert main([*command, "--run-id", "2026-11-23", "--since-run", "latest"]) == 0
    (statement,) = (s for block in blocks(README, "sql") for s in block.split(";") if "several nights" in s)
    state = duckdb.sql(statement.replace("'scores/", "'nights/"))
    photos = sorted(str(path) for path in (in_workplace / "photos").rglob("*.jpg"))
    # DuckDB takes the folders' names for dates.
    assert state.project("image_path, run_id::VARCHAR").order("image_path").fetchall() == [
        (photo, f"2026-11-{23 if photo.endswith('cat.jpg') else 22}") for photo in photos
    ]


def test_the_program_of_the_readme_runs(in_workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """ScoreImages in a pipeline of one's own: one photo is scored, the missing one is named."""
    (program,) = blocks(README, "python")
    exec(compile(program, "README.md", "exec"), {})  # noqa: S102  it is our own text
    assert sorted(capsys.readouterr().out.splitlines()) == sorted(
        ["1 rows", f"{in_workplace}/photos/missing.jpg not_found"]
    )


def test_failure_codes_and_columns_are_documented() -> None:
    """The codes in the README are the codes of the program, and every column has its place in the tables."""
    (listed,) = re.findall(r"codes are an API: `([a-z_ ]+)`", README)
    assert listed.split() == [code.value for code in FailureCode]
    tables = README.split("## What comes out")[1].split("```sql")[0]
    for name in (*scores_schema(3, with_logits=True).names, *FAILURES_SCHEMA.names):
        assert re.search(rf"\b{name}\b", tables), name


def test_exit_codes_are_documented() -> None:
    """All that a command can return."""
    rows = re.findall(r"^\| (\d+) \|", README.split("## Exit codes")[1], re.MULTILINE)
    assert [int(row) for row in rows] == sorted(int(code) for code in ExitCode)


def test_links_lead_to_files() -> None:
    """No relative link of README or docs is broken."""
    for document in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_layout_of_the_design_exists() -> None:
    """Every module of transforms stands in docs/design.md."""
    design = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    for path in (ROOT / "transforms").glob("[a-z]*.py"):
        assert path.name in design, path.name
    assert RunLayout("out", "x").manifest == "out/runs/x/manifest.json"


def test_make_help_explains_every_target() -> None:
    """A target without a word is a target that nobody finds."""
    said = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    targets = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert targets is not None
    for target in targets[1].split():
        assert f"make {target} " in said
