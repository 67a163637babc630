"""All shards of a configuration over logs in memory: what replay and demo drive.

Into an internal log several partitions write. Live they do so as they arrive; here in the order of
event time, so that a replay is repeatable and a label comes when it would have come. An event may
go in only when no earlier one can follow, so it waits until its reader says how far all have come.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from operator import itemgetter
from typing import NamedTuple, Protocol

import numpy as np

from detectors.monitor import value_names
from schemas.alerts import Alert
from schemas.columns import I64, EventBatch, concat_batches
from schemas.records import Records
from stream.config import ASSESS, Config, Log, logs, read_paths
from stream.pipeline.alerting import RunInfo
from stream.pipeline.shard import InternalShard, Shard, ShardFactory, ShardOutput
from stream.pipeline.stages import InternalRecord
from stream.pipeline.stages.watch import NO_SCORES, ScoreColumns, ScoreSelection, empty_scores

Counts = Mapping[str, Mapping[str, int]]
TopicPartition = tuple[str, int]


class ScoredEvents(NamedTuple):
    """Events that every monitor has judged, and what each said of them; and by "assess" what they
    say together."""

    events: EventBatch
    scores: dict[str, ScoreColumns]


class PartitionState(NamedTuple):
    """A partition's state. next_offset: of the first record that it has not seen, 0 where its
    records were a broker's not. until_ms: where that says nothing, the latest event time that its
    input has come to; None where there was no event, and of an internal log."""

    log: Log
    partition: int
    shard: Shard
    next_offset: int
    until_ms: int | None


class ShardFactoryProtocol(Protocol):
    """Makes shards, wherever they live."""

    def source(self, input_name: str, partition: int = 0) -> Shard:
        """The shard of a partition of an input."""

    def internal(self, log: Log, partition: int = 0) -> InternalShard:
        """The shard of a partition of an internal log."""


@dataclass(slots=True)
class _PendingEvents:
    """Events of one partition, in its order, that wait. due_ms: int64[n], a time for each that
    never falls: an event goes in when that has passed, so that a partition's order is kept."""

    events: EventBatch
    due_ms: I64


@dataclass(slots=True)
class _InputPartition:
    """A source partition: its shard, the monitors that speak later, how far it has come, and what
    waits to be judged. next_offset: behind its last record on a broker, 0 where it is read from
    files."""

    shard: Shard
    later: list[str]
    reached_ms: int = -1
    next_offset: int = 0
    held: deque[tuple[_PendingEvents, dict[str, ScoreColumns]]] = field(default_factory=deque)


@dataclass(slots=True)
class _InternalPartition:
    """A partition of an internal log: its shard, and what waits to go in."""

    shard: InternalShard
    held: list[_PendingEvents] = field(default_factory=list)


_Judging = tuple[_PendingEvents, Callable[[], ShardOutput]]
"""What went into a stage behind an internal log, and what asks what came of it."""
Advanced = tuple[list[Alert], list[ScoredEvents]]


class InMemoryCluster:
    """Every shard that the records so far have called for.

    topics: by input, what its records call their topic; by default what the configuration does.
    wanted: what the monitors are to say of every event.
    recorded: internal logs that are read as they were recorded, by topic: what the stages here
    would put into them stands there already, in the order that it had. shards: what makes them;
    it must know topics and what is wanted.
    """

    def __init__(
        self,
        config: Config,
        run: RunInfo,
        topics: Mapping[str, str] | None = None,
        selection: ScoreSelection = NO_SCORES,
        recorded: Mapping[str, Log] | None = None,
        shards: ShardFactoryProtocol | None = None,
    ) -> None:
        self._features = {one.name: len(value_names(one)) for one in config.monitors}
        self._wanted = selection
        self._shards = shards or ShardFactory(config, run, topics, selection=selection)
        self._later = {
            name: [
                read_path.reader
                for read_path, monitor in zip(read_paths(config), config.monitors, strict=True)
                if read_path.internal and name in monitor.inputs
            ]
            for name in config.inputs
        }
        if config.assess and selection.scores:
            self._features[ASSESS] = 0
            for later in self._later.values():
                later.append(ASSESS)
        self._logs = {(log.name, log.internal): log for log in logs(config)}
        self._recorded = recorded or {}
        self.recorded = frozenset(log.name for log in self._recorded.values())
        self._ready: list[ScoredEvents] = []
        self._sources: dict[TopicPartition, _InputPartition] = {}
        self._input_of: dict[str, str] = {}
        self._internals: dict[TopicPartition, _InternalPartition] = {}

    def put(self, input_name: str, records: Records) -> ShardOutput:
        """Take the next records of a partition of an input, which is a log of its own.

        Monitors behind internal logs do not speak yet.
        """
        output = self.begin(input_name, records)()
        reached_ms = self._sources[records.topic, records.partition].reached_ms
        due_ms = np.maximum.accumulate(np.maximum(output.events.time_ms, reached_ms))
        self.hold(records, output, due_ms)
        return output

    def begin(self, input_name: str, records: Records) -> Callable[[], ShardOutput]:
        """The first half of that, also for a recorded internal log: several partitions may begin
        before the first one is asked for what came of it. They must be asked in the order in which
        they began."""
        if records.topic in self._recorded:
            internal = self._internal(self._recorded[records.topic], records.partition)
            return internal.shard.begin_events(internal.shard.read(records))
        place = (records.topic, records.partition)
        if place not in self._sources:
            shard = self._shards.source(input_name, records.partition)
            self._sources[place] = _InputPartition(shard, self._later[input_name])
            self._input_of[records.topic] = input_name
        source = self._sources[place]
        if len(records) and records.timestamp_ms[-1] >= 0:  # files have no broker's time
            source.next_offset = int(records.offset[-1]) + 1
        return source.shard.begin(records)

    def hold(self, records: Records, output: ShardOutput, due_ms: I64) -> None:
        """The second half: let wait what came of the records. due_ms: int64[n] of its events: all
        that is due before goes in before them."""
        if records.topic in self._recorded:  # which waited for nothing: their order is known
            if output.scores.keys() - {ASSESS}:
                self._ready.append(ScoredEvents(output.events, output.scores))
        elif len(due_ms):
            self._wait(self._sources[records.topic, records.partition], output, due_ms)
        self._pass_on(output, due_ms)

    def _wait(self, source: _InputPartition, output: ShardOutput, due_ms: I64) -> None:
        """Let the events of an input wait for all that is said of them."""
        source.reached_ms = int(due_ms[-1])
        silent = {
            name: empty_scores(self._features[name], len(due_ms), self._wanted)
            for name in source.later
        }
        source.held.append((_PendingEvents(output.events, due_ms), silent | output.scores))

    def _pass_on(self, output: ShardOutput, due_ms: I64) -> None:
        """Let wait what goes into internal logs that are made here."""
        for record in output.internal:
            if record.log not in self.recorded:
                self._hold(record, _PendingEvents(output.events, due_ms))

    def _internal(self, log: Log, partition: int) -> _InternalPartition:
        place = (log.name, partition)
        if place not in self._internals:
            self._internals[place] = _InternalPartition(self._shards.internal(log, partition))
        return self._internals[place]

    def _hold(self, record: InternalRecord, of: _PendingEvents) -> None:
        """Let a message wait whose events are among these."""
        internal = self._internal(self._logs[record.log, True], record.partition)
        nowhere = np.zeros(1, np.int64)
        message = Records(record.log, record.partition, nowhere, nowhere, [record.value])
        sent = internal.shard.read(message)
        source = of.events.sources.index(sent.sources[int(sent.source[0])])
        rows = np.flatnonzero(of.events.source == source)
        places = np.searchsorted(of.events.offset[rows], sent.offset)
        internal.held.append(_PendingEvents(sent, of.due_ms[rows[places]]))

    def advance(self, until_ms: float) -> Advanced:
        """Let the stages behind internal logs take what is due before that time: every partition
        has come so far. Returns their alerts, and all events that now every monitor has judged."""
        return self.begin_advance(until_ms)()

    def begin_advance(self, until_ms: float) -> Callable[[], Advanced]:
        """The same, in two steps: more may be put in between, but no second one begun."""
        return partial(self._advance, until_ms, self._begin_judging(until_ms, of_assess=False))

    def _begin_judging(self, until_ms: float, *, of_assess: bool) -> list[_Judging]:
        """In an order of their own, not that of their first messages: it is that of the reports on
        an event."""
        return [
            (due, internal.shard.begin_events(due.events))
            for place, internal in sorted(self._internals.items(), key=itemgetter(0))
            if (place[0] == ASSESS) == of_assess and (due := _due(internal, until_ms))
        ]

    def _advance(self, until_ms: float, of_monitors: list[_Judging]) -> Advanced:
        alerts = self._judge(of_monitors)
        # what monitors report has gone in before assess looks
        alerts += self._judge(self._begin_judging(until_ms, of_assess=True))
        ready, self._ready = self._ready, []
        return alerts, [*ready, *self._judged(until_ms)]

    def _judge(self, begun: list[_Judging]) -> list[Alert]:
        """Wait for stages behind internal logs; their alerts."""
        alerts: list[Alert] = []
        for due, ended in begun:
            output = ended()
            alerts += output.alerts
            self._note(output)
            self._pass_on(output, due.due_ms)
        return alerts

    def _note(self, output: ShardOutput) -> None:
        """Write what was said beside the events that it speaks of."""
        for index in np.unique(output.events.source).tolist():
            rows = np.flatnonzero(output.events.source == index)
            offset = output.events.offset[rows]
            source = self._sources.get(output.events.sources[index])
            for held, scores in source.held if source else ():  # none of a recorded log
                known = held.events.offset
                here = (offset >= known[0]) & (offset <= known[-1])
                places = np.searchsorted(known, offset[here])
                for name, columns in output.scores.items():
                    scores[name].put(places, columns.take(rows[here]))

    def _judged(self, until_ms: float) -> Iterator[ScoredEvents]:
        for source in self._sources.values():
            while source.held:
                held, scores = source.held.popleft()
                size = len(held.events)
                done = int(np.searchsorted(held.due_ms, until_ms))
                if done:
                    first = {name: one.slice(0, done) for name, one in scores.items()}
                    yield ScoredEvents(held.events.slice(0, done), first)
                if done < size:
                    rest = _PendingEvents(held.events.slice(done, size), held.due_ms[done:])
                    left = {name: one.slice(done, size) for name, one in scores.items()}
                    source.held.appendleft((rest, left))
                    break

    def states(self) -> Iterator[PartitionState]:
        """The state of every partition of every log, an empty one where it had no records.

        All that was put must have gone in. An input without events has come as far as the others.
        """
        next_offset: dict[tuple[str, bool, int], int] = {}
        found: dict[tuple[str, bool, int], Shard] = {
            (name, True, partition): internal.shard
            for (name, partition), internal in self._internals.items()
        }
        reached_ms: dict[str, int] = {}
        for (topic, partition), source in self._sources.items():
            name = self._input_of[topic]
            found[name, False, partition] = source.shard
            next_offset[name, False, partition] = source.next_offset
            reached_ms[name] = max(source.reached_ms, reached_ms.get(name, -1))
        latest_ms = max(reached_ms.values(), default=-1)
        for log in self._logs.values():
            came_to_ms = reached_ms.get(log.name, latest_ms)
            for partition in range(log.partitions):
                place = log.name, log.internal, partition
                shard = found.get(place) or self._made(log, partition)
                offset = next_offset.get(place, 0)
                says_more = log.internal or came_to_ms < 0 or offset > 0
                yield PartitionState(
                    log, partition, shard, offset, None if says_more else came_to_ms
                )

    def _made(self, log: Log, partition: int) -> Shard:
        if log.internal:
            return self._shards.internal(log, partition)
        return self._shards.source(log.name, partition)

    def counts(self) -> Iterator[tuple[Log, Counts]]:
        """The counters of every shard, with the log that it reads."""
        for (topic, _), source in self._sources.items():
            yield self._logs[self._input_of[topic], False], source.shard.counts()
        for (name, _), internal in self._internals.items():
            yield self._logs[name, True], internal.shard.counts()

    def state_bytes(self) -> int:
        """The state of every shard, as a checkpoint would hold it."""
        shards = [source.shard for source in self._sources.values()]
        internal = [one.shard for one in self._internals.values()]
        return sum(
            array.nbytes for shard in [*shards, *internal] for array in shard.save().values()
        )


def _due(internal: _InternalPartition, until_ms: float) -> _PendingEvents | None:
    """Take out what is due before that time, in its order; None where nothing is."""
    if not internal.held:
        return None
    events = concat_batches([held.events for held in internal.held])
    due_ms = np.concatenate([held.due_ms for held in internal.held])
    order = np.lexsort((events.offset, events.source, due_ms))
    count = int(np.searchsorted(due_ms[order], until_ms))
    rest = order[count:]
    internal.held = [_PendingEvents(events.take(rest), due_ms[rest])] if len(rest) else []
    first = order[:count]
    return _PendingEvents(events.take(first), due_ms[first]) if count else None
