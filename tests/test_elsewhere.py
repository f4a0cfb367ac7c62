"""Runs whose workers live elsewhere: the name of their job, a job that is at work already, and what is said of it."""

import json
import logging
import os
import re
import signal
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import GoogleCloudOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.portability.portable_runner import PipelineResult as PortableResult
from hypothesis import given
from hypothesis import strategies as st

from pipeline.elsewhere import check_no_job, job_name, name_job, out_of_sight, still_running, wait_for_end
from pipeline.options import pipeline_options
from tests.loopback import Quiet, serving
from tests.model_zoo import pooled_model
from tests.runs import make_photos, run_quietly, small_config
from transforms.errors import ConfigError, ExitCode, RunError
from transforms.layout import RunLayout

LAYOUT = RunLayout("/out", "2026-11-26")
NAME = job_name(LAYOUT)
# https://cloud.google.com/dataflow/docs/reference/pipeline-options: job_name
VALID = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")


@pytest.fixture
def job_manager() -> Iterator[tuple[str, dict[str, Any]]]:
    """The address of what answers as a JobManager does, and its answers by path, to be filled."""
    answers: dict[str, Any] = {}

    class Handler(Quiet, BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = answers.get(self.path)
            self.send_response(404 if found is None else 200)
            self.end_headers()
            self.wfile.write(json.dumps(found).encode())

    with serving(Handler) as server:
        yield server.host, answers


def ask(master: str, *flags: str, layout: RunLayout = LAYOUT) -> None:
    """Name the job of a run, and see that none of that name is at work."""
    options = pipeline_options(["--runner=FlinkRunner", f"--flink_master={master}", *flags])
    name_job(options, layout)
    check_no_job(options, layout)


def job(name: str, state: str) -> dict[str, Any]:
    """A job as the overview of a JobManager shows it."""
    return {"jid": "4ee73c54", "name": name, "state": state, "start-time": 1795708000000, "end-time": -1}


@given(st.from_regex(re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII), fullmatch=True), st.text(min_size=1))
def test_job_names_are_valid_everywhere(run_id: str, output: str) -> None:
    """Dataflow's rule is the strictest: small letters, digits and hyphens, 63 at most."""
    assert VALID.fullmatch(job_name(RunLayout(output.encode(errors="ignore").decode(), run_id)))


def test_other_runs_have_other_job_names() -> None:
    """Ids that differ only in what a job's name cannot show, long ones, and one id in two outputs."""
    layouts = [RunLayout("/out", run_id) for run_id in ("a.b", "a-b", "A-b", "x" * 100, "x" * 101)]
    layouts.append(RunLayout("/other", "a-b"))
    assert len({job_name(layout) for layout in layouts}) == len(layouts)
    assert job_name(RunLayout("/out", "a.b")) == job_name(RunLayout("/out", "a.b"))


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        ([], None),
        (["--runner=PrismRunner"], None),
        (["--runner=FlinkRunner"], None),  # without a cluster Flink runs in the launcher, and ends with it
        (["--runner=FlinkRunner", "--flink_master=[local]"], None),
        (["--runner=FlinkRunner", "--flink_master=host:8081"], NAME),
        (["--runner=FlinkRunner", "--flink_master=host:8081", "--job_name=mine"], "mine"),
        (["--runner=DataflowRunner", "--project=p"], NAME),
    ],
)
def test_jobs_that_outlive_their_launcher_are_named_by_their_run(flags: list[str], name: str | None) -> None:
    """Others need no name; one that the user gives stays."""
    options = pipeline_options(flags)
    assert name_job(options, LAYOUT) == name
    assert name is None or options.view_as(GoogleCloudOptions).job_name == name


@pytest.mark.parametrize("state", ["CREATED", "RUNNING", "RESTARTING", "FAILING", "SUSPENDED"])
def test_a_second_job_of_a_run_is_refused(job_manager: tuple[str, dict[str, Any]], state: str) -> None:
    """The launcher of the first may be dead, so that no claim says it; the cluster does."""
    master, answers = job_manager
    answers["/v1/jobs/overview"] = {"jobs": [job("another", "RUNNING"), job(NAME, "FAILED"), job(NAME, state)]}
    with pytest.raises(ConfigError) as raised:
        ask(master)
    assert str(raised.value) == (
        f"run 2026-11-26 is being worked on by Flink job 4ee73c54 ({state} since 2026-11-26T15:46:40+00:00) at "
        f"http://{master}: it publishes without a launcher; wait for it, cancel it there, or use another --run-id"
    )


def test_a_run_begins_where_no_job_of_it_is_at_work(job_manager: tuple[str, dict[str, Any]]) -> None:
    """Those that have ended do not count, nor do those of other runs, nor another name that the user chose."""
    master, answers = job_manager
    ended = [job(NAME, state) for state in ("FINISHED", "FAILED", "CANCELED")]
    answers["/v1/jobs/overview"] = {"jobs": [*ended, job(job_name(RunLayout("/other", "2026-11-26")), "RUNNING")]}
    ask(master)
    answers["/v1/jobs/overview"] = {"jobs": [job(NAME, "RUNNING")]}
    ask(master, "--job_name=mine")
    check_no_job(pipeline_options([]), LAYOUT)


def test_what_is_no_job_manager_is_named_before_anything_is_uploaded(
    job_manager: tuple[str, dict[str, Any]], unused_port: int
) -> None:
    """Nobody listens there, or something else does; a password in the address is not told."""
    master, _ = job_manager
    way_out = "give the address of its REST interface, jobmanager:8081 for example"
    with pytest.raises(ConfigError) as raised:
        ask(master)
    found = "HTTP Error 404: Not Found"
    assert str(raised.value) == (
        f"--flink_master=http://{master} does not answer as a Flink JobManager does: {found}; {way_out}"
    )
    with pytest.raises(ConfigError) as raised:
        ask(f"http://me:secret@127.0.0.1:{unused_port}")
    assert str(raised.value).startswith(f"--flink_master=http://***@127.0.0.1:{unused_port} does not answer")
    assert "secret" not in str(raised.value)


@pytest.fixture
def unused_port() -> int:
    """A port that nobody listens on."""
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        return server.server_port


def test_an_interrupted_launcher_says_that_its_job_goes_on() -> None:
    """And what to do to see its end, or to end it."""
    error = still_running(NAME, LAYOUT)
    assert error.exit_code == ExitCode.INTERRUPTED
    assert str(error) == (
        f"the launcher of run 2026-11-26 was interrupted; its job {NAME} goes on without it and publishes: run again "
        "with --run-id 2026-11-26 to see how it ended, or cancel the job where it runs"
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SavedModel of four classes."""
    return pooled_model(tmp_path_factory.mktemp("model") / "pooled")


class Submitted:
    """What Beam hands back for a job on a cluster: waiting and counters are those of the test."""

    def __init__(self, wait: Callable[[], object]) -> None:
        self.wait_until_finish = wait

    def metrics(self) -> Any:
        """Fail, as for a job that the cluster has forgotten."""
        raise LookupError("Found no metrics container for job 4ee73c54")


def test_ctrl_c_ends_the_launcher_and_says_that_the_job_goes_on(
    model: Path, tmp_path: Path, job_manager: tuple[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once the job is submitted; what it works with stays as it is."""
    master, answers = job_manager
    answers["/v1/jobs/overview"] = {"jobs": []}
    monkeypatch.setattr(beam.Pipeline, "run", lambda _: Submitted(lambda: os.kill(os.getpid(), signal.SIGINT)))
    photos = make_photos(tmp_path / "photos", 1)
    with pytest.raises(RunError) as raised:
        run_quietly(
            small_config(model), [*photos], tmp_path / "out", run_id="night",
            beam_flags=["--runner=FlinkRunner", f"--flink_master={master}"],
        )  # fmt: skip
    layout = RunLayout(str(tmp_path / "out"), "night")
    assert str(raised.value) == str(still_running(job_name(layout), layout))
    assert Path(layout.staged_identity).exists()
    assert not Path(layout.lock).exists()


def test_a_job_whose_counters_are_gone_is_published_all_the_same(
    model: Path,
    tmp_path: Path,
    job_manager: tuple[str, dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """How the run ended lies in its output; a warning says what the summary lacks."""
    master, answers = job_manager
    answers["/v1/jobs/overview"] = {"jobs": []}
    caplog.set_level(logging.INFO)
    run_here = beam.Pipeline.run

    def run_there(pipeline: beam.Pipeline) -> Submitted:
        pipeline.runner = FnApiRunner()
        run_here(pipeline).wait_until_finish()
        return Submitted(lambda: None)

    monkeypatch.setattr(beam.Pipeline, "run", run_there)
    photos = make_photos(tmp_path / "photos", 2)
    result = run_quietly(
        small_config(model), [*photos], tmp_path / "out", run_id="night",
        beam_flags=["--runner=FlinkRunner", f"--flink_master={master}"],
    )  # fmt: skip
    assert (result.outcome.exit_code, result.outcome.ledger.scored, result.counts) == (0, 2, {})
    name = job_name(result.layout)
    assert f"job {name} is submitted: it publishes also without this process" in caplog.messages
    assert (
        f"job {name} has ended, and its counters cannot be read: Found no metrics container for job 4ee73c54"
        in caplog.messages
    )


class Portable(PortableResult):
    """A job on Flink whose states are those of a list; None stands for no answer."""

    def __init__(self, *states: str | None) -> None:
        self.states = list(states)
        self.waited = False

    @property
    def state(self) -> str:
        """The next one."""
        found = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        if found is None:
            raise ConnectionError("refused")
        return found

    def wait_until_finish(self, duration: int | None = None) -> None:  # noqa: ARG002  the signature is Beam's
        """Remember that Beam was asked for the end."""
        self.waited = True


def test_a_job_is_waited_for_while_its_job_manager_is_started_again() -> None:
    """Some questions without an answer do not matter; Beam then says how it ended."""
    result = Portable("RUNNING", None, None, "RUNNING", "DONE")
    wait_for_end(result, ask_seconds=0.001)
    assert (result.waited, result.states) == (True, ["DONE"])


def test_a_job_manager_that_stays_away_is_not_waited_for() -> None:
    """The error says so, and that the job may be at work all the same."""
    result = Portable("RUNNING", None)
    with pytest.raises(ConnectionError, match="refused") as raised:
        wait_for_end(result, ask_seconds=0.001, silent_seconds=0.05)
    assert not result.waited
    error = out_of_sight(NAME, LAYOUT, raised.value)
    assert error.exit_code == ExitCode.INTERRUPTED
    assert str(error) == (
        f"job {NAME} of run 2026-11-26 was submitted and cannot be watched any more: refused; if it is at work it "
        "publishes all the same: run again with --run-id 2026-11-26 to see how it ended"
    )
