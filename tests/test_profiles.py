"""Profiles: what they stand for, how they meet the flags of a user, and what they refuse."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.options import find_flags, flag_names, pipeline_options, runner_kind
from pipeline.profiles import LIST_FLAGS, PROFILES, merge_flags, read_flags, told_flags
from pipeline.profiles_docs import profiles_markdown
from transforms.errors import ConfigError

ROOT = Path(__file__).parent.parent
NEEDED = [
    "--project=my-project",
    "--region=europe-west4",
    "--temp_location=gs://bucket/tmp",
    "--sdk_container_image=registry/score-images:0.1.0",
]


def merged(profile: str, *flags: str) -> list[str]:
    """The effective flags."""
    return merge_flags(PROFILES[profile], flags, flag_names())


@pytest.mark.parametrize("name", PROFILES)
def test_beam_knows_every_flag_of_a_profile(name: str) -> None:
    """None is misspelt, and none is given twice."""
    profile = PROFILES[name]
    flags = read_flags([flag.text for flag in profile.flags], flag_names())
    known = set(flag_names().values())
    assert {flag.name for flag in flags} | {needed.name for needed in profile.needed} <= known
    assert len({flag.name for flag in flags}) == len(flags)
    assert runner_kind(pipeline_options([flag.text for flag in profile.flags])) == profile.runner
    assert all(flag.reason for flag in profile.flags)


def test_what_a_user_gives_wins_in_every_spelling() -> None:
    """A flag and its other name are one option."""
    ours = "--machine_type=n2-standard-4"
    assert ours in merged("dataflow-cpu")
    for theirs in (["--machine_type=x"], ["--worker_machine_type", "x"], ["--machine_type", "x"]):
        flags = merged("dataflow-cpu", *theirs)
        assert ours not in flags
        assert flags[-len(theirs) :] == theirs


def test_the_address_of_a_pool_is_no_image() -> None:
    """Where the user starts workers another way, the profile's address goes; what the new way needs is asked for."""
    master = "--flink_master=jobmanager:8081"
    pool = "--environment_config=localhost:50000"
    assert pool in merged("flink", "--environment_type=EXTERNAL")
    assert pool not in merged("flink", "--environment_type", "LOOPBACK")
    assert find_flags("flink", [master, "--environment_type=LOOPBACK"]).options
    for kind, needed in (("DOCKER", "the image of this version of score-"), ("PROCESS", "the command that starts a w")):
        with pytest.raises(ConfigError, match=f"--environment_type={kind} needs --environment_config: {needed}"):
            find_flags("flink", [master, f"--environment_type={kind}"])
    image = "--environment_config=registry/score-images:0.1.0"
    assert find_flags("flink", [master, "--environment_type=DOCKER", image]).words[-1] == image


def test_lists_are_merged_entry_by_entry() -> None:
    """An entry of the profile stays unless the user gives another of its key, or its opposite."""
    single = "--experiments=no_use_multiple_sdk_containers"
    assert single in merged("dataflow-gpu", "--experiments=shuffle_mode=service")
    assert single not in merged("dataflow-gpu", "--experiments=use_multiple_sdk_containers")
    assert single not in merged("dataflow-gpu", "--experiment", "x,use_multiple_sdk_containers")
    gpu = "worker_accelerator=type:nvidia-tesla-t4;count:2;install-nvidia-driver"
    flags = merged("dataflow-gpu", f"--dataflow_service_option={gpu}")
    assert [flag for flag in flags if "worker_accelerator" in flag] == [f"--dataflow_service_option={gpu}"]
    moved = merged("dataflow-gpu", f"--experiments={gpu}")
    assert [flag for flag in moved if "worker_accelerator" in flag] == [f"--experiments={gpu}"]


ENTRIES = st.sampled_from(["a", "no_a", "b=1", "b=2", "c", "no_c"])


@given(st.lists(ENTRIES, max_size=4, unique=True))
def test_no_entry_of_a_profile_contradicts_one_of_the_user(theirs: list[str]) -> None:
    """Against the plain rule: same key or opposite, and the profile's goes."""
    profile = PROFILES["local"]._replace(flags=(*PROFILES["local"].flags[:0], *_as_flags("a,b=1,no_c")))
    kept = {
        entry for flag in read_flags(merge_flags(profile, [], flag_names()), flag_names()) for entry in flag.entries
    }
    assert kept == {"a", "b=1", "no_c"}
    flags = [f"--experiments={entry}" for entry in theirs]
    found = [
        entry for flag in read_flags(merge_flags(profile, flags, flag_names()), flag_names()) for entry in flag.entries
    ]
    stem = {"a": "a", "no_a": "a", "b=1": "b", "b=2": "b", "c": "c", "no_c": "c"}
    assert found == [entry for entry in ("a", "b=1", "no_c") if stem[entry] not in {stem[x] for x in theirs}] + theirs


def _as_flags(entries: str) -> tuple:
    return (PROFILES["local"].flags[0]._replace(text=f"--experiments={entries}"),)


def test_list_flags_are_those_that_beam_splits_at_commas() -> None:
    """Beam reads them as lists, whatever way they are written."""
    for name in LIST_FLAGS:
        options = pipeline_options([f"--{name}=a,b", f"--{name}", "c"])
        assert options.get_all_options()[name] == ["a", "b", "c"]


def test_a_profile_gives_what_it_says() -> None:
    """The flags reach Beam."""
    values = find_flags("dataflow-gpu", NEEDED).options.get_all_options()
    assert values["runner"] == "DataflowRunner"
    assert values["dataflow_service_options"] == ["worker_accelerator=type:nvidia-l4;count:1;install-nvidia-driver"]
    assert (values["machine_type"], values["max_num_workers"], values["sdk_location"]) == (
        "g2-standard-8",
        4,
        "container",
    )
    assert find_flags("local", []).options.get_all_options()["runner"] == "FnApiRunner"


REFUSALS = [
    ("nowhere", [], "--profile nowhere is unknown; there are local, flink, dataflow-cpu, dataflow-gpu, dataflow-gpu-m"),
    (
        "dataflow-cpu",
        ["--runner=DirectRunner"],
        "--profile dataflow-cpu and --runner=DirectRunner exclude each other; ",
    ),
    ("local", ["--runner", "DataflowRunner"], "--profile local and --runner=DataflowRunner exclude each other; leave"),
    ("local", ["--project=p"], "--project is for a cluster or Dataflow: --profile local would not heed it; leave it o"),
    ("local", ["--worker_machine_type=x", "--num_workers=2"], "--machine_type, --num_workers are for a cluster or Dat"),
    ("flink", [], "--profile flink needs --flink_master (the address of the JobManager's REST server); add after --:"),
    ("flink", ["--flink_master=[auto]"], "--profile flink needs --flink_master ("),
    ("dataflow-cpu", NEEDED[1:], "--profile dataflow-cpu needs --project (whose quota and bill it is); add after --: "),
    ("dataflow-cpu", [*NEEDED, "--machin_type=x"], "--machin_type=x after -- is no flag of Apache Beam: nothing would"),
    ("dataflow-cpu", [*NEEDED, "--num_workers=two"], "after --: argument --num_workers: invalid int value: 'two'"),
]


@pytest.mark.parametrize(("profile", "flags", "message"), REFUSALS)
def test_what_a_profile_cannot_use_is_refused(profile: str, flags: list[str], message: str) -> None:
    """In one line, with the way out."""
    with pytest.raises(ConfigError) as caught:
        find_flags(profile, flags)
    assert str(caught.value).startswith(message)


def test_everything_that_is_missing_is_named_at_once() -> None:
    """With an example for each."""
    with pytest.raises(ConfigError) as caught:
        find_flags("dataflow-gpu", [])
    for needed in PROFILES["dataflow-gpu"].needed:
        assert f"--{needed.name} ({needed.reason})" in str(caught.value)
        assert f"--{needed.name}={needed.example}" in str(caught.value)


def test_the_examples_of_what_is_needed_are_enough() -> None:
    """What the message tells to add is taken."""
    for name, profile in PROFILES.items():
        find_flags(name, [f"--{needed.name}={needed.example}" for needed in profile.needed])


def test_the_page_of_profiles_is_that_of_the_code() -> None:
    """Renew it: score-images profiles > docs/profiles.md."""
    assert (ROOT / "docs" / "profiles.md").read_text(encoding="utf-8") == profiles_markdown()


def test_flags_are_told_without_secrets() -> None:
    """One word a flag, for the manifest."""
    flags = ["--runner=FlinkRunner", "--s3_secret_access_key", "abc", "--s3_access_key_id=def", "--no_auth"]
    told = list(told_flags(flags, flag_names()))
    assert told[0] == "--runner=FlinkRunner"
    assert told[1] == "--s3_secret_access_key ***"
    assert "abc" not in " ".join(told)
    assert told[-1] == "--no_auth"
