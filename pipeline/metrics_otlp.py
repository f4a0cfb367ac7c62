"""Metrics of a run sent to a collector by OpenTelemetry's protocol over HTTP."""

import importlib.metadata
import importlib.util
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TypeVar
from urllib.parse import urlsplit

from pipeline.metrics import Value
from transforms.errors import ConfigError
from transforms.redaction import redact_url

T = TypeVar("T")
_TIMEOUT_SECONDS = 10.0
_GRACE_SECONDS = 1.0


def check_otlp_endpoint(endpoint: str) -> None:
    """See that metrics can be sent there, as far as that can be seen without sending.

    Raises:
        ConfigError: It is no URL of HTTP, or the packages for it are not installed.
    """
    try:
        parts = urlsplit(endpoint)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ConfigError(
            f"--metrics-otlp {redact_url(endpoint)} must be the http:// or https:// URL of a collector, "
            "http://localhost:4318 for example; gRPC (port 4317) is not spoken"
        )
    if not _is_installed():
        raise ConfigError("--metrics-otlp needs packages that are not installed: pip install 'score-images[otlp]'")


def _is_installed() -> bool:
    try:
        return importlib.util.find_spec("opentelemetry.exporter.otlp.proto.http") is not None
    except ModuleNotFoundError:  # of a package above it
        return False


def send_metrics(endpoint: str, values: Sequence[Value]) -> None:
    """Send values, each a gauge under its name of Prometheus.

    Args:
        endpoint: Base URL of a collector, as OTEL_EXPORTER_OTLP_ENDPOINT means it: /v1/metrics is put behind it.
            Headers, certificates and compression come from the variables of OpenTelemetry.
        values: What to send.

    Raises:
        OSError: It was not taken.
    """
    # Not at the head: only who asks for it pays for it.
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricExportResult
    from opentelemetry.sdk.resources import Resource

    version = importlib.metadata.version("score-images")
    named = "OTEL_SERVICE_NAME" in os.environ or "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    service = {"service.version": version, **({} if named else {"service.name": "score-images"})}
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], Resource.create(service), shutdown_on_exit=False)
    exporter = OTLPMetricExporter(f"{endpoint.rstrip('/')}/v1/metrics", timeout=_TIMEOUT_SECONDS)
    try:
        meter = provider.get_meter("score-images", version)
        gauges = {v.metric: meter.create_gauge(v.metric.name, v.metric.unit, v.metric.help) for v in values}
        for value in values:
            gauges[value.metric].set(value.value, value.labels)
        data = reader.get_metrics_data()
        if data is None or _in_time(lambda: exporter.export(data, _TIMEOUT_SECONDS * 1e3)) is not (
            MetricExportResult.SUCCESS
        ):
            raise OSError(f"{redact_url(endpoint)} has not taken them")
    finally:
        exporter.shutdown()
        provider.shutdown()


def _in_time(export: Callable[[], T]) -> T | None:
    """Return what a call returns, or None where it takes too long: the end of a run waits for it.

    The exporter's own limit holds for each piece of an answer: who sends one byte a second is never too late for it.
    """
    answer: Future[T] = Future()

    def call() -> None:
        try:
            answer.set_result(export())
        except BaseException as error:  # noqa: BLE001  raised again where it is waited for
            answer.set_exception(error)

    threading.Thread(target=call, name="otlp", daemon=True).start()
    try:
        return answer.result(_TIMEOUT_SECONDS + _GRACE_SECONDS)
    except TimeoutError:
        return None
