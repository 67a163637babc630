"""watch: events in, alerts out. The heart of the chain: one monitor, one partition.

The learning is `detectors.monitor`'s; here its decisions become alerts: identity, evidence,
explanation, recommended action. Knows no topic but the positions that events carry.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detectors import explain
from detectors.clock import AHEAD_MAX_MS
from detectors.hashing import pseudonym
from detectors.monitor import Monitor, MonitorSpec, Watched, present, told_names
from detectors.spec import seconds
from detectors.state import AboutToWrite, Arrays
from schemas.alerts import Alert, Contribution
from schemas.codecs.slim import P_VALUE
from schemas.columns import F64, I64, U8, Bools, EventBatch
from stream.alerting import Origin, Reasons, Teller, published
from stream.stages import Found

SCORED, LATE, NOT_APPLICABLE, SKIPPED_LEARNING, LABELS, AHEAD = range(6)
SURPRISED_P: Final = 0.1
"""A feature is surprised where its own p-value is below it; else it is silent."""


class Wanted(NamedTuple):
    """What is wanted to be said of every event beside what is published; live it is nothing.

    scores: each monitor's p-value, what its policy made of it, and which of its features were
    surprised. told: their values.
    """

    scores: bool = False
    told: bool = False


NOTHING_WANTED: Final = Wanted()


class Said(NamedTuple):
    """What a monitor said of n events, k being how many `told_names` it has.

    p_value: float64[n], NaN where the monitor did not apply. activity: uint8[n], `policy.QUIET` …,
    what became of each event. surprised: bool[k, n]. told: float64[2k, n], the values in natural
    units, then their own p-values, NaN where there is none. Where scores are not wanted all is
    quiet, and the last two are of no features where these are not.
    """

    p_value: F64
    activity: U8
    surprised: Bools
    told: F64

    def slice(self, start: int, stop: int) -> "Said":
        """What was said of the events start … stop - 1."""
        return Said._make(array[..., start:stop] for array in self)

    def put(self, places: I64, said: "Said") -> None:
        """Have at these places what was said of others; of places named often the last stands."""
        pairs: Iterator[tuple[NDArray[Any], NDArray[Any]]] = zip(self, said, strict=True)
        for mine, theirs in pairs:
            mine[..., places] = theirs

    def take(self, rows: I64) -> "Said":
        """What was said of these events."""
        return Said._make(array[..., rows] for array in self)


def silence(features: int, n: int, wanted: Wanted) -> Said:
    """What is said of n events that do not apply. features: how many `told_names` a monitor has, 0
    of assess."""
    surprised = np.zeros((features if wanted.scores else 0, n), np.bool_)
    told = np.full((2 * features if wanted.told else 0, n), np.nan)
    return Said(np.full(n, np.nan), np.zeros(n, np.uint8), surprised, told)


@dataclass(frozen=True, slots=True)
class Outcome:
    """alerts in event order; p_value: float64[n], NaN where the monitor did not apply; watched:
    what else it found; told: float64[n] by "monitor.feature", what assess looks at, NaN likewise."""

    alerts: list[Found]
    p_value: F64
    watched: Watched
    told: dict[str, F64]

    def said(self) -> dict[str, F64]:
        """Its report on every event: the p-value, and what assess looks at."""
        return {P_VALUE: self.p_value, **self.told}


def said(spec: MonitorSpec, outcomes: Sequence[Outcome], wanted: Wanted) -> Said:
    """All that a monitor said of the batches that led to these outcomes, one after the other."""
    parts = [_said(spec, outcome, wanted) for outcome in outcomes]
    parts = parts or [silence(len(told_names(spec)), 0, wanted)]
    return Said._make(np.concatenate(arrays, axis=-1) for arrays in zip(*parts, strict=True))


def _said(spec: MonitorSpec, outcome: Outcome, wanted: Wanted) -> Said:
    watched, k = outcome.watched, len(told_names(spec))
    part = silence(k, len(outcome.p_value), wanted)
    own_p = watched.calibrated.p[:k]
    if wanted.scores:
        part.activity[watched.index] = watched.decided.activity
        part.surprised[:, watched.index] = own_p < SURPRISED_P
    if wanted.told:
        part.told[:k, watched.index] = watched.told.values * watched.told.units
        part.told[k:, watched.index] = own_p
    return part._replace(p_value=outcome.p_value)


class Watch:
    """The stage of one monitor over one partition. told: the features that assess looks at, any
    monitor's. sources, ahead_max_ms: see `Monitor`."""

    def __init__(
        self,
        spec: MonitorSpec,
        shards: int,
        fingerprint: str,
        teller: Teller,
        told: Sequence[str] = (),
        shard: int = 0,
        sources: int = 1,
        ahead_max_ms: float = AHEAD_MAX_MS,
    ) -> None:
        self.name = spec.name
        self.spec = spec
        self.monitor = Monitor(spec, teller.key, shards, shard, sources, ahead_max_ms)
        self.origin = Origin(spec.name, spec.entity, fingerprint, spec.policy, shards)
        self.teller = teller
        names = enumerate(self.monitor.names)
        said = {f"{spec.name}.{name}": j for j, name in names}
        self._told = {name: said[name] for name in told if name in said}
        self.tally = np.zeros(6, np.int64)

    def process(self, batch: EventBatch) -> Outcome:
        """Watch the batch; alerts for what the policy opened or updated."""
        watched = self.monitor.process(batch)
        applicable = len(watched.index)
        self.tally += (
            applicable,
            int(watched.admitted.late.sum()),
            len(batch) - applicable - watched.labels,
            int((~watched.admitted.learn).sum()),
            watched.labels,
            int(watched.ahead.sum()),
        )
        p_value = np.full(len(batch), np.nan)
        p_value[watched.index] = watched.p
        alerts = [
            Found(int(watched.index[i]), self._alert(batch, watched, i))
            for i in published(watched.decided)
        ]
        return Outcome(alerts, p_value, watched, self._tell(watched, batch))

    def _tell(self, watched: Watched, batch: EventBatch) -> dict[str, F64]:
        """What assess looks at, in natural units; where a currency is named, amounts as multiples of
        what is typical in it, since it compares them."""
        found: dict[str, F64] = {}
        named = present(batch, "currency")[watched.index] if self._told else np.empty(0, np.bool_)
        for name, j in self._told.items():
            found[name] = np.full(len(batch), np.nan)
            unit = np.where(named, 1.0, watched.told.units[j])
            found[name][watched.index] = watched.told.values[j] * unit
        return found

    def counts(self) -> dict[str, int]:
        """Events by what became of them, alerts by activity, and the monitor's sizes."""
        return {
            "scored": int(self.tally[SCORED]),
            "late": int(self.tally[LATE]),
            "ahead": int(self.tally[AHEAD]),
            "not_applicable": int(self.tally[NOT_APPLICABLE]),
            "labels": int(self.tally[LABELS]),
            "late_not_learned": int(self.tally[SKIPPED_LEARNING]),
            **self.monitor.policy.counts(),
            **self.monitor.measures(),
        }

    def save(self) -> Arrays:
        """The monitor's state and the tally."""
        return {"tally": self.tally, **self.monitor.save()}

    def load(self, state: Arrays) -> None:
        """Replace the state by one saved under the same configuration."""
        self.tally[:] = state["tally"]
        self.monitor.load({name: array for name, array in state.items() if name != "tally"})

    def begin_behind(self, events: int) -> None:
        """Start with so many events behind it that it has not seen: they did not apply to it."""
        self.tally[NOT_APPLICABLE] += events

    def announced(self) -> set[str]:
        """What the monitor announces."""
        return self.monitor.announced()

    def announce(self, about_to_write: AboutToWrite | None) -> None:
        """Have the monitor announce it."""
        self.monitor.announce(about_to_write)

    def _alert(self, batch: EventBatch, watched: Watched, i: int) -> Alert:
        detector, top_feature = self._foremost(watched, i)
        shown, instead = self._explained(watched, i)
        reasons = Reasons(
            detector=detector,
            reason=top_feature,
            p_value=float(watched.p[i]),
            warm=bool(watched.warm[i]),
            window_s=self._window_s({one.feature for one in shown}),
            contributions=shown,
            counterfactual=instead,
        )
        who = pseudonym(watched.keys[i])
        row = int(watched.index[i])
        return self.teller.alert(self.origin, batch, row, who, watched.decided, i, reasons)

    def _explained(self, watched: Watched, i: int) -> tuple[list[Contribution], list[str] | None]:
        """The contributions, and the counterfactual. A rule that decided holds no longer without the
        first feature that it asks for; whether others then do is not looked at."""
        names, told, calibrated = self.monitor.names, watched.told, watched.calibrated
        threshold = float(watched.decided.threshold[i])
        if watched.rule[i] < 0:
            features, trees = self.spec.features, watched.trees
            shown = explain.contributions(i, names, features, told, calibrated, trees)
            order, without = calibrated.order, calibrated.without
            return shown, explain.counterfactual(i, names, order, without, threshold)
        rule = self.spec.rules[int(watched.rule[i])]
        enough = len(self.spec.rules) == 1 and not calibrated.combined[i] <= threshold
        instead = [next(iter(rule.at_least))] if enough else None
        return explain.of_rule(i, names, rule, told, calibrated), instead

    def _foremost(self, watched: Watched, i: int) -> tuple[str, str]:
        """The detector with the smallest p-value, and the feature with the largest share; for both
        the rule, where one decided."""
        if watched.rule[i] >= 0:
            rule = self.spec.rules[int(watched.rule[i])].name
            return rule, rule
        least = int(np.nanargmin(watched.calibrated.p[:, i]))
        names, features = self.monitor.names, len(self.monitor.kinds)
        share = explain.shares(i, len(names), watched.calibrated, watched.trees)
        detector = "tail" if least < features else [*names, "trees"][least]
        return detector, names[share.index(max(share))]

    def _window_s(self, features: set[str]) -> int:
        spans = [
            seconds(f.half_life) for f in self.spec.features if f.name in features and f.half_life
        ]
        return int(max(spans, default=0.0))
