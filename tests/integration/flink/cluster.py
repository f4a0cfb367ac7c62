"""A standalone Flink cluster on loopback: a JobManager, TaskManagers, and a pool of Python workers beside each.

`python -m tests.integration.flink.cluster up` starts one and leaves it running, `down` ends it; tests start their own.

On Kubernetes a TaskManager finds its Python workers in a side-car of its pod, at localhost. Here the pools share one
machine: each has its own address (127.0.0.2, 127.0.0.3, ...), and a hosts file for the JVM of each TaskManager
(`jdk.net.hosts.file`) says that WORKERS is the address of its own.
"""

import argparse
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import psutil

from tests.conftest import ROOT
from tests.integration.flink.distribution import check_fit

HOME = Path(os.environ.get("FLINK_HOME", ROOT / ".cache" / "flink" / "flink"))
"""Flink's distribution; make says which."""
JOB_SERVER = Path(os.environ.get("FLINK_JOB_SERVER", ROOT / ".cache" / "flink" / "runner.jar"))
"""Beam's runner for it; make says which."""
WORKERS = "python-workers"
"""The name under which each TaskManager finds its own pool."""
SLOTS = 2
"""Of a TaskManager."""
_STATE = ROOT / ".cache" / "flink" / "cluster"
_START_SECONDS = 90.0
_NO_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))

_CONFIG = """\
jobmanager.rpc.address: 127.0.0.1
jobmanager.rpc.port: {rpc_port}
jobmanager.bind-host: 127.0.0.1
jobmanager.memory.process.size: 1200m
rest.address: 127.0.0.1
rest.bind-address: 127.0.0.1
rest.port: {rest_port}
taskmanager.bind-host: 127.0.0.1
taskmanager.host: 127.0.0.1
taskmanager.numberOfTaskSlots: {slots}
taskmanager.memory.process.size: 1600m
taskmanager.memory.network.min: 192m
taskmanager.network.sort-shuffle.min-buffers: 64
cluster.evenly-spread-out-slots: true
parallelism.default: 2
restart-strategy.type: fixed-delay
restart-strategy.fixed-delay.attempts: 5
restart-strategy.fixed-delay.delay: 1 s
heartbeat.interval: 1000
heartbeat.timeout: 40000
heartbeat.rpc-failure-threshold: 2
pekko.ask.timeout: 60 s
io.tmp.dirs: {folder}/tmp
web.tmpdir: {folder}/tmp
blob.storage.directory: {folder}/tmp
env.java.opts.taskmanager: -XX:+ExitOnOutOfMemoryError -Djdk.net.hosts.file={hosts}
"""


class Member(NamedTuple):
    """One TaskManager with its workers."""

    number: int
    """Makes the address of its pool, and names its logs."""
    java: "subprocess.Popen[bytes]"
    """The TaskManager."""
    pool: "subprocess.Popen[bytes]"
    """Starts Python workers for it."""

    def workers(self) -> list[psutil.Process]:
        """Its Python workers that are at work; Beam's pool leaves those that have ended as zombies."""
        return [process for process in psutil.Process(self.pool.pid).children() if is_at_work(process)]


class FlinkCluster:
    """A cluster of real processes, which end with the context.

    Args:
        folder: For its configuration, logs and temporary files.
        task_managers: How many.
        slots: How many each has.
        python_path: Folders that the Python workers import from first.
    """

    def __init__(
        self, folder: Path, task_managers: int = 2, slots: int = SLOTS, python_path: Sequence[Path] = ()
    ) -> None:
        self.folder = folder
        self.members: list[Member] = []
        self._wanted = task_managers
        self._slots = slots
        self._python_path = os.pathsep.join(map(str, [*python_path, ROOT]))
        self._rest_port, self._rpc_port, self._pool_port = free_ports(3)
        self._processes: list[subprocess.Popen[bytes]] = []
        check_fit(HOME, JOB_SERVER)
        (folder / "tmp").mkdir(parents=True)

    @property
    def address(self) -> str:
        """Of the JobManager's REST interface."""
        return f"http://127.0.0.1:{self._rest_port}"

    def flags(self, parallelism: int | None = None) -> list[str]:
        """What Beam needs to run a job here; without another parallelism it takes every slot."""
        return [
            "--runner=FlinkRunner",
            f"--flink_master={self.address}",
            "--flink_submit_uber_jar",
            f"--flink_job_server_jar={JOB_SERVER}",
            "--environment_type=EXTERNAL",
            f"--environment_config={WORKERS}:{self._pool_port}",
            f"--parallelism={parallelism or self._wanted * self._slots}",
        ]

    @property
    def pids(self) -> list[int]:
        """Of every process that was started here; workers are children of their pools."""
        return [process.pid for process in self._processes]

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start everything, and wait until the TaskManagers have registered."""
        self._java("jobmanager", 0)
        for number in range(1, self._wanted + 1):
            self.add_member(number)
        wait_for(lambda: len(self.task_managers()) == self._wanted, _START_SECONDS, f"{self._wanted} TaskManagers")

    def add_member(self, number: int) -> Member:
        """Start a TaskManager and its pool; the number makes its address."""
        address = _pool_host(number)
        pool = self._spawn(
            f"pool{number}",
            [sys.executable, "-m", "tests.integration.flink.worker_pool", f"--address={address}:{self._pool_port}"],
            {
                # The pool starts `python`.
                "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
                "PYTHONPATH": self._python_path,
            },
        )
        member = Member(number, self._java("taskmanager", number, address), pool)
        self.members.append(member)
        return member

    def replace_task_manager(self, lost: Member) -> None:
        """Start a TaskManager in the place of one that was killed, beside the same pool."""
        lost.java.wait()
        index = self.members.index(lost)
        self.members[index] = Member(
            lost.number, self._java("taskmanager", lost.number, _pool_host(lost.number)), lost.pool
        )
        wait_for(lambda: len(self.task_managers()) == self._wanted, _START_SECONDS, f"{self._wanted} TaskManagers")

    def stop(self) -> None:
        """End every process of the cluster."""
        for member in self.members:
            with contextlib.suppress(psutil.NoSuchProcess):
                for worker in member.workers():
                    worker.kill()
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()

    def _java(self, service: str, number: int, workers: str = "127.0.0.1") -> "subprocess.Popen[bytes]":
        conf = self.folder / f"conf{number}"
        conf.mkdir(exist_ok=True)
        shutil.copy(HOME / "conf" / "log4j-console.properties", conf)
        hosts = conf / "hosts"
        hosts.write_text(f"127.0.0.1 localhost {socket.gethostname()}\n{workers} {WORKERS}\n")
        text = _CONFIG.format(
            rest_port=self._rest_port, rpc_port=self._rpc_port, slots=self._slots, folder=self.folder, hosts=hosts
        )
        (conf / "config.yaml").write_text(text)
        environment = {
            "FLINK_HOME": str(HOME),
            "FLINK_CONF_DIR": str(conf),
            "FLINK_LOG_DIR": str(self.folder),
            # Flink's scripts write pid files there.
            "FLINK_PID_DIR": str(self.folder),
        }
        # In the foreground: the script becomes the JVM, and its pid is the JVM's.
        return self._spawn(f"{service}{number}", [str(HOME / "bin" / f"{service}.sh"), "start-foreground"], environment)

    def _spawn(self, name: str, command: list[str], environment: dict[str, str]) -> "subprocess.Popen[bytes]":
        with (self.folder / f"{name}.out").open("ab") as log:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._processes.append(process)
        return process

    def get(self, path: str) -> Any:
        """Ask the JobManager."""
        with _NO_PROXY.open(f"{self.address}/v1/{path}", timeout=20) as answer:
            return json.load(answer)

    def task_managers(self) -> list[dict[str, Any]]:
        """What the JobManager knows of its TaskManagers; none while it does not answer."""
        try:
            return self.get("taskmanagers")["taskmanagers"]
        except (urllib.error.URLError, ConnectionError):
            return []

    def jobs(self) -> list[dict[str, Any]]:
        """All jobs, the newest first."""
        return sorted(self.get("jobs/overview")["jobs"], key=lambda job: -job["start-time"])


def _pool_host(number: int) -> str:
    return f"127.0.0.{number + 1}"


def is_at_work(process: psutil.Process) -> bool:
    """Tell whether a process has not ended."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on at any of the addresses of loopback."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("", 0))
        return [one.getsockname()[1] for one in sockets]


def wait_for(condition: Callable[[], Any], seconds: float, what: str, pause: float = 0.1) -> Any:
    """Wait until something is true, looking again after each pause, and return it.

    Raises:
        TimeoutError: It does not become true.
    """
    until = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > until:
            raise TimeoutError(f"waited {seconds:.0f} s for {what}")
        time.sleep(pause)
    return found


def up() -> None:
    """Start a cluster that stays, and say how to use it."""
    if running():
        raise SystemExit("a cluster is running already: make flink-down ends it")
    shutil.rmtree(_STATE, ignore_errors=True)
    cluster = FlinkCluster(_STATE)
    try:
        cluster.start()
    except BaseException:
        cluster.stop()
        raise
    started = [(pid, psutil.Process(pid).create_time()) for pid in cluster.pids]
    (_STATE / "processes.json").write_text(json.dumps(started))
    lines = [f"Flink is up: {cluster.address} shows its jobs, {_STATE} holds its logs. Run there with", ""]
    flags = " \\\n    ".join(cluster.flags())
    sys.stdout.write("\n".join([*lines, f"  score-images run ... -- \\\n    {flags}", ""]))


def down() -> None:
    """End the processes of the cluster that stays, and the workers that they have started."""
    found = running()
    for process in [child for one in found for child in one.children(recursive=True)] + found:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(found)
    shutil.rmtree(_STATE, ignore_errors=True)
    sys.stdout.write(f"ended {len(found)} processes\n" if found else "no cluster was running\n")


def running() -> list[psutil.Process]:
    """The processes of the cluster that stays; a pid that was given again is none of them."""
    try:
        started = json.loads((_STATE / "processes.json").read_text())
    except FileNotFoundError:
        return []
    found = []
    for pid, born in started:
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            if process.create_time() == born:
                found.append(process)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["up", "down"])
    {"up": up, "down": down}[parser.parse_args().what]()
