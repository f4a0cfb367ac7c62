"""Metrics of a run as a file of Prometheus' text format, for the textfile collector of its node exporter."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.metrics import METRICS, Value
from transforms import storage
from transforms.errors import ConfigError

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

_SUCCESS = METRICS["last_success_timestamp_seconds"]


def check_metrics_file(path: str) -> None:
    """See that a path can be one of the textfile collector.

    Raises:
        ConfigError: It is in a bucket, or its name does not end as the collector's files do.
    """
    if storage.is_remote(path):
        raise ConfigError(
            f"--metrics-file {path} must be on a disk of this machine, where the node exporter reads it; for a "
            "collector elsewhere use --metrics-otlp"
        )
    if not path.endswith(".prom"):
        raise ConfigError(
            f"--metrics-file {path} must end in .prom: the node exporter's textfile collector reads no other files"
        )


def write_metrics_file(path: str, values: Sequence[Value]) -> None:
    """Write values; a reader finds the file of before or that of now, whole.

    The time of the last success stays from the file of before where this run has none.

    Raises:
        OSError: It cannot be written.
        ValueError: What lies there is no file of metrics.
    """
    # Not at the head: the command line answers without it.
    from prometheus_client import write_to_textfile

    kept: list[Value] = []
    try:
        if not any(value.metric is _SUCCESS for value in values):
            kept = _last_success(path, values[0])
    finally:
        write_to_textfile(path, _registry([*values, *kept]))


def _last_success(path: str, beside: Value) -> list[Value]:
    from prometheus_client.parser import text_string_to_metric_families

    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8") as file:
        families = list(text_string_to_metric_families(file.read()))
    samples = [sample for family in families if family.name == _SUCCESS.name for sample in family.samples]
    # Of the same configuration and output: who points two jobs at one file loses the other's figures, not the truth.
    return [Value(_SUCCESS, sample.value, sample.labels) for sample in samples if sample.labels == beside.labels]


def _registry(values: Sequence[Value]) -> "CollectorRegistry":
    from prometheus_client import CollectorRegistry, Gauge

    registry = CollectorRegistry()
    gauges: dict[str, Gauge] = {}
    for value in values:
        metric = value.metric
        if metric.name not in gauges:
            gauges[metric.name] = Gauge(metric.name, metric.help, list(value.labels), registry=registry)
        gauges[metric.name].labels(**value.labels).set(value.value)
    return registry
