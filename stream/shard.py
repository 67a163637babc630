"""A shard: all state of the stages fed by one partition of one log, run in order.

A source partition feeds route and the monitors that read it directly; a partition of an internal
topic feeds one monitor. This is the unit that the worker assigns, that replay and demo drive, and
that the tests' oracle folds. It does no input or output.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from detectors.hashing import hash_key
from detectors.monitor import MonitorSpec
from detectors.state import Arrays, prefixed, under
from schemas.alerts import Alert
from schemas.codecs.slim import SlimCodec
from schemas.columns import F64, EventBatch
from schemas.dead_letters import DeadLetter
from schemas.records import Records
from stream.config import (
    Config,
    InputSpec,
    Log,
    fields_used,
    fields_wanted,
    fingerprint,
    sources,
    ways,
)
from stream.errors import ForeignRecord
from stream.stages import InternalRecord, Stage
from stream.stages.route import Hop, Route
from stream.stages.watch import RunInfo, Watch

EVENTS_AT_ONCE: Final = 20_000
"""Events of an internal log that are judged at once: a poll may bring many times as many."""


@dataclass(frozen=True, slots=True)
class Emitted:
    """What one batch of records led to, in the order of the log.

    alerts: by event, then by monitor, so that cutting the batch elsewhere changes nothing.
    p_values: monitor name → float64[len(events)], NaN where the monitor did not apply. internal:
    what goes into internal logs, in order for each of their partitions.
    """

    events: EventBatch
    alerts: list[Alert]
    dead_letters: list[DeadLetter]
    p_values: dict[str, F64]
    internal: list[InternalRecord]


class Shard(ABC):
    """All state of the stages fed by one partition of one log."""

    @abstractmethod
    def process(self, records: Records) -> Emitted:
        """Take the next records of the log; the only way the state changes."""

    @abstractmethod
    def _stages(self) -> dict[str, Stage[Any, Any]]:
        """The stages by name: "route", and each monitor by its own."""

    def save(self) -> Arrays:
        """The state of every stage, its arrays prefixed by the stage's name."""
        return prefixed({name: stage.save() for name, stage in self._stages().items()})

    def load(self, state: Arrays) -> None:
        """Replace the state of every stage by one saved under the same configuration."""
        for name, stage in self._stages().items():
            stage.load(under(name, state))

    def counts(self) -> dict[str, dict[str, int]]:
        """Counters by stage: "route", then each monitor by its name."""
        return {name: stage.counts() for name, stage in self._stages().items()}


class SourceShard(Shard):
    """One partition of an input: route, and the monitors that read it directly."""

    def __init__(self, route: Route, watches: list[Watch]) -> None:
        self.route = route
        self.watches = watches

    def process(self, records: Records) -> Emitted:
        """Route the records, then let every monitor watch the events."""
        routed = self.route.process(records)
        outcomes = [watch.process(routed.events) for watch in self.watches]
        self._check_counts()
        found = [one for outcome in outcomes for one in outcome.alerts]
        found.sort(key=lambda one: one.row)
        names = [watch.name for watch in self.watches]
        return Emitted(
            events=routed.events,
            alerts=[one.alert for one in found],
            dead_letters=routed.dead_letters,
            p_values={n: o.p_value for n, o in zip(names, outcomes, strict=True)},
            internal=routed.internal,
        )

    def _check_counts(self) -> None:
        """Guarantee 3: for each monitor every event became exactly one of these."""
        passed = self.route.counts()["passed"]
        for watch in self.watches:
            counts = watch.counts()
            assert passed == counts["scored"] + counts["not_applicable"] + counts["labels"]
        for hop in self.route.hops:
            assert passed == sum(hop.counts().values())

    def _stages(self) -> dict[str, Stage[Any, Any]]:
        return {"route": self.route, **{watch.name: watch for watch in self.watches}}

    def counts(self) -> dict[str, dict[str, int]]:
        """Counters by stage: "route", then each monitor by its name, if only of what it was sent."""
        return super().counts() | {hop.name: hop.counts() for hop in self.route.hops}


class InternalShard(Shard):
    """One partition of a monitor's internal log: that monitor."""

    def __init__(self, watch: Watch, codec: SlimCodec) -> None:
        self.watch = watch
        self._codec = codec

    def process(self, records: Records) -> Emitted:
        """Let the monitor watch the messages' events. Raises ForeignRecord where one is none."""
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

    def judge(self, events: EventBatch) -> Emitted:
        """Let the monitor watch the events."""
        alerts: list[Alert] = []
        p_value = [np.empty(0)]
        for start in range(0, len(events), EVENTS_AT_ONCE):
            outcome = self.watch.process(
                events.slice(start, min(start + EVENTS_AT_ONCE, len(events)))
            )
            alerts += [found.alert for found in outcome.alerts]
            p_value.append(outcome.p_value)
        return Emitted(events, alerts, [], {self.watch.name: np.concatenate(p_value)}, [])

    def _stages(self) -> dict[str, Stage[Any, Any]]:
        return {self.watch.name: self.watch}


class Shards:
    """Makes the shards of a configuration, their state empty.

    topics: by input, what its records call their topic; in files that is the input's name.
    """

    def __init__(
        self, config: Config, run: RunInfo, topics: Mapping[str, str] | None = None
    ) -> None:
        self._config = config
        self._run = run
        self._topics = topics or {name: spec.topic for name, spec in config.inputs.items()}
        self._key = hash_key(config.secret)
        self._fingerprint = fingerprint(config)
        self._reveal = frozenset(config.reveal)
        self._monitors = {monitor.name: monitor for monitor in config.monitors}
        self._internal = {way.monitor: way.internal for way in ways(config)}

    def make(self, log: Log) -> Shard:
        """The shard of a partition of that log."""
        return self.internal(log) if log.internal else self.source(log.name)

    def source(self, input_name: str) -> SourceShard:
        """The shard of a partition of an input."""
        spec = self._config.inputs[input_name]
        readers = [m for m in self._config.monitors if input_name in m.inputs]
        hops = [
            Hop(monitor, log, self._codec(monitor), self._key)
            for monitor in readers
            if (log := self._internal[monitor.name])
        ]
        watches = [
            self._watch(monitor, spec.partitions)
            for monitor in readers
            if not self._internal[monitor.name]
        ]
        return SourceShard(self._route(spec, input_name, hops), watches)

    def internal(self, log: Log) -> InternalShard:
        """The shard of a partition of a monitor's internal log."""
        monitor = self._monitors[log.name]
        return InternalShard(self._watch(monitor, log.partitions), self._codec(monitor))

    def _route(self, spec: InputSpec, input_name: str, hops: list[Hop]) -> Route:
        fields = fields_wanted(self._config, input_name)
        return Route(spec, self._config.limits, fields, self._key, hops)

    def _watch(self, monitor: MonitorSpec, shards: int) -> Watch:
        return Watch(monitor, self._key, shards, self._fingerprint, self._reveal, self._run)

    def _codec(self, monitor: MonitorSpec) -> SlimCodec:
        fields = fields_used(self._config, monitor)
        return SlimCodec(fields, sources(self._config, monitor, self._topics))


def build_shard(config: Config, input_name: str, run: RunInfo) -> SourceShard:
    """The shard of one partition of an input, with every monitor that reads it; empty state."""
    return Shards(config, run).source(input_name)
