"""A shard: all state of the stages that one partition of one log feeds, run in order.

A partition of an input feeds its first stage and the stages that run inline on its output; a partition
of an internal topic feeds the stage that reads it. The worker, replay and demo pass records to
shards; the worker also checkpoints them. A shard does no input or output.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from detectors.numeric.hashing import hash_key
from detectors.state import Arrays, WriteHook, add_prefix, prefixed_hook, select_prefix
from schemas.alerts import Alert
from schemas.columns import EventBatch
from schemas.dead_letters import DeadLetter
from schemas.records import Records
from schemas.reports import ReportBatch
from stream.config import Config, fingerprint
from stream.config.stage_graph import StageNode, nodes
from stream.config.topology import Log
from stream.errors import ForeignRecord
from stream.pipeline.alerting import AlertBuilder, Identity, RunInfo
from stream.pipeline.context import Placement, StageContext
from stream.pipeline.decoding import SharedDecoder
from stream.pipeline.internal_topics import InternalTopicWriter
from stream.pipeline.scores import (
    NO_SCORES,
    ScoreColumns,
    ScoreSelection,
    empty_scores,
    joined_scores,
)
from stream.pipeline.stages import (
    AlertAtRow,
    InternalRecord,
    OutputRecord,
    Stage,
    StageOutput,
)


@dataclass(frozen=True, slots=True)
class ShardOutput:
    """The output of a shard for one batch of records, in the order of the log.

    events: of an input, or the rows of an internal topic. alerts: by event, then by stage, so that
    cutting the batch elsewhere changes nothing. scores: by stage; where several rows concern one event,
    the last row's score is used. internal_records: for internal topics, in order for each partition.
    output_records: for the output topics of stages.
    """

    events: Any
    alerts: list[Alert]
    dead_letters: list[DeadLetter] = field(default_factory=list)
    scores: dict[str, ScoreColumns] = field(default_factory=dict)
    internal_records: list[InternalRecord] = field(default_factory=list)
    output_records: list[OutputRecord] = field(default_factory=list)

    @property
    def event_columns(self) -> EventBatch | None:
        """The event of each row; None of rows that have none, such as alerts."""
        if isinstance(self.events, ReportBatch):
            return self.events.events
        return self.events if isinstance(self.events, EventBatch) else None


class PlacedStage(NamedTuple):
    """A stage in a shard, and how it selects its rows."""

    node: StageNode
    stage: Stage
    subscription: Any


class Shard:
    """All state of the stages that one partition of one log feeds.

    first: the stage that reads the log. inline: the stages that read its output in this shard, each
    after the stages whose output it reads. event_writers: write events to internal topics.
    output_writers: write the other output of stages to internal topics.
    """

    def __init__(
        self,
        first: PlacedStage,
        inline: Sequence[PlacedStage] = (),
        event_writers: Sequence[InternalTopicWriter] = (),
        output_writers: Sequence[InternalTopicWriter] = (),
        selection: ScoreSelection = NO_SCORES,
    ) -> None:
        self.stages = {placed.node.name: placed.stage for placed in (first, *inline)}
        self._first = first
        self._inline = inline
        self._event_writers = event_writers
        self._output_writers = output_writers
        self._selection = selection

    def process(self, records: Records) -> ShardOutput:
        """Take the next records of the log; the only way the state changes. Raises ForeignRecord
        where an internal topic holds a record that Eddy did not write."""
        if self._first.node.internal_topic is None:
            return self._process(records)
        return self.process_rows(self.decode(records))

    def decode(self, records: Records) -> Any:
        """The rows of an internal topic's records. Raises ForeignRecord."""
        assert isinstance(records.values, list)
        codec = self._first.subscription.codec
        try:
            return codec.read(records.values)
        except ValueError:
            for offset, value in zip(records.offset.tolist(), records.values, strict=True):
                try:
                    codec.read([value])
                except ValueError as error:
                    where = f"{records.topic}[{records.partition}]"
                    raise ForeignRecord(
                        f"{where}: the record at offset {offset} {error}"
                    ) from error
            raise

    def join(self, batches: Sequence[Any]) -> Any:
        """Rows of an internal topic as one batch."""
        return self._first.subscription.codec.join(batches)

    def process_rows(self, rows: Any) -> ShardOutput:
        """Take the next rows of an internal topic."""
        rows_max = self._first.node.declaration.batch_rows_max or len(rows)
        if len(rows) <= rows_max:
            return self._process(rows)
        parts = [
            self._process(rows.slice(start, min(start + rows_max, len(rows))))
            for start in range(0, len(rows), rows_max)
        ]
        return _joined(rows, parts)

    def _process(self, batch: Any) -> ShardOutput:
        first = self._first.stage.process(batch)
        events = getattr(first, "events", batch)
        outputs = {self._first.node.name: first}
        scores = self._scores_of(self._first, events, first)
        for placed in self._inline:
            outputs[placed.node.name] = self._run(placed, events, outputs, scores)
        internal = list(self._internal_records(events, outputs))
        self._check_event_counts()
        alerts = [at_row for output in outputs.values() for at_row in output.alerts]
        alerts.sort(key=lambda at_row: at_row.row)
        return ShardOutput(
            events=events,
            alerts=[at_row.alert for at_row in alerts],
            dead_letters=[letter for output in outputs.values() for letter in output.dead_letters],
            scores=scores,
            internal_records=internal,
            output_records=[record for output in outputs.values() for record in output.records],
        )

    def _run(
        self,
        placed: PlacedStage,
        events: EventBatch,
        outputs: Mapping[str, StageOutput],
        scores: dict[str, ScoreColumns],
    ) -> StageOutput:
        """Run a stage on the rows that it selects from the shard's output. Its alerts refer to rows of the
        events."""
        selected = placed.subscription.select_inline(events, outputs)
        if selected is None:
            scores |= self._empty_scores(placed, len(events))
            return StageOutput()
        output = placed.stage.process(selected.batch)
        stage_scores = self._scores_of(placed, selected.batch, output)
        if selected.batch is events:
            scores |= stage_scores
            return output
        for name, columns in self._empty_scores(placed, len(events)).items():
            columns.write(selected.rows, stage_scores[name])
            scores[name] = columns
        alerts = [
            AlertAtRow(int(selected.rows[at_row.row]), at_row.alert) for at_row in output.alerts
        ]
        return replace(output, alerts=alerts)

    def _scores_of(
        self, placed: PlacedStage, batch: Any, output: StageOutput
    ) -> dict[str, ScoreColumns]:
        if not self._selection.scores or placed.node.score_features is None:
            return {}
        scores = placed.stage.scores(batch, output, self._selection)
        return {} if scores is None else {placed.node.name: scores}

    def _empty_scores(self, placed: PlacedStage, n: int) -> dict[str, ScoreColumns]:
        features = placed.node.score_features
        if not self._selection.scores or features is None:
            return {}
        return {placed.node.name: empty_scores(len(features), n, self._selection)}

    def _internal_records(
        self, events: EventBatch, outputs: Mapping[str, StageOutput]
    ) -> Iterator[InternalRecord]:
        for writer in self._event_writers:
            yield from writer.write_events(events)
        for name, output in outputs.items():
            for writer in self._output_writers:
                yield from writer.write_output(name, events, output)

    # -- counters and state -----------------------------------------------------------------------

    def _check_event_counts(self) -> None:
        """Guarantee 3: every event that route passed is in exactly one count of each reader."""
        assert not any(uncounted for _, uncounted in self._uncounted())

    def backfill_not_applicable(self) -> None:
        """After a partial migration, count earlier events as not applicable to new stages."""
        for reader, uncounted in self._uncounted():
            reader.backfill_not_applicable(uncounted)

    def _uncounted(self) -> Iterator[tuple[Stage | InternalTopicWriter, int]]:
        """Each reader of the shard's events, with the number of passed events that it has not counted."""
        passed = self._first.stage.events_passed()
        if passed is None:
            return
        readers: list[Stage | InternalTopicWriter] = [placed.stage for placed in self._inline]
        for reader in (*readers, *self._event_writers):
            counted = reader.events_counted()
            if counted is not None:
                yield reader, passed - counted

    def counts(self) -> dict[str, dict[str, int]]:
        """Counters by stage. For a stage in another shard: the events sent to it."""
        counts = {name: stage.counts() for name, stage in self.stages.items()}
        return counts | {writer.name: writer.counts() for writer in self._event_writers}

    def save(self) -> Arrays:
        """The live state of every stage, its arrays prefixed by the stage's name."""
        sent = {self._sent_prefix(writer): writer.save() for writer in self._event_writers}
        return add_prefix({name: stage.save() for name, stage in self.stages.items()} | sent)

    def load(self, state: Arrays) -> None:
        """Replace the state of every stage by one saved under the same configuration."""
        writers = {self._sent_prefix(writer): writer for writer in self._event_writers}
        for prefix, writer in writers.items():
            writer.load(select_prefix(prefix, state))
        stage_arrays = {
            name: array
            for name, array in state.items()
            if not any(name.startswith(f"{prefix}/") for prefix in writers)
        }
        for name, stage in self.stages.items():
            stage.load(select_prefix(name, stage_arrays))

    def _sent_prefix(self, writer: InternalTopicWriter) -> str:
        return f"{self._first.node.name}/sent/{writer.name}"

    def copy_on_write_arrays(self) -> set[str]:
        """The saved arrays whose rows are written only after the write hook was called."""
        return {
            f"{name}/{array}"
            for name, stage in self.stages.items()
            for array in stage.copy_on_write_arrays()
        }

    def set_write_hook(self, before_write: WriteHook | None) -> None:
        """Set the hook to call before each batch, with the rows that the batch will write; None removes
        it."""
        for name, stage in self.stages.items():
            stage.set_write_hook(before_write and prefixed_hook(name, before_write))


def _joined(rows: Any, parts: Sequence[ShardOutput]) -> ShardOutput:
    """The output for consecutive parts of a batch as one."""
    return ShardOutput(
        events=rows,
        alerts=[alert for part in parts for alert in part.alerts],
        dead_letters=[letter for part in parts for letter in part.dead_letters],
        scores={
            name: joined_scores([part.scores[name] for part in parts]) for name in parts[0].scores
        },
        internal_records=[record for part in parts for record in part.internal_records],
        output_records=[record for part in parts for record in part.output_records],
    )


# -- making shards --------------------------------------------------------------------------------


class ShardFactory:
    """Makes the shards of a configuration, their state empty.

    topics: input name → topic of its records; for an input read from files, the input's name. decoders:
    input name → decoder that is shared with other configurations. selection: the scores that a replay asks for.
    """

    def __init__(
        self,
        config: Config,
        run: RunInfo,
        topics: Mapping[str, str] | None = None,
        decoders: Mapping[str, SharedDecoder] | None = None,
        selection: ScoreSelection = NO_SCORES,
    ) -> None:
        key = hash_key(config.secret)
        identity = Identity(config.group, config.mode)
        self._context = StageContext(
            config=config,
            alert_builder=AlertBuilder(key, frozenset(config.reveal), run, identity),
            fingerprint=fingerprint(config),
            topics=topics or {name: spec.topic for name, spec in config.inputs.items()},
            decoders=decoders or {},
            selection=selection,
        )
        self._key = key
        self._nodes = nodes(config)
        self._subscriptions: dict[str, Any] = {
            node.name: node.declaration.subscribe
            and node.declaration.subscribe(node, self._context)
            for node in self._nodes
        }

    def make(self, log: Log, partition: int = 0) -> Shard:
        """The shard of a partition of that log. Raises LookupError for a log that no stage reads."""
        others = list(self._nodes)
        first = next((node for node in others if _reads(node, log)), None)
        if first is None:
            raise LookupError(f"no stage reads the log {log.name}")
        others.remove(first)
        input_readers = [] if log.internal else [node for node in others if log.name in node.inputs]
        inline = [node for node in input_readers if not node.internal_topic]
        # Stages of other logs read this shard's events, or what its stages write besides events.
        written = {kind for node in (first, *inline) for kind in node.declaration.writes}
        return Shard(
            self._placed(first, Placement(log, partition, inline=False)),
            [self._placed(node, Placement(log, partition, inline=True)) for node in inline],
            [
                self._writer(node, node.internal_topic)
                for node in input_readers
                if node.internal_topic
            ],
            [
                self._writer(node, node.internal_topic)
                for node in others
                if node.internal_topic and (written - {"events"}) & {*node.declaration.reads}
            ],
            self._context.selection,
        )

    def input_shard(self, input_name: str, partition: int = 0) -> Shard:
        """The shard of a partition of an input."""
        spec = self._context.config.inputs[input_name]
        return self.make(Log(input_name, spec.topic, spec.partitions), partition)

    def _placed(self, node: StageNode, placement: Placement) -> PlacedStage:
        stage = node.declaration.make(node, self._context, placement)
        return PlacedStage(node, stage, self._subscriptions.get(node.name))

    def _writer(self, node: StageNode, log: Log) -> InternalTopicWriter:
        return InternalTopicWriter(log, self._subscriptions[node.name], self._key)


def _reads(node: StageNode, log: Log) -> bool:
    """Whether a stage is the one that reads a log."""
    if log.internal:
        return node.internal_topic is not None and node.internal_topic.name == log.name
    return node.reads_inputs
