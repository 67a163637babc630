"""All shards of a configuration over in-memory logs: replay and demo drive this.

Several partitions write to an internal topic. Live, their rows are in arrival order. Here they are
ordered by due time (`inputs.order`), so that a replay is repeatable and a label is processed at the
time it became known. A row waits until every input has reached its due time: then no earlier row can
follow.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

from schemas.alerts import Alert
from schemas.columns import I64, EventBatch
from schemas.records import Records
from stream.config import Config
from stream.config.stages import StageNode, logs, nodes
from stream.config.topology import Log
from stream.pipeline.alerting import RunInfo
from stream.pipeline.scores import NO_SCORES, ScoreColumns, ScoreSelection, empty_scores
from stream.pipeline.shard import Shard, ShardFactory, ShardOutput
from stream.pipeline.stages import InternalRecord, OutputRecord

Counts = Mapping[str, Mapping[str, int]]
TopicPartition = tuple[str, int]


class ScoredEvents(NamedTuple):
    """Events that every stage has processed, and their scores by stage."""

    events: EventBatch
    scores: dict[str, ScoreColumns]


class Advanced(NamedTuple):
    """Output of the stages that read internal topics: alerts, scored events, and records for output topics."""

    alerts: list[Alert]
    scored: list[ScoredEvents]
    records: list[OutputRecord]


class PartitionState(NamedTuple):
    """A partition's state. next_offset: the offset of the first unprocessed record, 0 where the records
    came from files. until_ms: for files, the latest event time that the input has reached; None
    without events, for records of a broker, and for an internal topic."""

    log: Log
    partition: int
    shard: Shard
    next_offset: int
    until_ms: int | None


@dataclass(slots=True)
class _PendingRows:
    """Rows of one partition, in log order. due_ms: int64[n], the due time of each row: it is processed
    when every input has reached that time (`inputs.order`)."""

    rows: Any
    due_ms: I64


@dataclass(slots=True)
class _InputPartition:
    """A partition of an input: its shard, the latest due time, and the events that wait for their scores.
    next_offset: the offset after its last record on a broker, 0 where it is read from files."""

    shard: Shard
    reached_ms: int = -1
    next_offset: int = 0
    pending: deque[tuple[_PendingRows, dict[str, ScoreColumns]]] = field(default_factory=deque)


@dataclass(slots=True)
class _InternalPartition:
    """A partition of an internal topic: its shard, and the unprocessed rows."""

    shard: Shard
    pending: list[_PendingRows] = field(default_factory=list)


class InMemoryCluster:
    """Every shard that the records so far have needed.

    topics: by input, the topic that its records name; by default the configured one. selection: the
    scores to compute for every event. recorded: by topic, internal topics that are read as a worker
    wrote them; the stages here do not write to them. shards: made for the same topics and selection.
    """

    def __init__(
        self,
        config: Config,
        run: RunInfo,
        topics: Mapping[str, str] | None = None,
        selection: ScoreSelection = NO_SCORES,
        recorded: Mapping[str, Log] | None = None,
        shards: ShardFactory | None = None,
    ) -> None:
        self._selection = selection
        self._shards = shards or ShardFactory(config, run, topics, selection=selection)
        self._nodes = nodes(config)
        self._logs = {(log.name, log.internal): log for log in logs(config)}
        self._recorded = recorded or {}
        self.recorded = frozenset(log.name for log in self._recorded.values())
        self._ready: list[ScoredEvents] = []
        self._sources: dict[TopicPartition, _InputPartition] = {}
        self._input_of: dict[str, str] = {}
        self._internals: dict[TopicPartition, _InternalPartition] = {}

    # -- records in -------------------------------------------------------------------------------

    def process(self, input_name: str, records: Records) -> ShardOutput:
        """Process the next records of a partition of an input, or of a recorded internal topic. Call
        `enqueue` with the output to pass its rows on to internal topics."""
        if records.topic in self._recorded:
            log = self._recorded[records.topic]
            return self._internal(log, records.partition).shard.process(records)
        position = (records.topic, records.partition)
        if position not in self._sources:
            shard = self._shards.input_shard(input_name, records.partition)
            self._sources[position] = _InputPartition(shard)
            self._input_of[records.topic] = input_name
        source = self._sources[position]
        if len(records) and records.timestamp_ms[-1] >= 0:  # records of files have no broker's time
            source.next_offset = int(records.offset[-1]) + 1
        return source.shard.process(records)

    def enqueue(self, records: Records, output: ShardOutput, due_ms: I64) -> None:
        """Queue the output for these records. due_ms: int64[n], the due time of each of its events."""
        if records.topic in self._recorded:  # they keep the recorded order
            if isinstance(output.events, EventBatch):
                self._ready.append(ScoredEvents(output.events, output.scores))
        elif len(due_ms):
            source = self._sources[records.topic, records.partition]
            source.reached_ms = int(due_ms[-1])
            scores = self._scores_to_come(self._input_of[records.topic], len(due_ms))
            pending = _PendingRows(output.events, due_ms)
            source.pending.append((pending, scores | output.scores))
        self._enqueue_internal(output, due_ms)

    def put(self, input_name: str, records: Records) -> ShardOutput:
        """Process and enqueue records of an input with a single log."""
        output = self.process(input_name, records)
        reached_ms = self._sources[records.topic, records.partition].reached_ms
        due_ms = np.maximum.accumulate(np.maximum(output.events.time_ms, reached_ms))
        self.enqueue(records, output, due_ms)
        return output

    def _scores_to_come(self, input_name: str, n: int) -> dict[str, ScoreColumns]:
        """Empty scores by each stage that may score events of an input later."""
        if not self._selection.scores:
            return {}
        return {
            node.name: empty_scores(len(node.score_features), n, self._selection)
            for node in self._nodes
            if node.score_features is not None and _scores_input(node, input_name)
        }

    def _enqueue_internal(self, output: ShardOutput, due_ms: I64) -> None:
        for record in output.internal_records:
            if record.log not in self.recorded:
                self._enqueue_record(record, output.events, due_ms)

    def _enqueue_record(self, record: InternalRecord, events: Any, due_ms: I64) -> None:
        """Queue a record of an internal topic. events: the events that its rows were made from; due_ms:
        int64[n], their due times."""
        internal = self._internal(self._logs[record.log, True], record.partition)
        no_offsets = np.zeros(1, np.int64)
        message = Records(record.log, record.partition, no_offsets, no_offsets, [record.value])
        rows = internal.shard.decode(message)
        source = events.sources.index(rows.sources[int(rows.source[0])])
        same_source = np.flatnonzero(events.source == source)
        at = np.searchsorted(events.offset[same_source], rows.offset)
        internal.pending.append(_PendingRows(rows, due_ms[same_source[at]]))

    def _internal(self, log: Log, partition: int) -> _InternalPartition:
        position = (log.name, partition)
        if position not in self._internals:
            self._internals[position] = _InternalPartition(self._shards.make(log, partition))
        return self._internals[position]

    # -- time -------------------------------------------------------------------------------------

    def advance(self, until_ms: float) -> Advanced:
        """Process all rows of internal topics with a due time before until_ms, which every input has
        reached. Stages run in order, so that each one gets all output of the stages before it."""
        alerts: list[Alert] = []
        records: list[OutputRecord] = []
        for name, partition in self._internal_partitions():
            internal = self._internals[name, partition]
            due = _take_due(internal, until_ms)
            if due is None:
                continue
            output = internal.shard.process_rows(due.rows)
            alerts += output.alerts
            records += output.output_records
            self._put_scores(output)
            self._enqueue_internal(output, due.due_ms)
        ready, self._ready = self._ready, []
        return Advanced(alerts, [*ready, *self._scored(until_ms)], records)

    def _internal_partitions(self) -> Iterator[TopicPartition]:
        """The partitions of internal topics, in the order of the stages; the stages of one
        declaration by name, which is the order of the reports on an event. Processing a partition may create
        later ones."""
        of_declaration = groupby(self._nodes, key=lambda node: node.declaration.name)
        for _, same in of_declaration:
            for name in sorted(node.name for node in same):
                yield from sorted(position for position in self._internals if position[0] == name)

    def _put_scores(self, output: ShardOutput) -> None:
        """Add the scores to the events that wait for them."""
        if not output.scores:
            return
        events = output.events
        for index in np.unique(events.source).tolist():
            rows = np.flatnonzero(events.source == index)
            offset = events.offset[rows]
            source = self._sources.get(events.sources[index])
            for pending, scores in source.pending if source else ():  # a recorded topic has none
                pending_offsets = pending.rows.offset
                here = (offset >= pending_offsets[0]) & (offset <= pending_offsets[-1])
                at = np.searchsorted(pending_offsets, offset[here])
                for name, columns in output.scores.items():
                    scores[name].put(at, columns.take(rows[here]))

    def _scored(self, until_ms: float) -> Iterator[ScoredEvents]:
        """The events with a due time before until_ms, with their scores."""
        for source in self._sources.values():
            while source.pending:
                pending, scores = source.pending.popleft()
                size = len(pending.due_ms)
                done = int(np.searchsorted(pending.due_ms, until_ms))
                if done:
                    first = {name: one.slice(0, done) for name, one in scores.items()}
                    yield ScoredEvents(pending.rows.slice(0, done), first)
                if done < size:
                    rest = _PendingRows(pending.rows.slice(done, size), pending.due_ms[done:])
                    left = {name: one.slice(done, size) for name, one in scores.items()}
                    source.pending.appendleft((rest, left))
                    break

    # -- state ------------------------------------------------------------------------------------

    def states(self) -> Iterator[PartitionState]:
        """The state of every partition of every log, an empty one where it had no records.

        All rows must have been processed. An input without events counts as read up to the latest time of
        the others.
        """
        next_offset: dict[tuple[str, bool, int], int] = {}
        shards: dict[tuple[str, bool, int], Shard] = {
            (name, True, partition): internal.shard
            for (name, partition), internal in self._internals.items()
        }
        reached_ms: dict[str, int] = {}
        for (topic, partition), source in self._sources.items():
            name = self._input_of[topic]
            shards[name, False, partition] = source.shard
            next_offset[name, False, partition] = source.next_offset
            reached_ms[name] = max(source.reached_ms, reached_ms.get(name, -1))
        latest_ms = max(reached_ms.values(), default=-1)
        for log in self._logs.values():
            until_ms = reached_ms.get(log.name, latest_ms)
            for partition in range(log.partitions):
                position = log.name, log.internal, partition
                shard = shards.get(position) or self._shards.make(log, partition)
                offset = next_offset.get(position, 0)
                is_known = log.internal or until_ms < 0 or offset > 0
                yield PartitionState(log, partition, shard, offset, None if is_known else until_ms)

    def counts(self) -> Iterator[tuple[Log, Counts]]:
        """The counters of every shard, with the log that it reads."""
        for (topic, _), source in self._sources.items():
            yield self._logs[self._input_of[topic], False], source.shard.counts()
        for (name, _), internal in self._internals.items():
            yield self._logs[name, True], internal.shard.counts()

    def state_bytes(self) -> int:
        """The size of every shard's state, as a checkpoint would hold it."""
        shards = [source.shard for source in self._sources.values()]
        internal = [one.shard for one in self._internals.values()]
        return sum(
            array.nbytes for shard in [*shards, *internal] for array in shard.save().values()
        )


def _scores_input(node: StageNode, input_name: str) -> bool:
    """Whether a stage may score events of an input: those that it reads, or that others report."""
    return node.combines or input_name in node.inputs


def _take_due(internal: _InternalPartition, until_ms: float) -> _PendingRows | None:
    """Remove and return the rows with a due time before until_ms, ordered by due time; None if there are
    none."""
    if not internal.pending:
        return None
    rows = internal.shard.join([pending.rows for pending in internal.pending])
    due_ms = np.concatenate([pending.due_ms for pending in internal.pending])
    order = np.lexsort((rows.offset, rows.source, due_ms))
    count = int(np.searchsorted(due_ms[order], until_ms))
    rest = order[count:]
    internal.pending = [_PendingRows(rows.take(rest), due_ms[rest])] if len(rest) else []
    first = order[:count]
    return _PendingRows(rows.take(first), due_ms[first]) if count else None
