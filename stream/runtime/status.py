"""Publishes a worker's metrics and readiness, and logs its progress."""

from collections import Counter
from collections.abc import Iterator
from typing import Final

import structlog

from stream.config import Config
from stream.config.topology import Log
from stream.inputs.diagnostics import InputDiagnostics
from stream.runtime.assignment import Assignment
from stream.runtime.interfaces import Source
from stream.runtime.system import System
from stream.telemetry.collector import MetricsCollector
from stream.telemetry.health import WorkerHealth
from stream.telemetry.metrics import (
    PartitionCounts,
    PartitionStatus,
    partition_readings,
    worker_readings,
)

logger = structlog.stdlib.get_logger(__name__)

METRICS_INTERVAL_S: Final = 0.5
"""How often the metrics are brought up to date."""

PROGRESS_INTERVAL_S: Final = 10.0
"""How often the progress of re-learning is logged."""

GC_INTERVAL_S: Final = 60.0
"""How often unreachable cycles of objects are collected; see `gc_disabled`."""

UNASSIGNED_WARNING_S: Final = 10.0
"""A worker without partitions for so long logs the likely reasons."""

UNASSIGNED_WARNING: Final = (
    "this worker has no partition. Either the brokers are away, or other members of the group own "
    "all partitions: a killed member keeps its partitions until its session times out "
    "(session.timeout.ms, 45 s by default); a worker with the same slot keeps them until its next "
    "commit, then ends: give each worker its own slot (--slot, EDDY_SLOT); or there are more workers "
    "than partitions. `kafka-consumer-groups --describe --members` lists the members and their "
    "hosts: a worker's client id is eddy-SLOT"
)


class StatusPublisher:
    """Publishes the state of a worker; called once a turn of its loop."""

    def __init__(
        self,
        config: Config,
        source: Source,
        assignment: Assignment,
        diagnostics: InputDiagnostics,
        metrics: MetricsCollector,
        health: WorkerHealth,
        system: System,
    ) -> None:
        self._group = config.group
        self._source = source
        self._assignment = assignment
        self._diagnostics = diagnostics
        self._metrics = metrics
        self._health = health
        self._clock = system.clock
        self._collect_garbage = system.collect_garbage
        self._joined = self._warned = False
        now = self._clock.monotonic()
        self._metrics_at = self._progress_at = self._gc_at = self._assigned_at = now

    def joined(self) -> None:
        """The worker has become a member of its group."""
        self._joined, self._warned = True, False

    def publish(self) -> None:
        """Record a beat, and publish metrics and log progress where these are due."""
        partitions = self._assignment.partitions
        relearning = any(assigned.offsets_left() for assigned in partitions.values())
        self._health.beat("relearning" if relearning else "live" if self._joined else "joining")
        now = self._clock.monotonic()
        if now - self._gc_at >= GC_INTERVAL_S:
            self._gc_at = now
            self._collect_garbage()
        if partitions:
            self._assigned_at = now
        elif now - self._assigned_at >= UNASSIGNED_WARNING_S and not self._warned:
            self._warned = True
            logger.warning(UNASSIGNED_WARNING, group=self._group)
        if now - self._metrics_at >= METRICS_INTERVAL_S:
            self._metrics_at = now
            self._publish_metrics()
        if relearning and now - self._progress_at >= PROGRESS_INTERVAL_S:
            self._progress_at = now
            self._log_progress()

    def _log_progress(self) -> None:
        for partition, assigned in self._assignment.partitions.items():
            if assigned.offsets_left():
                logger.info(
                    "re-learning",
                    **partition._asdict(),
                    offsets_left=assigned.offsets_left(),
                    seconds_left=round(assigned.seconds_left(), 1),
                )

    def _publish_metrics(self) -> None:
        """Bring the metrics, and the reasons not to be ready, up to date."""
        statuses = list(self._partition_statuses())
        problems = self._diagnostics.problems(status.counts for status in statuses)
        left = sum(status.offsets_left for status in statuses)
        relearning = [f"{left:,} records are left to re-learn"] if left else []
        self._health.unready_reasons = (*relearning, *self._diagnostics.reasons_not_ready(problems))
        configured = {log_name(log): log.partitions for log in self._assignment.logs.values()}
        counts = PartitionCounts(configured, Counter(status.log_name for status in statuses))
        self._metrics.replace(
            worker_readings(counts, [(problem.name, problem.kind) for problem in problems])
            | partition_readings(statuses, self._health.state)
        )

    def _partition_statuses(self) -> Iterator[PartitionStatus]:
        for partition, assigned in self._assignment.partitions.items():
            end = self._source.end_offset(partition)
            yield PartitionStatus(
                log_name=log_name(assigned.log),
                partition=partition.partition,
                counts=assigned.shard.counts(),
                offsets_left=assigned.offsets_left(),
                lag=max(0, end - assigned.next_offset) if end >= 0 else None,
                checkpoint_lag=assigned.next_offset - assigned.checkpoints.offset(),
                seconds_left=assigned.seconds_left(),
            )


def log_name(log: Log) -> str:
    """The name of a log in metrics: the input's name, or the internal topic's."""
    return log.topic if log.internal else log.name
