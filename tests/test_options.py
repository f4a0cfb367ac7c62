"""How Beam's flags are read: the runner, what is refused, and where the workers live."""

import pytest
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions, WorkerOptions

from pipeline.options import count_slots, is_in_process, pipeline_options
from transforms.errors import ConfigError

FULL_NAME = "apache_beam.runners.portability.fn_api_runner.FnApiRunner"


def runner(*flags: str) -> str | None:
    """Return the runner that flags lead to."""
    return pipeline_options(flags).view_as(StandardOptions).runner


def test_local_runner_is_the_default() -> None:
    """The one that is in the package: no download, no second run of a pipeline."""
    assert runner() == "FnApiRunner"
    assert runner("--direct_num_workers=2") == "FnApiRunner"


@pytest.mark.parametrize("name", ["DirectRunner", "directrunner", "FlinkRunner", "PrismRunner", FULL_NAME])
def test_runner_that_is_named_wins(name: str) -> None:
    """In both spellings of a flag."""
    assert runner(f"--runner={name}") == name
    assert runner("--direct_num_workers=2", "--runner", name) == name


@pytest.mark.parametrize(
    ("flags", "inside"),
    [
        ([], True),
        (["--runner=DirectRunner"], True),
        (["--runner=directrunner"], True),  # Beam takes names in any case
        ([f"--runner={FULL_NAME}"], True),
        (["--direct_running_mode=multi_threading"], True),
        (["--direct_running_mode=multi_processing"], False),
        (["--runner=FlinkRunner"], False),
        (["--runner=PrismRunner"], False),
    ],
)
def test_workers_are_in_this_process_or_not(flags: list[str], inside: bool) -> None:
    """Only then can they share its model, and its counts be shown."""
    assert is_in_process(pipeline_options(flags)) is inside


@pytest.mark.parametrize(
    ("flags", "slots"),
    [
        ([], None),
        (["--direct_num_workers=4"], None),  # threads of this process
        (["--direct_num_workers=4", "--direct_running_mode=multi_processing"], 4),
        (["--runner=FlinkRunner", "--parallelism=12"], 12),
        (["--runner=FlinkRunner"], 16),  # whatever the cluster has: nobody says
        (["--runner=PortableRunner"], 16),
        (["--runner=DataflowRunner", "--num_workers=3"], 3),
        (["--runner=DataflowRunner", "--num_workers=3", "--max_num_workers=40", "--machine_type=n2-standard-16"], 640),
        (["--runner=DataflowRunner", "--num_workers=3", "--machine_type=n2-custom-4-16384"], 12),  # MB of memory last
        (["--runner=DataflowRunner", "--num_workers=3", "--machine_type=custom-4-16384-ext"], 12),
        (["--runner=DataflowRunner", "--num_workers=3", "--machine_type=c3-standard-8-lssd"], 24),
        (["--runner=DataflowRunner", "--num_workers=3", "--machine_type=e2-custom-micro-1024"], 3),
    ],
)
def test_slots_are_what_the_runner_works_on_at_a_time(flags: list[str], slots: int | None) -> None:
    """As far as its flags say; none where the workers live here."""
    assert count_slots(PipelineOptions(flags)) == slots


def test_flags_reach_beam() -> None:
    """All of them, of any runner."""
    options = pipeline_options(["--direct_num_workers", "3", "--experiments=a", "--sdk_container_image=x"])
    assert options.view_as(DirectOptions).direct_num_workers == 3
    assert options.view_as(WorkerOptions).sdk_container_image == "x"
    flink = pipeline_options(["--runner=FlinkRunner", "--flink_master=host:8081", "--a_flag_of_the_job_server=1"])
    assert flink.get_all_options()["flink_master"] == "host:8081"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--direct_num_worker=2"], "--direct_num_worker=2 after -- is no flag of Apache Beam: nothing would heed it"),
        (["--input", "x"], "--input x after -- is no flag of Apache Beam: nothing would heed it"),
        (["word"], "word after -- is no flag of Apache Beam: nothing would heed it"),
        (["--runn=FlinkRunner"], "--runn=FlinkRunner after -- is no flag of Apache Beam: nothing would heed it"),
        (["--direct_num_workers=two"], "after --: argument --direct_num_workers: invalid int value: 'two'"),
        (["--runner=FlinkRunner", "--parallelism=x"], "after --: argument --parallelism: invalid int value: 'x'"),
        (["--runner"], "after --: argument --runner: expected one argument"),
        (["--runner=a.b.C"], "--runner=a.b.C cannot be used: No module named 'a'"),
    ],
)
def test_wrong_flags_are_refused_in_one_line(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without Beam's page of usage, and before anything is loaded."""
    with pytest.raises(ConfigError) as caught:
        pipeline_options(flags)
    assert str(caught.value) == message
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--paralellism=16"], "--paralellism after -- is no flag of Apache Beam; did you mean --parallelism?"),
        (["--paralellism", "16"], "--paralellism after -- is no flag of Apache Beam; did you mean --parallelism?"),
        (["--flink-master=jm:8081"], "--flink-master after -- is no flag of Apache Beam; did you mean --flink_master?"),
        (["--parallelism", "16", "17"], "17 after -- belongs to no flag; a flag begins with --"),
        (["-parallelism=16"], "-parallelism=16 after -- belongs to no flag; a flag begins with --"),
        (["--max_bundle_size=8", "x"], "x after -- belongs to no flag; a flag begins with --"),
        (["--streaming"], "--streaming after -- is for pipelines without an end, and a run has one: leave it out"),
    ],
)
def test_slips_are_refused_where_the_runner_has_flags_of_its_own(flags: list[str], says: str) -> None:
    """Flink would take them without a word, and work with one slot."""
    with pytest.raises(ConfigError) as raised:
        pipeline_options(["--runner=FlinkRunner", *flags])
    assert str(raised.value) == says


@pytest.mark.parametrize(
    "flags",
    [
        ["--max_bundle_size=8"],
        ["--max_bundle_size", "8"],
        ["--number_of_execution_retries=1", "--object_reuse"],
        ["--checkpointing_interval", "-1", "--state_backend=rocksdb", "--execution_mode_for_batch=BATCH_FORCED"],
    ],
)
def test_flags_that_only_the_runner_in_java_knows_are_handed_on(flags: list[str]) -> None:
    """Beam's Python declares few of them."""
    assert runner("--runner=FlinkRunner", *flags) == "FlinkRunner"


def test_unknown_runner_is_refused_with_those_there_are() -> None:
    """Beam's own list."""
    with pytest.raises(ConfigError, match=r"^--runner=FlingRunner cannot be used: .*Valid values are .*FlinkRunner"):
        pipeline_options(["--runner=FlingRunner"])


def test_secrets_are_left_out_of_what_is_said_of_unknown_flags() -> None:
    """The error goes to a scheduler's log."""
    with pytest.raises(ConfigError) as caught:
        pipeline_options(["--s3_secret_access_kee=abc", "--s3_secret_key", "def"])
    assert str(caught.value) == (
        "--s3_secret_access_kee=*** --s3_secret_key *** after -- is no flag of Apache Beam: nothing would heed it"
    )
