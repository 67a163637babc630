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

from detectors.assessment import sampled
from detectors.hashing import HashKey, hash_key
from detectors.monitor import MonitorSpec, concerns, labels_of
from detectors.spec import seconds
from detectors.state import AboutToWrite, Arrays, prefixed, prefixing, under
from schemas.alerts import Alert
from schemas.codecs.slim import MONITOR, P_VALUE, SlimCodec
from schemas.columns import F64, I64, EventBatch, joined
from schemas.dead_letters import DeadLetter
from schemas.events import ENTITY_FIELDS
from schemas.records import Records
from stream.alerting import Identity, RunInfo, Teller
from stream.config import (
    ASSESS,
    ROUTE,
    TAUGHT,
    AssessSpec,
    Config,
    Log,
    assess_way,
    fields_used,
    fields_wanted,
    fingerprint,
    input_is_read,
    labels_from,
    sources,
    ways,
)
from stream.decoding import Decoder, SharedDecoder
from stream.errors import ForeignRecord
from stream.rekeying import Rekeying
from stream.stages import Found, InternalRecord, Stage
from stream.stages import assess as assessing
from stream.stages.assess import Assess, looked_at, reports, spoken
from stream.stages.route import Hop, Route
from stream.stages.watch import NOTHING_WANTED, Outcome, Said, Wanted, Watch, said, silence

EVENTS_AT_ONCE: Final = 20_000
"""Events of an internal log that are judged at once: a poll may bring many times as many."""


@dataclass(frozen=True, slots=True)
class Emitted:
    """What one batch of records led to, in the order of the log.

    alerts: by event, then by monitor, so that cutting the batch elsewhere changes nothing.
    said: monitor name → what it said of the events, as far as that is wanted; "assess" → what it
    says of them: of rows about one event the last stands.
    internal: what goes into internal logs, in order for each of their partitions.
    """

    events: EventBatch
    alerts: list[Alert]
    dead_letters: list[DeadLetter]
    said: dict[str, Said]
    internal: list[InternalRecord]


class Shard(ABC):
    """All state of the stages fed by one partition of one log."""

    @abstractmethod
    def process(self, records: Records) -> Emitted:
        """Take the next records of the log; the only way the state changes."""

    def begin(self, records: Records) -> Callable[[], Emitted]:
        """The same for a shard that may live elsewhere: it works while others begin, and what came
        of it is returned when asked for."""
        return partial(self.process, records)

    @abstractmethod
    def _stages(self) -> dict[str, Stage[Any, Any]]:
        """The stages by name: "route", each monitor by its own, and "assess"."""

    def save(self) -> Arrays:
        """The state of every stage as it lives, its arrays prefixed by the stage's name."""
        return prefixed({name: stage.save() for name, stage in self._stages().items()})

    def load(self, state: Arrays) -> None:
        """Replace the state of every stage by one saved under the same configuration."""
        for name, stage in self._stages().items():
            stage.load(under(name, state))

    def announced(self) -> set[str]:
        """The saved arrays of which rows are written only when that was announced."""
        stages = self._stages().items()
        return {f"{name}/{array}" for name, stage in stages for array in stage.announced()}

    def announce(self, about_to_write: AboutToWrite | None) -> None:
        """From now on say to this callable, or to nobody, what a batch is about to write."""
        for name, stage in self._stages().items():
            stage.announce(about_to_write and prefixing(name, about_to_write))

    def begin_behind(self) -> None:  # noqa: B027 - in most shards no counts must add up
        """Go on with some stages' states only: what passed before did not apply to the others, so
        that counts go on adding up."""

    def counts(self) -> dict[str, dict[str, int]]:
        """Counters by stage: "route", each monitor by its name, and "assess"."""
        return {name: stage.counts() for name, stage in self._stages().items()}


class Reporter:
    """What becomes of a monitor's reports in a shard: they go to assess, over its log or straight.

    rekeying: into the log of the reports, None where assess reads them here. every: whatever a
    monitor judged goes there, so that every event is scored; only reports are learned from.
    """

    def __init__(
        self, spec: AssessSpec, key: HashKey, rekeying: Rekeying | None, every: bool
    ) -> None:
        self._spec = spec
        self._key = key
        self._rekeying = rekeying
        self._every = every

    def sent(
        self, events: EventBatch, said: Mapping[str, Mapping[str, F64]]
    ) -> Iterator[InternalRecord]:
        """The messages for monitors' reports on a batch; none where assess reads them here. said:
        what each says of every event, by its name."""
        if self._rekeying is not None:
            for found, _ in self._found(events, said):
                yield from self._rekeying.process(found)

    def _found(
        self, events: EventBatch, said: Mapping[str, Mapping[str, F64]]
    ) -> list[tuple[EventBatch, I64]]:
        """Each monitor's reports on a batch, and the rows that they speak of."""
        if not said:
            return []
        chosen = sampled(events, self._key)
        return [
            reports(name, events, its, self._spec, chosen, self._every)
            for name, its in said.items()
        ]

    def together(
        self, events: EventBatch, outcomes: Mapping[str, Outcome]
    ) -> tuple[EventBatch, I64] | None:
        """All monitors' reports on a batch by event, then by monitor, and the events' rows; and the
        labels among the events, where they are learned from."""
        found = self._found(events, {name: one.said() for name, one in outcomes.items()})
        if self._spec.learning:
            rows = np.flatnonzero(labels_of(events, self._spec.subject)).astype(np.int64)
            found.append((spoken(None, events, {}, self._spec, rows), rows))
        if not any(len(one) for one, _ in found):
            return None
        everything = joined([one for one, _ in found])
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
        reporter: Reporter | None,
        assess: Assess | None,
        wanted: Wanted,
    ) -> None:
        self._wanted = wanted
        self.route = route
        self.watches = watches
        self._reporter = reporter
        self._assess = assess

    def process(self, records: Records) -> Emitted:
        """Route the records, then let every monitor watch the events."""
        routed = self.route.process(records)
        events = routed.events
        outcomes = {watch.name: watch.process(events) for watch in self.watches}
        self._check_counts()
        found = [one for outcome in outcomes.values() for one in outcome.alerts]
        words = {
            watch.name: said(watch.spec, [outcomes[watch.name]], self._wanted)
            for watch in self.watches
        }
        found += self._assessed(events, outcomes, words)
        found.sort(key=lambda one: one.row)
        return Emitted(
            events=events,
            alerts=[one.alert for one in found],
            dead_letters=routed.dead_letters,
            said=words,
            internal=[*routed.internal, *self._reports(events, outcomes)],
        )

    def _reports(
        self, events: EventBatch, outcomes: dict[str, Outcome]
    ) -> Iterator[InternalRecord]:
        if self._reporter is not None:
            said = {name: outcome.said() for name, outcome in outcomes.items()}
            yield from self._reporter.sent(events, said)

    def _assessed(
        self, events: EventBatch, outcomes: dict[str, Outcome], words: dict[str, Said]
    ) -> list[Found]:
        """The alerts of assess on a batch, where it reads the reports here; what it says of each
        event goes into words, where that is wanted."""
        if self._reporter is None or self._assess is None:
            return []
        if self._wanted.scores:
            words[ASSESS] = silence(0, len(events), self._wanted)
        together = self._reporter.together(events, outcomes)
        if together is None:
            return []
        about, rows = together
        opinion = self._assess.process(about)
        if self._wanted.scores:
            words[ASSESS].put(rows, assessing.said(about, opinion))
        return [Found(int(rows[one.row]), one.alert) for one in opinion.alerts]

    def _check_counts(self) -> None:
        """Guarantee 3: for each monitor every event became exactly one of these."""
        assert not any(map(self._missing, self._readers()))

    def begin_behind(self) -> None:
        """Of the events that passed so far, those that a monitor did not see did not apply to
        it."""
        for reader in self._readers():
            reader.begin_behind(self._missing(reader))

    def _readers(self) -> list[Watch | Hop]:
        return [*self.watches, *self.route.hops]

    def _missing(self, reader: Watch | Hop) -> int:
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
        return super().counts() | {hop.name: hop.counts() for hop in self.route.hops}


class InternalShard(Shard):
    """One partition of an internal log, and the one stage that reads it."""

    def __init__(self, codec: SlimCodec) -> None:
        self._codec = codec

    def process(self, records: Records) -> Emitted:
        """Let the stage take the messages' events. Raises ForeignRecord where one is none."""
        return self.judge(self.read(records))

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
    def judge(self, events: EventBatch) -> Emitted:
        """Let the stage take the events."""

    def begin_judging(self, events: EventBatch) -> Callable[[], Emitted]:
        """The same as `begin`, of events."""
        return partial(self.judge, events)


class WatchShard(InternalShard):
    """One partition of a monitor's internal log."""

    def __init__(
        self, codec: SlimCodec, watch: Watch, reporter: Reporter | None, wanted: Wanted
    ) -> None:
        super().__init__(codec)
        self._wanted = wanted
        self.watch = watch
        self._reporter = reporter

    def judge(self, events: EventBatch) -> Emitted:
        """Let the monitor watch the events."""
        outcomes: list[Outcome] = []
        sent: list[InternalRecord] = []
        name = self.watch.name
        for start in range(0, len(events), EVENTS_AT_ONCE):
            some = events.slice(start, min(start + EVENTS_AT_ONCE, len(events)))
            outcome = self.watch.process(some)
            outcomes.append(outcome)
            sent += self._reporter.sent(some, {name: outcome.said()}) if self._reporter else ()
        alerts = [found.alert for outcome in outcomes for found in outcome.alerts]
        words = {name: said(self.watch.spec, outcomes, self._wanted)}
        return Emitted(events, alerts, [], words, sent)

    def _stages(self) -> dict[str, Stage[Any, Any]]:
        return {self.watch.name: self.watch}


class AssessShard(InternalShard):
    """One partition of the log of the reports."""

    def __init__(self, codec: SlimCodec, assess: Assess, wanted: Wanted) -> None:
        super().__init__(codec)
        self.assess = assess
        self._wanted = wanted

    def judge(self, events: EventBatch) -> Emitted:
        """Let assess take the reports; what it says of an event stands at the last row about it."""
        opinion = self.assess.process(events)
        alerts = [found.alert for found in opinion.alerts]
        words = {ASSESS: assessing.said(events, opinion)} if self._wanted.scores else {}
        return Emitted(events, alerts, [], words, [])

    def _stages(self) -> dict[str, Stage[Any, Any]]:
        return {ASSESS: self.assess}


def route_of(
    config: Config,
    input_name: str,
    decoder: SharedDecoder | None = None,
    hops: Sequence[Hop] = (),
) -> Route:
    """What reads a partition of an input, and sends it on over these hops. decoder: what decodes it
    for others too."""
    spec, limits = config.inputs[input_name], config.limits
    own = decoder or Decoder(spec, limits, fields_wanted(config, input_name))
    window, is_read = limits.duplicate_window, input_is_read(config, input_name)
    return Route(own, window, hash_key(config.secret), hops, is_read=is_read)


class Shards:
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
        wanted: Wanted = NOTHING_WANTED,
    ) -> None:
        self._wanted = wanted
        self._decoders = decoders or {}
        self._every = wanted.scores and bool(labels_from(config))
        self._config = config
        self._topics = topics or {name: spec.topic for name, spec in config.inputs.items()}
        self._key = hash_key(config.secret)
        self._fingerprint = fingerprint(config)
        identity = Identity(config.group, config.mode)
        self._teller = Teller(self._key, frozenset(config.reveal), run, identity)
        self._ahead_max_ms = 1000.0 * seconds(config.limits.time_ahead_max)
        self._monitors = {monitor.name: monitor for monitor in config.monitors}
        self._internal = {way.reader: way.internal for way in ways(config)}
        self._reporter = self._make_reporter()

    def make(self, log: Log, partition: int = 0) -> Shard:
        """The shard of a partition of that log."""
        if log.internal:
            return self.internal(log, partition)
        return self.source(log.name, partition)

    def source(self, input_name: str, partition: int = 0) -> SourceShard:
        """The shard of a partition of an input."""
        spec = self._config.inputs[input_name]
        readers = [m for m in self._config.monitors if input_name in m.inputs]
        hops = [
            Hop(
                log,
                monitor.entity,
                partial(concerns, spec=monitor),
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
        way = assess_way(self._config)
        if way and way.internal and input_name in labels_from(self._config):
            hops.append(self._label_hop(way.internal))
        inline = way is not None and way.internal is None and watches
        assess = self._assess(spec.partitions, partition, whole=True) if inline else None
        route = route_of(self._config, input_name, self._decoders.get(input_name), hops)
        return SourceShard(route, watches, self._reporter, assess, self._wanted)

    def internal(self, log: Log, partition: int = 0) -> InternalShard:
        """The shard of a partition of an internal log."""
        if log.name == ASSESS:
            assess = self._assess(log.partitions, partition)
            return AssessShard(self._reports_codec(), assess, self._wanted)
        monitor = self._monitors[log.name]
        watch = self._watch(monitor, log.partitions, partition)
        return WatchShard(self._codec(monitor), watch, self._reporter, self._wanted)

    def codec(self, log: Log) -> SlimCodec:
        """What writes and reads the messages of an internal log."""
        return (
            self._reports_codec() if log.name == ASSESS else self._codec(self._monitors[log.name])
        )

    def _label_hop(self, log: Log) -> Hop:
        """The way of an input's labels to assess."""
        assert self._config.assess is not None
        subject = self._config.assess.subject
        of_subject = partial(labels_of, entity=subject)
        return Hop(log, subject, of_subject, self._reports_codec(), self._key)

    def _watch(self, monitor: MonitorSpec, shards: int, shard: int) -> Watch:
        told = looked_at(self._config.assess) if self._config.assess else []
        partitions = 1
        if self._internal[monitor.name]:
            partitions = len(sources(self._config, monitor.inputs, self._topics))
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

    def _assess(self, shards: int, shard: int, *, whole: bool = False) -> Assess:
        """whole: all reports on an event come in one batch, next to each other."""
        spec, monitors, every = self._config.assess, list(self._monitors), self._every
        assert spec is not None
        of_all = len(sources(self._config, sorted(self._config.inputs), self._topics))
        return Assess(
            spec,
            monitors,
            shards,
            self._fingerprint,
            self._teller,
            shard=shard,
            every=every,
            whole=whole,
            sources=1 if whole else of_all,
            ahead_max_ms=self._ahead_max_ms,
        )

    def _make_reporter(self) -> Reporter | None:
        spec, way = self._config.assess, assess_way(self._config)
        if spec is None or way is None:
            return None
        log, codec = way.internal, self._reports_codec()
        rekeying = Rekeying(log, spec.subject, codec, self._key) if log else None
        return Reporter(spec, self._key, rekeying, self._every)

    def _codec(self, monitor: MonitorSpec) -> SlimCodec:
        fields = fields_used(self._config, monitor)
        return SlimCodec(fields, sources(self._config, monitor.inputs, self._topics))

    def _reports_codec(self) -> SlimCodec:
        # in an order that steers, as the fingerprint has it: assess remembers indexes into these
        where = sources(self._config, sorted(self._config.inputs), self._topics)
        assert self._config.assess is not None
        told = looked_at(self._config.assess)
        labels = TAUGHT if self._config.assess.learning else ()
        return SlimCodec([*ENTITY_FIELDS, *labels, MONITOR, P_VALUE, *told], where)
