"""The watch stage, one for each monitor: reads events, raises alerts, and writes reports.

`detectors.monitor` scores, learns and decides. This module builds alerts from its decisions, with
explanation and recommended action, and reports from its scores. Labels go to the monitor's detectors
(`label_risk`); what assess learns from labels is independent of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
from msgspec import to_builtins

from detectors.clock import AHEAD_MAX_MS
from detectors.monitor import (
    Monitor,
    MonitorOutput,
    MonitorSpec,
    is_relevant,
    present,
    value_names,
)
from detectors.numeric.hashing import pseudonym
from detectors.scoring import explain
from detectors.spec import seconds
from detectors.state import Arrays, WriteHook
from schemas.alerts import Alert, Contribution
from schemas.codecs.internal_events import InternalEventCodec
from schemas.columns import F64, EventBatch
from stream.config import Config, StateConfig, internal_topic_fields
from stream.config.stage_graph import (
    OutputTopic,
    ReadPath,
    StageDeclaration,
    StageNode,
    StateInputs,
)
from stream.config.topology import Log
from stream.pipeline.alerting import AlertBuilder, AlertOrigin, AlertRationale, alerting_rows
from stream.pipeline.context import Placement, StageContext
from stream.pipeline.counters import EVENT_COUNTERS, WATCH_COUNTERS
from stream.pipeline.scores import ScoreColumns, ScoreSelection, empty_scores
from stream.pipeline.stages import AlertAtRow, Selected, Stage, StageOutput, Subscription

SCORED, LATE, AHEAD, NOT_APPLICABLE, LABELS, LATE_NOT_LEARNED = range(6)
"""Indices into the tally, which is in the order of `EVENT_COUNTERS`."""
SURPRISED_P: Final = 0.1
"""A feature with a smaller p-value is surprising."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchOutput(StageOutput):
    """p_value: float64[n], NaN where the monitor did not apply. monitor_output: the monitor's output.
    training_features: "monitor.feature" → float64[n], the values that assess learns from."""

    p_value: F64
    monitor_output: MonitorOutput
    training_features: dict[str, F64]


class Watch(Stage):
    """The stage of one monitor for one partition. training_features: the features that assess learns
    from, of every monitor. sources, ahead_max_ms: see `Monitor`."""

    def __init__(
        self,
        spec: MonitorSpec,
        shards: int,
        fingerprint: str,
        alert_builder: AlertBuilder,
        training_features: Sequence[str] = (),
        shard: int = 0,
        sources: int = 1,
        ahead_max_ms: float = AHEAD_MAX_MS,
    ) -> None:
        self.name = spec.name
        self.spec = spec
        self.monitor = Monitor(spec, alert_builder.key, shards, shard, sources, ahead_max_ms)
        self.origin = AlertOrigin(spec.name, spec.entity, fingerprint, spec.policy, shards)
        self.alert_builder = alert_builder
        feature_index = {f"{spec.name}.{name}": j for j, name in enumerate(self.monitor.names)}
        self._training = {
            name: feature_index[name] for name in training_features if name in feature_index
        }
        self.tally = np.zeros(6, np.int64)

    def process(self, batch: EventBatch) -> WatchOutput:
        """Score and learn the batch's events; an alert for each incident that is opened or updated."""
        monitor_output = self.monitor.process(batch)
        applicable = len(monitor_output.index)
        self.tally += (
            applicable,
            int(monitor_output.admitted.late.sum()),
            int(monitor_output.ahead.sum()),
            len(batch) - applicable - monitor_output.labels,
            monitor_output.labels,
            int((~monitor_output.admitted.learn).sum()),
        )
        p_value = np.full(len(batch), np.nan)
        p_value[monitor_output.index] = monitor_output.p
        alerts = [
            AlertAtRow(int(monitor_output.index[i]), self._alert(batch, monitor_output, i))
            for i in alerting_rows(monitor_output.policy_outcome)
        ]
        return WatchOutput(
            alerts=alerts,
            p_value=p_value,
            monitor_output=monitor_output,
            training_features=self._training_columns(monitor_output, batch),
        )

    def scores(
        self, batch: EventBatch, output: WatchOutput, selection: ScoreSelection
    ) -> ScoreColumns:
        """The scores of a batch's events."""
        monitor_output, k = output.monitor_output, len(value_names(self.spec))
        scores = empty_scores(k, len(batch), selection)
        own_p = monitor_output.calibrated.p[:k]
        scores.activity[monitor_output.index] = monitor_output.policy_outcome.activity
        scores.surprised[:, monitor_output.index] = own_p < SURPRISED_P
        if selection.feature_values:
            values = monitor_output.feature_values
            scores.feature_values[:k, monitor_output.index] = values.values * values.units
            scores.feature_values[k:, monitor_output.index] = own_p
        return scores._replace(p_value=output.p_value)

    def _training_columns(self, monitor_output: MonitorOutput, batch: EventBatch) -> dict[str, F64]:
        """The features that assess learns from, in natural units. Assess compares them, so that
        amounts with a currency are multiples of the currency's typical amount."""
        columns: dict[str, F64] = {}
        has_currency = (
            present(batch, "currency")[monitor_output.index]
            if self._training
            else np.empty(0, np.bool_)
        )
        for name, j in self._training.items():
            columns[name] = np.full(len(batch), np.nan)
            unit = np.where(has_currency, 1.0, monitor_output.feature_values.units[j])
            columns[name][monitor_output.index] = monitor_output.feature_values.values[j] * unit
        return columns

    def counts(self) -> dict[str, int]:
        """Events by outcome, alerts by activity, and the sizes of the monitor's state."""
        keys = (counter.key for counter in EVENT_COUNTERS)
        return {
            **dict(zip(keys, self.tally.tolist(), strict=True)),
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

    def events_counted(self) -> int:
        """Events scored or not applicable, and labels."""
        return int(self.tally[SCORED] + self.tally[LABELS] + self.tally[NOT_APPLICABLE])

    def backfill_not_applicable(self, events: int) -> None:
        """Count this number of events, from before the stage existed, as not applicable."""
        self.tally[NOT_APPLICABLE] += events

    def copy_on_write_arrays(self) -> set[str]:
        """The monitor's copy-on-write arrays."""
        return self.monitor.copy_on_write_arrays()

    def set_write_hook(self, before_write: WriteHook | None) -> None:
        """Hand the hook to the monitor."""
        self.monitor.set_write_hook(before_write)

    def _alert(self, batch: EventBatch, monitor_output: MonitorOutput, i: int) -> Alert:
        detector, top_feature = self._top_detector(monitor_output, i)
        shown, counterfactual = self._explained(monitor_output, i)
        rationale = AlertRationale(
            detector=detector,
            reason=top_feature,
            p_value=float(monitor_output.p[i]),
            warm=bool(monitor_output.warm[i]),
            window_s=self._window_s({contribution.feature for contribution in shown}),
            contributions=shown,
            counterfactual=counterfactual,
        )
        entity_pseudonym = pseudonym(monitor_output.keys[i])
        row = int(monitor_output.index[i])
        return self.alert_builder.alert(
            self.origin, batch, row, entity_pseudonym, monitor_output.policy_outcome, i, rationale
        )

    def _explained(
        self, monitor_output: MonitorOutput, i: int
    ) -> tuple[list[Contribution], list[str] | None]:
        """The contributions, and the counterfactual. An alert by a rule has a counterfactual, the first
        feature of the rule, only if the rule is the only cause: the monitor has no other rule, and its
        p-value alone would not have raised the alert."""
        names, values, calibrated = (
            self.monitor.names,
            monitor_output.feature_values,
            monitor_output.calibrated,
        )
        threshold = float(monitor_output.policy_outcome.threshold[i])
        if monitor_output.rule[i] < 0:
            features, trees = self.spec.features, monitor_output.trees
            shown = explain.contributions(i, names, features, values, calibrated, trees)
            order, counterfactual_p = calibrated.order, calibrated.counterfactual_p
            return shown, explain.counterfactual(i, names, order, counterfactual_p, threshold)
        rule = self.spec.rules[int(monitor_output.rule[i])]
        is_only_cause = len(self.spec.rules) == 1 and not calibrated.combined[i] <= threshold
        counterfactual = [next(iter(rule.at_least))] if is_only_cause else None
        return explain.rule_contributions(i, names, rule, values, calibrated), counterfactual

    def _top_detector(self, monitor_output: MonitorOutput, i: int) -> tuple[str, str]:
        """The detector with the smallest p-value, and the feature with the largest share; the rule for
        both, where a rule raised the alert."""
        if monitor_output.rule[i] >= 0:
            rule = self.spec.rules[int(monitor_output.rule[i])].name
            return rule, rule
        least = int(np.nanargmin(monitor_output.calibrated.p[:, i]))
        names, features = self.monitor.names, len(self.monitor.kinds)
        share = explain.shares(i, len(names), monitor_output.calibrated, monitor_output.trees)
        detector = "tail" if least < features else [*names, "trees"][least]
        return detector, names[share.index(max(share))]

    def _window_s(self, features: set[str]) -> int:
        half_lives = [
            seconds(f.half_life) for f in self.spec.features if f.name in features and f.half_life
        ]
        return int(max(half_lives, default=0.0))


# -- the declaration ------------------------------------------------------------------------------


class WatchSubscription(Subscription[EventBatch]):
    """Reads the events that concern a monitor, keyed by its entity. codec: of its internal topic."""

    def __init__(self, spec: MonitorSpec, codec: InternalEventCodec) -> None:
        self._spec = spec
        self.codec = self._codec = codec

    def keys(self, batch: EventBatch) -> pa.StringArray:
        """The entity of each event."""
        return batch.text[self._spec.entity]

    def select_events(self, events: EventBatch) -> Selected[EventBatch]:
        """The events that concern the monitor, with the fields that it uses."""
        rows = np.flatnonzero(is_relevant(events, self._spec)).astype(np.int64)
        return Selected(self._codec.select_fields(events).take(rows), rows)

    def select_inline(
        self, events: EventBatch, outputs: Mapping[str, StageOutput]
    ) -> Selected[EventBatch]:
        """All events: the monitor itself skips those that do not concern it."""
        return Selected(events, np.arange(len(events)))


def read_path(config: Config, monitor: MonitorSpec) -> ReadPath:
    """How a monitor reads its events: directly where one partition of one topic holds all events of
    each of its entities."""
    names = ", ".join(monitor.inputs)
    spec = config.inputs[monitor.inputs[0]]
    if len(monitor.inputs) > 1:
        reason = (
            f"it reads {len(monitor.inputs)} topics ({names}), and no log holds the order of "
            "events across topics"
        )
    elif monitor.partitions is not None:
        reason = f"partitions = {monitor.partitions} requires it"
    elif spec.partitions == 1:
        return ReadPath(None, "its topic has one partition")
    elif spec.keyed_by == monitor.entity:
        return ReadPath(None, f"its topic is partitioned by {monitor.entity} ({spec.partitioner})")
    else:
        by = f"keyed by {spec.keyed_by}" if spec.keyed_by else "without keyed_by"
        reason = (
            f"it watches {monitor.entity}, but {names} has {spec.partitions} partitions, {by}: "
            f"events of one {monitor.entity} may be in several partitions"
        )
    most = max(config.inputs[name].partitions for name in monitor.inputs)
    topic = f"{config.group}-{monitor.name}-events"
    return ReadPath(Log(monitor.name, topic, monitor.partitions or most, internal=True), reason)


def _nodes(config: Config) -> list[StageNode]:
    """A node for each monitor, except monitors with an unknown input, which validation reports."""
    return [
        StageNode(
            WATCH,
            monitor.name,
            f"monitors[{i}]",
            read_path(config, monitor),
            key=monitor.entity,
            inputs=(*monitor.inputs,),
            score_features=(*value_names(monitor),),
            policy=monitor.policy,
            options=monitor,
        )
        for i, monitor in enumerate(config.monitors)
        if monitor.inputs and {*monitor.inputs} <= config.inputs.keys()
    ]


def _make(node: StageNode, context: StageContext, placement: Placement) -> Watch:
    assess = context.config.assess
    return Watch(
        node.options,
        placement.log.partitions,
        context.fingerprint,
        context.alert_builder,
        assess.training_features() if assess else (),
        placement.partition,
        len(context.sources(node.inputs)) if node.internal_topic else 1,
        context.ahead_max_ms,
    )


def _subscribe(node: StageNode, context: StageContext) -> WatchSubscription:
    fields = internal_topic_fields(context.config, node.options)
    return WatchSubscription(node.options, InternalEventCodec(fields, context.sources(node.inputs)))


def _state_inputs(state: StateConfig) -> dict[str, StateInputs]:
    """Of each monitor its settings except rules and policy, which decide on alerts and do not affect
    learning; its inputs; and the secret that entities are hashed with."""
    return {spec.name: _monitor_state_inputs(state, spec) for spec in state.monitors}


def _monitor_state_inputs(state: StateConfig, spec: MonitorSpec) -> StateInputs:
    declared = {
        key: value for key, value in to_builtins(spec).items() if key not in NON_STATE_SETTINGS
    }
    return {
        "the secret": state.secret,
        **{f"its {key}": value for key, value in declared.items()},
        **{f"inputs.{name}": state.inputs.get(name) for name in spec.inputs},
    }


def alert_topic(_node: StageNode, config: Config) -> list[OutputTopic]:
    """The topic that all alerts are published to."""
    return [OutputTopic("outputs.alerts", config.outputs.alerts, "entity")]


NON_STATE_SETTINGS: Final = frozenset({"name", "rules", "policy"})
"""Settings of a stage that do not affect what it learns."""
WATCH: Final = StageDeclaration(
    name="watch",
    noun="monitor",
    reads=("events",),
    writes=("alerts", "reports"),
    make=_make,
    subscribe=_subscribe,
    counters=WATCH_COUNTERS,
    nodes=_nodes,
    outputs=alert_topic,
    state_inputs=_state_inputs,
    batch_rows_max=20_000,
)
