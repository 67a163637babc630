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

from detectors.monitor import told_names
from schemas.alerts import Alert
from schemas.columns import I64, EventBatch, joined
from schemas.records import Records
from stream.alerting import RunInfo
from stream.config import ASSESS, Config, Log, logs, ways
from stream.shard import Emitted, InternalShard, Shard, Shards
from stream.stages import InternalRecord
from stream.stages.watch import NOTHING_WANTED, Said, Wanted, silence

Counts = Mapping[str, Mapping[str, int]]
Place = tuple[str, int]


class Judged(NamedTuple):
    """Events that every monitor has judged, and what each said of them; and by "assess" what they
    say together."""

    events: EventBatch
    said: dict[str, Said]


class State(NamedTuple):
    """A partition's state. next_offset: of the first record that it has not seen, 0 where its
    records were a broker's not. until_ms: where that says nothing, the latest event time that its
    input has come to; None where there was no event, and of an internal log."""

    log: Log
    partition: int
    shard: Shard
    next_offset: int
    until_ms: int | None


class Making(Protocol):
    """Makes shards, wherever they live."""

    def source(self, input_name: str, partition: int = 0) -> Shard:
        """The shard of a partition of an input."""

    def internal(self, log: Log, partition: int = 0) -> InternalShard:
        """The shard of a partition of an internal log."""


@dataclass(slots=True)
class _Held:
    """Events of one partition, in its order, that wait. due_ms: int64[n], a time for each that
    never falls: an event goes in when that has passed, so that a partition's order is kept."""

    events: EventBatch
    due_ms: I64


@dataclass(slots=True)
class _Source:
    """A source partition: its shard, the monitors that speak later, how far it has come, and what
    waits to be judged. next_offset: behind its last record on a broker, 0 where it is read from
    files."""

    shard: Shard
    later: list[str]
    reached_ms: int = -1
    next_offset: int = 0
    held: deque[tuple[_Held, dict[str, Said]]] = field(default_factory=deque)


@dataclass(slots=True)
class _Internal:
    """A partition of an internal log: its shard, and what waits to go in."""

    shard: InternalShard
    held: list[_Held] = field(default_factory=list)


_Judging = tuple[_Held, Callable[[], Emitted]]
"""What went into a stage behind an internal log, and what asks what came of it."""
Advanced = tuple[list[Alert], list[Judged]]


class Chain:
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
        wanted: Wanted = NOTHING_WANTED,
        recorded: Mapping[str, Log] | None = None,
        shards: Making | None = None,
    ) -> None:
        self._features = {one.name: len(told_names(one)) for one in config.monitors}
        self._wanted = wanted
        self._shards = shards or Shards(config, run, topics, wanted=wanted)
        self._later = {
            name: [
                way.reader
                for way, monitor in zip(ways(config), config.monitors, strict=True)
                if way.internal and name in monitor.inputs
            ]
            for name in config.inputs
        }
        if config.assess and wanted.scores:
            self._features[ASSESS] = 0
            for later in self._later.values():
                later.append(ASSESS)
        self._logs = {(log.name, log.internal): log for log in logs(config)}
        self._recorded = recorded or {}
        self.recorded = frozenset(log.name for log in self._recorded.values())
        self._ready: list[Judged] = []
        self._sources: dict[Place, _Source] = {}
        self._input_of: dict[str, str] = {}
        self._internals: dict[Place, _Internal] = {}

    def put(self, input_name: str, records: Records) -> Emitted:
        """Take the next records of a partition of an input, which is a log of its own.

        Monitors behind internal logs do not speak yet.
        """
        emitted = self.begin(input_name, records)()
        reached_ms = self._sources[records.topic, records.partition].reached_ms
        due_ms = np.maximum.accumulate(np.maximum(emitted.events.time_ms, reached_ms))
        self.hold(records, emitted, due_ms)
        return emitted

    def begin(self, input_name: str, records: Records) -> Callable[[], Emitted]:
        """The first half of that, also for a recorded internal log: several partitions may begin
        before the first one is asked for what came of it. They must be asked in the order in which
        they began."""
        if records.topic in self._recorded:
            internal = self._internal(self._recorded[records.topic], records.partition)
            return internal.shard.begin_judging(internal.shard.read(records))
        place = (records.topic, records.partition)
        if place not in self._sources:
            shard = self._shards.source(input_name, records.partition)
            self._sources[place] = _Source(shard, self._later[input_name])
            self._input_of[records.topic] = input_name
        source = self._sources[place]
        if len(records) and records.timestamp_ms[-1] >= 0:  # files have no broker's time
            source.next_offset = int(records.offset[-1]) + 1
        return source.shard.begin(records)

    def hold(self, records: Records, emitted: Emitted, due_ms: I64) -> None:
        """The second half: let wait what came of the records. due_ms: int64[n] of its events: all
        that is due before goes in before them."""
        if records.topic in self._recorded:  # which waited for nothing: their order is known
            if emitted.said.keys() - {ASSESS}:
                self._ready.append(Judged(emitted.events, emitted.said))
        elif len(due_ms):
            self._wait(self._sources[records.topic, records.partition], emitted, due_ms)
        self._pass_on(emitted, due_ms)

    def _wait(self, source: _Source, emitted: Emitted, due_ms: I64) -> None:
        """Let the events of an input wait for all that is said of them."""
        source.reached_ms = int(due_ms[-1])
        silent = {
            name: silence(self._features[name], len(due_ms), self._wanted) for name in source.later
        }
        source.held.append((_Held(emitted.events, due_ms), silent | emitted.said))

    def _pass_on(self, emitted: Emitted, due_ms: I64) -> None:
        """Let wait what goes into internal logs that are made here."""
        for record in emitted.internal:
            if record.log not in self.recorded:
                self._hold(record, _Held(emitted.events, due_ms))

    def _internal(self, log: Log, partition: int) -> _Internal:
        place = (log.name, partition)
        if place not in self._internals:
            self._internals[place] = _Internal(self._shards.internal(log, partition))
        return self._internals[place]

    def _hold(self, record: InternalRecord, of: _Held) -> None:
        """Let a message wait whose events are among these."""
        internal = self._internal(self._logs[record.log, True], record.partition)
        nowhere = np.zeros(1, np.int64)
        message = Records(record.log, record.partition, nowhere, nowhere, [record.value])
        sent = internal.shard.read(message)
        source = of.events.sources.index(sent.sources[int(sent.source[0])])
        rows = np.flatnonzero(of.events.source == source)
        places = np.searchsorted(of.events.offset[rows], sent.offset)
        internal.held.append(_Held(sent, of.due_ms[rows[places]]))

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
            (due, internal.shard.begin_judging(due.events))
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
            emitted = ended()
            alerts += emitted.alerts
            self._note(emitted)
            self._pass_on(emitted, due.due_ms)
        return alerts

    def _note(self, emitted: Emitted) -> None:
        """Write what was said beside the events that it speaks of."""
        for index in np.unique(emitted.events.source).tolist():
            rows = np.flatnonzero(emitted.events.source == index)
            offset = emitted.events.offset[rows]
            source = self._sources.get(emitted.events.sources[index])
            for held, words in source.held if source else ():  # none of a recorded log
                known = held.events.offset
                here = (offset >= known[0]) & (offset <= known[-1])
                places = np.searchsorted(known, offset[here])
                for name, said in emitted.said.items():
                    words[name].put(places, said.take(rows[here]))

    def _judged(self, until_ms: float) -> Iterator[Judged]:
        for source in self._sources.values():
            while source.held:
                held, words = source.held.popleft()
                size = len(held.events)
                done = int(np.searchsorted(held.due_ms, until_ms))
                if done:
                    first = {name: one.slice(0, done) for name, one in words.items()}
                    yield Judged(held.events.slice(0, done), first)
                if done < size:
                    rest = _Held(held.events.slice(done, size), held.due_ms[done:])
                    left = {name: one.slice(done, size) for name, one in words.items()}
                    source.held.appendleft((rest, left))
                    break

    def states(self) -> Iterator[State]:
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
                yield State(log, partition, shard, offset, None if says_more else came_to_ms)

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


def _due(internal: _Internal, until_ms: float) -> _Held | None:
    """Take out what is due before that time, in its order; None where nothing is."""
    if not internal.held:
        return None
    events = joined([held.events for held in internal.held])
    due_ms = np.concatenate([held.due_ms for held in internal.held])
    order = np.lexsort((events.offset, events.source, due_ms))
    count = int(np.searchsorted(due_ms[order], until_ms))
    rest = order[count:]
    internal.held = [_Held(events.take(rest), due_ms[rest])] if len(rest) else []
    first = order[:count]
    return _Held(events.take(first), due_ms[first]) if count else None
