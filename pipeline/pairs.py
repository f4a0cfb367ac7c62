"""Flags that do not go together: found before anything is loaded, instead of by a job that fails or costs in vain.

Where the rules come from: Dataflow's pages on GPUs, NVIDIA MPS, right fitting and L4, and Beam's own options.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from transforms.errors import ConfigError

IMAGE_MODELS = "/models"
"""Where the worker image keeps models: the only local folder that workers on other machines have, too."""
_SINGLE, _MULTIPLE = "no_use_multiple_sdk_containers", "use_multiple_sdk_containers"
_PRIME, _ACCELERATOR = "enable_prime", "worker_accelerator"
# Flags that a local runner takes without a word and does not heed.
_REMOTE_ONLY = (
    "dataflow_service_options", "disk_size_gb", "flink_master", "job_name", "machine_type", "max_num_workers",
    "num_workers", "number_of_worker_harness_threads", "project", "region", "sdk_container_image",
    "service_account_email", "staging_location", "temp_location", "worker_region", "worker_zone",
)  # fmt: skip


class Accelerator(NamedTuple):
    """The GPU of each worker, as `worker_accelerator` says it."""

    kind: str
    """Such as nvidia-l4."""
    number: str
    """GPUs a worker."""
    options: frozenset[str]
    """Words such as install-nvidia-driver, use_nvidia_mps."""

    @property
    def mps(self) -> bool:
        """Whether processes share it through NVIDIA MPS."""
        return "use_nvidia_mps" in self.options


def find_accelerators(values: Mapping[str, Any]) -> list[Accelerator]:
    """Return the accelerators that Dataflow's options ask for; more than one is one too many.

    >>> find_accelerators({"experiments": ["worker_accelerator=type:nvidia-l4;count:1;install-nvidia-driver"]})
    [Accelerator(kind='nvidia-l4', number='1', options=frozenset({'install-nvidia-driver'}))]
    """
    found = []
    for entry in (*_entries(values, "dataflow_service_options"), *_entries(values, "experiments")):
        key, _, text = entry.partition("=")
        if key == _ACCELERATOR:
            words = [word.strip() for word in text.split(";") if word.strip()]
            pairs = dict(word.split(":", 1) for word in words if word.startswith(("type:", "count:")))
            options = frozenset(word.partition(":")[0] for word in words if not word.startswith(("type:", "count:")))
            found.append(Accelerator(pairs.get("type", ""), pairs.get("count", ""), options))
    return found


def check_dataflow(values: Mapping[str, Any]) -> None:
    """Refuse flags of Dataflow that do not go together.

    Args:
        values: Beam's options by name, as they will be used.

    Raises:
        ConfigError: The first such pair.
    """
    for check in _DATAFLOW_CHECKS:
        problem = next(check(values), None)
        if problem is not None:
            raise ConfigError(problem)


def check_local(values: Mapping[str, Any]) -> None:
    """Refuse flags that a local runner would not heed.

    Args:
        values: Beam's options by name, those that differ from their defaults.
    """
    ignored = [name for name in _REMOTE_ONLY if values.get(name) is not None]
    if ignored:
        named = ", ".join(f"--{name}" for name in ignored)
        raise ConfigError(
            f"{named} {'is' if len(ignored) == 1 else 'are'} for a cluster or Dataflow: --profile local would not "
            "heed it; leave it out or take another profile"
        )


def check_flink(values: Mapping[str, Any]) -> None:
    """Refuse workers of Flink that nobody can start.

    Args:
        values: Beam's options by name, as they will be used.
    """
    kind = values.get("environment_type")
    if kind in ("DOCKER", "EXTERNAL", "PROCESS") and not values.get("environment_config"):
        needs = {
            "DOCKER": "the image of this version of score-images (registry/score-images:0.1.0): Beam's own lacks it",
            "EXTERNAL": "where the pool listens (localhost:50000)",
            "PROCESS": 'the command that starts a worker ({"command": "/opt/boot"})',
        }
        raise ConfigError(f"--environment_type={kind} needs --environment_config: {needs[kind]}")


def check_device(device: str, values: Mapping[str, Any], setting: str = "model.device") -> None:
    """Refuse a model's device that the workers of a Dataflow job do not have, or whose GPU it would leave idle.

    Args:
        device: As the configuration says it.
        values: Beam's options by name.
        setting: Where the configuration says it.

    Raises:
        ConfigError: The workers have no such device, or have GPUs in vain.
    """
    gpus = bool(find_accelerators(values)) or _hints_gpu(values)
    if gpus and device == "cpu":
        raise ConfigError(
            f"{setting} is cpu, and the workers have GPUs, which would cost and do nothing; take {setting}: auto, "
            "or --profile dataflow-cpu"
        )
    if not gpus and device.startswith("gpu"):
        raise ConfigError(
            f"{setting} is {device}, and the workers of this job have no GPU; take --profile dataflow-gpu, or "
            f"{setting}: auto"
        )


def check_reachable(places: Sequence[tuple[str, str]], *, cluster: bool) -> None:
    """Refuse local paths where the workers are on other machines.

    Args:
        places: What each is (`input`, `model.path`), and its path or URL.
        cluster: Whether the machines could share a disk, as those of one's own cluster can.

    Raises:
        ConfigError: A path that only this machine is known to have.
    """
    for what, place in places:
        if "://" in place and not place.startswith("file://"):
            continue
        in_image = os.path.normpath(place).startswith(f"{IMAGE_MODELS}/")
        if in_image and what not in ("input", "output"):
            continue
        if cluster:
            way_out = "put it in a bucket, or say --shared-disk where all machines have it under this name"
        elif what in ("input", "output"):
            way_out = "give a place in a bucket (gs://...)"
        else:
            way_out = f"put it in a bucket (gs://...) or into the worker image below {IMAGE_MODELS}"
        raise ConfigError(f"{what} {place} is on this machine, and the workers are on others; {way_out}")


def _check_containers(values: Mapping[str, Any]) -> Iterator[str]:
    experiments = set(_entries(values, "experiments"))
    if {_SINGLE, _MULTIPLE} <= experiments:
        yield f"--experiments={_SINGLE} and --experiments={_MULTIPLE} exclude each other; keep one"


def _check_accelerators(values: Mapping[str, Any]) -> Iterator[str]:
    found = find_accelerators(values)
    if len(found) > 1:
        yield f"{_ACCELERATOR} is given {len(found)} times; a worker has one kind of GPU: give it once"
    for gpu in found:
        if not gpu.kind or not gpu.number.isdigit() or gpu.number == "0":
            yield (
                f"{_ACCELERATOR} needs a type and a count, got type {gpu.kind or 'none'} and count "
                f"{gpu.number or 'none'}; write {_ACCELERATOR}=type:nvidia-l4;count:1;install-nvidia-driver"
            )
        if "install-nvidia-driver" not in gpu.options and gpu.kind.startswith("nvidia"):
            yield (
                f"{_ACCELERATOR} of type {gpu.kind} comes without its driver, and the model would not find the GPU; "
                "add ;install-nvidia-driver"
            )
        machine = str(values.get("machine_type") or "")
        if gpu.kind == "nvidia-l4" and not machine.startswith("g2-"):
            yield (
                f"an nvidia-l4 comes with G2 machines only, and --machine_type is {machine or 'not given'}; take "
                "g2-standard-8, or another type of GPU"
            )


def _check_mps(values: Mapping[str, Any]) -> Iterator[str]:
    for gpu in find_accelerators(values):
        if not gpu.mps:
            continue
        if _SINGLE in _entries(values, "experiments"):
            yield (
                f"use_nvidia_mps and --experiments={_SINGLE} exclude each other: MPS shares a GPU among processes, and "
                "that leaves one; take --profile dataflow-gpu for one process, or leave the experiment out"
            )
        if _is_prime(values):
            yield f"use_nvidia_mps and {_PRIME} exclude each other: Dataflow Prime knows no MPS; leave one out"
        if gpu.number != "1":
            yield f"use_nvidia_mps needs count:1, got count:{gpu.number}: Dataflow has MPS for one GPU a worker"


def _check_right_fitting(values: Mapping[str, Any]) -> Iterator[str]:
    hints = list(values.get("resource_hints") or ())
    if not hints:
        return
    if find_accelerators(values):
        yield (
            f"--resource_hints={hints[0]} and {_ACCELERATOR} exclude each other: right fitting gives the GPU by hints "
            "(accelerator=type:nvidia-l4;count:1;install-nvidia-driver); keep one of the two ways"
        )
    if values.get("flexrs_goal"):
        yield (
            f"--resource_hints={hints[0]} and --flexrs_goal={values['flexrs_goal']} exclude each other: FlexRS knows "
            "no right fitting; leave one out"
        )


def _check_prime(values: Mapping[str, Any]) -> Iterator[str]:
    if _is_prime(values) and find_accelerators(values):
        yield (
            f"{_PRIME} and {_ACCELERATOR} exclude each other: Prime gives GPUs by right fitting; use "
            "--resource_hints=accelerator=... without a GPU profile, or leave Prime out"
        )


def _check_workers(values: Mapping[str, Any]) -> Iterator[str]:
    first, most = values.get("num_workers"), values.get("max_num_workers")
    if first and most and first > most:
        yield (
            f"--num_workers={first} and --max_num_workers={most} exclude each other: a job that begins with {first} "
            f"workers needs --max_num_workers={first} or more, which a profile does not raise by itself"
        )


def _check_places(values: Mapping[str, Any]) -> Iterator[str]:
    for name in ("temp_location", "staging_location"):
        place = values.get(name)
        if place and not str(place).startswith("gs://"):
            yield f"--{name}={place} must be a folder in a bucket that Dataflow can reach: gs://..."


def _check_image(values: Mapping[str, Any]) -> Iterator[str]:
    image = values.get("sdk_container_image")
    if not image:
        return  # a profile asks for it
    name = str(image).rpartition("/")[2]
    if "@sha256:" not in name and (":" not in name or name.endswith(":latest")):
        yield (
            f"--sdk_container_image={image} may be another image tomorrow, and workers that join later would pull it; "
            "give a version (:0.1.0) or a digest (@sha256:...)"
        )


_DATAFLOW_CHECKS: tuple[Callable[[Mapping[str, Any]], Iterator[str]], ...] = (
    _check_containers,
    _check_mps,
    _check_prime,
    _check_accelerators,
    _check_right_fitting,
    _check_workers,
    _check_places,
    _check_image,
)


def _entries(values: Mapping[str, Any], name: str) -> list[str]:
    return [str(entry).strip() for entry in values.get(name) or ()]


def _is_prime(values: Mapping[str, Any]) -> bool:
    return any(_PRIME in _entries(values, name) for name in ("dataflow_service_options", "experiments"))


def _hints_gpu(values: Mapping[str, Any]) -> bool:
    return any(str(hint).startswith("accelerator=") for hint in values.get("resource_hints") or ())
