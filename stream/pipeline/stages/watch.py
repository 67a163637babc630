"""watch: events in, alerts out. The heart of the chain: one monitor, one partition.

The learning is `detectors.monitor`'s; here its decisions become alerts: identity, evidence,
explanation, recommended action. Knows no topic but the positions that events carry.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detectors.clock import AHEAD_MAX_MS
from detectors.monitor import Monitor, MonitorOutput, MonitorSpec, present, value_names
from detectors.numeric.hashing import pseudonym
from detectors.scoring import explain
from detectors.spec import seconds
from detectors.state import Arrays, WriteHook
from schemas.alerts import Alert, Contribution
from schemas.codecs.internal_events import P_VALUE
from schemas.columns import F64, I64, U8, Bools, EventBatch
from stream.pipeline.alerting import AlertBuilder, AlertOrigin, AlertRationale, alerting_rows
from stream.pipeline.stages import AlertAtRow

SCORED, LATE, NOT_APPLICABLE, LATE_NOT_LEARNED, LABELS, AHEAD = range(6)
SURPRISED_P: Final = 0.1
"""A feature is surprised where its own p-value is below it; else it is silent."""


class ScoreSelection(NamedTuple):
    """What is wanted to be said of every event beside what is published; live it is nothing.

    scores: each monitor's p-value, what its policy made of it, and which of its features were
    surprised. told: their values.
    """

    scores: bool = False
    feature_values: bool = False


NO_SCORES: Final = ScoreSelection()


class ScoreColumns(NamedTuple):
    """What a monitor said of n events, k being how many `value_names` it has.

    p_value: float64[n], NaN where the monitor did not apply. activity: uint8[n], `policy.QUIET` …,
    what became of each event. surprised: bool[k, n]. told: float64[2k, n], the values in natural
    units, then their own p-values, NaN where there is none. Where scores are not wanted all is
    quiet, and the last two are of no features where these are not.
    """

    p_value: F64
    activity: U8
    surprised: Bools
    feature_values: F64

    def slice(self, start: int, stop: int) -> "ScoreColumns":
        """What was said of the events start … stop - 1."""
        return ScoreColumns._make(array[..., start:stop] for array in self)

    def put(self, places: I64, scores: "ScoreColumns") -> None:
        """Have at these places what was said of others; of places named often the last stands."""
        pairs: Iterator[tuple[NDArray[Any], NDArray[Any]]] = zip(self, scores, strict=True)
        for mine, theirs in pairs:
            mine[..., places] = theirs

    def take(self, rows: I64) -> "ScoreColumns":
        """What was said of these events."""
        return ScoreColumns._make(array[..., rows] for array in self)


def empty_scores(features: int, n: int, selection: ScoreSelection) -> ScoreColumns:
    """What is said of n events that do not apply. features: how many `value_names` a monitor has, 0
    of assess."""
    surprised = np.zeros((features if selection.scores else 0, n), np.bool_)
    told = np.full((2 * features if selection.feature_values else 0, n), np.nan)
    return ScoreColumns(np.full(n, np.nan), np.zeros(n, np.uint8), surprised, told)


@dataclass(frozen=True, slots=True)
class WatchOutput:
    """alerts in event order; p_value: float64[n], NaN where the monitor did not apply; watched:
    what else it found; told: float64[n] by "monitor.feature", what assess looks at, NaN likewise."""

    alerts: list[AlertAtRow]
    p_value: F64
    watched: MonitorOutput
    training_features: dict[str, F64]

    def scores(self) -> dict[str, F64]:
        """Its report on every event: the p-value, and what assess looks at."""
        return {P_VALUE: self.p_value, **self.training_features}


def scores(
    spec: MonitorSpec, outputs: Sequence[WatchOutput], selection: ScoreSelection
) -> ScoreColumns:
    """All that a monitor said of the batches that led to these outcomes, one after the other."""
    parts = [_scores(spec, output, selection) for output in outputs]
    parts = parts or [empty_scores(len(value_names(spec)), 0, selection)]
    return ScoreColumns._make(
        np.concatenate(arrays, axis=-1) for arrays in zip(*parts, strict=True)
    )


def _scores(spec: MonitorSpec, output: WatchOutput, selection: ScoreSelection) -> ScoreColumns:
    watched, k = output.watched, len(value_names(spec))
    part = empty_scores(k, len(output.p_value), selection)
    own_p = watched.calibrated.p[:k]
    if selection.scores:
        part.activity[watched.index] = watched.policy_outcome.activity
        part.surprised[:, watched.index] = own_p < SURPRISED_P
    if selection.feature_values:
        part.feature_values[:k, watched.index] = (
            watched.feature_values.values * watched.feature_values.units
        )
        part.feature_values[k:, watched.index] = own_p
    return part._replace(p_value=output.p_value)


class Watch:
    """The stage of one monitor over one partition. told: the features that assess looks at, any
    monitor's. sources, ahead_max_ms: see `Monitor`."""

    def __init__(
        self,
        spec: MonitorSpec,
        shards: int,
        fingerprint: str,
        alert_builder: AlertBuilder,
        told: Sequence[str] = (),
        shard: int = 0,
        sources: int = 1,
        ahead_max_ms: float = AHEAD_MAX_MS,
    ) -> None:
        self.name = spec.name
        self.spec = spec
        self.monitor = Monitor(spec, alert_builder.key, shards, shard, sources, ahead_max_ms)
        self.origin = AlertOrigin(spec.name, spec.entity, fingerprint, spec.policy, shards)
        self.alert_builder = alert_builder
        names = enumerate(self.monitor.names)
        scores = {f"{spec.name}.{name}": j for j, name in names}
        self._told = {name: scores[name] for name in told if name in scores}
        self.tally = np.zeros(6, np.int64)

    def process(self, batch: EventBatch) -> WatchOutput:
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
            AlertAtRow(int(watched.index[i]), self._alert(batch, watched, i))
            for i in alerting_rows(watched.policy_outcome)
        ]
        return WatchOutput(alerts, p_value, watched, self._training_columns(watched, batch))

    def _training_columns(self, watched: MonitorOutput, batch: EventBatch) -> dict[str, F64]:
        """What assess looks at, in natural units; where a currency is named, amounts as multiples of
        what is typical in it, since it compares them."""
        found: dict[str, F64] = {}
        named = present(batch, "currency")[watched.index] if self._told else np.empty(0, np.bool_)
        for name, j in self._told.items():
            found[name] = np.full(len(batch), np.nan)
            unit = np.where(named, 1.0, watched.feature_values.units[j])
            found[name][watched.index] = watched.feature_values.values[j] * unit
        return found

    def counts(self) -> dict[str, int]:
        """Events by what became of them, alerts by activity, and the monitor's sizes."""
        return {
            "scored": int(self.tally[SCORED]),
            "late": int(self.tally[LATE]),
            "ahead": int(self.tally[AHEAD]),
            "not_applicable": int(self.tally[NOT_APPLICABLE]),
            "labels": int(self.tally[LABELS]),
            "late_not_learned": int(self.tally[LATE_NOT_LEARNED]),
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

    def backfill_not_applicable(self, events: int) -> None:
        """Start with so many events behind it that it has not seen: they did not apply to it."""
        self.tally[NOT_APPLICABLE] += events

    def hooked_arrays(self) -> set[str]:
        """What the monitor announces."""
        return self.monitor.hooked_arrays()

    def on_write(self, before_write: WriteHook | None) -> None:
        """Have the monitor announce it."""
        self.monitor.on_write(before_write)

    def _alert(self, batch: EventBatch, watched: MonitorOutput, i: int) -> Alert:
        detector, top_feature = self._top_detector(watched, i)
        shown, instead = self._explained(watched, i)
        rationale = AlertRationale(
            detector=detector,
            reason=top_feature,
            p_value=float(watched.p[i]),
            warm=bool(watched.warm[i]),
            window_s=self._window_s({one.feature for one in shown}),
            contributions=shown,
            counterfactual=instead,
        )
        entity_pseudonym = pseudonym(watched.keys[i])
        row = int(watched.index[i])
        return self.alert_builder.alert(
            self.origin, batch, row, entity_pseudonym, watched.policy_outcome, i, rationale
        )

    def _explained(
        self, watched: MonitorOutput, i: int
    ) -> tuple[list[Contribution], list[str] | None]:
        """The contributions, and the counterfactual. A rule that decided holds no longer without the
        first feature that it asks for; whether others then do is not looked at."""
        names, told, calibrated = self.monitor.names, watched.feature_values, watched.calibrated
        threshold = float(watched.policy_outcome.threshold[i])
        if watched.rule[i] < 0:
            features, trees = self.spec.features, watched.trees
            shown = explain.contributions(i, names, features, told, calibrated, trees)
            order, without = calibrated.order, calibrated.without
            return shown, explain.counterfactual(i, names, order, without, threshold)
        rule = self.spec.rules[int(watched.rule[i])]
        enough = len(self.spec.rules) == 1 and not calibrated.combined[i] <= threshold
        instead = [next(iter(rule.at_least))] if enough else None
        return explain.rule_contributions(i, names, rule, told, calibrated), instead

    def _top_detector(self, watched: MonitorOutput, i: int) -> tuple[str, str]:
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
