"""A shard: all state of the stages fed by one partition of one log, run in order.

A source partition feeds route and the monitors that read it directly; a partition of an internal
topic feeds one monitor, or assess. This is the unit that the worker assigns and keeps checkpoints
of, that replay and demo drive, and that the tests' oracle folds. It does no input or output.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np

from detectors.fusion.assessment import is_sampled
from detectors.monitor import MonitorSpec, is_label_of, is_relevant
from detectors.numeric.hashing import HashKey, hash_key
from detectors.spec import seconds
from detectors.state import Arrays, WriteHook, add_prefix, prefixed_hook, select_prefix
from schemas.alerts import Alert
from schemas.codecs.internal_events import MONITOR, P_VALUE, InternalEventCodec
from schemas.columns import F64, I64, EventBatch, concat_batches
from schemas.dead_letters import DeadLetter
from schemas.events import ENTITY_FIELDS
from schemas.records import Records
from stream.config import (
    ASSESS,
    LEARNED_LABEL_FIELDS,
    ROUTE,
    AssessSpec,
    Config,
    Log,
    assess_read_path,
    extracted_fields,
    fingerprint,
    internal_topic_fields,
    is_input_read,
    learning_inputs,
    read_paths,
    source_partitions,
)
from stream.errors import ForeignRecord
from stream.pipeline.alerting import AlertBuilder, Identity, RunInfo
from stream.pipeline.decoding import Decoder, SharedDecoder
from stream.pipeline.rekeying import Rekeyer
from stream.pipeline.stages import AlertAtRow, InternalRecord, Stage
from stream.pipeline.stages import assess as assessing
from stream.pipeline.stages.assess import Assess, report_rows, reports, training_features
from stream.pipeline.stages.route import InternalTopicWriter, Route
from stream.pipeline.stages.watch import (
    NO_SCORES,
    ScoreColumns,
    ScoreSelection,
    Watch,
    WatchOutput,
    empty_scores,
    scores,
)

BATCH_EVENTS_MAX: Final = 20_000
"""Events of an internal log that are judged at once: a poll may bring many times as many."""


@dataclass(frozen=True, slots=True)
class ShardOutput:
    """What one batch of records led to, in the order of the log.

    alerts: by event, then by monitor, so that cutting the batch elsewhere changes nothing.
    said: monitor name → what it said of the events, as far as that is wanted; "assess" → what it
    says of them: of rows about one event the last stands.
    internal: what goes into internal logs, in order for each of their partitions.
    """

    events: EventBatch
    alerts: list[Alert]
    dead_letters: list[DeadLetter]
    scores: dict[str, ScoreColumns]
    internal: list[InternalRecord]


class Shard(ABC):
    """All state of the stages fed by one partition of one log."""

    @abstractmethod
    def process(self, records: Records) -> ShardOutput:
        """Take the next records of the log; the only way the state changes."""

    def begin(self, records: Records) -> Callable[[], ShardOutput]:
        """The same for a shard that may live elsewhere: it works while others begin, and what came
        of it is returned when asked for."""
        return partial(self.process, records)

    @abstractmethod
    def _stages(self) -> dict[str, Stage[Any, Any]]:
        """The stages by name: "route", each monitor by its own, and "assess"."""

    def save(self) -> Arrays:
        """The state of every stage as it lives, its arrays prefixed by the stage's name."""
        return add_prefix({name: stage.save() for name, stage in self._stages().items()})

    def load(self, state: Arrays) -> None:
        """Replace the state of every stage by one saved under the same configuration."""
        for name, stage in self._stages().items():
            stage.load(select_prefix(name, state))

    def hooked_arrays(self) -> set[str]:
        """The saved arrays of which rows are written only when that was announced."""
        stages = self._stages().items()
        return {f"{name}/{array}" for name, stage in stages for array in stage.hooked_arrays()}

    def on_write(self, before_write: WriteHook | None) -> None:
        """From now on say to this callable, or to nobody, what a batch is about to write."""
        for name, stage in self._stages().items():
            stage.on_write(before_write and prefixed_hook(name, before_write))

    def backfill_not_applicable(self) -> None:  # noqa: B027 - in most shards no counts must add up
        """Go on with some stages' states only: what passed before did not apply to the others, so
        that counts go on adding up."""

    def counts(self) -> dict[str, dict[str, int]]:
        """Counters by stage: "route", each monitor by its name, and "assess"."""
        return {name: stage.counts() for name, stage in self._stages().items()}


class ReportCollector:
    """What becomes of a monitor's reports in a shard: they go to assess, over its log or straight.

    rekeying: into the log of the reports, None where assess reads them here. every: whatever a
    monitor judged goes there, so that every event is scored; only reports are learned from.
    """

    def __init__(
        self, spec: AssessSpec, key: HashKey, rekeyer: Rekeyer | None, every: bool
    ) -> None:
        self._spec = spec
        self._key = key
        self._rekeyer = rekeyer
        self._every = every

    def sent(
        self, events: EventBatch, scores: Mapping[str, Mapping[str, F64]]
    ) -> Iterator[InternalRecord]:
        """The messages for monitors' reports on a batch; none where assess reads them here. said:
        what each says of every event, by its name."""
        if self._rekeyer is not None:
            for found, _ in self._found(events, scores):
                yield from self._rekeyer.process(found)

    def _found(
        self, events: EventBatch, scores: Mapping[str, Mapping[str, F64]]
    ) -> list[tuple[EventBatch, I64]]:
        """Each monitor's reports on a batch, and the rows that they speak of."""
        if not scores:
            return []
        chosen = is_sampled(events, self._key)
        return [
            reports(name, events, its, self._spec, chosen, self._every)
            for name, its in scores.items()
        ]

    def combined(
        self, events: EventBatch, outputs: Mapping[str, WatchOutput]
    ) -> tuple[EventBatch, I64] | None:
        """All monitors' reports on a batch by event, then by monitor, and the events' rows; and the
        labels among the events, where they are learned from."""
        found = self._found(events, {name: one.scores() for name, one in outputs.items()})
        if self._spec.learning:
            rows = np.flatnonzero(is_label_of(events, self._spec.subject)).astype(np.int64)
            found.append((report_rows(None, events, {}, self._spec, rows), rows))
        if not any(len(one) for one, _ in found):
            return None
        everything = concat_batches([one for one, _ in found])
        rows = np.concatenate([rows for _, rows in found])
        order = np.argsort(rows, kind="stable")
        return everything.take(order), rows[order]


class SourceShard(Shard):
    """One partition of an input: route, and the monitors that read it directly; and assess, where
    it reads nothing else."""

    def __init__(
        self,
        route: Route,
        watches: list[Watch],
        report_collector: ReportCollector | None,
        assess: Assess | None,
        selection: ScoreSelection,
    ) -> None:
        self._wanted = selection
        self.route = route
        self.watches = watches
        self._report_collector = report_collector
        self._assess = assess

    def process(self, records: Records) -> ShardOutput:
        """Route the records, then let every monitor watch the events."""
        route_output = self.route.process(records)
        events = route_output.events
        outputs = {watch.name: watch.process(events) for watch in self.watches}
        self._check_counts()
        found = [one for output in outputs.values() for one in output.alerts]
        columns = {
            watch.name: scores(watch.spec, [outputs[watch.name]], self._wanted)
            for watch in self.watches
        }
        found += self._assessed(events, outputs, columns)
        found.sort(key=lambda one: one.row)
        return ShardOutput(
            events=events,
            alerts=[one.alert for one in found],
            dead_letters=route_output.dead_letters,
            scores=columns,
            internal=[*route_output.internal, *self._reports(events, outputs)],
        )

    def _reports(
        self, events: EventBatch, outputs: dict[str, WatchOutput]
    ) -> Iterator[InternalRecord]:
        if self._report_collector is not None:
            scores = {name: output.scores() for name, output in outputs.items()}
            yield from self._report_collector.sent(events, scores)

    def _assessed(
        self, events: EventBatch, outputs: dict[str, WatchOutput], columns: dict[str, ScoreColumns]
    ) -> list[AlertAtRow]:
        """The alerts of assess on a batch, where it reads the reports here; what it says of each
        event goes into words, where that is wanted."""
        if self._report_collector is None or self._assess is None:
            return []
        if self._wanted.scores:
            columns[ASSESS] = empty_scores(0, len(events), self._wanted)
        combined = self._report_collector.combined(events, outputs)
        if combined is None:
            return []
        about, rows = combined
        output = self._assess.process(about)
        if self._wanted.scores:
            columns[ASSESS].put(rows, assessing.scores(about, output))
        return [AlertAtRow(int(rows[one.row]), one.alert) for one in output.alerts]

    def _check_counts(self) -> None:
        """Guarantee 3: for each monitor every event became exactly one of these."""
        assert not any(map(self._missing, self._readers()))

    def backfill_not_applicable(self) -> None:
        """Of the events that passed so far, those that a monitor did not see did not apply to
        it."""
        for reader in self._readers():
            reader.backfill_not_applicable(self._missing(reader))

    def _readers(self) -> list[Watch | InternalTopicWriter]:
        return [*self.watches, *self.route.writers]

    def _missing(self, reader: Watch | InternalTopicWriter) -> int:
        """Events that passed and are in none of a monitor's counts."""
        counts = reader.counts()
        of_events = ("scored", "labels", "sent", "not_applicable")
        became = sum(counts.get(name, 0) for name in of_events)
        return self.route.counts()["passed"] - became

    def _stages(self) -> dict[str, Stage[Any, Any]]:
        stages: dict[str, Stage[Any, Any]] = {ROUTE: self.route}
        stages |= {watch.name: watch for watch in self.watches}
        return stages | ({ASSESS: self._assess} if self._assess else {})

    def counts(self) -> dict[str, dict[str, int]]:
        """Counters by stage: "route", then each monitor by its name, if only of what it was
        sent."""
        return super().counts() | {writer.name: writer.counts() for writer in self.route.writers}


class InternalShard(Shard):
    """One partition of an internal log, and the one stage that reads it."""

    def __init__(self, codec: InternalEventCodec) -> None:
        self._codec = codec

    def process(self, records: Records) -> ShardOutput:
        """Let the stage take the messages' events. Raises ForeignRecord where one is none."""
        return self.process_events(self.read(records))

    def read(self, records: Records) -> EventBatch:
        """The events of the messages. Raises ForeignRecord."""
        assert isinstance(records.values, list)
        try:
            return self._codec.read(records.values)
        except ValueError:
            for offset, value in zip(records.offset.tolist(), records.values, strict=True):
                try:
                    self._codec.read([value])
                except ValueError as error:
                    where = f"{records.topic}[{records.partition}]"
                    raise ForeignRecord(
                        f"{where}: the record at offset {offset} {error}"
                    ) from error
            raise

    @abstractmethod
    def process_events(self, events: EventBatch) -> ShardOutput:
        """Let the stage take the events."""

    def begin_events(self, events: EventBatch) -> Callable[[], ShardOutput]:
        """The same as `begin`, of events."""
        return partial(self.process_events, events)


class WatchShard(InternalShard):
    """One partition of a monitor's internal log."""

    def __init__(
        self,
        codec: InternalEventCodec,
        watch: Watch,
        report_collector: ReportCollector | None,
        selection: ScoreSelection,
    ) -> None:
        super().__init__(codec)
        self._wanted = selection
        self.watch = watch
        self._report_collector = report_collector

    def process_events(self, events: EventBatch) -> ShardOutput:
        """Let the monitor watch the events."""
        outputs: list[WatchOutput] = []
        sent: list[InternalRecord] = []
        name = self.watch.name
        for start in range(0, len(events), BATCH_EVENTS_MAX):
            some = events.slice(start, min(start + BATCH_EVENTS_MAX, len(events)))
            output = self.watch.process(some)
            outputs.append(output)
            sent += (
                self._report_collector.sent(some, {name: output.scores()})
                if self._report_collector
                else ()
            )
        alerts = [found.alert for output in outputs for found in output.alerts]
        columns = {name: scores(self.watch.spec, outputs, self._wanted)}
        return ShardOutput(events, alerts, [], columns, sent)

    def _stages(self) -> dict[str, Stage[Any, Any]]:
        return {self.watch.name: self.watch}


class AssessShard(InternalShard):
    """One partition of the log of the reports."""

    def __init__(
        self, codec: InternalEventCodec, assess: Assess, selection: ScoreSelection
    ) -> None:
        super().__init__(codec)
        self.assess = assess
        self._wanted = selection

    def process_events(self, events: EventBatch) -> ShardOutput:
        """Let assess take the reports; what it says of an event stands at the last row about it."""
        output = self.assess.process(events)
        alerts = [found.alert for found in output.alerts]
        columns = {ASSESS: assessing.scores(events, output)} if self._wanted.scores else {}
        return ShardOutput(events, alerts, [], columns, [])

    def _stages(self) -> dict[str, Stage[Any, Any]]:
        return {ASSESS: self.assess}


def make_route(
    config: Config,
    input_name: str,
    decoder: SharedDecoder | None = None,
    writers: Sequence[InternalTopicWriter] = (),
) -> Route:
    """What reads a partition of an input, and sends it on over these hops. decoder: what decodes it
    for others too."""
    spec, limits = config.inputs[input_name], config.limits
    own = decoder or Decoder(spec, limits, extracted_fields(config, input_name))
    window, is_read = limits.duplicate_window, is_input_read(config, input_name)
    return Route(own, window, hash_key(config.secret), writers, is_read=is_read)


class ShardFactory:
    """Makes the shards of a configuration, their state empty.

    topics: by input, what its records call their topic; in files that is the input's name.
    decoders: by input, what decodes it for several configurations at once. wanted: what their
    monitors are to say of every event.
    """

    def __init__(
        self,
        config: Config,
        run: RunInfo,
        topics: Mapping[str, str] | None = None,
        decoders: Mapping[str, SharedDecoder] | None = None,
        selection: ScoreSelection = NO_SCORES,
    ) -> None:
        self._wanted = selection
        self._decoders = decoders or {}
        self._every = selection.scores and bool(learning_inputs(config))
        self._config = config
        self._topics = topics or {name: spec.topic for name, spec in config.inputs.items()}
        self._key = hash_key(config.secret)
        self._fingerprint = fingerprint(config)
        identity = Identity(config.group, config.mode)
        self._teller = AlertBuilder(self._key, frozenset(config.reveal), run, identity)
        self._ahead_max_ms = 1000.0 * seconds(config.limits.time_ahead_max)
        self._monitors = {monitor.name: monitor for monitor in config.monitors}
        self._internal = {read_path.reader: read_path.internal for read_path in read_paths(config)}
        self._report_collector = self._make_reporter()

    def make(self, log: Log, partition: int = 0) -> Shard:
        """The shard of a partition of that log."""
        if log.internal:
            return self.internal(log, partition)
        return self.source(log.name, partition)

    def source(self, input_name: str, partition: int = 0) -> SourceShard:
        """The shard of a partition of an input."""
        spec = self._config.inputs[input_name]
        readers = [m for m in self._config.monitors if input_name in m.inputs]
        writers = [
            InternalTopicWriter(
                log,
                monitor.entity,
                partial(is_relevant, spec=monitor),
                self._codec(monitor),
                self._key,
            )
            for monitor in readers
            if (log := self._internal[monitor.name])
        ]
        watches = [
            self._watch(monitor, spec.partitions, partition)
            for monitor in readers
            if not self._internal[monitor.name]
        ]
        read_path = assess_read_path(self._config)
        if read_path and read_path.internal and input_name in learning_inputs(self._config):
            writers.append(self._label_hop(read_path.internal))
        inline = read_path is not None and read_path.internal is None and watches
        assess = self._assess(spec.partitions, partition, reports_grouped=True) if inline else None
        route = make_route(self._config, input_name, self._decoders.get(input_name), writers)
        return SourceShard(route, watches, self._report_collector, assess, self._wanted)

    def internal(self, log: Log, partition: int = 0) -> InternalShard:
        """The shard of a partition of an internal log."""
        if log.name == ASSESS:
            assess = self._assess(log.partitions, partition)
            return AssessShard(self._reports_codec(), assess, self._wanted)
        monitor = self._monitors[log.name]
        watch = self._watch(monitor, log.partitions, partition)
        return WatchShard(self._codec(monitor), watch, self._report_collector, self._wanted)

    def codec(self, log: Log) -> InternalEventCodec:
        """What writes and reads the messages of an internal log."""
        return (
            self._reports_codec() if log.name == ASSESS else self._codec(self._monitors[log.name])
        )

    def _label_hop(self, log: Log) -> InternalTopicWriter:
        """The way of an input's labels to assess."""
        assert self._config.assess is not None
        subject = self._config.assess.subject
        of_subject = partial(is_label_of, entity=subject)
        return InternalTopicWriter(log, subject, of_subject, self._reports_codec(), self._key)

    def _watch(self, monitor: MonitorSpec, shards: int, shard: int) -> Watch:
        told = training_features(self._config.assess) if self._config.assess else []
        partitions = 1
        if self._internal[monitor.name]:
            partitions = len(source_partitions(self._config, monitor.inputs, self._topics))
        return Watch(
            monitor,
            shards,
            self._fingerprint,
            self._teller,
            told,
            shard,
            partitions,
            self._ahead_max_ms,
        )

    def _assess(self, shards: int, shard: int, *, reports_grouped: bool = False) -> Assess:
        """whole: all reports on an event come in one batch, next to each other."""
        spec, monitors, every = self._config.assess, list(self._monitors), self._every
        assert spec is not None
        of_all = len(source_partitions(self._config, sorted(self._config.inputs), self._topics))
        return Assess(
            spec,
            monitors,
            shards,
            self._fingerprint,
            self._teller,
            shard=shard,
            every=every,
            reports_grouped=reports_grouped,
            sources=1 if reports_grouped else of_all,
            ahead_max_ms=self._ahead_max_ms,
        )

    def _make_reporter(self) -> ReportCollector | None:
        spec, read_path = self._config.assess, assess_read_path(self._config)
        if spec is None or read_path is None:
            return None
        log, codec = read_path.internal, self._reports_codec()
        rekeyer = Rekeyer(log, spec.subject, codec, self._key) if log else None
        return ReportCollector(spec, self._key, rekeyer, self._every)

    def _codec(self, monitor: MonitorSpec) -> InternalEventCodec:
        fields = internal_topic_fields(self._config, monitor)
        return InternalEventCodec(
            fields, source_partitions(self._config, monitor.inputs, self._topics)
        )

    def _reports_codec(self) -> InternalEventCodec:
        # in an order that steers, as the fingerprint has it: assess remembers indexes into these
        where = source_partitions(self._config, sorted(self._config.inputs), self._topics)
        assert self._config.assess is not None
        told = training_features(self._config.assess)
        labels = LEARNED_LABEL_FIELDS if self._config.assess.learning else ()
        return InternalEventCodec([*ENTITY_FIELDS, *labels, MONITOR, P_VALUE, *told], where)
