"""A shop on the real broker, for one test: topics, a configuration, workers, and their output.

Also the reference for the worker: one thread that processes the same log in batches of another
size, without Kafka transactions.
"""

import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import orjson
from confluent_kafka import Consumer, IsolationLevel, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._listoffsets import OffsetSpec
from confluent_kafka.cimpl import NewTopic
from tenacity import retry, retry_if_exception_type, stop_after_delay

from schemas.alerts import Alert, alert_record
from schemas.records import Records
from stream.checkpoints.manifest import parse_pointer
from stream.config import load
from stream.config.stage_graph import logs
from stream.config.topology import Log
from stream.kafka.admin import TopicAdmin
from stream.kafka.positions import Partition
from stream.kafka.sink import PlainProducer
from stream.pipeline.alerting import RunInfo
from stream.pipeline.shard import Shard, ShardFactory
from stream.runtime.topics import existing_topics, missing_topics
from stream.simulator import Shop as Simulated
from stream.simulator import lines
from tests.rows import Row, rows

ROOT = Path(__file__).resolve().parents[2]
EDDY = (sys.executable, "-m", "stream.cli")
WAIT_MAX_S = 120.0
REFERENCE_BATCH = 1_777
REFERENCE_MESSAGES = 13
INTERNAL_PARTITIONS = 3
KEY = "a secret for the hashes of the tests' shop"
KEYED_BY = "ip"
"""The key of several partitions without internal topics. Most attacks come from one address, so that
short streams have alerts, too."""
AMOUNT = """
[[monitors.features]]
name = "amount"
kind = "value"
field = "amount"
"""
"""Without this feature nothing reads the field, and an amount out of range is no dead letter."""
ASSESSED = """
[assess]
subject = "account"
{shards}
[assess.learning]
inputs = ["{labels}"]
features = ["account.amount", "ip.new_accounts_1h"]
[assess.policy]
p_max = 1e-4
alerts_per_day = 10
"""
TWO_SHARDS = "partitions = 2"
ONE_SHARD = "partitions = 1\nreport_p = 0.1\nevents_max = 8_000"
"""One shard, in which assess learns enough from a few thousand events."""
WITH_LABELS = """
[inputs.labels]
topic = "{topic}"
type = "label"
"""
CLASSIC_PROTOCOL: dict[str, object] = {"session.timeout.ms": 6_000}
"""A short session, so that a killed worker is noticed soon; with the new protocol the broker sets it."""
PROTOCOLS: dict[str, dict[str, object]] = {
    "classic": CLASSIC_PROTOCOL,
    "consumer": {"group.protocol": "consumer"},
}


class Published(NamedTuple):
    """A record of an output topic; of an alert's body without `run`, which the log does not
    determine."""

    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]


ReadAt = dict[tuple[str, str, int, int], Partition]
"""A monitor and the topic, partition and offset of an event → where the monitor reads it."""
Outputs = dict[Partition, list[Published]]
"""By partition of the log whose shard emitted them, in the order of that log."""


@dataclass
class Shop:
    """Topics and a configuration; `config` is its path, `group` also names the topics.

    internal_topics: monitors read internal topics. labels: assess learns from a topic of labels.
    drops: learned state that workers may drop.
    """

    bootstrap: str
    group: str
    partitions: int
    config: Path
    internal_topics: bool = False
    labels: bool = False
    drops: list[str] = field(default_factory=list)

    @property
    def topic(self) -> str:
        """The topic of events."""
        return f"{self.group}-events"

    @property
    def topic_of_labels(self) -> str:
        """The topic of labels, where there is one."""
        return f"{self.group}-labels"

    @property
    def store(self) -> Path:
        """The folder of its checkpoints."""
        return self.config.with_name(f"{self.group}-store")

    def checkpoints(self, partition: int = 0) -> list[int]:
        """The offsets of a partition's checkpoints, oldest first."""
        folder = self.store / self.group / self.topic / str(partition) / "manifests"
        return sorted(int(each.name.partition("-")[0]) for each in folder.glob("*.json"))

    def feed(self, events: int, seed: int = 7, malformed: float = 0.01) -> None:
        """Write the simulator's events to the topic, as `eddy simulate` does."""
        options = ["--events", str(events), "--seed", str(seed), "--malformed", str(malformed)]
        eddy("simulate", str(self.config), "--to", "kafka", *options)

    def ends(self) -> dict[int, int]:
        """The offset after the last record, by partition."""
        with consumer(self.bootstrap, self.group) as client:
            asked = [TopicPartition(self.topic, p) for p in range(self.partitions)]
            return {p.partition: client.get_watermark_offsets(p, timeout=10)[1] for p in asked}

    @retry(retry=retry_if_exception_type(KafkaException), stop=stop_after_delay(120), reraise=True)
    def offsets(self, partitions_read: Sequence[Partition]) -> list[TopicPartition]:
        """The group's committed offset of each partition. Waits while a killed worker's transaction
        is open, since the broker does not answer then."""
        with consumer(self.bootstrap, self.group) as client:
            found: list[TopicPartition] = client.committed(
                [TopicPartition(*where) for where in partitions_read], timeout=10
            )
        return found

    def committed(self, topic: str = "", partitions: int = 0) -> dict[int, int]:
        """The group's committed offsets of a topic, by default the input; 0 where there is none."""
        partitions_read = (
            Partition(topic or self.topic, p) for p in range(partitions or self.partitions)
        )
        return {one.partition: max(0, one.offset) for one in self.offsets([*partitions_read])}

    def committed_checkpoint(self, where: Partition | None = None) -> str:
        """The checkpoint that a partition's committed offset names; by default the first
        partition's."""
        [found] = self.offsets([where or Partition(self.topic, 0)])
        pointer = parse_pointer(found.metadata or "")
        assert pointer is not None, found.metadata
        return pointer.checkpoint

    def wait_until_caught_up(self) -> None:
        """Wait until the group has committed the end of every log."""
        ends = self.ends()
        wait_for(lambda: self.committed() == ends, "the workers to finish")
        for log in self.internal_logs():
            # After the last record of an internal log there are transaction markers.
            last = {
                p: max(m.offset() or 0 for m in log_) for p, log_ in self.log(log.topic).items()
            }
            wait_for(
                lambda log=log, last=last: all(  # type: ignore[misc]
                    offset > last.get(p, -1)
                    for p, offset in self.committed(log.topic, log.partitions).items()
                ),
                f"the monitor {log.name} to finish",
            )

    def internal_logs(self) -> list[Log]:
        """The internal logs."""
        return [log for log in logs(load(self.config)) if log.internal]

    def log(self, topic: str) -> dict[int, list[Message]]:
        """The log file's lines so far."""
        found: dict[int, list[Message]] = defaultdict(list)
        for message in messages(self.bootstrap, topic):
            found[message.partition() or 0].append(message)
        return found

    def alerts(self, read_at: ReadAt) -> Outputs:
        """Every committed alert, without `run`."""
        found: Outputs = defaultdict(list)
        for record in read(self.bootstrap, f"{self.group}-alerts"):
            body = orjson.loads(record.value)
            [evidence] = body["evidence"]
            source = Partition(evidence["topic"], evidence["partition"])
            where = read_at.get((body["monitor"], *source, evidence["offset"]), source)
            found[where].append(without_run(record))
        return dict(found)

    def dead_letters(self) -> Outputs:
        """Every committed dead letter."""
        found: Outputs = defaultdict(list)
        for record in read(self.bootstrap, f"{self.group}-dead"):
            headers = dict(record.headers)
            where = Partition(headers["eddy-topic"].decode(), int(headers["eddy-partition"]))
            found[where].append(record)
        return dict(found)


@contextmanager
def consumer(bootstrap: str, group: str) -> Iterator[Consumer]:
    """A read_committed consumer that has not joined a group."""
    client = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": group,
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 20,
        }
    )
    try:
        yield client
    finally:
        client.close()


def messages(bootstrap: str, topic: str) -> list[Message]:
    """Every committed message of a topic, partition after partition.

    Waits where a killed worker left a transaction open: later messages are invisible until another
    worker takes over its slot, or the transaction times out.
    """
    latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
    uncommitted = IsolationLevel.READ_UNCOMMITTED
    admin = AdminClient({"bootstrap.servers": bootstrap})
    with consumer(bootstrap, "reader") as client:
        partitions = sorted(client.list_topics(topic, timeout=10).topics[topic].partitions)
        asked = {TopicPartition(topic, p): latest for p in partitions}
        answers = admin.list_offsets(asked, isolation_level=uncommitted)
        ends = {of.partition: answer.result().offset for of, answer in answers.items()}
        client.assign([TopicPartition(topic, p, 0) for p in partitions])
        found: dict[int, list[Message]] = {p: [] for p in partitions}
        unfinished = {p for p, end in ends.items() if end > 0}
        deadline = time.monotonic() + WAIT_MAX_S
        while unfinished:
            assert time.monotonic() < deadline, f"{topic}: {unfinished} of {ends} are not shown"
            for message in client.consume(10_000, 0.05):
                partition, offset = message.partition() or 0, message.offset() or 0
                if message.error() is None:
                    found[partition].append(message)
                elif offset >= ends[partition]:  # the end of what is shown
                    unfinished.discard(partition)
    return [message for some in found.values() for message in some]


def read(bootstrap: str, topic: str) -> list[Published]:
    """Everything on a topic that a read_committed reader sees."""
    return [published(message) for message in messages(bootstrap, topic)]


def published(message: Message) -> Published:
    """The message as it was written."""
    headers: Any = message.headers() or []
    key, value = message.key(), message.value()
    assert key is not None
    assert value is not None
    return Published(key, value, list(headers))


def without_run(record: Published) -> Published:
    """The alert without what the log does not determine."""
    body = orjson.loads(record.value)
    del body["run"]
    return record._replace(value=orjson.dumps(body))


def published_alert(alert: Alert) -> Published:
    """An alert made without Kafka, in the form of `Shop.alerts`."""
    return without_run(Published(*alert_record(alert)))


def value_of(exposition: str, name: str) -> float:
    """The sum of a metric's series."""
    found = re.findall(rf"^{name}(?:\{{.*\}})? (\S+)$", exposition, flags=re.MULTILINE)
    return sum(map(float, found))


def make_shop(
    bootstrap: str,
    folder: Path,
    name: str,
    partitions: int,
    checkpoints: dict[str, object] | None = None,
    kafka: dict[str, object] | None = None,
    *,
    internal_topics: bool = False,
    labels: bool = False,
    dead_bytes_max: int = 1_048_588,
    **worker: object,
) -> Shop:
    """A shop with new topics.

    With one partition it has all monitors; with several, those by address; with internal topics,
    several partitions without a key and all monitors; labels: also a topic of labels from which
    assess learns. checkpoints, kafka, worker: settings of these tables of the configuration.
    dead_bytes_max: the largest record that the topic of dead letters accepts.
    """
    group = f"{name}-{time.time_ns()}"
    shop = Shop(bootstrap, group, partitions, folder / f"{group}.toml", internal_topics, labels)
    topics = [(shop.topic, partitions), (f"{group}-alerts", 1), (f"{group}-dead", 1)]
    topics += [(shop.topic_of_labels, 1)] if labels else []
    admin = AdminClient({"bootstrap.servers": bootstrap})
    of_topics = {
        f"{group}-dead": {"max.message.bytes": str(dead_bytes_max)},
        shop.topic: {"retention.ms": "-1"},  # events may be as old as their times
    }
    made = admin.create_topics(
        [NewTopic(topic, count, config=of_topics.get(topic, {})) for topic, count in topics]
    )
    for future in made.values():
        future.result()
    text = configuration(shop, worker, checkpoints or {}, kafka or CLASSIC_PROTOCOL)
    shop.config.write_text(text)
    if internal_topics:
        loaded = load(shop.config)
        broker = TopicAdmin(loaded.kafka)
        names = {topic for topic, _ in topics}
        wait_for(lambda: names <= admin.list_topics(timeout=10).topics.keys(), "the topics")
        for topic, count, settings in missing_topics(
            loaded, existing_topics(loaded, broker), inputs=False
        ):
            broker.create(topic, count, settings, None)
    return shop


def configuration(
    shop: Shop,
    worker: dict[str, object],
    checkpoints: dict[str, object],
    kafka: dict[str, object],
) -> str:
    """The ready shop configuration with other topics, and a policy that lets many alerts
    through."""
    ready = (ROOT / "deploy" / "configs" / "shop.toml").read_text()
    _, *monitors = re.split(r"(?=^\[\[monitors\]\]$)", ready, flags=re.MULTILINE)
    keyed = ""
    if shop.internal_topics:
        count = 1 if shop.labels else INTERNAL_PARTITIONS
        monitors = [
            text.replace("inputs =", f"partitions = {count}\ninputs =") for text in monitors
        ]
    elif shop.partitions > 1:
        monitors = [text + AMOUNT for text in monitors if f'entity = "{KEYED_BY}"' in text]
        keyed = f'keyed_by = "{KEYED_BY}"\npartitioner = "murmur2"\n'
    head = (
        f'group = "{shop.group}"\nsecret = "{KEY}"\n'
        + table("kafka", {"bootstrap.servers": shop.bootstrap, **kafka})
        + f'[outputs]\nalerts = "{shop.group}-alerts"\ndead_letters = "{shop.group}-dead"\n'
        + table("worker", {"http_port": 0, **worker})
        + table("checkpoints", {"url": str(shop.store), **checkpoints})
        + f'[inputs.shop]\ntopic = "{shop.topic}"\npartitions = {shop.partitions}\n{keyed}'
        'type = { field = "type" }\n'
        + (WITH_LABELS.format(topic=shop.topic_of_labels) if shop.labels else "")
    )
    assessed = ASSESSED.format(
        labels="labels" if shop.labels else "shop", shards=ONE_SHARD if shop.labels else TWO_SHARDS
    )
    text = head + "".join(monitors) + (assessed if shop.internal_topics else "")
    text = re.sub(r"alerts_per_day = \d+", 'alerts_per_day = 100_000\nincident_gap = "1s"', text)
    return re.sub(r"p_max = \S+", "p_max = 0.01", text)


def table(name: str, settings: dict[str, object]) -> str:
    """A table of the configuration."""
    lines_of = (f'"{key}" = {orjson.dumps(value).decode()}\n' for key, value in settings.items())
    return f"[{name}]\n" + "".join(lines_of)


# -- workers --------------------------------------------------------------------------------------


def eddy(*arguments: str, code: int = 0) -> str:
    """Run the command to its end, and return its output; fail unless it ends with that exit
    code."""
    from tests.crash.processes import fork_command  # it needs a shop, too

    with TemporaryDirectory(prefix="eddy-output-") as folder:
        output = Path(folder) / "output"
        assert fork_command([*arguments], output).wait(WAIT_MAX_S) == code, output.read_text()
        return output.read_text()


@dataclass
class WorkerProcess:
    """A worker of the shop's group, and its log file."""

    process: "subprocess.Popen[bytes] | Child"
    log_file: Path

    def log(self) -> list[dict[str, Any]]:
        """What it has logged so far."""
        written = self.log_file.read_bytes() if self.log_file.exists() else b""
        lines_written = written.splitlines(keepends=True)
        complete = [line for line in lines_written if line.endswith(b"\n")]
        return [orjson.loads(line) for line in complete if line.startswith(b"{")]

    def has_logged(self, event: str) -> bool:
        """Whether a line contains that text."""
        return any(line["event"].startswith(event) for line in self.log())

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of a response of its HTTP server."""
        address = next(line["address"] for line in self.log() if "address" in line)
        try:
            with urllib.request.urlopen(f"http://{address}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait; return the exit code."""
        self.process.send_signal(how)
        return self.process.wait(WAIT_MAX_S)


def worker(shop: Shop, slot: str = "one") -> AbstractContextManager[WorkerProcess]:
    """A worker process, forked from one that has loaded everything; killed at the end if it still
    runs."""
    from tests.crash.processes import running_worker  # it needs a shop, too

    return running_worker(shop, slot)


class Child:
    """A forked process with the interface of one of `subprocess`."""

    def __init__(self, process: BaseProcess) -> None:
        self._process = process

    @property
    def pid(self) -> int | None:
        """Its process id."""
        return self._process.pid

    def poll(self) -> int | None:
        """Its exit code, negative where a signal ended it; None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float) -> int:
        """Wait for its end; return the exit code."""
        self._process.join(timeout)
        code = self._process.exitcode
        assert code is not None, f"waited {timeout} s for the worker's end"
        return code

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal, if it still runs."""
        if self.poll() is None and self._process.pid is not None:
            os.kill(self._process.pid, number)


@contextmanager
def workers(shop: Shop, processes: int) -> Iterator[WorkerProcess]:
    """A supervisor with so many workers in slots shop-0, shop-1 and so on; all are killed at the
    end."""
    log_file = shop.config.with_name(f"{shop.group}-supervised-{time.time_ns()}.log")
    options = ["--slot", "shop", "--processes", str(processes)]
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [*EDDY, "run", str(shop.config), *options],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    both = WorkerProcess(process, log_file)
    try:
        yield both
    finally:
        process.kill()
        process.wait()
        for line in both.log():
            if line["event"] == "worker started":
                with suppress(ProcessLookupError):
                    os.kill(line["pid"], signal.SIGKILL)


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Wait until the condition holds; fail after `WAIT_MAX_S`."""
    deadline = time.monotonic() + WAIT_MAX_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {WAIT_MAX_S} s for {what}"
        time.sleep(0.02)


# -- the reference --------------------------------------------------------------------------------


@dataclass
class Reference:
    """The output of a single thread for the logs, and its shards.

    read_at: of a stage over an internal topic and an event, the partition where it reads the event.
    records: topic → key → values in their order, of stages' own output topics.
    """

    alerts: Outputs
    dead_letters: Outputs
    shards: dict[Partition, Shard]
    read_at: ReadAt
    records: dict[str, dict[bytes, list[bytes | None]]]


NO_OFFSETS = np.zeros(1, np.int64)


def reference(shop: Shop) -> Reference:
    """Process the shop's logs as they are now, stage by stage, partition by partition.

    Fails unless every row that a stage must write to an internal topic is there exactly once,
    complete, and in order for each shard that wrote it and each source partition.
    """
    config = load(shop.config)
    shards = ShardFactory(config, RunInfo("live", "reference", str))
    made = Reference(defaultdict(list), defaultdict(list), {}, {}, {})
    internal = {log.name: log for log in shop.internal_logs()}
    readers = {name: shards.make(log) for name, log in internal.items()}
    sent: dict[tuple[Partition, ...], list[Row]] = defaultdict(list)

    def fold(where: Partition, shard: Shard, log: list[Message], size: int) -> Iterator[Row]:
        """Process one partition; return its rows, and record the rows that it writes."""
        made.shards[where] = shard
        for start in range(0, len(log), size):
            output = shard.process(as_records(where.topic, log[start : start + size]))
            made.alerts[where] += map(published_alert, output.alerts)
            made.dead_letters[where] += (Published(*letter) for letter in output.dead_letters)
            for topic, key, record in output.output_records:
                made.records.setdefault(topic, {}).setdefault(key, []).append(record)
            for name, into, value in output.internal_records:
                message = Records(name, into, NO_OFFSETS, NO_OFFSETS, [value])
                for row in rows(readers[name].decode(message)):
                    target = Partition(internal[name].topic, into)
                    sent[target, where, row.source].append(row)
            yield from rows(output.events)

    for name, spec in config.inputs.items():
        for partition, log in shop.log(spec.topic).items():
            where = Partition(spec.topic, partition)
            for _ in fold(where, shards.input_shard(name, partition), log, REFERENCE_BATCH):
                pass
    for name, one in internal.items():  # each stage after those whose output it reads
        for partition, log in shop.log(one.topic).items():
            where = Partition(one.topic, partition)
            rows_of: dict[tuple[Partition, ...], list[Row]] = defaultdict(list)
            for row in fold(where, shards.make(one, partition), log, REFERENCE_MESSAGES):
                sender = made.read_at.get((row.writer, *row.source, row.offset), row.source)
                rows_of[where, sender, row.source].append(row)
                made.read_at[name, *row.source, row.offset] = where
            for key, found in rows_of.items():
                assert found == sent.pop(key)
    assert not sent, "rows are missing from internal topics"
    made.alerts = {where: alerts for where, alerts in made.alerts.items() if alerts}
    made.dead_letters = {where: some for where, some in made.dead_letters.items() if some}
    return made


def assert_published_exactly_once(shop: Shop) -> None:
    """The output topics equal the reference's output: nothing is missing, nothing doubled."""
    expected = reference(shop)
    outputs = [*expected.alerts.values(), *expected.dead_letters.values()]
    assert sum(map(len, outputs)) > 20
    assert shop.alerts(expected.read_at) == expected.alerts
    assert shop.dead_letters() == expected.dead_letters


def as_records(topic: str, log: list[Message]) -> Records:
    """Convert messages of one partition to records, one by one."""
    headers: list[Any] = [message.headers() or [] for message in log]
    return Records(
        topic,
        log[0].partition() or 0,
        np.array([message.offset() for message in log], np.int64),
        np.array([message.timestamp()[1] for message in log], np.int64),
        [message.value() for message in log],
        headers,
    )


def expected_codes(events: int, seed: int = 7, malformed: float = 0.01) -> dict[bytes, str]:
    """The dead letters of `feed`'s records, each with its expected code."""
    made = lines(Simulated(events, seed), malformed)
    return {line.value: line.code for line in made if line.code is not None}


def expected_repairs(events: int, seed: int = 7, malformed: float = 0.01) -> int:
    """The expected number of repaired fields in `feed`'s records."""
    made = lines(Simulated(events, seed), malformed)
    return sum(line.kind is not None and line.code is None for line in made)


def send(shop: Shop, values: list[bytes]) -> None:
    """Write a few records to the topic."""
    feed = PlainProducer({"bootstrap.servers": shop.bootstrap}, shop.topic, "murmur2")
    for value in values:
        feed.send(b"key", value)
    feed.close()
