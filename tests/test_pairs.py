"""Flags that do not go together, places that workers cannot see, devices that they do not have: each is refused."""

import pytest

from pipeline.options import find_flags
from pipeline.pairs import check_device, check_reachable, find_accelerators
from tests.test_profiles import NEEDED
from transforms.errors import ConfigError

MPS = "use_nvidia_mps and "
L4 = "worker_accelerator=type:nvidia-l4;count:1;install-nvidia-driver"
SERVICE = "--dataflow_service_options="

REFUSALS = [
    # MPS is for several processes.
    (
        "dataflow-gpu-mps",
        ["--experiments=no_use_multiple_sdk_containers"],
        f"{MPS}--experiments=no_use_multiple_sdk_containers exclude each other: MPS shares a GPU among processes, and "
        "that leaves one; take --profile dataflow-gpu for one process, or leave the experiment out",
    ),
    ("dataflow-gpu-mps", [f"{SERVICE}enable_prime"], f"{MPS}enable_prime exclude each other: Dataflow Prime knows no"),
    ("dataflow-gpu-mps", ["--experiments=enable_prime"], f"{MPS}enable_prime exclude each other: Dataflow Prime know"),
    (
        "dataflow-gpu-mps",
        [f"{SERVICE}worker_accelerator=type:nvidia-l4;count:2;install-nvidia-driver;use_nvidia_mps"],
        "use_nvidia_mps needs count:1, got count:2: Dataflow has MPS for one GPU a worker",
    ),
    # Right fitting and Prime give GPUs in another way.
    ("dataflow-gpu", [f"{SERVICE}enable_prime"], "enable_prime and worker_accelerator exclude each other: Prime giv"),
    ("dataflow-gpu", ["--resource_hints=min_ram=8GB"], "--resource_hints=min_ram=8GB and worker_accelerator exclude"),
    ("dataflow-gpu-mps", ["--resource_hint", "min_ram=8GB"], "--resource_hints=min_ram=8GB and worker_accelerator e"),
    (
        "dataflow-cpu",
        ["--resource_hints=min_ram=8GB", "--flexrs_goal=COST_OPTIMIZED"],
        "--resource_hints=min_ram=8GB and --flexrs_goal=COST_OPTIMIZED exclude each other: FlexRS knows no right fitt",
    ),
    # Accelerators that would not come, or not work.
    ("dataflow-cpu", [f"{SERVICE}{L4}"], "an nvidia-l4 comes with G2 machines only, and --machine_type is n2-standar"),
    ("dataflow-gpu", ["--machine_type=n1-standard-8"], "an nvidia-l4 comes with G2 machines only, and --machine_type"),
    (
        "dataflow-gpu",
        [f"{SERVICE}worker_accelerator=type:nvidia-l4;count:1"],
        "worker_accelerator of type nvidia-l4 comes without its driver, and the model would not find the GPU; add ;in",
    ),
    ("dataflow-gpu", [f"{SERVICE}worker_accelerator=nvidia-l4"], "worker_accelerator needs a type and a count, got t"),
    (
        "dataflow-cpu",
        [f"{SERVICE}{L4}", f"--experiments={L4}", "--machine_type=g2-standard-8"],
        "worker_accelerator is given 2 times; a worker has one kind of GPU: give it once",
    ),
    # Beam takes both and sends both.
    (
        None,
        ["--experiments=use_multiple_sdk_containers,no_use_multiple_sdk_containers", "--runner=DataflowRunner"],
        "--experiments=no_use_multiple_sdk_containers and --experiments=use_multiple_sdk_containers exclude each othe",
    ),
    # More at first than at most: of what a user gives, and of what a profile does.
    ("dataflow-cpu", ["--num_workers=30"], "--num_workers=30 and --max_num_workers=20 exclude each other: a job that"),
    (
        None,
        ["--runner=DataflowRunner", "--num_workers=3", "--max_num_workers=2"],
        "--num_workers=3 and --max_num_workers=2 exclude each other: a job that begins with 3 workers needs --max_num_",
    ),
    # Places and images that the service cannot use.
    ("dataflow-cpu", ["--temp_location=/tmp/x"], "--temp_location=/tmp/x must be a folder in a bucket that Dataflow c"),
    ("dataflow-cpu", ["--staging_location=s3://b/x"], "--staging_location=s3://b/x must be a folder in a bucket that"),
    (
        "dataflow-cpu",
        ["--sdk_container_image=registry:5000/score-images"],
        "--sdk_container_image=registry:5000/score-images may be another image tomorrow, and workers that join later w",
    ),
    ("dataflow-cpu", ["--sdk_container_image=score-images:latest"], "--sdk_container_image=score-images:latest may be"),
]


@pytest.mark.parametrize(("profile", "flags", "message"), REFUSALS)
def test_flags_that_exclude_each_other_are_refused(profile: str | None, flags: list[str], message: str) -> None:
    """Before anything is loaded, with the way out."""
    with pytest.raises(ConfigError) as caught:
        find_flags(profile, [*NEEDED, *flags])
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("profile", "flags"),
    [
        ("dataflow-gpu-mps", []),
        ("dataflow-gpu", ["--experiments=use_multiple_sdk_containers"]),  # a context a process: slow, but it works
        ("dataflow-gpu", ["--machine_type=g2-standard-32"]),
        ("dataflow-cpu", [f"{SERVICE}enable_prime", "--resource_hints=min_ram=8GB"]),
        ("dataflow-cpu", ["--sdk_container_image=score-images@sha256:0123"]),
        ("dataflow-cpu", ["--flexrs_goal=COST_OPTIMIZED"]),
    ],
)
def test_flags_that_go_together_are_taken(profile: str, flags: list[str]) -> None:
    """The rules refuse no more than they say."""
    find_flags(profile, [*NEEDED, *flags])


def test_accelerators_are_found_wherever_they_are_given() -> None:
    """As a service option, and as an experiment, which was the way before."""
    more = ["--machine_type=g2-standard-4", "--experiments=use_multiple_sdk_containers"]
    for flags in ([f"{SERVICE}{L4};use_nvidia_mps"], [f"--experiments={L4};use_nvidia_mps"]):
        values = find_flags("dataflow-cpu", [*NEEDED, *flags, *more]).options
        (gpu,) = find_accelerators(values.get_all_options())
        assert (gpu.kind, gpu.number, gpu.mps) == ("nvidia-l4", "1", True)


@pytest.mark.parametrize(
    ("what", "place", "message"),
    [
        (
            "input",
            "photos",
            "input photos is on this machine, and the workers are on others; give a place in a bucket (g",
        ),
        (
            "output",
            "/models/out",
            "output /models/out is on this machine, and the workers are on others; give a place in",
        ),
        (
            "input",
            "file:///photos",
            "input file:///photos is on this machine, and the workers are on others; give a pla",
        ),
        (
            "model.path",
            "/home/me/m",
            "model.path /home/me/m is on this machine, and the workers are on others; put it in",
        ),
        (
            "model.path",
            "/models/../m",
            "model.path /models/../m is on this machine, and the workers are on others; put",
        ),
        (
            "labels.path",
            "labels.txt",
            "labels.path labels.txt is on this machine, and the workers are on others; put it",
        ),
    ],
)
def test_local_places_are_refused_where_workers_cannot_see_them(what: str, place: str, message: str) -> None:
    """Dataflow's workers have a bucket and their image; a cluster may share a disk, if somebody says so."""
    with pytest.raises(ConfigError) as caught:
        check_reachable([(what, place)], cluster=False)
    assert str(caught.value).startswith(message)
    with pytest.raises(ConfigError, match="or say --shared-disk where all machines have it under this name"):
        check_reachable([(what, place)], cluster=True)


def test_places_that_workers_can_see_are_taken() -> None:
    """Buckets, handles of models, and what the image brings."""
    places = [("input", "gs://b/x"), ("output", "s3://b/x"), ("model.path", "https://tfhub.dev/x/1")]
    for cluster in (False, True):
        check_reachable([*places, ("model.path", "/models/lite0"), ("labels.path", "/models/l.txt")], cluster=cluster)


def test_a_device_that_workers_do_not_have_is_refused() -> None:
    """And one that would leave a GPU idle, however it was asked for."""
    for gpu in ({"dataflow_service_options": [L4]}, {"resource_hints": ["accelerator=type:nvidia-l4;count:1"]}):
        with pytest.raises(
            ConfigError, match="model.device is cpu, and the workers have GPUs, which would cost and do"
        ):
            check_device("cpu", gpu)
        check_device("auto", gpu)
        check_device("gpu", gpu)
    with pytest.raises(ConfigError, match="model.device is gpu:0, and the workers of this job have no GPU; take --pro"):
        check_device("gpu:0", {})
    check_device("auto", {})
    check_device("cpu", {})
