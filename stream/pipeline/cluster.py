"""All shards of a configuration over in-memory logs: replay and demo drive this.

Several partitions write to an internal topic. A live worker writes rows in arrival order; this module
merges them by event time, so that a replay is repeatable and processes each label at its own time. A
row waits until every input has reached its time: then no earlier row can follow.
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
from stream.config.stage_graph import StageNode, logs, nodes
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


class InternalOutput(NamedTuple):
    """The output of the stages that read internal topics: alerts, scored events, and records for
    output topics."""

    alerts: list[Alert]
    scored: list[ScoredEvents]
    records: list[OutputRecord]


class PartitionState(NamedTuple):
    """A partition's state. next_offset: the offset of its next record, 0 where its records came
    from files. until_ms: the latest event time of its input, where next_offset is unknown; None
    where it is known, where there was no event, and for internal topics."""

    log: Log
    partition: int
    shard: Shard
    next_offset: int
    until_ms: int | None


@dataclass(slots=True)
class _PendingRows:
    """Rows of one partition, in its order. due_ms: int64[n], the due time of each row, as
    in `inputs.order`: a row is processed when stream time has reached it."""

    rows: Any
    due_ms: I64


@dataclass(slots=True)
class _InputPartition:
    """A partition of an input: its shard, and the events whose scores are not complete. reached_ms: the
    due time of its last event. next_offset: after its last record, 0 where it is read from files."""

    shard: Shard
    reached_ms: int = -1
    next_offset: int = 0
    pending: deque[tuple[_PendingRows, dict[str, ScoreColumns]]] = field(default_factory=deque)


@dataclass(slots=True)
class _InternalPartition:
    """A partition of an internal topic: its shard, and the rows that it has not processed."""

    shard: Shard
    pending: list[_PendingRows] = field(default_factory=list)


class InMemoryCluster:
    """The shards of every partition that had records, driven in event time.

    topics: input name → topic of its records; by default the configured one. selection: the
    scores to compute for every event. recorded: topic → log of each internal topic that is
    read from the broker as a worker wrote it; the cluster's own stages do not write to it. shards: made for the same topics and selection.
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
        self._recorded_logs = recorded or {}
        self.recorded_names = frozenset(log.name for log in self._recorded_logs.values())
        self._ready_scores: list[ScoredEvents] = []
        self._inputs: dict[TopicPartition, _InputPartition] = {}
        self._input_of: dict[str, str] = {}
        self._internal_partitions: dict[TopicPartition, _InternalPartition] = {}

    # -- records in -------------------------------------------------------------------------------

    def process(self, input_name: str, records: Records) -> ShardOutput:
        """Process the next records of a partition of an input, or of a recorded internal topic. Call
        `enqueue` with the output, so that it reaches internal topics."""
        if records.topic in self._recorded_logs:
            log = self._recorded_logs[records.topic]
            return self._internal(log, records.partition).shard.process(records)
        topic_partition = (records.topic, records.partition)
        if topic_partition not in self._inputs:
            shard = self._shards.input_shard(input_name, records.partition)
            self._inputs[topic_partition] = _InputPartition(shard)
            self._input_of[records.topic] = input_name
        input_partition = self._inputs[topic_partition]
        if (
            len(records) and records.timestamp_ms[-1] >= 0
        ):  # records from files have no broker timestamp
            input_partition.next_offset = int(records.offset[-1]) + 1
        return input_partition.shard.process(records)

    def enqueue(self, records: Records, output: ShardOutput, due_ms: I64) -> None:
        """Queue the output for these records until it is due. due_ms: int64[n], the due time of each
        event."""
        # Rows of a recorded topic are processed in its order: they do not wait until they are due.
        if records.topic in self._recorded_logs:
            if isinstance(output.events, EventBatch):
                self._ready_scores.append(ScoredEvents(output.events, output.scores))
        elif len(due_ms):
            input_partition = self._inputs[records.topic, records.partition]
            input_partition.reached_ms = int(due_ms[-1])
            scores = self._empty_scores(self._input_of[records.topic], len(due_ms))
            pending = _PendingRows(output.events, due_ms)
            input_partition.pending.append((pending, scores | output.scores))
        self._enqueue_internal(output, due_ms)

    def process_and_enqueue(self, input_name: str, records: Records) -> ShardOutput:
        """Process and enqueue records of an input with a single log."""
        output = self.process(input_name, records)
        reached_ms = self._inputs[records.topic, records.partition].reached_ms
        due_ms = np.maximum.accumulate(np.maximum(output.events.time_ms, reached_ms))
        self.enqueue(records, output, due_ms)
        return output

    def _empty_scores(self, input_name: str, n: int) -> dict[str, ScoreColumns]:
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
            if record.log not in self.recorded_names:
                self._enqueue_record(record, output.events, due_ms)

    def _enqueue_record(self, record: InternalRecord, events: Any, due_ms: I64) -> None:
        """Queue a message. events: the events that its rows come from; due_ms: int64[n], their due times."""
        internal = self._internal(self._logs[record.log, True], record.partition)
        no_offsets = np.zeros(1, np.int64)
        message = Records(record.log, record.partition, no_offsets, no_offsets, [record.value])
        rows = internal.shard.decode(message)
        source = events.sources.index(rows.sources[int(rows.source[0])])
        same_source = np.flatnonzero(events.source == source)
        event_rows = np.searchsorted(events.offset[same_source], rows.offset)
        internal.pending.append(_PendingRows(rows, due_ms[same_source[event_rows]]))

    def _internal(self, log: Log, partition: int) -> _InternalPartition:
        topic_partition = (log.name, partition)
        if topic_partition not in self._internal_partitions:
            self._internal_partitions[topic_partition] = _InternalPartition(
                self._shards.make(log, partition)
            )
        return self._internal_partitions[topic_partition]

    # -- advancing stream time ------------------------------------------------------------------------

    def advance(self, until_ms: float) -> InternalOutput:
        """Process all rows of internal topics that are due before that time, which every input has
        reached; stage after stage, so that a stage sees all output of those before it."""
        alerts: list[Alert] = []
        records: list[OutputRecord] = []
        for name, partition in self._partitions_in_stage_order():
            internal = self._internal_partitions[name, partition]
            due = _take_due(internal, until_ms)
            if due is None:
                continue
            output = internal.shard.process_rows(due.rows)
            alerts += output.alerts
            records += output.output_records
            self._write_scores(output)
            self._enqueue_internal(output, due.due_ms)
        ready, self._ready_scores = self._ready_scores, []
        return InternalOutput(alerts, [*ready, *self._scored(until_ms)], records)

    def _partitions_in_stage_order(self) -> Iterator[TopicPartition]:
        """The partitions of internal topics, in the order of the stages; the stages of one
        declaration by name, which is the order of the reports on an event. A partition may be added
        while earlier ones are processed."""
        by_declaration = groupby(self._nodes, key=lambda node: node.declaration.name)
        for _, declared_nodes in by_declaration:
            for name in sorted(node.name for node in declared_nodes):
                yield from sorted(
                    topic_partition
                    for topic_partition in self._internal_partitions
                    if topic_partition[0] == name
                )

    def _write_scores(self, output: ShardOutput) -> None:
        """Write the scores of an internal topic's rows to the pending events that they concern."""
        if not output.scores:
            return
        events = output.events
        for index in np.unique(events.source).tolist():
            rows = np.flatnonzero(events.source == index)
            offset = events.offset[rows]
            input_partition = self._inputs.get(events.sources[index])
            if input_partition is None:  # its events were read from a recorded topic
                continue
            for pending, scores in input_partition.pending:
                pending_offsets = pending.rows.offset
                is_pending = (offset >= pending_offsets[0]) & (offset <= pending_offsets[-1])
                pending_rows = np.searchsorted(pending_offsets, offset[is_pending])
                for name, columns in output.scores.items():
                    scores[name].write(pending_rows, columns.take(rows[is_pending]))

    def _scored(self, until_ms: float) -> Iterator[ScoredEvents]:
        """The events that are due before that time, with their scores."""
        for input_partition in self._inputs.values():
            while input_partition.pending:
                pending, scores = input_partition.pending.popleft()
                size = len(pending.due_ms)
                due_count = int(np.searchsorted(pending.due_ms, until_ms))
                if due_count:
                    due_scores = {
                        name: columns.slice(0, due_count) for name, columns in scores.items()
                    }
                    yield ScoredEvents(pending.rows.slice(0, due_count), due_scores)
                if due_count < size:
                    rest = _PendingRows(
                        pending.rows.slice(due_count, size), pending.due_ms[due_count:]
                    )
                    later_scores = {
                        name: columns.slice(due_count, size) for name, columns in scores.items()
                    }
                    input_partition.pending.appendleft((rest, later_scores))
                    break

    # -- state ------------------------------------------------------------------------------------

    def states(self) -> Iterator[PartitionState]:
        """The state of every partition of every log, an empty one where it had no records.

        All rows must have been processed. An input without events counts as having reached the latest time of the others.
        """
        next_offset: dict[tuple[str, bool, int], int] = {}
        shards: dict[tuple[str, bool, int], Shard] = {
            (name, True, partition): internal.shard
            for (name, partition), internal in self._internal_partitions.items()
        }
        reached_ms: dict[str, int] = {}
        for (topic, partition), input_partition in self._inputs.items():
            name = self._input_of[topic]
            shards[name, False, partition] = input_partition.shard
            next_offset[name, False, partition] = input_partition.next_offset
            reached_ms[name] = max(input_partition.reached_ms, reached_ms.get(name, -1))
        latest_ms = max(reached_ms.values(), default=-1)
        for log in self._logs.values():
            until_ms = reached_ms.get(log.name, latest_ms)
            for partition in range(log.partitions):
                log_partition = log.name, log.internal, partition
                shard = shards.get(log_partition) or self._shards.make(log, partition)
                offset = next_offset.get(log_partition, 0)
                is_offset_known = log.internal or until_ms < 0 or offset > 0
                yield PartitionState(
                    log, partition, shard, offset, None if is_offset_known else until_ms
                )

    def counts(self) -> Iterator[tuple[Log, Counts]]:
        """The counters of every shard, with the log that it reads."""
        for (topic, _), input_partition in self._inputs.items():
            yield self._logs[self._input_of[topic], False], input_partition.shard.counts()
        for (name, _), internal in self._internal_partitions.items():
            yield self._logs[name, True], internal.shard.counts()

    def state_bytes(self) -> int:
        """The size of every shard's state, as a checkpoint would hold it."""
        shards = [input_partition.shard for input_partition in self._inputs.values()]
        internal = [partition.shard for partition in self._internal_partitions.values()]
        return sum(
            array.nbytes for shard in [*shards, *internal] for array in shard.save().values()
        )


def _scores_input(node: StageNode, input_name: str) -> bool:
    """Whether a stage may score events of an input: those that it reads, or that others report."""
    return node.combines_reports or input_name in node.inputs


def _take_due(internal: _InternalPartition, until_ms: float) -> _PendingRows | None:
    """Remove and return the rows that are due before that time, in order; None where there are none."""
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
