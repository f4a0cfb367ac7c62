"""The image's entry point tells a runner from a person."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import pipeline.container as container
from pipeline.container import BOOT_FLAGS, starts_worker

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    "arguments",
    [
        # as a runner's docker environment starts a worker
        ["--id=1-1", "--logging_endpoint=h:1", "--artifact_endpoint=h:2", "--provision_endpoint=h:3"],
        ["-id", "1-1", "-provision_endpoint", "h:3"],  # Go takes one dash and a value apart, too
        ["--worker_pool"],  # Flink's external workers
        ["--setup_only", "--artifacts=a"],
        ["--semi_persist_dir=/tmp/x", "--id=1-1"],
    ],
)
def test_flags_of_boot_start_a_worker(arguments: list[str]) -> None:
    """Whatever the order, a runner's arguments begin with a flag that only boot has."""
    assert starts_worker(arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--help"],
        ["run", "--config", "c.yaml", "--run-id=1"],
        ["-v", "demo"],
        ["run", "--id=1"],  # only the first argument counts: these are score-images' to refuse
        ["id"],
        ["---id=1"],
        ["--identity=1"],
        ["--"],
    ],
)
def test_all_else_is_the_command_line(arguments: list[str]) -> None:
    """A person begins with a command, or asks for help."""
    assert not starts_worker(arguments)


def test_no_option_of_the_command_line_is_a_flag_of_boot() -> None:
    """Else a person's option would start a worker."""
    said = subprocess.run([sys.executable, "-m", "pipeline", "--help"], capture_output=True, text=True, check=True)
    options = re.findall(r"(?<!\S)--?([a-z][a-z_-]*)", said.stdout)
    assert "help" in options
    assert not BOOT_FLAGS & set(options)


def test_a_worker_replaces_the_process_and_keeps_its_arguments(tmp_path: Path) -> None:
    """Boot has the process id of the container, so that its signals arrive."""
    boot = tmp_path / "boot"
    boot.write_text('#!/bin/sh\necho "$$" "$@"\n', encoding="utf-8")
    boot.chmod(0o755)
    program = f"import pipeline.container as c; c.BOOT = {str(boot)!r}; c.entry_point()"

    with subprocess.Popen(
        [sys.executable, "-c", program, "--id=1 1", "--worker_pool"], stdout=subprocess.PIPE, text=True
    ) as process:
        said, _ = process.communicate()

    assert (process.returncode, said) == (0, f"{process.pid} --id=1 1 --worker_pool\n")


def test_a_command_runs_with_its_exit_code() -> None:
    """As if score-images had been called."""
    program = "from pipeline.container import entry_point; entry_point()"
    result = subprocess.run(
        [sys.executable, "-c", program, "config", "--check", "absent.yaml"], capture_output=True, text=True, check=False
    )

    assert result.returncode == 2
    assert "absent.yaml" in result.stderr


def test_boot_is_where_the_image_has_it() -> None:
    """And where Beam's worker pool looks for it: the path is Beam's."""
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert container.BOOT == "/opt/apache/beam/boot"
    assert "/opt/apache/beam/boot /opt/apache/beam/LICENSE /opt/apache/beam/\n" in dockerfile


def test_what_the_image_copies_is_not_ignored() -> None:
    """The list of .dockerignore is closed: what the Dockerfile wants from the folder stands in it, and no more."""
    copied = {
        name
        for line in re.findall(
            r"^COPY (?!--from)(.*)$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE
        )
        for name in line.split()[:-1]
    }
    kept = re.findall(r"^!(.*)$", (ROOT / ".dockerignore").read_text(encoding="utf-8"), re.MULTILINE)
    assert copied == set(kept)


def test_the_gpu_image_finds_the_driver_of_container_optimized_os() -> None:
    """Dataflow and GKE mount it into /usr/local/nvidia, of which a loader knows nothing."""
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    (gpu,) = (stage for stage in re.split(r"^FROM ", dockerfile, flags=re.MULTILINE) if " AS gpu\n" in stage)
    assert "LD_LIBRARY_PATH=/usr/local/nvidia/lib:/usr/local/nvidia/lib64\n" in gpu
