"""assess: reports in, alerts on their subject out. What all monitors say about one event is one
score, which each further report revises.

The combining is `detectors.fusion.assessment`'s, learned from labels where the configuration says so; here
its decisions become alerts, with the reports, and what it learned to look at, as contributions.
Reports come over an internal log keyed by the subject, or, where subject and monitors read the same
log, straight from them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import pyarrow as pa

from detectors.clock import AHEAD_MAX_MS
from detectors.fusion.assessment import (
    DISTINCT_EVENTS,
    SAMPLED_EVENTS,
    Assessment,
    AssessmentOutput,
)
from detectors.numeric.hashing import pseudonym
from detectors.scoring import explain
from detectors.scoring.policy import OPENED, OVER_BUDGET, QUIET, SUPPRESSED, UPDATED
from detectors.state import Arrays, WriteHook, add_prefix, select_prefix
from schemas.alerts import Alert, Contribution
from schemas.codecs.internal_events import MONITOR, P_VALUE
from schemas.columns import F64, I64, U8, Bools, EventBatch
from schemas.events import LABEL_TYPE
from stream.config import ASSESS, AssessSpec
from stream.pipeline.alerting import AlertBuilder, AlertOrigin, AlertRationale, alerting_rows
from stream.pipeline.stages import AlertAtRow
from stream.pipeline.stages.watch import NO_SCORES, ScoreColumns, empty_scores


@dataclass(frozen=True, slots=True)
class AssessOutput:
    """alerts in the order of the rows; p_value: float64[n], of each row's event, NaN for what
    is left out; for labels NaN where every event is scored, else 1. activity: uint8[n], what became
    of each row."""

    alerts: list[AlertAtRow]
    p_value: F64
    activity: U8


ACTIVITY_RANK: Final = np.array([QUIET, OVER_BUDGET, SUPPRESSED, UPDATED, OPENED], np.uint8)
"""What becomes of an event by its reports is the last of these that became of one."""


def scores(batch: EventBatch, output: AssessOutput) -> ScoreColumns:
    """What assess says of each row's event. Rows about one event stand next to each other; each has
    what became of any of them."""
    another = np.diff(batch.offset, prepend=-1) != 0
    another |= np.diff(batch.source, prepend=-1) != 0
    event = np.cumsum(another) - 1
    rank = np.zeros(int(another.sum()), np.int64)
    np.maximum.at(rank, event, np.argsort(ACTIVITY_RANK)[output.activity])
    empty = empty_scores(0, len(batch), NO_SCORES)
    return empty._replace(p_value=output.p_value, activity=ACTIVITY_RANK[rank[event]])


def reports(
    monitor: str,
    events: EventBatch,
    scores: Mapping[str, F64],
    spec: AssessSpec,
    chosen: Bools,
    every: bool,
) -> tuple[EventBatch, I64]:
    """A monitor's reports on a batch, and the rows that they speak of: what surprised it, and the
    sample; an event without subject is nobody's. said: float64[n] each, its "p_value", NaN where it
    did not judge, and what assess looks at. chosen: bool[n], the sample; every: whatever it judged,
    so that assess can score it."""
    p_value = scores[P_VALUE]
    due = ~np.isnan(p_value)
    if not every:
        due &= (p_value < spec.report_p) | chosen
    if spec.subject in events.text:
        due &= events.text[spec.subject].is_valid().to_numpy(zero_copy_only=False)
    else:
        due[:] = False
    rows = np.flatnonzero(due).astype(np.int64)
    return report_rows(monitor, events, scores, spec, rows), rows


def report_rows(
    monitor: str | None, events: EventBatch, scores: Mapping[str, F64], spec: AssessSpec, rows: I64
) -> EventBatch:
    """What a monitor says of these rows, as assess reads it; labels where it is no monitor."""
    chosen = events.take(rows)
    text = {**chosen.text, MONITOR: pa.repeat(pa.scalar(monitor, pa.string()), len(rows))}
    absent = np.full(len(rows), np.nan)
    number = dict.fromkeys((P_VALUE, *training_features(spec)), absent)
    number |= {name: column[rows] for name, column in scores.items()}
    return replace(chosen, text=text, number=number)


def training_features(spec: AssessSpec) -> list[str]:
    """The features that it learns from."""
    return spec.learning.features if spec.learning else []


class Assess:
    """The stage of one partition of the reports, or of one log that holds all there is.

    every: what is no report comes, too, and an event's p-value is of all that was said of it; else
    of the reports so far, as it is held against the threshold. whole: all reports on an event come
    in one batch, next to each other. sources, ahead_max_ms: see `Assessment`.
    """

    name = ASSESS

    def __init__(
        self,
        spec: AssessSpec,
        monitors: Sequence[str],
        shards: int,
        fingerprint: str,
        alert_builder: AlertBuilder,
        *,
        shard: int = 0,
        every: bool = False,
        reports_grouped: bool = False,
        sources: int = 1,
        ahead_max_ms: float = AHEAD_MAX_MS,
    ) -> None:
        self.spec = spec
        self._every = every
        self.monitors = list(monitors)
        self.alert_builder = alert_builder
        features = training_features(spec)
        self.names = [*self.monitors, *features]
        owners = [self.monitors.index(name.partition(".")[0]) for name in features]
        self.assessment = Assessment(
            spec.policy,
            alert_builder.key,
            len(self.monitors),
            spec.capacity,
            spec.events_max,
            shards,
            spec.report_p,
            owners if spec.learning else None,
            shard=shard,
            reports_grouped=reports_grouped,
            sources=sources,
            ahead_max_ms=ahead_max_ms,
        )
        self.expected_score = explain.six_digits(explain.score_of_p(spec.report_p))
        """Below it a monitor does not report."""
        self.origin = AlertOrigin(ASSESS, spec.subject, fingerprint, spec.policy, shards)
        self.tally = np.zeros(2, np.int64)

    def process(self, batch: EventBatch) -> AssessOutput:
        """Take reports and labels in order; alerts for what the policy opened or updated.

        Reports of a monitor that the configuration no longer has may still stand in the log; they
        are counted, and left out. So are labels where nothing is learned.
        """
        index = {name: k for k, name in enumerate(self.monitors)}
        monitor = np.array([index.get(m, -1) for m in batch.text[MONITOR].to_pylist()], np.int64)
        labels = (batch.type_code == LABEL_TYPE) & self.assessment.learns
        known = np.flatnonzero((monitor >= 0) | labels)
        p_value = np.full(len(batch), np.nan)
        ignored = len(batch) - len(known)
        if ignored:
            batch, monitor = batch.take(known), monitor[known]
        values = [batch.number[name] for name in training_features(self.spec)]
        assessed = self.assessment.process(
            batch,
            self.spec.subject,
            monitor,
            batch.number[P_VALUE],
            np.array(values).reshape(len(values), len(batch)).T.copy(),
        )
        self.tally += int(assessed.is_report.sum()), ignored
        activity = np.zeros(len(p_value), np.uint8)
        p_value[known] = assessed.p_of_all if self._every else assessed.p
        activity[known] = assessed.policy_outcome.activity
        alerts = [
            AlertAtRow(int(known[i]), self._alert(batch, assessed, i))
            for i in alerting_rows(assessed.policy_outcome)
        ]
        return AssessOutput(alerts, p_value, activity)

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

    def hooked_arrays(self) -> set[str]:
        """None: of its state, a row for every subject with an incident and what is known of the
        latest events, a batch changes much."""
        return set()

    def on_write(self, before_write: WriteHook | None) -> None:
        """Nothing is announced."""

    def _alert(self, batch: EventBatch, assessed: AssessmentOutput, i: int) -> Alert:
        shown = self._contributions(assessed, i)
        threshold = float(assessed.policy_outcome.threshold[i])
        rationale = AlertRationale(
            detector=ASSESS,
            reason=shown[0].feature,
            p_value=float(assessed.p[i]),
            warm=bool(assessed.warm[i]),
            window_s=0,
            contributions=shown,
            counterfactual=explain.counterfactual(
                i, self.names, assessed.order, assessed.without, threshold
            ),
        )
        entity_pseudonym = pseudonym(assessed.keys[i])
        return self.alert_builder.alert(
            self.origin, batch, i, entity_pseudonym, assessed.policy_outcome, i, rationale
        )

    def _contributions(self, assessed: AssessmentOutput, i: int) -> list[Contribution]:
        """The reports, and the features that it looks at, by their share in what they say together;
        what speaks against it has none."""
        weight = assessed.weight[i]
        spoke = np.flatnonzero(~np.isnan(weight))
        part = np.maximum(weight[spoke], 0.0)
        part = part if part.any() else np.ones(len(spoke))
        shown = np.argsort(-part, kind="stable")[: explain.CONTRIBUTIONS_MAX]
        share = part[shown] / part[shown].sum()
        return [
            self._contribution(assessed, i, j, one)
            for j, one in zip(spoke[shown].tolist(), share.tolist(), strict=True)
        ]

    def _contribution(
        self, assessed: AssessmentOutput, i: int, j: int, share: float
    ) -> Contribution:
        """Of one input: a monitor's score, or a feature's value, and what is usual among the reports,
        where this one is not: together with others what is usual may tell as well."""
        p = float(assessed.by_monitor[i, self.assessment.learner.owner[j]])
        if j < len(self.monitors):
            actual, low, high = explain.score_of_p(p), 0.0, self.expected_score
        else:
            actual, low, high = (
                float(of[i, j]) for of in (assessed.value, assessed.low, assessed.high)
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
