"""The container image, built on a fresh Debian: it scores the demo, and it is a worker of Beam."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub_server import HubServer
from tests.integration.images import Buildah
from tests.model_zoo import pack, pooled_model
from tests.runs import make_photo, small_config, write_config

pytestmark = [pytest.mark.image, pytest.mark.timeout(2400)]

ROOT = Path(__file__).parent.parent.parent
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
IMAGE = "localhost/score-images"
# What a runner calls: the same commands on buildah. The container has its network and its folder from this machine.
DOCKER = """#!/bin/sh
case "$1" in
    run)
        while [ "$1" != {image} ]; do shift; done
        shift
        {buildah} run --volume {shared}:{shared} {container} -- score-images-container "$@" > {shared}/worker.log 2>&1 &
        echo "$!" ;;
    inspect) kill -0 "$4" && echo running || echo exited ;;
    container) cat {shared}/worker.log ;;
    kill) kill "$2" ;;
    *) exit 1 ;;
esac
"""


@pytest.fixture(scope="module")
def buildah() -> Iterator[Buildah]:
    """A store with the image in it, gone afterwards."""
    builder = Buildah(ROOT / ".cache" / "image")
    try:
        builder.import_base()
        builder.import_go()
        builder.build(ROOT, IMAGE, "cpu", EXTRAS="demo")
        yield builder
    finally:
        builder.close()


@pytest.fixture(scope="module")
def container(buildah: Buildah) -> str:
    """A container of the image."""
    return buildah("from", "--pull-never", IMAGE)


def pinned() -> dict[str, str]:
    """The versions of constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def test_the_command_line_answers(buildah: Buildah, container: str) -> None:
    """By the entry point that the image names."""
    (entry_point,) = json.loads(buildah("inspect", "--type", "image", IMAGE))["OCIv1"]["config"]["Entrypoint"]
    assert buildah.run(container, entry_point, "--help").startswith("usage: score-images ")


def test_it_runs_as_nobody_in_particular(buildah: Buildah, container: str) -> None:
    """The image names a number, as Kubernetes wants it to know that it is not root."""
    assert json.loads(buildah("inspect", "--type", "image", IMAGE))["OCIv1"]["config"]["User"] == "10001:10001"
    assert buildah.run(container, "id", "-u") == "10001"


def test_versions_are_those_of_the_constraints(buildah: Buildah, container: str) -> None:
    """Each package that the image has and constraints.txt names; the launcher has the same ones."""
    frozen = buildah.run(container, "pip", "freeze", "--all").splitlines()
    installed = dict(line.split("==") for line in frozen if "==" in line)
    pins = {name.lower().replace("_", "-"): version for name, version in pinned().items()}
    installed = {name.lower().replace("_", "-"): version for name, version in installed.items()}

    assert {"apache-beam", "tensorflow", "numpy", "pyarrow"} <= set(installed)
    assert {name: version for name, version in installed.items() if name in pins and version != pins[name]} == {}
    # What Debian brings for pip itself is all that nobody has pinned.
    assert set(installed) - set(pins) <= {"pip", "wheel", "score-images"}


@pytest.mark.parametrize("left", ["gcc", "cc", "go", "/build", "/wheels"])
def test_nothing_of_the_build_is_left(buildah: Buildah, container: str, left: str) -> None:
    """No compiler, no sources, no wheels."""
    assert buildah.run(container, "sh", "-c", f"command -v {left} || test -e {left} || echo absent") == "absent"


def test_boot_is_that_of_the_pinned_beam(buildah: Buildah, container: str) -> None:
    """Go has written into it which module it was made of."""
    module = "github.com/apache/beam/sdks/v2\tv"
    built_of = buildah.run(container, "grep", "-aom1", f"{module}[0-9.]*", "/opt/apache/beam/boot")
    assert built_of == module + pinned()["apache-beam"]


def test_flags_of_a_runner_start_boot(buildah: Buildah, container: str) -> None:
    """It is boot that misses the rest of them."""
    assert "No provision endpoint provided." in buildah.run(container, "score-images-container", "--id=1", check=False)


def test_the_demo_is_scored_inside(buildah: Buildah, container: str) -> None:
    """The real model, the real photos, the same answers as outside."""
    said = buildah.run(container, "score-images", "demo", options=("--env", "COLUMNS=120"))
    assert re.search(r"chelsea\.png +tiger cat \d+%", said)
    assert re.search(r"coffee\.png +espresso \d+%", said)
    assert "unique    12 = 11 scored + 1 failed + 0 skipped" in said


def test_a_model_of_a_hub_is_baked_into_the_cache(buildah: Buildah, container: str, tmp_path: Path) -> None:
    """By what the build runs for --build-arg MODEL: afterwards it is found in /models without the hub."""
    hub = HubServer()
    try:
        handle = hub.serve("/google/cats/1", pack(pooled_model(tmp_path / "cats")))
        assert 'RUN if [ -n "${MODEL}" ]; then score-images inspect "${MODEL}"; fi' in DOCKERFILE
        buildah.run(container, "score-images", "inspect", handle)
    finally:
        hub.close()

    buildah.run(container, "score-images", "inspect", handle)

    assert "/saved_model.pb" in buildah.run(container, "find", "/models", "-name", "saved_model.pb")


def test_a_beam_runner_scores_on_a_worker_of_the_image(buildah: Buildah, container: str, tmp_path: Path) -> None:
    """Boot fetches what the runner has for it and starts Python; the rows come from the image's user and packages."""
    tmp_path.chmod(0o777)
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    buildah_words = " ".join(buildah.command())
    script = DOCKER.format(image=IMAGE, buildah=buildah_words, shared=tmp_path, container=container)
    docker.write_text(script, encoding="utf-8")
    docker.chmod(0o755)
    photo = make_photo(tmp_path / "cat.jpg", 7)
    config = write_config(small_config(pooled_model(tmp_path / "model")), tmp_path / "night.yaml")
    program = Path(__file__).with_name("worker_program.py")

    result = subprocess.run(
        [sys.executable, program, IMAGE, config, photo, tmp_path / "no.jpg", tmp_path / "rows"],
        env={**buildah.environment, "PATH": f"{docker.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )

    log = tmp_path / "worker.log"
    assert result.returncode == 0, result.stderr[-4000:] + (log.read_text(encoding="utf-8") if log.exists() else "")
    rows = sorted(
        map(json.loads, (tmp_path / "rows").read_text(encoding="utf-8").splitlines()), key=lambda row: row["kind"]
    )
    assert [(row["kind"], row["path"], row["uid"]) for row in rows] == [
        ("failure", str(tmp_path / "no.jpg"), 10001),
        ("score", str(photo), 10001),
    ]
    assert rows[0]["what"] == "not_found"
    assert {row["file"].split("/")[1] for row in rows} == {"usr"}
