"""The reference run: one thread folds the logs as they are, and its results are what workers must
have committed. An empty list of differences means that every byte is the same.

Records of internal topics are folded as they are in the log, since the order in which several
partitions write there is decided by the run; but each must be there once, whole, and in the order
of the partition that sent it.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
import orjson

from schemas.alerts import alert_record
from schemas.records import Records
from stream.checkpoints.manifest import decode, parse_pointer
from stream.checkpoints.migration import migrate
from stream.checkpoints.snapshot import rows_in_block
from stream.checkpoints.store import digest_of, each_block
from stream.config import Config, Log, logs, state_config
from stream.kafka.positions import Partition
from stream.pipeline.alerting import RunInfo
from stream.pipeline.shard import Shard, ShardFactory, ShardOutput
from tests.rows import Row, rows
from tests.simulation.broker import MemoryBroker
from tests.simulation.log import Entry
from tests.simulation.shop import ALERTS, DEAD_LETTERS, GROUP
from tests.simulation.source import as_records
from tests.simulation.store import Objects

RUN: Final = RunInfo("live", "reference", lambda: "2030-01-01T00:00:00.000Z")


class Era(NamedTuple):
    """A configuration, and the offset from which it is in force in each partition, 0 by default."""

    config: Config
    begins: Mapping[Partition, int]


@dataclass
class Reference:
    """The results of the reference run. alerts: by monitor and entity; dead_letters: by partition;
    both in order. problems: what is wrong with the internal topics. shards: as they are at the end."""

    alerts: dict[tuple[str, bytes], list[bytes]] = field(default_factory=lambda: defaultdict(list))
    dead_letters: dict[Partition, list[tuple[bytes, ...]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    shards: dict[Partition, Shard] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def reference(broker: MemoryBroker, eras: Sequence[Era]) -> Reference:
    """Fold all logs, stage by stage, partition by partition."""
    return _Run(broker, eras).made


class _Run:
    """The reference run while it goes on.

    sent: what stages have sent, by where it goes and who sent it. reader_of: where the event at a
    source's offset was read by the monitor behind an internal topic.
    """

    def __init__(self, broker: MemoryBroker, eras: Sequence[Era]) -> None:
        self.made = Reference()
        self._broker = broker
        self._eras = [(era, ShardFactory(era.config, RUN), logs(era.config)) for era in eras]
        self._internal = {log.name: log for log in self._eras[-1][2] if log.internal}
        self._readers = {name: self._eras[-1][1].make(log) for name, log in self._internal.items()}
        self._sent: dict[tuple[Partition, Partition], list[bytes]] = defaultdict(list)
        self._reader_of: dict[tuple[str, tuple[str, int], int], Partition] = {}
        for log in self._eras[-1][2]:
            for number in range(log.partitions):
                self._fold(log, Partition(log.topic, number))
        self.made.problems += (
            f"{to}: nothing arrived of what {by} sent"
            for (to, by), some in self._sent.items()
            if some
        )

    def _fold(self, log: Log, place: Partition) -> None:
        entries = self._broker.log(place).all_visible()
        if log.internal:
            self._check_arrivals(log, place, entries)
        shard: Shard | None = None
        own = [(era, shards) for era, shards, every in self._eras if log in every]
        for number, (era, shards) in enumerate(own):
            begin = era.begins.get(place, 0)
            end = own[number + 1][0].begins.get(place, 0) if number + 1 < len(own) else None
            made = shards.make(log, place.partition)
            if shard is not None and begin > 0:
                migrate(
                    shard.save(),
                    state_config(own[number - 1][0].config),
                    state_config(era.config),
                    made,
                )
            shard = made
            of_era = [one for one in entries if one[0] >= begin and (end is None or one[0] < end)]
            if of_era:
                self._take(log, place, shard.process(as_records(place, of_era)))
        assert shard is not None
        if entries:
            self.made.shards[place] = shard

    def _take(self, log: Log, place: Partition, output: ShardOutput) -> None:
        for alert in output.alerts:
            key, value, _ = alert_record(alert)
            _add_alert(self.made.alerts, key, value)
        for letter in output.dead_letters:
            self.made.dead_letters[place].append(_letter(*letter))
        for record in output.internal_records:
            goes_to = Partition(self._internal[record.log].topic, record.partition)
            self._sent[goes_to, place].append(record.value)
        if log.internal:
            events = output.events
            for source, offset in zip(events.source.tolist(), events.offset.tolist(), strict=True):
                self._reader_of[log.name, events.sources[source], offset] = place

    def _check_arrivals(self, log: Log, place: Partition, entries: list[tuple[int, Entry]]) -> None:
        """Compare what is in the internal topic with what was sent there, sender by sender."""
        arrived: dict[tuple[Partition, Any], list[Row]] = defaultdict(list)
        reader = self._readers[log.name]
        for row in rows(reader.decode(as_records(place, entries))) if entries else ():
            topic, partition = row.source
            at = row.writer, (topic, partition), row.offset
            sender = self._reader_of.get(at, row.source)
            arrived[sender, row.source].append(row)
        expected: dict[tuple[Partition, Any], list[Row]] = defaultdict(list)
        for (to, sender), some in self._sent.items():
            if to == place and some:
                message = Records(log.topic, 0, _numbered(some), _numbered(some), [*some])
                for row in rows(reader.decode(message)):
                    expected[sender, row.source].append(row)
                some.clear()
        self.made.problems += _differing(f"rows in {place}", expected, arrived)


def _numbered(some: Sequence[object]) -> Any:
    return np.arange(len(some), dtype=np.int64)


def _add_alert(alerts: dict[tuple[str, bytes], list[bytes]], key: bytes, value: bytes) -> None:
    body = orjson.loads(value)
    del body["run"]  # the log does not determine it
    alerts[body["monitor"], key].append(orjson.dumps(body))


def _letter(
    key: bytes | None, value: bytes, headers: Sequence[tuple[str, bytes]]
) -> tuple[bytes, ...]:
    return (key or b"", value, *(name.encode() + b"=" + body for name, body in headers))


def differences(broker: MemoryBroker, objects: Objects, expected: Reference) -> list[str]:
    """One line for each difference between what was committed and the reference run."""
    alerts: dict[tuple[str, bytes], list[bytes]] = defaultdict(list)
    for _, entry in broker.log(Partition(ALERTS, 0)).all_visible():
        _add_alert(alerts, entry.key or b"", entry.value or b"")
    letters: dict[Partition, list[tuple[bytes, ...]]] = defaultdict(list)
    for _, entry in broker.log(Partition(DEAD_LETTERS, 0)).all_visible():
        headers = dict(entry.headers)
        place = Partition(headers["eddy-topic"].decode(), int(headers["eddy-partition"]))
        letters[place].append(_letter(entry.key, entry.value or b"", entry.headers))
    return [
        *expected.problems,
        *_differing("alerts", expected.alerts, alerts),
        *_differing("dead letters", expected.dead_letters, letters),
        *(
            line
            for place, shard in expected.shards.items()
            for line in _state(broker, objects, place, shard)
        ),
    ]


def _differing(
    what: str, expected: Mapping[Any, list[Any]], found: Mapping[Any, list[Any]]
) -> Iterator[str]:
    for of in sorted({*expected, *found}):
        wanted, there = expected.get(of, []), found.get(of, [])
        if wanted != there:
            missing = sum((Counter(wanted) - Counter(there)).values())
            extra = sum((Counter(there) - Counter(wanted)).values())
            parts = [of] if isinstance(of, Partition) else of
            name = ", ".join(map(str, parts))
            yield f"{what} of {name}: {missing} missing, {extra} too many of {len(wanted)}"


def _state(broker: MemoryBroker, objects: Objects, place: Partition, shard: Shard) -> Iterator[str]:
    """Compare the checkpoint that the committed offset names with the shard's state."""
    committed = broker.committed(GROUP, place)
    pointer = committed and parse_pointer(committed.metadata)
    if committed is None or pointer is None:
        yield f"{place}: its committed offset names no checkpoint: {committed}"
        return
    folder = f"{GROUP}/{place.topic}/{place.partition}"
    body = objects.found.get(f"{folder}/manifests/{pointer.checkpoint}.json")
    if body is None:
        yield f"{place}: checkpoint {pointer.checkpoint} is missing"
        return
    manifest = decode(pointer.checkpoint, body[0])
    if manifest.offset != committed.next_offset:
        yield f"{place}: checkpoint at {manifest.offset}, committed {committed.next_offset}"
        return
    stored = {array.name: array for array in manifest.arrays}
    state = shard.save()
    for name in sorted({*stored, *state}):
        array = state.get(name)
        if array is None or name not in stored or stored[name].blocks != _blocks(array):
            yield f"{place}: array {name} differs"
        elif any(
            f"{folder}/blocks/{digest}" not in objects.found for digest in stored[name].blocks
        ):
            yield f"{place}: array {name} lacks a block"


def _blocks(array: Any) -> list[str]:
    rows = rows_in_block(array.dtype, array.shape)
    parts = (array[start:stop] for start, stop in each_block(len(array), rows))
    return [digest_of(np.ascontiguousarray(part).reshape(-1).view(np.uint8)) for part in parts]
