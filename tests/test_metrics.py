"""Metrics of a run: a file for Prometheus and a message for OpenTelemetry, however the run has ended."""

import contextlib
import logging
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from prometheus_client.parser import text_string_to_metric_families

from pipeline import metrics_otlp
from pipeline.cli import main
from pipeline.metrics import METRICS, Ended
from pipeline.metrics_file import write_metrics_file
from pipeline.run_metrics import MetricsPlan, leaving_metrics
from pipeline.run_records import RunResult
from tests.loopback import Quiet, serving
from tests.model_zoo import pooled_model
from tests.runs import make_photos, small_config, write_config
from transforms.errors import ConfigError, ExitCode, FailureCode, RunError
from transforms.layout import RunLayout
from transforms.ledger import Ledger
from transforms.outcomes import Outcome


def read(path: Path) -> dict[str, float]:
    """Every value of a file of metrics: its name, and the value of its own label behind a colon."""
    values = {}
    for family in text_string_to_metric_families(path.read_text(encoding="utf-8")):
        assert family.type == "gauge"
        for sample in family.samples:
            own = [value for name, value in sample.labels.items() if name not in ("config", "output")]
            values[":".join([sample.name.removeprefix("score_images_"), *own])] = sample.value
    return values


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration, five photos and a file that is none."""
    folder = tmp_path_factory.mktemp("metrics")
    make_photos(folder / "photos", 5)
    (folder / "photos" / "bad.jpg").write_text("no picture")
    limits = {"max_failure_rate": 0.5}
    config = small_config(pooled_model(folder / "model"), limits=limits, health={"baseline": "latest", "min_images": 1})
    write_config(config, folder / "night.yaml")
    return folder


def night(place: Path, output: Path, *more: str) -> int:
    """Run it."""
    return main(
        ["run", "--config", f"{place}/night.yaml", "--input", f"{place}/photos", "--output", str(output), *more]
    )


class TestFile:
    def test_nights_tell_what_they_were(self, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A published one, the same again, and one that is refused: every figure is that of its manifest."""
        file = tmp_path / "night.prom"
        told = ("--metrics-file", str(file), "--run-id")

        with monkeypatch.context() as slow:
            slow.setattr("pipeline.quiet.import_beam", lambda: time.sleep(0.5))
            assert night(place, tmp_path / "out", *told, "n1") == 0
        first = read(file)
        assert first["run_startup_seconds"] > 0.5  # libraries and model are loaded before the run begins
        assert (first["run_exit_code"], first["run_listed_images"], first["run_scored_images"]) == (0, 6, 5)
        assert (first["run_failed_images"], first["run_failed_images_by_code:unsupported_format"]) == (1, 1)
        assert {name for name in first if ":" in name} >= {f"run_failed_images_by_code:{code}" for code in FailureCode}
        assert first["run_images_per_second"] == pytest.approx(6 / first["run_pipeline_seconds"])
        assert first["run_read_bytes"] == sum(path.stat().st_size for path in (place / "photos").iterdir())
        assert first["run_written_bytes"] > 0
        assert {f"run_thread_seconds:{step}" for step in ("read", "decode", "model", "write")} <= set(first)
        assert first["last_success_timestamp_seconds"] == first["run_ended_timestamp_seconds"]
        assert first["run_duration_seconds"] >= first["run_startup_seconds"] + first["run_pipeline_seconds"]
        assert first["run_published_timestamp_seconds"] <= first["run_ended_timestamp_seconds"]
        assert any(name.startswith("run_info:model@") for name in first)
        assert sorted(os.listdir(tmp_path)) == ["night.prom", "out"]  # nothing half-written

        assert night(place, tmp_path / "out", *told, "n1") == 0
        again = read(file)
        assert "run_pipeline_seconds" not in again  # nothing was done
        assert again["run_published_timestamp_seconds"] == first["run_published_timestamp_seconds"]
        assert again["last_success_timestamp_seconds"] > first["last_success_timestamp_seconds"]

        refused = ("--set", "limits.max_failure_rate=0.01")
        assert night(place, tmp_path / "out", *told, "n2", *refused) == 3
        third = read(file)
        assert (third["run_exit_code"], third["run_failed_images"]) == (3, 1)
        assert third["last_success_timestamp_seconds"] == again["last_success_timestamp_seconds"]
        assert "run_published_timestamp_seconds" not in third

        assert night(place, tmp_path / "out", *told, "n3") == 0
        drift = read(file)
        assert (drift["run_drifted"], drift["run_drift_psi:class_mix"], drift["run_drift_psi:confidence"]) == (0, 0, 0)

    def test_a_challenger_has_its_own_time(self) -> None:
        """A night that a second model has made longer shows where; without one there is no such step."""
        for scored, expected in ((199, [7.0]), (None, [])):
            failed = None if scored is None else 1
            ledger = Ledger(200, 0, 200, 200, 0, 0, challenger_scored=scored, challenger_failed=failed)
            outcome = Outcome(ExitCode.PUBLISHED, "done", ledger, {})
            counts = {"model_ms": 2000, "challenge_model_ms": 7000}
            result = RunResult(RunLayout("/out", "n1"), outcome, None, 0, 1.0, 10.0, counts)
            told = Ended("night.yaml", "/out", 0, 0.0, 12.0, result).values()
            assert [value.value for value in told if value.labels.get("step") == "challenger"] == expected

    def test_a_night_that_cannot_begin_is_told(self, tmp_path: Path) -> None:
        """Not even its configuration can be read: exit code 2 stands in the file, with the name of the file."""
        file = tmp_path / "x.prom"
        assert main(
            ["run", "--config", "gone.yaml", "--input", "i", "--output", "a\n\"b\\\udcff", "--metrics-file", str(file)]
        ) == 2  # fmt: skip
        assert read(file)["run_exit_code"] == 2
        (family, *_) = text_string_to_metric_families(file.read_text(encoding="utf-8"))
        assert family.samples[0].labels == {"config": "gone", "output": 'a\\n"b\\\\udcff'}

    @pytest.mark.parametrize(
        ("error", "code"),
        [
            (RunError(ExitCode.INTERRUPTED, "x"), 130),
            (RunError(ExitCode.LEDGER_MISMATCH, "x"), 4),
            (ConfigError("x"), 2),
            (KeyboardInterrupt(), 130),
            (ZeroDivisionError(), 1),
        ],
    )
    def test_whatever_ends_a_run_is_told_and_goes_on(self, tmp_path: Path, error: BaseException, code: int) -> None:
        """The exit code is what the command will return; the error is raised as it was."""
        file = tmp_path / "x.prom"
        times = iter([100.0, 107.5])
        with (
            pytest.raises(type(error)) as raised,
            leaving_metrics(MetricsPlan(file=str(file)), "c.yaml", "o", lambda: next(times)),
        ):
            raise error
        assert raised.value is error
        assert read(file) == {"run_exit_code": code, "run_ended_timestamp_seconds": 107.5, "run_duration_seconds": 7.5}

    def test_a_reader_never_finds_a_file_without_the_last_success(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A failed night replaces the file once, with what is kept of the one before."""
        file = str(tmp_path / "x.prom")
        write_metrics_file(file, Ended("c", "o", 0, 1.0, 2.0).values())
        found = []
        replace = os.rename

        def rename(source: str, target: str) -> None:
            replace(source, target)
            found.append(read(Path(target)).get("last_success_timestamp_seconds"))

        monkeypatch.setattr(os, "rename", rename)
        write_metrics_file(file, Ended("c", "o", 3, 3.0, 4.0).values())
        assert found == [2.0]

    @pytest.mark.parametrize("before", ["no metrics {", b"\xff\xfe"])
    def test_a_damaged_file_of_before_is_replaced_and_named(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, before: str | bytes
    ) -> None:
        """The time of the last success is lost, which is said; the night is not."""
        file = tmp_path / "x.prom"
        file.write_bytes(before.encode() if isinstance(before, str) else before)
        with pytest.raises(KeyboardInterrupt), leaving_metrics(MetricsPlan(file=str(file)), "c.yaml", "o"):
            raise KeyboardInterrupt
        assert read(file)["run_exit_code"] == 130
        assert f"metrics of the run cannot be left whole at {file}: " in caplog.text

    def test_a_file_that_cannot_be_written_changes_no_exit_code(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """It is a warning."""
        file = tmp_path / "gone" / "x.prom"
        with pytest.raises(ConfigError, match="its own"), leaving_metrics(MetricsPlan(file=str(file)), "c", "o"):
            raise ConfigError("its own")
        (record,) = (record for record in caplog.records if record.levelno >= logging.WARNING)
        assert record.getMessage().startswith(f"metrics of the run cannot be left whole at {file}: [Errno 2] ")

    @pytest.mark.parametrize(
        ("option", "value", "message"),
        [
            ("--metrics-file", "s3://b/x.prom", "must be on a disk of this machine"),
            ("--metrics-file", "night.txt", "must end in .prom"),
            ("--metrics-otlp", "localhost:4317", "must be the http:// or https:// URL of a collector"),
            ("--metrics-otlp", "http://me:pw@", "--metrics-otlp http://***@ must be the http:// or https:// URL"),
            ("--metrics-otlp", "http://h:99999", "must be the http:// or https:// URL of a collector"),
        ],
    )
    def test_places_that_cannot_be_are_refused_at_once(
        self, capsys: pytest.CaptureFixture[str], option: str, value: str, message: str
    ) -> None:
        """Before the night, not after it."""
        assert main(["run", "--config", "c", "--input", "i", "--output", "o", option, value]) == 2
        assert message in capsys.readouterr().err


class Collector(Quiet, BaseHTTPRequestHandler):
    """A receiver of OTLP over HTTP: decodes what comes, and answers as the protocol says."""

    status = 200
    received: list[tuple[str, str | None, ExportMetricsServiceRequest]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert self.headers["Content-Type"] == "application/x-protobuf"
        self.received.append((self.path, self.headers["x-team"], ExportMetricsServiceRequest.FromString(body)))
        self.send_response(self.status)
        self.send_header("Content-Type", "application/x-protobuf")
        self.end_headers()
        self.wfile.write(ExportMetricsServiceResponse().SerializeToString())


@pytest.fixture
def collector() -> Iterator[tuple[str, type[Collector]]]:
    """A collector on a free port."""
    handler = type("Handler", (Collector,), {"received": []})
    with serving(handler) as server:
        yield server.url, handler


class TestOtlp:
    def test_a_collector_gets_what_the_file_has(
        self, place: Path, tmp_path: Path, collector: tuple[str, type[Collector]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Names, values and labels; units as OpenTelemetry writes them; headers from its own variable."""
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-team=vision")
        endpoint, handler = collector
        file = tmp_path / "x.prom"
        more = ("--run-id", "n1", "--metrics-file", str(file), "--metrics-otlp", f"{endpoint}/")
        assert night(place, tmp_path / "out", *more) == 0

        ((path, team, request),) = handler.received
        assert (path, team) == ("/v1/metrics", "vision")
        (resource,) = request.resource_metrics
        attributes = {entry.key: entry.value.string_value for entry in resource.resource.attributes}
        assert attributes["service.name"] == "score-images"
        sent = {}
        for metric in resource.scope_metrics[0].metrics:
            declared = METRICS[metric.name.removeprefix("score_images_")]
            assert (metric.unit, metric.description) == (declared.unit, declared.help)
            for point in metric.gauge.data_points:
                labels = {entry.key: entry.value.string_value for entry in point.attributes}
                assert labels.pop("config") == "night"
                assert labels.pop("output") == str(tmp_path / "out")
                sent[":".join([metric.name.removeprefix("score_images_"), *labels.values()])] = point.as_double
        assert sent == read(file)

    def test_a_collector_that_refuses_is_a_warning(
        self, collector: tuple[str, type[Collector]], caplog: pytest.LogCaptureFixture
    ) -> None:
        """The error of the run is the one that counts."""
        endpoint, handler = collector
        handler.status = 400
        with pytest.raises(ConfigError, match="its own"), leaving_metrics(MetricsPlan(otlp=endpoint), "c", "o"):
            raise ConfigError("its own")
        assert len(handler.received) == 1
        assert f"metrics of the run cannot be left whole at {endpoint}: {endpoint} has not taken them" in caplog.text

    def test_a_collector_that_answers_byte_by_byte_does_not_hold_a_run_up(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """No pause is long, and the answer never ends: the run does."""
        monkeypatch.setattr(metrics_otlp, "_TIMEOUT_SECONDS", 0.5)
        monkeypatch.setattr(metrics_otlp, "_GRACE_SECONDS", 0.1)
        over = threading.Event()

        def drip(server: socket.socket) -> None:
            connection, _ = server.accept()
            with connection, contextlib.suppress(OSError):
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
                while not over.wait(0.05):
                    connection.sendall(b"x")

        with socket.create_server(("127.0.0.1", 0)) as server:
            dripping = threading.Thread(target=drip, args=[server])
            dripping.start()
            endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
            started = time.monotonic()
            with pytest.raises(ConfigError, match="its own"), leaving_metrics(MetricsPlan(otlp=endpoint), "c", "o"):
                raise ConfigError("its own")
            took = time.monotonic() - started
            over.set()
            dripping.join()
        assert took < 30  # importing included; the answer would have taken more than an hour
        assert f"{endpoint} has not taken them" in caplog.text

    def test_without_its_packages_it_is_refused_with_the_way_out(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The extra is named."""
        for name in ("opentelemetry.exporter.otlp.proto", "opentelemetry.exporter.otlp.proto.http"):
            monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(ConfigError, match=r"pip install 'score-images\[otlp\]'"):
            metrics_otlp.check_otlp_endpoint("http://localhost:4318")


def test_names_and_units_are_as_prometheus_wants_them() -> None:
    """Lower case, base units at the end, none that pretends to be a counter."""
    for metric in METRICS.values():
        assert re.fullmatch(r"score_images(_[a-z]+)+", metric.name)
        assert not re.search(r"_(total|sum|count|bucket|created)$", metric.name)
        ending = {"s": "_seconds", "By": "_bytes", "": ""}[metric.unit]
        assert metric.name.endswith(ending)
        assert bool(metric.unit) == metric.name.endswith(("_seconds", "_bytes")) or metric.name.endswith("_per_second")


def test_every_metric_has_one_set_of_labels() -> None:
    """So that a query by one of them misses none."""
    ended = Ended("c.yaml", "o", 0, 1.0, 2.0)
    for value in ended.values():
        assert set(value.labels) == {"config", "output", *filter(None, [value.metric.label])}
