"""A source partition's shard: route and the monitors that read it directly, run in order.

This is the unit that the worker assigns, that replay and demo drive, and that the tests' oracle
folds. It does no input or output.
"""

from dataclasses import dataclass
from typing import Any

from detectors.hashing import hash_key
from detectors.state import AboutToWrite, Arrays, prefixed, under
from schemas.alerts import Alert
from schemas.columns import F64, EventBatch
from schemas.dead_letters import DeadLetter
from schemas.records import Records
from stream.config import Config, fields_wanted, fingerprint
from stream.stages import Stage
from stream.stages.route import Route
from stream.stages.watch import RunInfo, Watch


@dataclass(frozen=True, slots=True)
class Emitted:
    """What one batch of records led to, in the order of the log.

    alerts: by event, then by monitor, so that cutting the batch elsewhere changes nothing.
    p_values: monitor name → float64[len(events)], NaN where the monitor did not apply.
    """

    events: EventBatch
    alerts: list[Alert]
    dead_letters: list[DeadLetter]
    p_values: dict[str, F64]


class Shard:
    """All state of the stages fed by one source partition."""

    def __init__(self, route: Route, watches: list[Watch]) -> None:
        self.route = route
        self.watches = watches

    def process(self, records: Records) -> Emitted:
        """Route the records, then let every monitor watch the events."""
        routed = self.route.process(records)
        outcomes = [watch.process(routed.events) for watch in self.watches]
        passed = self.route.counts()["passed"]
        for watch in self.watches:  # guarantee 3: every event became exactly one of these
            counts = watch.counts()
            assert passed == counts["scored"] + counts["not_applicable"] + counts["labels"]
        found = [one for outcome in outcomes for one in outcome.alerts]
        found.sort(key=lambda one: one.row)
        names = [watch.name for watch in self.watches]
        return Emitted(
            events=routed.events,
            alerts=[one.alert for one in found],
            dead_letters=routed.dead_letters,
            p_values={n: o.p_value for n, o in zip(names, outcomes, strict=True)},
        )

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
            stage.announce(_prefixing(name, about_to_write) if about_to_write else None)

    def counts(self) -> dict[str, dict[str, int]]:
        """Counters by stage: "route", then each monitor by its name."""
        return {name: stage.counts() for name, stage in self._stages().items()}

    def _stages(self) -> dict[str, Stage[Any, Any]]:
        return {"route": self.route, **{watch.name: watch for watch in self.watches}}


def _prefixing(stage: str, about_to_write: AboutToWrite) -> AboutToWrite:
    return lambda name, rows: about_to_write(f"{stage}/{name}", rows)


def build_shard(config: Config, input_name: str, run: RunInfo) -> Shard:
    """The shard of one partition of an input, with every monitor that reads it; empty state."""
    spec = config.inputs[input_name]
    key = hash_key(config.secret)
    route = Route(spec, config.limits, fields_wanted(config, input_name), key)
    steering = fingerprint(config)
    reveal = frozenset(config.reveal)
    watches = [
        Watch(monitor, key, spec.partitions, steering, reveal, run)
        for monitor in config.monitors
        if input_name in monitor.inputs
    ]
    return Shard(route, watches)
