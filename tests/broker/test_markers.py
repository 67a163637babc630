"""Offsets without a readable record: transaction markers, aborted records, and gaps of compaction.
None counts as a lost record, and a group advances past all of them."""

import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from random import Random

import pytest
from confluent_kafka import Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.admin._resource import ResourceType
from obstore.store import LocalStore

from detectors.state import Arrays
from stream.checkpoints.loading import load as load_arrays
from stream.checkpoints.manifest import offset_of
from stream.checkpoints.recovered import StartContext
from stream.checkpoints.recovery import recover
from stream.checkpoints.store import Folder, open_store, saved_folder
from stream.config import load
from stream.config.stage_graph import logs
from stream.kafka.positions import Partition
from stream.kafka.topic_reader import OffsetRange, TopicReader
from stream.pipeline.alerting import RunInfo
from stream.pipeline.shard import ShardFactory
from stream.replay import replay
from stream.simulator import Shop as Simulated
from stream.simulator import lines
from tests.broker.own_broker import own_broker
from tests.broker.shop import (
    Shop,
    WorkerProcess,
    as_records,
    consumer,
    make_shop,
    wait_for,
    worker,
)
from tests.laws.test_laws import assert_same

SEEDS = 20
RESTARTS = 3
"""Of one sequence, before the last one."""
OFTEN: dict[str, object] = {"rewind_records_max": 30, "interval": "300ms"}
"""A checkpoint is due after 10 records, and soon after any advance."""
NAMED: dict[str, object] = {"session.timeout.ms": 6_000, "group.instance.id": "ours"}
"""A member with a name takes its partitions back at once, also after a SIGKILL."""
CLEANER = (
    "log.cleaner.backoff.ms=100",
    "log.initial.task.delay.ms=100",
    "log.cleaner.min.cleanable.ratio=0.001",
)
"""So that a broker compacts at once."""
COMPACTED = {"cleanup.policy": "compact", "segment.ms": "100", "max.compaction.lag.ms": "100"}
NOT_COMPACTED = {"cleanup.policy": "delete", "segment.ms": "3600000"}


@dataclass
class Log:
    """Partition 0 of a shop's topic, with the operations of producers and administrators."""

    shop: Shop
    values: Iterator[bytes]
    number: Iterator[int] = field(default_factory=count)

    @property
    def topic(self) -> str:
        """Its topic."""
        return self.shop.topic

    def put(self, records: int, key: bytes | None = None, end: str = "plain") -> None:
        """Write events: without a transaction, or in one that ends with "commit" or "abort". key:
        of all of them; by default each has its own."""
        own = {"bootstrap.servers": self.shop.bootstrap, "linger.ms": 0}
        if end != "plain":
            own["transactional.id"] = f"{self.topic}-{next(self.number)}"
        producer = Producer(own)
        if end != "plain":
            producer.init_transactions(30)
            producer.begin_transaction()
        for _ in range(records):
            own_key = key or b"%d" % next(self.number)
            producer.produce(self.topic, next(self.values), own_key, 0)
        assert producer.flush(30) == 0
        if end == "commit":
            producer.commit_transaction(30)
        elif end == "abort":
            producer.abort_transaction(30)

    def span(self) -> OffsetRange:
        """The offsets that a read_committed consumer can read."""
        with consumer(self.shop.bootstrap, "span") as client:
            found = client.get_watermark_offsets(TopicPartition(self.topic, 0), timeout=10)
        return OffsetRange(*found)

    def read(self, start: int) -> list[Message]:
        """All records that a read_committed consumer gets from that offset on."""
        found: list[Message] = []
        with consumer(self.shop.bootstrap, "read") as client:
            client.assign([TopicPartition(self.topic, 0, max(start, self.span().start))])
            while True:
                for message in client.consume(10_000, 0.05):
                    if message.error() is not None:  # the end
                        return found
                    found.append(message)

    def delete(self, up_to: int) -> None:
        """Delete the records before an offset, as retention does."""
        delete(self.shop, Partition(self.topic, 0), up_to)

    def compact(self) -> None:
        """Have the broker compact it, and wait: only the last record of each key is left."""
        readable = len(self.read(0))
        self._set(COMPACTED)
        for again in range(60):  # a broker may take a while to know the settings
            time.sleep(0.11)  # longer than segment.ms: the next record begins another segment
            if again % 20 == 0:
                self.put(1, b"rolls")
            if len(self.read(0)) < readable:
                break
        assert len(self.read(0)) < readable, "the broker does not compact"
        self._set(NOT_COMPACTED)

    def _set(self, settings: dict[str, str]) -> None:
        how = AlterConfigOpType.SET
        entries = [ConfigEntry(*one, incremental_operation=how) for one in settings.items()]
        topic = ConfigResource(ResourceType.TOPIC, self.topic, incremental_configs=entries)
        admin = AdminClient({"bootstrap.servers": self.shop.bootstrap})
        for future in admin.incremental_alter_configs([topic]).values():
            future.result()


def delete(shop: Shop, where: Partition, up_to: int) -> None:
    """Delete the records before an offset, as retention does."""
    admin = AdminClient({"bootstrap.servers": shop.bootstrap})
    for future in admin.delete_records([TopicPartition(*where, up_to)]).values():
        assert future.result().low_watermark == up_to


def log_of(shop: Shop, seed: int = 7) -> Log:
    """The shop's log."""
    return Log(shop, (line.value for line in lines(Simulated(10_000, seed), 0.01)))


def lags(process: WorkerProcess) -> dict[str, float]:
    """The worker's lag metrics, by labels; empty before it has partitions."""
    found = (line.split() for line in process.get("/metrics")[1].splitlines())
    return {one[0]: float(one[1]) for one in found if one[0].startswith("eddy_lag{")}


def places_of(shop: Shop) -> list[Partition]:
    """Every partition that the group reads."""
    config = load(shop.config)
    return [Partition(log.topic, p) for log in logs(config) for p in range(log.partitions)]


def wait_until_nothing_is_left(shop: Shop, process: WorkerProcess) -> None:
    """Wait until the group has committed the end of every log, and the worker is live with every
    lag 0. Advances over markers alone are committed with a checkpoint, see `OFTEN`."""
    places = places_of(shop)

    def all_committed() -> bool:
        ends = [end_of(shop, where) for where in places]
        return [max(0, one.offset) for one in shop.offsets(places)] == ends

    wait_for(lambda: any("address" in line for line in process.log()), "its server")
    wait_for(all_committed, "all ends to be committed")
    wait_for(lambda: process.get("/readyz")[0] == 200, "readiness")
    wait_for(lambda: list(lags(process).values()) == [0.0] * len(places), "lags of 0")


def end_of(shop: Shop, where: Partition) -> int:
    """The end of a log."""
    with consumer(shop.bootstrap, "end") as client:
        end: int = client.get_watermark_offsets(TopicPartition(*where), timeout=10)[1]
    return end


@pytest.mark.parametrize("internal_topics", [False, True], ids=["direct", "internal"])
def test_a_log_deleted_up_to_a_marker_loses_no_state(
    broker: str, tmp_path: Path, internal_topics: bool
) -> None:
    """A transaction and its marker are read, then retention deletes all of it, also of internal
    topics: the group continues."""
    shop = make_shop(
        broker,
        tmp_path,
        "marker",
        1,
        OFTEN,
        NAMED,
        internal_topics=internal_topics,
        batch_records=100,
    )
    log = log_of(shop)
    log.put(100, end="commit")
    with worker(shop) as process:
        wait_until_nothing_is_left(shop, process)
        assert process.stop() == 0
    assert shop.committed() == {0: 101}
    for place in places_of(shop):
        if end := end_of(shop, place):
            delete(shop, place, end)
    log.put(10, end="abort")
    with worker(shop) as process:
        wait_until_nothing_is_left(shop, process)
        taken = [line for line in process.log() if line["event"] == "partition taken"]
        assert {line["next_offset"] for line in taken if line["topic"] == shop.topic} == {101}
        log.put(10, end="commit")
        wait_until_nothing_is_left(shop, process)
        assert process.stop() == 0
    assert shop.committed() == {0: 123}


# -- stretches -------------------------------------------------------------------------------------


@dataclass
class Mixed:
    """A log with 10 committed records and a marker, 5 aborted records and a marker, 10 plain
    records that compaction may remove, 5 committed records and a marker, and 5 aborted ones at the
    end."""

    log: Log
    visible: list[int]
    end: int


@pytest.fixture(scope="module")
def mixed(compacting: str, tmp_path_factory: pytest.TempPathFactory) -> Mixed:
    """Such a log, compacted."""
    shop = make_shop(compacting, tmp_path_factory.mktemp("mixed"), "mixed", 1)
    log = log_of(shop)
    log.put(10, end="commit")  # 0 to 9, marker at 10
    log.put(5, end="abort")  # 11 to 15, marker at 16
    log.put(9, key=b"same")  # 17 to 25
    log.put(1, key=b"same")  # 26
    log.compact()  # 27; 17 to 25 are gone
    log.put(4, end="commit")  # 28 to 31, marker at 32
    log.put(4, end="abort")  # 33 to 36, marker at 37
    visible = [message.offset() or 0 for message in log.read(0)]
    assert set(range(17, 26)).isdisjoint(visible)
    end = log.span().stop
    assert end >= 38
    return Mixed(log, visible, end)


@pytest.fixture(scope="module")
def compacting(tmp_path_factory: pytest.TempPathFactory, broker: str) -> Iterator[str]:
    """A broker that compacts at once."""
    with own_broker(tmp_path_factory.mktemp("compacting"), CLEANER) as own:
        yield own.bootstrap


@pytest.mark.parametrize(
    "stretch",
    [
        *[(0, 38), (0, 10), (0, 11), (10, 11), (9, 14), (11, 17), (12, 14), (17, 20)],
        *[(16, 26), (20, 27), (26, 33), (32, 33), (33, 38), (35, 37), (37, 38)],
    ],
)
def test_a_range_ends_whatever_record_is_last(mixed: Mixed, stretch: tuple[int, int]) -> None:
    """A record, a marker, aborted records, or a gap of compaction: exactly its records are read; a
    wait for more would be an error."""
    config, span = load(mixed.log.shop.config), OffsetRange(*stretch)
    with TopicReader(config.kafka, config.group, mixed.log.topic) as reader:
        reader.start({0: span})
        read = [at for some in reader.records(0, 7) for at in some.offset.tolist()]
    assert read == [at for at in mixed.visible if span.start <= at < span.stop]


@pytest.mark.parametrize("deleted", [False, True], ids=["whole", "deleted"])
@pytest.mark.parametrize("until", [11, 38], ids=["marker", "aborted"])
def test_a_group_begins_after_the_markers_of_a_saved_state(
    mixed: Mixed, tmp_path: Path, until: int, deleted: bool
) -> None:
    """A saved state's offset is the end of its range, not its last record: the log may be deleted
    up to there."""
    place = str(tmp_path / "saved")
    config, topic = load(mixed.log.shop.config), mixed.log.topic
    inputs = [("shop", f"kafka://{topic}?until={until}")]
    replay(config, inputs, tmp_path / "out", lambda *_: None, save_state=place)
    [log] = logs(config)
    found = recover(
        StartContext(
            config=config,
            run=RunInfo("live", "run", str),
            log=log,
            partition=0,
            folder=Folder(open_store(str(tmp_path / "own")), "group", topic, 0),
            committed=None,
            low=until if deleted else 0,
            high=mixed.end,
            beat=lambda: None,
            saved=saved_folder(open_store(place), log, 0),
        )
    )
    assert found.head.offset == found.live_from == until


# -- sequences -------------------------------------------------------------------------------------


class Sequence:
    """Changes of a log while no worker runs, and the state that its group must have.

    Records are deleted or compacted only up to the group's last checkpoint, except for those that
    no consumer can read. read: the records that were readable before they were deleted.
    """

    def __init__(self, log: Log, seed: int) -> None:
        self.log = log
        self.random = Random(seed)
        self.read: list[Message] = []
        self.next_offset = 0
        self.done: list[str] = []

    def step(self) -> None:
        """Apply one change."""
        chosen = self.random.choice([self.records, self.marker, self.abort, self.delete, self.gap])
        self.done.append(chosen.__name__)
        chosen()

    def _some(self) -> int:
        return self.random.choice([1, 2, 10, 20, 37])

    def records(self) -> None:
        """Plain records."""
        self.log.put(self._some())

    def marker(self) -> None:
        """A transaction."""
        self.log.put(self._some(), end="commit")

    def abort(self) -> None:
        """An aborted transaction."""
        self.log.put(self._some(), end="abort")

    def delete(self) -> None:
        """Delete the records before an offset, as retention does."""
        self.log.delete(self.log.shop.committed()[0])

    def gap(self) -> None:
        """Records of which compaction leaves only the last, while no worker runs."""
        end = self.random.choice(["plain", "commit"])
        self.log.put(self._some(), b"same", end)
        self.log.put(2, b"same")
        self.log.compact()

    def metadata(self) -> None:
        """Remember the readable records: from now on the log may lose them."""
        self.read += self.log.read(self.next_offset)
        self.next_offset = max(self.next_offset, self.log.span().stop)

    def expected(self) -> Arrays:
        """The state after all remembered records."""
        shard = ShardFactory(
            load(self.log.shop.config), RunInfo("live", "reference", str)
        ).input_shard("shop")
        if self.read:
            shard.process(as_records(self.log.topic, self.read))
        return shard.save()


@pytest.mark.long
@pytest.mark.parametrize("seed", range(SEEDS))
def test_no_sequence_of_markers_gaps_and_restarts_loses_the_state(
    compacting: str, tmp_path: Path, seed: int
) -> None:
    """After any sequence of records, transactions, aborts, compaction, deletion, clean stops and
    kills, every worker starts, its lag reaches 0, and in the end the state equals one fold over
    every record that was ever readable."""
    shop = make_shop(compacting, tmp_path, f"sequence{seed}", 1, OFTEN, NAMED, batch_records=10)
    log = log_of(shop, seed)
    sequence = Sequence(log, seed)
    sequence.records()
    for last in [*[False] * RESTARTS, True]:
        sequence.metadata()
        with worker(shop) as process:
            wait_until_nothing_is_left(shop, process)
            for _ in range(sequence.random.randint(0, 2)):
                sequence.random.choice([sequence.records, sequence.marker, sequence.abort])()
            sequence.metadata()
            wait_until_nothing_is_left(shop, process)
            if not last and sequence.random.random() < 0.3:
                process.stop(signal.SIGKILL)
                log.delete(
                    offset_of(shop.committed_checkpoint())
                )  # what a restart needs begins there
                continue
            assert process.stop() == 0
        if not last:
            sequence.step()
            sequence.step()
    committed = shop.committed()[0]
    assert committed == log.span().stop, sequence.done
    folder = Folder(LocalStore(shop.store), shop.group, shop.topic, 0)
    manifest = folder.manifest(shop.committed_checkpoint())
    assert manifest.offset == committed
    assert_same(load_arrays(folder, manifest, lambda: None), sequence.expected())
