"""A shop of a test's own on the real broker: topics, a configuration, workers, and what came out.

Also the reference that the worker is held against: one thread folding the same log, in batches of
another size, with no Kafka transaction anywhere.
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson
from confluent_kafka import Consumer, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from tenacity import retry, retry_if_exception_type, stop_after_delay

from schemas.alerts import AlertRecord, alert_record
from schemas.records import Records
from stream.config import load
from stream.kafka import Feed
from stream.shard import Shard, build_shard
from stream.simulator import Shop as Simulated
from stream.simulator import lines
from stream.stages.watch import RunInfo

ROOT = Path(__file__).resolve().parents[2]
EDDY = (sys.executable, "-m", "stream.cli")
PATIENCE_S = 120.0
REFERENCE_BATCH = 1_777
CLASSIC: dict[str, object] = {"session.timeout.ms": 6_000}
"""So that a killed worker is not missed for long; the new protocol leaves that to the broker."""
PROTOCOLS: dict[str, dict[str, object]] = {
    "classic": CLASSIC,
    "consumer": {"group.protocol": "consumer"},
}


class Published(NamedTuple):
    """A record of an output topic; of an alert's body without `run`, which the log leaves open."""

    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]


Outputs = dict[int, list[Published]]
"""By partition of the input, in the order of its log."""


@dataclass
class Shop:
    """Topics and a configuration of its own; `config` is its path, `group` also its name."""

    bootstrap: str
    group: str
    partitions: int
    config: Path

    @property
    def topic(self) -> str:
        """Where the events are."""
        return f"{self.group}-events"

    @property
    def store(self) -> Path:
        """The folder of its checkpoints."""
        return self.config.with_name(f"{self.group}-store")

    def checkpoints(self, partition: int = 0) -> list[int]:
        """The offsets of a partition's checkpoints, oldest first."""
        folder = self.store / self.group / self.topic / str(partition) / "manifests"
        return sorted(int(each.name.partition("-")[0]) for each in folder.glob("*.json"))

    def feed(self, events: int, seed: int = 7, malformed: float = 0.01) -> None:
        """Put the simulator's events on the topic, as `eddy simulate` does."""
        options = ["--events", str(events), "--seed", str(seed), "--malformed", str(malformed)]
        eddy("simulate", str(self.config), "--to", "kafka", *options)

    def ends(self) -> dict[int, int]:
        """The offset behind the last record, by partition."""
        with consumer(self.bootstrap, self.group) as client:
            asked = [TopicPartition(self.topic, p) for p in range(self.partitions)]
            return {p.partition: client.get_watermark_offsets(p, timeout=10)[1] for p in asked}

    @retry(retry=retry_if_exception_type(KafkaException), stop=stop_after_delay(120), reraise=True)
    def committed(self) -> dict[int, int]:
        """What the group has committed, by partition; 0 where nothing."""
        with consumer(self.bootstrap, self.group) as client:
            asked = [TopicPartition(self.topic, p) for p in range(self.partitions)]
            found = client.committed(asked, timeout=10)
            return {p.partition: max(0, p.offset) for p in found}

    def wait_until_done(self) -> None:
        """Return when the group has committed everything that is there."""
        ends = self.ends()
        wait_for(lambda: self.committed() == ends, "the workers to finish")

    def alerts(self) -> Outputs:
        """Every committed alert, without `run`."""
        found: Outputs = defaultdict(list)
        for record in read(self.bootstrap, f"{self.group}-alerts"):
            partition = orjson.loads(record.value)["evidence"][0]["partition"]
            found[partition].append(without_run(record))
        return dict(found)

    def dead_letters(self) -> Outputs:
        """Every committed dead letter."""
        found: Outputs = defaultdict(list)
        for record in read(self.bootstrap, f"{self.group}-dead"):
            found[int(dict(record.headers)["eddy-partition"])].append(record)
        return dict(found)


@contextmanager
def consumer(bootstrap: str, group: str) -> Iterator[Consumer]:
    """A read_committed consumer that joins no group by itself."""
    client = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": group,
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
        }
    )
    try:
        yield client
    finally:
        client.close()


def messages(bootstrap: str, topic: str) -> list[Message]:
    """Everything on a topic that a read_committed reader sees, partition after partition."""
    found: list[Message] = []
    with consumer(bootstrap, "reader") as client:
        partitions = client.list_topics(topic, timeout=10).topics[topic].partitions
        for partition in partitions:
            client.assign([TopicPartition(topic, partition, 0)])
            at_end = False
            while not at_end:
                batch = client.consume(10_000, 0.2)
                found += [message for message in batch if message.error() is None]
                at_end = any(message.error() is not None for message in batch)
    return found


def read(bootstrap: str, topic: str) -> list[Published]:
    """Everything on a topic that a read_committed reader sees."""
    return [published(message) for message in messages(bootstrap, topic)]


def published(message: Message) -> Published:
    """A message as it was written."""
    headers: Any = message.headers() or []
    key, value = message.key(), message.value()
    assert key is not None
    assert value is not None
    return Published(key, value, list(headers))


def without_run(record: Published) -> Published:
    """An alert's record without what the log leaves open."""
    body = orjson.loads(record.value)
    del body["run"]
    return record._replace(value=orjson.dumps(body))


def published_alert(made: AlertRecord) -> Published:
    """An alert that was made without Kafka, as `Shop.alerts` would find it."""
    return without_run(Published(*made))


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
    dead_bytes_max: int = 1_048_588,
    **worker: object,
) -> Shop:
    """A shop with fresh topics: one partition and all monitors, or several and those by account.

    checkpoints, kafka, worker: settings of the configuration's tables of that name.
    dead_bytes_max: what the dead letters' topic takes of a record.
    """
    group = f"{name}-{time.time_ns()}"
    shop = Shop(bootstrap, group, partitions, folder / f"{group}.toml")
    topics = [(shop.topic, partitions), (f"{group}-alerts", 1), (f"{group}-dead", 1)]
    admin = AdminClient({"bootstrap.servers": bootstrap})
    sizes = {f"{group}-dead": {"max.message.bytes": str(dead_bytes_max)}}
    made = admin.create_topics(
        [NewTopic(topic, count, 1, config=sizes.get(topic, {})) for topic, count in topics]
    )
    for future in made.values():
        future.result()
    shop.config.write_text(configuration(shop, worker, checkpoints or {}, kafka or CLASSIC))
    return shop


def configuration(
    shop: Shop,
    worker: dict[str, object],
    checkpoints: dict[str, object],
    kafka: dict[str, object],
) -> str:
    """The ready shop configuration on other topics, with a policy that lets many alerts through."""
    ready = (ROOT / "deploy" / "configs" / "shop.toml").read_text()
    _, *monitors = re.split(r"(?=^\[\[monitors\]\]$)", ready, flags=re.MULTILINE)
    if shop.partitions > 1:
        monitors = [text for text in monitors if 'entity = "account"' in text]
    keyed = 'keyed_by = "account"\npartitioner = "murmur2"\n' if shop.partitions > 1 else ""
    head = (
        f'group = "{shop.group}"\n'
        + table("kafka", {"bootstrap.servers": shop.bootstrap, **kafka})
        + f'[outputs]\nalerts = "{shop.group}-alerts"\ndead_letters = "{shop.group}-dead"\n'
        + table("worker", {"http_port": 0, **worker})
        + table("checkpoints", {"url": str(shop.store), **checkpoints})
        + f'[inputs.shop]\ntopic = "{shop.topic}"\npartitions = {shop.partitions}\n{keyed}'
        'type = { field = "type" }\n'
    )
    text = head + "".join(monitors)
    text = re.sub(r"alerts_per_day = \d+", 'alerts_per_day = 100_000\nincident_gap = "1s"', text)
    return re.sub(r"p_max = \S+", "p_max = 0.01", text)


def table(name: str, settings: dict[str, object]) -> str:
    """A table of the configuration."""
    lines_of = (f'"{key}" = {orjson.dumps(value).decode()}\n' for key, value in settings.items())
    return f"[{name}]\n" + "".join(lines_of)


# -- workers --------------------------------------------------------------------------------------


def eddy(*arguments: str, code: int = 0) -> str:
    """Run the command to its end; what it said. Fails unless it ends with that exit code."""
    done = subprocess.run(
        [*EDDY, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@dataclass
class WorkerProcess:
    """A worker of the shop's group, and the file that its log goes to."""

    process: subprocess.Popen[bytes]
    log_file: Path

    def log(self) -> list[dict[str, Any]]:
        """What it has logged so far."""
        lines_written = self.log_file.read_bytes().splitlines(keepends=True)
        complete = [line for line in lines_written if line.endswith(b"\n")]
        return [orjson.loads(line) for line in complete if line.startswith(b"{")]

    def has_logged(self, event: str) -> bool:
        """Whether a line with that text is there."""
        return any(line["event"].startswith(event) for line in self.log())

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of its HTTP server's answer."""
        address = next(line["address"] for line in self.log() if "address" in line)
        try:
            with urllib.request.urlopen(f"http://{address}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Signal it and wait; its exit code."""
        self.process.send_signal(how)
        return self.process.wait(PATIENCE_S)


@contextmanager
def worker(
    shop: Shop, slot: str = "one", dies: tuple[str, int] | None = None
) -> Iterator[WorkerProcess]:
    """A worker process; killed at the end unless it has ended by itself.

    dies: the point at which it is to kill itself (`tests.broker.dying`), and the how many-th time.
    """
    command, environment = EDDY, dict(os.environ)
    if dies is not None:
        command = (sys.executable, "-m", "tests.broker.dying")
        environment |= {"EDDY_DIE_AT": dies[0], "EDDY_DIE_AFTER": str(dies[1])}
    log_file = shop.config.with_name(f"{shop.group}-{slot}-{time.time_ns()}.log")
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [*command, "run", str(shop.config), "--slot", slot],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        yield WorkerProcess(process, log_file)
    finally:
        process.kill()
        process.wait()


@contextmanager
def workers(shop: Shop, processes: int) -> Iterator[WorkerProcess]:
    """A supervisor with so many workers in slots shop-0, shop-1 and so on; all killed at the end."""
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
    """Return when the condition holds; fail when patience ends."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {PATIENCE_S} s for {what}"
        time.sleep(0.02)


# -- the reference --------------------------------------------------------------------------------


@dataclass
class Reference:
    """What a single thread makes of the log, and the shards that it was made with."""

    alerts: Outputs
    dead_letters: Outputs
    shards: dict[int, Shard]


def reference(shop: Shop, until: dict[int, int] | None = None) -> Reference:
    """Fold the shop's log as it is now, partition by partition; each up to `until`, where given."""
    config = load(shop.config)
    made = Reference({}, {}, {})
    by_partition: dict[int, list[Message]] = defaultdict(list)
    for message in messages(shop.bootstrap, shop.topic):
        partition = message.partition() or 0
        if until is None or (message.offset() or 0) < until[partition]:
            by_partition[partition].append(message)
    for partition, log in by_partition.items():
        shard = build_shard(config, "shop", RunInfo("live", "reference", str))
        alerts: list[Published] = []
        letters: list[Published] = []
        for start in range(0, len(log), REFERENCE_BATCH):
            emitted = shard.process(as_records(shop.topic, log[start : start + REFERENCE_BATCH]))
            alerts += [published_alert(alert_record(alert)) for alert in emitted.alerts]
            letters += [Published(*letter) for letter in emitted.dead_letters]
        made.shards[partition] = shard
        if alerts:
            made.alerts[partition] = alerts
        if letters:
            made.dead_letters[partition] = letters
    return made


def holds_all_once(shop: Shop) -> None:
    """The output topics hold what the reference emits: nothing missing, nothing twice."""
    expected = reference(shop)
    outputs = [*expected.alerts.values(), *expected.dead_letters.values()]
    assert sum(map(len, outputs)) > 20
    assert shop.alerts() == expected.alerts
    assert shop.dead_letters() == expected.dead_letters


def as_records(topic: str, log: list[Message]) -> Records:
    """Messages of one partition, converted the plain way."""
    headers: list[Any] = [message.headers() or [] for message in log]
    return Records(
        topic,
        log[0].partition() or 0,
        np.array([message.offset() for message in log], np.int64),
        np.array([message.timestamp()[1] for message in log], np.int64),
        [message.value() for message in log],
        headers,
    )


def codes_expected(events: int, seed: int = 7, malformed: float = 0.01) -> dict[bytes, str]:
    """The malformed records that `feed` wrote, each with the code that it must get."""
    made = lines(Simulated(events, seed), malformed)
    return {line.value: line.code for line in made if line.code is not None}


def send(shop: Shop, values: list[bytes]) -> None:
    """Put a few records of the test's own on the topic."""
    feed = Feed({"bootstrap.servers": shop.bootstrap}, shop.topic, "murmur2")
    for value in values:
        feed.send(b"key", value)
    feed.close()
