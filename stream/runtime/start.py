"""Starts a worker: connects, checks topics and learned state, and runs its loop."""

from collections.abc import Callable, Collection
from typing import NamedTuple

import structlog

from stream.checkpoints.state_losses import check_state_losses
from stream.config import Config, secret_problem
from stream.config.stage_graph import logs
from stream.kafka.admin import TopicAdmin
from stream.kafka.positions import Partition
from stream.kafka.properties import printable_properties, slot_properties
from stream.kafka.sink import KafkaSink
from stream.kafka.source import KafkaSource
from stream.pipeline.alerting import RunInfo
from stream.runtime.interfaces import Admin, Sink, Source, Stop
from stream.runtime.system import SYSTEM, System
from stream.runtime.topics import check_topics, existing_topics
from stream.runtime.worker import Worker
from stream.telemetry.collector import MetricsCollector
from stream.telemetry.health import WorkerHealth, serve_health

logger = structlog.stdlib.get_logger(__name__)


class Clients(NamedTuple):
    """The worker's connections to Kafka."""

    source: Source
    sink: Sink
    admin: Admin


def run_worker(
    config: Config,
    slot: str,
    run: RunInfo,
    make_stop: Callable[[], Stop],
    http_port: int,
    allowed_drops: Collection[str] = (),
) -> None:
    """Connect to Kafka, serve metrics and health, and work until asked to stop.

    slot: stable name of this worker in its group; a restart under the same name fences the previous
    worker of the slot and aborts its open transaction. make_stop: installs the signal handlers and
    returns the request to stop; called just before the loop starts, so that until then a signal ends
    the process at once. allowed_drops: arguments of
    --drop-state. Raises EddyError.
    """
    if warning := secret_problem(config):
        logger.warning(warning)
    metrics, health = MetricsCollector(), WorkerHealth()
    kafka = slot_properties(config.kafka, slot)
    with (
        serve_health((config.worker.http_host, http_port), metrics, health),
        KafkaSource(kafka, config.group, health.beat, health.broker_answered) as source,
    ):
        # Logged only now: the client has accepted every value, so no property holds a misplaced secret.
        shown = printable_properties(config.kafka)
        logger.info("starting", group=config.group, slot=slot, mode=config.mode, kafka=shown)
        clients = Clients(
            source,
            KafkaSink(kafka, config.group, slot, health.beat),
            TopicAdmin(kafka, health.beat),
        )
        work(config, clients, run, make_stop, metrics, health, allowed_drops)
    logger.info("stopped")


def work(
    config: Config,
    clients: Clients,
    run: RunInfo,
    make_stop: Callable[[], Stop],
    metrics: MetricsCollector,
    health: WorkerHealth,
    allowed_drops: Collection[str] = (),
    system: System = SYSTEM,
) -> None:
    """Check topics and learned state, take over the slot, and run the worker's loop.

    Raises EddyError; where a check fails, nothing was written.
    """
    check_topics(config, existing_topics(config, clients.admin))
    store = system.open_store(config.checkpoints.url, "checkpoints.url")
    partitions = [Partition(log.topic, n) for log in logs(config) for n in range(log.partitions)]
    check_state_losses(config, clients.source.committed(partitions), store, allowed_drops)
    clients.sink.open()
    worker = Worker(
        config, clients.source, clients.sink, run, metrics, health, allowed_drops, system
    )
    worker.run(make_stop())
