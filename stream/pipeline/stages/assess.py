"""The assess stage: reads monitors' reports, raises alerts on their subject. It combines all reports on
one event into one score, and revises the score with each further report.

`detectors.fusion.assessment` combines the reports; where configured, it learns from labels how to do
so. This module builds alerts from its decisions, with reports and training features as contributions.
Reports come over an internal topic keyed by the subject, or inline where all monitors read one log.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from msgspec import to_builtins

from detectors.clock import AHEAD_MAX_MS
from detectors.fusion.arrays import AssessmentOutput
from detectors.fusion.assessment import Assessment
from detectors.fusion.event_memory import DISTINCT_EVENTS, SAMPLED_EVENTS
from detectors.monitor import MonitorSpec
from detectors.numeric.hashing import pseudonym
from detectors.scoring import explain
from detectors.scoring.policy import HELD_BACK, NO_ALERT, OPENED, SUPPRESSED, UPDATED
from detectors.state import Arrays, add_prefix, select_prefix
from schemas.alerts import Alert, Contribution
from schemas.codecs.reports import ReportCodec
from schemas.columns import F64, U8, EventBatch
from schemas.events import ENTITY_FIELDS, LABEL_TYPE
from schemas.labels import LEARNED_LABEL_FIELDS
from schemas.reports import ReportBatch
from stream.config import (
    AssessSpec,
    Config,
    StateConfig,
    learning_inputs,
)
from stream.config.stage_graph import ReadPath, StageDeclaration, StageNode, StateInputs
from stream.config.topology import Log
from stream.pipeline.alerting import AlertBuilder, AlertOrigin, AlertRationale, alerting_rows
from stream.pipeline.context import Placement, StageContext
from stream.pipeline.counters import ASSESS_COUNTERS
from stream.pipeline.scores import ScoreColumns, ScoreSelection, empty_scores
from stream.pipeline.stages import AlertAtRow, Stage, StageOutput
from stream.pipeline.stages.report_subscription import ReportSubscription
from stream.pipeline.stages.watch import NON_STATE_SETTINGS, alert_topic, read_path


@dataclass(frozen=True, slots=True, kw_only=True)
class AssessOutput(StageOutput):
    """p_value: float64[n], of each row's event; NaN where the row is ignored. A label has 1, or NaN if
    the stage has `score_all`. activity: uint8[n], of each row."""

    p_value: F64
    activity: U8


ACTIVITY_RANK: Final = np.array([NO_ALERT, HELD_BACK, SUPPRESSED, UPDATED, OPENED], np.uint8)
"""From lowest to highest rank: an event's activity is the highest-ranking one among its rows."""


class Assess(Stage):
    """The assess stage of one partition of its internal topic, or of the input that all monitors read.

    score_all: rows include unreported p-values (replay only), and an event's p-value combines all of
    its rows; otherwise it combines the reports so far. reports_grouped: all reports on an event come
    in one batch, next to each other. sources, ahead_max_ms: see
    `Assessment`.
    """

    def __init__(
        self,
        spec: AssessSpec,
        monitors: Sequence[str],
        shards: int,
        fingerprint: str,
        alert_builder: AlertBuilder,
        *,
        shard: int = 0,
        score_all: bool = False,
        reports_grouped: bool = False,
        sources: int = 1,
        ahead_max_ms: float = AHEAD_MAX_MS,
    ) -> None:
        self.spec = spec
        self._score_all = score_all
        self.monitors = list(monitors)
        self.alert_builder = alert_builder
        features = spec.training_features()
        self.names = [*self.monitors, *features]
        monitor_of_feature = [self.monitors.index(name.partition(".")[0]) for name in features]
        self.assessment = Assessment(
            spec.policy,
            alert_builder.key,
            len(self.monitors),
            spec.capacity,
            spec.events_max,
            shards,
            spec.report_p,
            monitor_of_feature if spec.learning else None,
            shard=shard,
            reports_grouped=reports_grouped,
            sources=sources,
            ahead_max_ms=ahead_max_ms,
        )
        self.report_score = explain.six_digits(explain.score_of_p(spec.report_p))
        """The score of report_p: a monitor reports every event with a higher score."""
        self.origin = AlertOrigin(ASSESS.name, spec.subject, fingerprint, spec.policy, shards)
        self.tally = np.zeros(2, np.int64)

    def process(self, reports: ReportBatch) -> AssessOutput:
        """Process reports and labels in order; return an alert for each incident opened or updated.

        Reports of monitors that the configuration no longer has may still be in the log: they are
        counted as ignored. So are labels where nothing is learned.
        """
        index = {name: k for k, name in enumerate(self.monitors)}
        monitor = np.array([index.get(m, -1) for m in reports.monitor.to_pylist()], np.int64)
        labels = (reports.events.type_code == LABEL_TYPE) & self.assessment.learns
        used_rows = np.flatnonzero((monitor >= 0) | labels)
        p_value = np.full(len(reports), np.nan)
        ignored = len(reports) - len(used_rows)
        if ignored:
            reports, monitor = reports.take(used_rows), monitor[used_rows]
        values = [reports.features[name] for name in self.spec.training_features()]
        assessed = self.assessment.process(
            reports.events,
            self.spec.subject,
            monitor,
            reports.p_value,
            np.array(values).reshape(len(values), len(reports)).T.copy(),
        )
        self.tally += int(assessed.is_report.sum()), ignored
        activity = np.zeros(len(p_value), np.uint8)
        p_value[used_rows] = assessed.p_of_all if self._score_all else assessed.p
        activity[used_rows] = assessed.policy_outcome.activity
        alerts = [
            AlertAtRow(int(used_rows[i]), self._alert(reports.events, assessed, i))
            for i in alerting_rows(assessed.policy_outcome)
        ]
        return AssessOutput(alerts=alerts, p_value=p_value, activity=activity)

    def scores(
        self, batch: ReportBatch, output: AssessOutput, selection: ScoreSelection
    ) -> ScoreColumns:
        """The scores of each row's event. Rows on one event are next to each other; each has the
        highest-ranking activity of them."""
        is_new_event = np.diff(batch.offset, prepend=-1) != 0
        is_new_event |= np.diff(batch.source, prepend=-1) != 0
        event = np.cumsum(is_new_event) - 1
        rank = np.zeros(int(is_new_event.sum()), np.int64)
        np.maximum.at(rank, event, np.argsort(ACTIVITY_RANK)[output.activity])
        scores = empty_scores(0, len(batch), selection)
        return scores._replace(p_value=output.p_value, activity=ACTIVITY_RANK[rank[event]])

    def counts(self) -> dict[str, int]:
        """Reports, the events they were on, and alerts by activity."""
        totals = self.assessment.remembered.totals
        return {
            "reports": int(self.tally[0]),
            "reports_ignored": int(self.tally[1]),
            "reported_events": int(totals[DISTINCT_EVENTS]),
            "sampled_events": int(totals[SAMPLED_EVENTS]),
            **self.assessment.counts(),
            **self.assessment.policy.counts(),
        }

    def save(self) -> Arrays:
        """The assessment's state and the tally."""
        return {"tally": self.tally, **add_prefix({"assessment": self.assessment.save()})}

    def load(self, state: Arrays) -> None:
        """Replace the state by one saved under the same configuration."""
        self.tally[:] = state["tally"]
        self.assessment.load(select_prefix("assessment", state))

    def _alert(self, batch: EventBatch, assessed: AssessmentOutput, i: int) -> Alert:
        shown = self._contributions(assessed, i)
        threshold = float(assessed.policy_outcome.threshold[i])
        rationale = AlertRationale(
            detector=ASSESS.name,
            reason=shown[0].feature,
            p_value=float(assessed.p[i]),
            warm=bool(assessed.warm[i]),
            window_s=0,
            contributions=shown,
            counterfactual=explain.counterfactual(
                i, self.names, assessed.order, assessed.counterfactual_p, threshold
            ),
        )
        entity_pseudonym = pseudonym(assessed.keys[i])
        return self.alert_builder.alert(
            self.origin, batch, i, entity_pseudonym, assessed.policy_outcome, i, rationale
        )

    def _contributions(self, assessed: AssessmentOutput, i: int) -> list[Contribution]:
        """Reports and training features by their share in the combined score; those that lower the
        score have share 0."""
        contribution = assessed.contribution[i]
        present = np.flatnonzero(~np.isnan(contribution))
        positive = np.maximum(contribution[present], 0.0)
        positive = positive if positive.any() else np.ones(len(present))
        shown = np.argsort(-positive, kind="stable")[: explain.CONTRIBUTIONS_MAX]
        share = positive[shown] / positive[shown].sum()
        return [
            self._contribution(assessed, i, j, share_j)
            for j, share_j in zip(present[shown].tolist(), share.tolist(), strict=True)
        ]

    def _contribution(
        self, assessed: AssessmentOutput, i: int, j: int, share: float
    ) -> Contribution:
        """One input: a monitor's score, or a feature's value, with the range expected among reports
        where the value is outside it. A value inside may contribute in combination with others."""
        p = float(assessed.by_monitor[i, self.assessment.learner.input_monitor[j]])
        if j < len(self.monitors):
            actual, low, high = explain.score_of_p(p), 0.0, self.report_score
        else:
            actual, low, high = (
                float(values[i, j]) for values in (assessed.value, assessed.low, assessed.high)
            )
            low = max(low, 0.0)  # as features are magnitudes
        unusual = actual < low or actual > high
        return Contribution(
            feature=self.names[j],
            actual=explain.six_digits(actual),
            expected_low=explain.six_digits(low) if unusual else None,
            expected_high=explain.six_digits(high) if unusual else None,
            p_value=explain.six_digits(p),
            share=share,
        )


# -- the declaration ------------------------------------------------------------------------------


def read_path_of_reports(config: Config, spec: AssessSpec) -> tuple[ReadPath, tuple[str, ...]]:
    """How assess reads reports, and the inputs whose events it reads: inline where its monitors and
    its subject read the same log, else over its internal topic."""
    monitor_inputs = [name for monitor in config.monitors for name in monitor.inputs]
    inputs = list(dict.fromkeys([*monitor_inputs, *learning_inputs(config)]))
    direct = all(read_path(config, monitor).internal_topic is None for monitor in config.monitors)
    if direct and len(inputs) == 1 and spec.partitions is None:
        only_input = config.inputs[inputs[0]]
        if only_input.partitions == 1 or only_input.keyed_by == spec.subject:
            reason = f"its monitors and {spec.subject} read the same log"
            return ReadPath(None, reason), (inputs[0],)
    partitions = spec.partitions or max(config.inputs[name].partitions for name in inputs)
    reason = f"reports on one {spec.subject} come from several logs"
    if spec.partitions is not None:
        reason = f"partitions = {spec.partitions} requires it"
    log = Log(ASSESS.name, f"{config.group}-{ASSESS.name}-reports", partitions, internal=True)
    return ReadPath(log, reason), (*learning_inputs(config),)


def _nodes(config: Config) -> list[StageNode]:
    """One node where [assess] is configured; none where inputs are unknown, which validation reports."""
    if config.assess is None:
        return []
    read = {name for monitor in config.monitors for name in monitor.inputs}
    read |= {*learning_inputs(config)}
    inputs_exist = read <= config.inputs.keys() and all(
        monitor.inputs for monitor in config.monitors
    )
    if not config.monitors or not inputs_exist:
        return []
    path, inputs = read_path_of_reports(config, config.assess)
    return [
        StageNode(
            ASSESS,
            ASSESS.name,
            "assess",
            path,
            key=config.assess.subject,
            inputs=inputs,
            score_features=(),
            policy=config.assess.policy,
            options=config.assess,
        )
    ]


def _scores_all(context: StageContext) -> bool:
    return context.selection.scores and bool(learning_inputs(context.config))


def _make(node: StageNode, context: StageContext, placement: Placement) -> Assess:
    return Assess(
        node.options,
        [monitor.name for monitor in context.config.monitors],
        placement.log.partitions,
        context.fingerprint,
        context.alert_builder,
        shard=placement.partition,
        score_all=_scores_all(context),
        reports_grouped=placement.inline,
        sources=1 if placement.inline else len(context.all_sources()),
        ahead_max_ms=context.ahead_max_ms,
    )


def _subscribe(node: StageNode, context: StageContext) -> ReportSubscription:
    spec: AssessSpec = node.options
    fields = [*ENTITY_FIELDS, *(LEARNED_LABEL_FIELDS if spec.learning else ())]
    codec = ReportCodec(fields, spec.training_features(), context.all_sources())
    key = context.alert_builder.key
    return ReportSubscription(spec, codec, key, score_all=_scores_all(context))


def _state_inputs(state: StateConfig) -> dict[str, StateInputs]:
    """Its settings except the policy; the monitors, with entity, inputs and partitions; the inputs; and,
    where it learns, the monitors' features. Monitors' rules and learned state are no state inputs: a
    p-value means the same whatever a monitor has learned."""
    spec = state.assess
    if spec is None:
        return {}
    declared = {
        key: value for key, value in to_builtins(spec).items() if key not in NON_STATE_SETTINGS
    }
    reporting = [
        (monitor.name, monitor.entity, monitor.inputs, monitor.partitions)
        for monitor in state.monitors
    ]
    inputs: dict[str, object] = {
        "the secret": state.secret,
        **{f"its {key}": value for key, value in declared.items()},
        "the monitors": reporting,
        "the inputs": sorted(state.inputs),
    }
    if spec.learning:
        inputs["the monitors' features"] = [_features(monitor) for monitor in state.monitors]
    inputs |= {f"inputs.{name}": state.inputs[name] for name in sorted(state.inputs)}
    return {ASSESS.name: inputs}


def _features(monitor: MonitorSpec) -> list[Any]:
    return [*monitor.features, *monitor.detectors]


ASSESS: Final = StageDeclaration(
    name="assess",
    reads=("reports", "events"),
    writes=("alerts",),
    make=_make,
    subscribe=_subscribe,
    counters=ASSESS_COUNTERS,
    nodes=_nodes,
    outputs=alert_topic,
    state_inputs=_state_inputs,
)
