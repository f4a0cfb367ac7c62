"""Flink's versions are the same everywhere, and what docs/flink.md shows of Kubernetes has documented fields."""

import importlib.metadata
import io
import re
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration.flink.distribution import check_fit, flink_version, unpack

ROOT = Path(__file__).parent.parent
DOCS = (ROOT / "docs" / "flink.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
POM = (ROOT / "tests" / "integration" / "flink" / "pom.xml").read_text(encoding="utf-8")
# https://nightlies.apache.org/flink/flink-kubernetes-operator-docs-stable/docs/custom-resource/reference/
SPEC: dict[str, Any] = {
    "flinkConfiguration": None,
    "flinkVersion": None,
    "image": None,
    "imagePullPolicy": None,
    "job": None,
    "jobManager": {"podTemplate": None, "replicas": None, "resource": {"cpu", "memory", "ephemeralStorage"}},
    "mode": None,
    "podTemplate": None,
    "serviceAccount": None,
    "taskManager": {"podTemplate": None, "replicas": None, "resource": {"cpu", "memory", "ephemeralStorage"}},
}


def pin(name: str) -> str:
    """A version that the Makefile fixes."""
    (found,) = re.findall(rf"^{name} \??:?= (\S+)$", MAKEFILE, re.MULTILINE)
    return str(found)


def test_flink_and_its_runner_are_of_one_version_everywhere() -> None:
    """Makefile, pom.xml and docs/flink.md; the runner is for the minor version of the distribution."""
    flink, runner = pin("FLINK"), pin("BEAM_RUNNER")
    minor = flink.rpartition(".")[0]
    assert re.findall(r"<beam.version>(.*)</beam.version>", POM) == [runner]
    assert re.findall(r"<flink.minor>(.*)</flink.minor>", POM) == [minor]
    assert f"| Flink | {flink} |" in DOCS
    assert f"| {runner}, for Flink {minor} | `org.apache.beam:beam-runners-flink-{minor}`" in DOCS
    assert f"| Beam in launcher and workers | {importlib.metadata.version('apache-beam')} |" in DOCS
    (deployment,) = re.findall(r"```yaml\n(.*?)```", DOCS, re.DOTALL)
    spec = yaml.safe_load(deployment)["spec"]
    assert (spec["image"], spec["flinkVersion"]) == (f"flink:{minor}", f"v{minor.replace('.', '_')}")


def unknown_fields(found: dict[str, Any], known: Any, place: str = "spec") -> list[str]:
    """The fields that the operator does not document."""
    if known is None:
        return []
    wrong = [f"{place}.{name}" for name in found if name not in known]
    for name, value in found.items():
        if isinstance(known, dict) and isinstance(value, dict):
            wrong += unknown_fields(value, known.get(name), f"{place}.{name}")
    return wrong


def test_the_deployment_of_the_docs_has_documented_fields_only() -> None:
    """Its Flink settings are texts, as the operator wants them; a planted field is found."""
    (text,) = re.findall(r"```yaml\n(.*?)```", DOCS, re.DOTALL)
    deployment = yaml.safe_load(text)
    assert (deployment["apiVersion"], deployment["kind"]) == ("flink.apache.org/v1beta1", "FlinkDeployment")
    spec = deployment["spec"]
    assert unknown_fields(spec, SPEC) == []
    assert all(isinstance(value, str) for value in spec["flinkConfiguration"].values())
    names = [container["name"] for container in spec["taskManager"]["podTemplate"]["spec"]["containers"]]
    assert names == ["flink-main-container", "python-workers"]
    spec["taskManager"]["resource"]["memroy"] = "1g"
    assert unknown_fields(spec, SPEC) == ["spec.taskManager.resource.memroy"]


def test_flags_of_the_docs_are_flags_of_beam() -> None:
    """All that are explained stand in the command, and none of them is one that Beam would drop."""
    from pipeline.options import pipeline_options

    command = DOCS.split("## A run")[1].split("```")[1].replace("\\\n", " ").split(" -- ")[1].split()
    given = pipeline_options(command).get_all_options(drop_default=True)
    named = [flag.lstrip("-").partition("=")[0] for flag in command]
    assert {name for name in named if name not in given} <= {"sdk_worker_parallelism"}  # its default
    for flag in re.findall(r"^\| `--([a-z_]+)", DOCS, re.MULTILINE):
        assert flag in named


def packages(folder: Path) -> Path:
    """Two packages as PyFlink's are, with little in them."""
    folder.mkdir()
    with zipfile.ZipFile(folder / "apache_flink-1.19.9-cp311-x.whl", "w") as wheel:
        wheel.writestr("pyflink/bin/flink", "#!/bin/sh")
        wheel.writestr("pyflink/table/table.py", "import this")
    with tarfile.open(folder / "apache-flink-libraries-1.19.9.tar.gz", "w:gz") as libraries:
        for name in ("deps/lib/flink-dist-1.19.9.jar", "setup.py"):
            libraries.addfile(tarfile.TarInfo(f"apache-flink-libraries-1.19.9/{name}"), io.BytesIO())
    return folder


def test_packages_of_pyflink_make_a_distribution(tmp_path: Path) -> None:
    """Scripts that can be run, jars, and nothing of PyFlink itself."""
    unpack(packages(tmp_path / "packages"), home := tmp_path / "home")
    assert sorted(str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()) == [
        "bin/flink",
        "lib/flink-dist-1.19.9.jar",
    ]
    assert (home / "bin" / "flink").stat().st_mode & 0o111
    assert flink_version(home) == "1.19.9"


@pytest.mark.parametrize(
    ("jar", "message"),
    [
        ("beam-2.62.0-runner-flink-1.19.jar", None),
        ("beam-runners-flink-1.19-job-server-2.77.0.jar", None),
        ("beam-runners-flink-1.20-job-server-2.77.0.jar", "is for Flink 1.20, and .* is Flink 1.19.9: their minor"),
        ("runner.jar", "runner.jar does not say in its name for which Flink it is, and"),
    ],
)
def test_a_runner_for_another_flink_is_refused(tmp_path: Path, jar: str, message: str | None) -> None:
    """Before a cluster is started: it would fail in the middle of a job, with a missing method."""
    unpack(packages(tmp_path / "packages"), home := tmp_path / "home")
    with pytest.raises(FileNotFoundError, match="Beam's runner for Flink is not at .*; run make flink"):
        check_fit(home, tmp_path / jar)
    (tmp_path / jar).touch()
    if message is None:
        check_fit(home, tmp_path / jar)
    else:
        with pytest.raises(ValueError, match=message):
            check_fit(home, tmp_path / jar)
    with pytest.raises(FileNotFoundError, match="is no Flink distribution"):
        check_fit(tmp_path, tmp_path / jar)
