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
from stream.shard import Emitted, InternalShard, Shards, SourceShard
from stream.stages import InternalRecord

Counts = Mapping[str, Mapping[str, int]]
Place = tuple[str, int]


class Judged(NamedTuple):
    """Events that every monitor has judged. p_values: monitor → float64[n], NaN where silent."""

    events: EventBatch
    p_values: dict[str, F64]


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
    held: deque[tuple[_Held, dict[str, F64]]] = field(default_factory=deque)


@dataclass(slots=True)
class _Internal:
    """A partition of an internal log: its shard, and what waits to go in."""

    shard: InternalShard
    held: list[_Held] = field(default_factory=list)


class Chain:
    """Every shard that the records so far have called for.

    topics: by input, what its records call their topic; by default what the configuration does.
    every: every event is scored by assess, where it learns, and not only those reported.
    """

    def __init__(
        self,
        config: Config,
        run: RunInfo,
        topics: Mapping[str, str] | None = None,
        every: bool = False,
    ) -> None:
        self._shards = Shards(config, run, topics, every)
        self._scored = [ASSESS] if every and labels_from(config) else []
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
            later = {*(hop.name for hop in source.shard.route.hops), *self._scored}
            silent = {name: np.full(len(events), np.nan) for name in sorted(later)}
            source.held.append((_Held(events, due_ms), silent | emitted.p_values))
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

    def _note(self, emitted: Emitted) -> None:
        """Write p-values beside the events that they speak of."""
        for index in np.unique(emitted.events.source).tolist():
            rows = np.flatnonzero(emitted.events.source == index)
            offset = emitted.events.offset[rows]
            for held, p_values in self._sources[emitted.events.sources[index]].held:
                known = held.events.offset
                here = (offset >= known[0]) & (offset <= known[-1])
                places = np.searchsorted(known, offset[here])
                # of places named often, as reports do, the last stands
                for name in p_values.keys() & emitted.p_values.keys():
                    p_values[name][places] = emitted.p_values[name][rows[here]]

    def _judged(self, until_ms: float) -> Iterator[Judged]:
        for source in self._sources.values():
            while source.held:
                held, p_values = source.held.popleft()
                size = len(held.events)
                done = int(np.searchsorted(held.due_ms, until_ms))
                if done:
                    first = {name: p[:done] for name, p in p_values.items()}
                    yield Judged(held.events.slice(0, done), first)
                if done < size:
                    rest = _Held(held.events.slice(done, size), held.due_ms[done:])
                    left = {name: p[done:] for name, p in p_values.items()}
                    source.held.appendleft((rest, left))
                    break

    def counts(self) -> Iterator[tuple[Log, Counts]]:
        """The counters of every shard, with the log that it reads."""
        for (topic, _), source in self._sources.items():
            yield self._logs[self._input_of[topic], False], source.shard.counts()
        for (name, _), internal in self._internals.items():
            yield self._logs[name, True], internal.shard.counts()


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
