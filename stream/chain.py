"""All shards of a configuration over logs in memory: what replay and demo drive.

Into an internal log several partitions write. Live they do so as they arrive; here in the order of
event time, so that a replay is repeatable and a label comes when it would have come. An event may
go in only when no earlier one can follow, so it waits until its reader says how far all have come.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from schemas.alerts import Alert
from schemas.columns import F64, I64, EventBatch, joined
from schemas.records import Records
from stream.alerting import RunInfo
from stream.config import ASSESS, Config, Log, labels_from, logs
from stream.decoding import SharedDecoder
from stream.shard import Emitted, InternalShard, Shards, SourceShard
from stream.stages import InternalRecord
from stream.stages.watch import Said, said, silence

Counts = Mapping[str, Mapping[str, int]]
Place = tuple[str, int]


class Judged(NamedTuple):
    """Events that every monitor has judged, and what each said of them; and by "assess", where it
    scores every event, what they say together."""

    events: EventBatch
    said: dict[str, Said]


@dataclass(slots=True)
class _Held:
    """Events of one partition, in its order, that wait. due_ms: int64[n], the latest event time up
    to each: an event goes in when that has passed, so that a partition's order is kept."""

    events: EventBatch
    due_ms: I64


@dataclass(slots=True)
class _Source:
    """A source partition: its shard, how far it has come, and what waits to be judged."""

    shard: SourceShard
    reached_ms: int = -1
    held: deque[tuple[_Held, dict[str, Said]]] = field(default_factory=deque)


@dataclass(slots=True)
class _Internal:
    """A partition of an internal log: its shard, and what waits to go in."""

    shard: InternalShard
    held: list[_Held] = field(default_factory=list)


class Chain:
    """Every shard that the records so far have called for.

    topics: by input, what its records call their topic; by default what the configuration does.
    decoders: by input, what decodes it for several configurations at once.
    told_wanted: whether the features' values are wanted beside every event.
    every: every event is scored by assess, where it learns, and not only those reported.
    """

    def __init__(
        self,
        config: Config,
        run: RunInfo,
        topics: Mapping[str, str] | None = None,
        decoders: Mapping[str, SharedDecoder] | None = None,
        told_wanted: bool = False,
        every: bool = False,
    ) -> None:
        self._specs = {monitor.name: monitor for monitor in config.monitors}
        self._told_wanted = told_wanted
        self._every = every and bool(labels_from(config))
        self._shards = Shards(config, run, topics, decoders, self._every)
        self._logs = {(log.name, log.internal): log for log in logs(config)}
        self._sources: dict[Place, _Source] = {}
        self._input_of: dict[str, str] = {}
        self._internals: dict[Place, _Internal] = {}

    def put(self, input_name: str, records: Records) -> Emitted:
        """Take the next records of a partition of an input. Internal monitors do not speak yet."""
        place = (records.topic, records.partition)
        if place not in self._sources:
            self._sources[place] = _Source(self._shards.source(input_name))
            self._input_of[records.topic] = input_name
        source = self._sources[place]
        emitted = source.shard.process(records)
        events = emitted.events
        due_ms = np.maximum.accumulate(np.maximum(events.time_ms, source.reached_ms))
        if len(events):
            source.reached_ms = int(due_ms[-1])
            later = [hop.name for hop in source.shard.route.hops if hop.name in self._specs]
            silent = {
                name: silence(self._specs[name], len(events), self._told_wanted) for name in later
            }
            if self._every:
                silent[ASSESS] = _assessed(np.full(len(events), np.nan))
            source.held.append((_Held(events, due_ms), silent | self._said(emitted)))
        for record in emitted.internal:
            self._hold(record, _Held(events, due_ms))
        return emitted

    def _hold(self, record: InternalRecord, of: _Held) -> None:
        """Let a message wait whose events are among these."""
        place = (record.log, record.partition)
        if place not in self._internals:
            log = self._logs[record.log, True]
            self._internals[place] = _Internal(self._shards.internal(log))
        internal = self._internals[place]
        nowhere = np.zeros(1, np.int64)
        message = Records(record.log, record.partition, nowhere, nowhere, [record.value])
        sent = internal.shard.read(message)
        source = of.events.sources.index(sent.sources[int(sent.source[0])])
        rows = np.flatnonzero(of.events.source == source)
        places = np.searchsorted(of.events.offset[rows], sent.offset)
        internal.held.append(_Held(sent, of.due_ms[rows[places]]))

    def advance(self, until_ms: float) -> tuple[list[Alert], list[Judged]]:
        """Let the stages behind internal logs take what is due before that time: every partition
        has come so far. Returns their alerts, and all events that now every monitor has judged."""
        alerts: list[Alert] = []
        for reports in (False, True):  # what monitors report goes in before assess looks
            for place in [one for one in self._internals if (one[0] == ASSESS) == reports]:
                internal = self._internals[place]
                due = _due(internal, until_ms)
                if due is not None:
                    emitted = internal.shard.judge(due.events)
                    alerts += emitted.alerts
                    self._note(emitted)
                    for record in emitted.internal:
                        self._hold(record, due)
        return alerts, list(self._judged(until_ms))

    def _said(self, emitted: Emitted) -> dict[str, Said]:
        words = {
            name: said(self._specs[name], outcomes, self._told_wanted)
            for name, outcomes in emitted.outcomes.items()
        }
        if self._every and emitted.assessed is not None:
            words[ASSESS] = _assessed(emitted.assessed)
        return words

    def _note(self, emitted: Emitted) -> None:
        """Write what was said beside the events that it speaks of."""
        late = self._said(emitted)
        for index in np.unique(emitted.events.source).tolist():
            rows = np.flatnonzero(emitted.events.source == index)
            offset = emitted.events.offset[rows]
            for held, known_said in self._sources[emitted.events.sources[index]].held:
                known = held.events.offset
                here = (offset >= known[0]) & (offset <= known[-1])
                places = np.searchsorted(known, offset[here])
                # of places named often, as reports name them, the last stands
                for name, words in late.items():
                    for array, added in zip(known_said[name], words, strict=True):
                        array[..., places] = added[..., rows[here]]

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


def _assessed(p_value: F64) -> Said:
    """What assess says of events."""
    nothing = np.empty((0, len(p_value)))
    return Said(p_value, nothing.astype(np.bool_), nothing)


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
