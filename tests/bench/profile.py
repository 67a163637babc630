"""Where the time of a worker goes: the same loop in this process, its steps timed, on a warm cache."""

import time
from pathlib import Path
from threading import Event, Thread
from typing import Any, Final

from detectors.entities import EntityTable
from detectors.monitor import Monitor, monitor
from detectors.scoring.policy import Policy
from schemas.codecs.json_records import JsonCodec
from stream.config import load
from stream.kafka import source as kafka_source
from stream.kafka.sink import KafkaSink
from stream.kafka.source import KafkaSource
from stream.pipeline import decoding
from stream.pipeline.alerting import RunInfo
from stream.pipeline.stages import route
from stream.pipeline.stages.recent_events import RecentEvents
from stream.pipeline.stages.route import Route
from stream.pipeline.stages.watch import Watch
from stream.runtime import status, worker
from stream.runtime.worker import Worker
from stream.telemetry.collector import MetricsCollector
from stream.telemetry.health import WorkerHealth
from tests.bench.figures import Figures
from tests.bench.timing import Stopwatch

TIMED_CALLS: Final[list[tuple[Any, str, str]]] = [
    (KafkaSource, "poll", "consume (waiting included)"),
    (kafka_source, "to_records", "messages to records"),
    (JsonCodec, "decode", "decode"),
    (decoding, "check", "route: checks"),
    (route, "hash_text", "route: hash of ids"),
    (RecentEvents, "classify", "route: duplicates"),
    (Route, "process", "route: rest"),
    (monitor, "hash_text", "engine: hash"),
    (EntityTable, "admit", "engine: admit"),
    (Monitor, "_features", "engine: features"),
    (Monitor, "_tails", "engine: tails"),
    (Monitor, "_trees", "engine: trees"),
    (Monitor, "_calibrate", "engine: calibration"),
    (Policy, "process", "engine: policy"),
    (Monitor, "process", "engine: rest"),
    (Watch, "_alert", "alerts, explained"),
    (Watch, "process", "watch: rest"),
    (worker, "alert_record", "alerts, encoded"),
    (KafkaSink, "transact", "produce and commit"),
    (status, "partition_readings", "metrics"),
]


def run(figures: Figures, config: Path, warm: Path) -> None:
    """Work through the topic once, after a short one that loads every kernel."""
    _work(warm)
    watch = Stopwatch()
    with watch.watching(TIMED_CALLS):
        records = _work(config, watch)
    order = dict.fromkeys([label for _, _, label in TIMED_CALLS] + ["loop"])
    in_order = {step: watch.seconds[step] for step in order if step in watch.seconds}
    figures.steps("worker, where the time goes", in_order, records)
    figures.say("worker profiled")


def _work(path: Path, watch: Stopwatch | None = None) -> int:
    """Run a worker until it has read everything; the number of records read while timed."""
    config = load(path)
    watch = watch or Stopwatch()
    stop, collector = Event(), MetricsCollector()
    sink = KafkaSink(config.kafka, config.group, "profile")
    sink.open()
    with KafkaSource(config.kafka, config.group) as source:
        loop = Worker(
            config, source, sink, RunInfo("live", "bench", str), collector, WorkerHealth()
        )

        def work() -> None:
            with watch.timing("loop"):
                loop.run(stop)

        thread = Thread(target=work)
        thread.start()
        end = None
        while True:
            time.sleep(0.01)
            held = list(loop._assignment.partitions.items())
            if held:
                where, assigned = held[0]
                end = end or source.offset_range(where)[1]
                if assigned.next_offset >= end:
                    break
        stop.set()
        thread.join()
    return end
