"""Holds the latest readings of every metric, and exports them in Prometheus' format."""

import time
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from threading import Lock
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.core import (
    Metric as Family,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from stream.pipeline.counters import Metric
from stream.telemetry.metrics import METRICS, METRICS_BY_NAME, Readings

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST

BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class MetricsCollector(Collector):
    """The latest readings: written by the worker's thread, read by the health server's."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._readings: Readings = {}
        self._counted: dict[str, float] = {}
        self._times: dict[str, list[float]] = {}
        for metric in METRICS:
            if metric.kind == "histogram":
                self._times[metric.name] = [0.0] * (
                    len(BUCKETS_S) + 2
                )  # the last two: +Inf and the sum
            elif not metric.labels:
                self._counted[metric.name] = 0.0
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def replace(self, readings: Readings) -> None:
        """Replace all readings; a series without a new reading is dropped."""
        assert readings.keys() <= METRICS_BY_NAME.keys(), readings.keys() - METRICS_BY_NAME.keys()
        with self._lock:
            self._readings = readings

    def drop(self, name: str) -> None:
        """Drop the readings of a metric until they are replaced."""
        with self._lock:
            self._readings = {key: series for key, series in self._readings.items() if key != name}

    def add(self, name: str, amount: int = 1) -> None:
        """Increase a counter that has no labels."""
        with self._lock:
            self._counted[name] += amount

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Measure how long the block takes, unless it raises."""
        started = time.perf_counter()
        yield
        taken_s = time.perf_counter() - started
        with self._lock:
            self._times[name][bisect_left(BUCKETS_S, taken_s)] += 1
            self._times[name][-1] += taken_s

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Family]:
        """All declared metrics with their readings."""
        with self._lock:
            readings = self._readings | {name: {(): n} for name, n in self._counted.items()}
            times = {name: list(values) for name, values in self._times.items()}
        for metric in METRICS:
            if metric.kind == "histogram":
                yield _histogram(metric, times[metric.name])
            else:
                make = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
                family = make(metric.name, metric.meaning, labels=metric.labels)
                for labels, value in readings.get(metric.name, {}).items():
                    family.add_metric(labels, value)
                yield family


def _histogram(metric: Metric, values: list[float]) -> Family:
    *counts, total_s = values
    edges = [*map(str, BUCKETS_S), "+Inf"]
    family = HistogramMetricFamily(metric.name, metric.meaning)
    family.add_metric([], list(zip(edges, accumulate(counts), strict=True)), total_s)
    return family
