"""Profiles: where a run is carried out, as sets of Beam's flags, each with its reason.

A profile is flags and nothing else: the configuration of a run stays the same file everywhere. What is written after
`--` wins, flag by flag; of flags that hold lists, entry by entry. docs/profiles.md is made of this module.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from transforms.errors import ConfigError
from transforms.redaction import redact_flags

Runner = Literal["local", "flink", "dataflow"]

LIST_FLAGS = frozenset({"experiments", "dataflow_service_options"})
"""Flags whose entries are merged; Beam takes them several times, or separated by commas."""

# What the first means depends on the second: the address of a pool would be taken for the name of a Docker image.
_BELONGS_TO = {"environment_config": "environment_type"}


class Flag(NamedTuple):
    """One flag of a profile."""

    text: str
    """As it is written on a command line: --name=value."""
    reason: str
    """Why it has that value."""


class Needed(NamedTuple):
    """A flag that only the user can know."""

    name: str
    """Without dashes."""
    example: str
    """A value."""
    reason: str
    """What it is for."""


class Profile(NamedTuple):
    """Where a run is carried out."""

    name: str
    """As --profile takes it."""
    runner: Runner
    """Whose engine it is."""
    summary: str
    """One sentence."""
    flags: tuple[Flag, ...]
    """What it stands for."""
    needed: tuple[Needed, ...] = ()
    """What has to be given after -- besides."""


_DATAFLOW_NEEDS = (
    Needed("project", "my-project", "whose quota and bill it is"),
    Needed("region", "europe-west4", "where the workers run: where the images are, or every byte pays for its way"),
    Needed("temp_location", "gs://my-bucket/tmp", "a folder for what the job stages"),
    Needed(
        "sdk_container_image",
        "europe-west4-docker.pkg.dev/my-project/score/score-images:0.1.0",
        "the image of this version of score-images; workers install nothing",
    ),
)
_DATAFLOW = Flag("--runner=DataflowRunner", "Google's service runs the job")
_CONTAINER = Flag(
    "--sdk_location=container", "the image brings Beam and score-images: workers start without an installation"
)
_ONE_PROCESS = (
    "one process and one model a worker: reading, decoding and the model release Python's lock, so that threads share "
    "the machine; Dataflow's default, a process a vCPU, would load the model as often"
)
_TWO_BUNDLES = Flag(
    "--number_of_worker_harness_threads=2",
    "bundles at a time in a process: while one closes its files the other one loads; each has load.threads threads "
    "and load.max_bytes_in_flight of memory of its own",
)
_ONE_FIRST = "listing and the shuffle need no more; Dataflow adds workers when it sees the work"
_GPU_DISK = Flag("--disk_size_gb=50", "the image with TensorFlow and CUDA has to fit beside the driver")

PROFILES: dict[str, Profile] = {
    profile.name: profile
    for profile in (
        Profile(
            "local",
            "local",
            "this machine, in this process",
            (
                Flag(
                    "--runner=FnApiRunner",
                    "it is in the package: DirectRunner looks for a downloaded runner first, and may run a pipeline "
                    "twice",
                ),
                Flag(
                    "--direct_num_workers=1",
                    "one worker keeps a machine busy: reading, decoding and the model work in threads",
                ),
            ),
        ),
        Profile(
            "flink",
            "flink",
            "a Flink cluster of one's own",
            (
                Flag("--runner=FlinkRunner", "Beam's runner for Flink"),
                Flag(
                    "--flink_submit_uber_jar",
                    "the job is uploaded through Flink's REST interface and lives in the cluster: the launcher may "
                    "end, and needs no Java",
                ),
                Flag(
                    "--environment_type=EXTERNAL",
                    "a pool beside each TaskManager starts the Python workers; DOCKER, Beam's default, needs a Docker "
                    "engine there, and LOOPBACK is the launcher itself",
                ),
                Flag("--environment_config=localhost:50000", "where the pool listens, seen from its TaskManager"),
                Flag(
                    "--sdk_worker_parallelism=1",
                    "one Python process a TaskManager: one model, and the bundles of its slots are threads of it",
                ),
            ),
            (Needed("flink_master", "jobmanager:8081", "the address of the JobManager's REST server"),),
        ),
        Profile(
            "dataflow-cpu",
            "dataflow",
            "Dataflow without GPUs",
            (
                _DATAFLOW,
                _CONTAINER,
                Flag("--experiments=no_use_multiple_sdk_containers", _ONE_PROCESS),
                _TWO_BUNDLES,
                Flag(
                    "--machine_type=n2-standard-4",
                    "four vCPUs with 4 GB each for one process: it was measured on two, and more workers scale further "
                    "than larger ones",
                ),
                Flag("--num_workers=1", _ONE_FIRST),
                Flag("--max_num_workers=20", "what a night may cost at most; raise it with the quota"),
            ),
            _DATAFLOW_NEEDS,
        ),
        Profile(
            "dataflow-gpu",
            "dataflow",
            "Dataflow with one GPU a worker, used by one process",
            (
                _DATAFLOW,
                _CONTAINER,
                Flag(
                    "--dataflow_service_options=worker_accelerator=type:nvidia-l4;count:1;install-nvidia-driver",
                    "one L4 a worker, and its driver: Dataflow installs none unasked",
                ),
                Flag(
                    "--experiments=no_use_multiple_sdk_containers",
                    f"{_ONE_PROCESS}, and hold a CUDA context and a share of the GPU's memory each",
                ),
                _TWO_BUNDLES,
                Flag(
                    "--machine_type=g2-standard-8",
                    "L4s come with G2 machines only; eight vCPUs decode for one GPU, which waits where they are too "
                    "few",
                ),
                _GPU_DISK,
                Flag("--num_workers=1", f"{_ONE_FIRST}, and an idle GPU costs as much as a busy one"),
                Flag("--max_num_workers=4", "what a night may cost at most; raise it with the GPU quota"),
            ),
            _DATAFLOW_NEEDS,
        ),
        Profile(
            "dataflow-gpu-mps",
            "dataflow",
            "Dataflow with one GPU a worker, shared by a process a vCPU through NVIDIA MPS",
            (
                _DATAFLOW,
                _CONTAINER,
                Flag(
                    "--dataflow_service_options="
                    "worker_accelerator=type:nvidia-l4;count:1;install-nvidia-driver;use_nvidia_mps",
                    "MPS lets processes compute on the GPU at the same time; it wants one GPU a worker. For models "
                    "that leave the GPU idle, and hosts whose Python is what limits",
                ),
                Flag(
                    "--experiments=use_multiple_sdk_containers",
                    "a process a vCPU, each with its model and its share of the GPU's memory, which grows as needed",
                ),
                Flag(
                    "--machine_type=g2-standard-8",
                    "eight processes: 3 GB of the L4's 24 GB and 4 GB of memory each; take fewer vCPUs for a larger "
                    "model",
                ),
                _GPU_DISK,
                Flag("--num_workers=1", f"{_ONE_FIRST}, and an idle GPU costs as much as a busy one"),
                Flag("--max_num_workers=4", "what a night may cost at most; raise it with the GPU quota"),
            ),
            _DATAFLOW_NEEDS,
        ),
    )
}
"""By name."""


class Given(NamedTuple):
    """One flag of a command line."""

    name: str
    """Beam's own name of the option; of a flag that Beam does not know, the flag without dashes."""
    words: tuple[str, ...]
    """The words of the command line."""
    entries: tuple[str, ...]
    """Of a flag that holds a list."""

    @property
    def value(self) -> str:
        """What follows its name; nothing for a switch."""
        return " ".join(filter(None, (self.words[0].partition("=")[2], *self.words[1:])))


def read_flags(flags: Sequence[str], names: Mapping[str, str]) -> list[Given]:
    """Split a command line into its flags.

    Args:
        flags: `--name=value`, `--name value` or `--name`.
        names: Beam's name of each of its flags: two spellings of one option have the same.

    >>> read_flags(["--experiment", "a,b"], {"--experiment": "experiments"})
    [Given(name='experiments', words=('--experiment', 'a,b'), entries=('a', 'b'))]
    """
    groups: list[list[str]] = []
    for word in flags:
        if word.startswith("--") or not groups:
            groups.append([word])
        else:
            groups[-1].append(word)
    given = []
    for first, *rest in groups:
        flag, _, value = first.partition("=")
        name = names.get(flag, flag.lstrip("-"))
        listed = ",".join([value, *rest]).split(",") if name in LIST_FLAGS else []
        given.append(Given(name, (first, *rest), tuple(filter(None, listed))))
    return given


def merge_flags(profile: Profile, flags: Sequence[str], names: Mapping[str, str]) -> list[str]:
    """Return the flags of a profile and those that a user gives, which win.

    A flag of the profile that the user gives too is left out, and one that means something else then. Lists are merged:
    an entry of the profile is left out where the user gives another one of that key, or its opposite (`no_...`).

    >>> names = {"--experiments": "experiments"}
    >>> merge_flags(PROFILES["dataflow-cpu"], ["--experiments=shuffle_mode=service", "--machine_type=c3-standard-4"],
    ...             names)[2:5]  # doctest: +NORMALIZE_WHITESPACE
    ['--experiments=no_use_multiple_sdk_containers', '--number_of_worker_harness_threads=2', '--num_workers=1']
    """
    users = read_flags(flags, names)
    named = {given.name: given.value for given in users}
    keys = {_key(entry) for given in users for entry in given.entries}
    profiles = read_flags([flag.text for flag in profile.flags], names)
    ours_named = {given.name: given.value for given in profiles}
    merged = []
    for ours in profiles:
        if ours.name in LIST_FLAGS:
            kept = [entry for entry in ours.entries if _key(entry) not in keys]
            if kept:
                merged.append(f"--{ours.name}={','.join(kept)}")
        elif ours.name not in named:
            other = _BELONGS_TO.get(ours.name, ours.name)
            if named.get(other, ours_named.get(other)) == ours_named.get(other):
                merged += ours.words
    return [*merged, *flags]


def _key(entry: str) -> str:
    return entry.partition("=")[0].removeprefix("no_")


def check_needed(profile: Profile, values: Mapping[str, object]) -> None:
    """Refuse a profile without what only the user can know.

    Args:
        profile: The profile.
        values: Beam's options by name.

    Raises:
        ConfigError: Something is missing; all of it is named.
    """
    missing = [needed for needed in profile.needed if values.get(needed.name) in (None, "", "[auto]")]
    if missing:
        named = ", ".join(f"--{needed.name} ({needed.reason})" for needed in missing)
        example = " ".join(f"--{needed.name}={needed.example}" for needed in missing)
        raise ConfigError(f"--profile {profile.name} needs {named}; add after --: {example}")


def check_runner(profile: Profile, runner: Runner | None, name: str) -> None:
    """Refuse a runner of another engine than the profile's.

    Args:
        profile: The profile.
        runner: Whose engine the effective runner is; None where it is none of ours.
        name: Of the effective runner.
    """
    if runner != profile.runner:
        raise ConfigError(
            f"--profile {profile.name} and --runner={name} exclude each other; leave --runner out, or leave the "
            "profile out and give all flags after --"
        )


def told_flags(flags: Sequence[str], names: Mapping[str, str]) -> Iterator[str]:
    """Yield flags as one word each, without secrets, for manifests."""
    for given in read_flags(flags, names):
        yield " ".join(redact_flags(given.words))
