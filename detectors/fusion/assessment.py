"""Assessment: combines the reports of all monitors on one event into one p-value for its subject.

Without labels the p-values p of an event's reports are combined by their harmonic mean (D. J.
Wilson, "The harmonic mean p-value for combining dependent tests", PNAS 2019, eq. 1), which is valid
under any dependence. A monitor reports an event if its p-value is below `report_p`. The p-value of a
monitor without a report is censored: only p > `report_p` is known. It enters by its expectation:

    p = K/(Σ 1/p_k + (K - r) C),   C = E[1/p | p > L] = ln(1/L)/(1 - L),   L = report_p

with K monitors, of which r reported. With labels, a learned model replaces the harmonic mean once its
log loss is lower (`label_learning`). Each report updates the p-value of its event. Where labels are learned and all
reports on an event come together, only the last report is scored, since the models learn from complete
events. An event raises an alert once, and again when its score has grown by
`policy.ESCALATION`. Whether an assessment is warm depends on the events before it. An event counts
once as held back and once in an incident, however many reports it has.

The policy (`detectors.scoring.policy`) is applied to subjects, as monitors apply it to entities. It
needs the rate of all events, but only few are reported. Therefore every monitor also reports a sample
of all events (`is_sampled`), and each sampled event counts `SAMPLE` times.

A replay scores every event. Its rows therefore include unreported p-values (is_report=False), which
are scored together with the reports on their event, but neither remembered nor learned from.

`kernel` processes the rows (`arrays`), `event_memory` remembers the events, `label_learning` learns
each label, `daily_refit` refits the trees (`boosting`) and chooses the active model, and `model_state`
holds their arrays.
"""

from math import log
from typing import Final

import numpy as np

from detectors.clock import AHEAD_MAX_MS, BoundedTimes, StreamClock
from detectors.entities import EntityTable
from detectors.fusion import model_state
from detectors.fusion.arrays import (
    AssessmentInput,
    AssessmentOutput,
    AssessmentScratch,
    AssessmentSettings,
    RowTimes,
)
from detectors.fusion.daily_refit import refit
from detectors.fusion.event_memory import empty_memory
from detectors.fusion.kernel import assess_rows
from detectors.fusion.model_state import SAMPLE, new_learner
from detectors.models.half_space_trees import COUNTERFACTUAL_MAX
from detectors.numeric.hashing import HashKey, hash_text
from detectors.scoring.policy import (
    INCIDENT_WORDS,
    EventPositions,
    Policy,
    policy_limits,
    undecided_outcome,
)
from detectors.spec import PolicySpec
from detectors.state import Arrays, add_prefix, clear, load, select_prefix, state_arrays
from schemas.columns import F64, I64, U64, Bools, EventBatch
from schemas.events import LABEL_TYPE
from schemas.labels import verdict_codes

REPORT_P: Final = 1e-2
"""An event with a smaller p-value is reported, unless the configuration sets `assess.report_p`."""
NO_LATENESS_MS: Final = 1e18


def is_sampled(events: EventBatch, key: HashKey) -> Bools:
    """bool[n]: whether each event is in the sample that is always reported, by the keyed hash of its id."""
    sampled: Bools = hash_text(events.event_id, key)[:, 1] % np.uint64(SAMPLE) == 0
    return sampled


def censored_inverse_p(report_p: float) -> float:
    """The term of a monitor without a report in the sum of 1/p: the expectation of 1/p given p > report_p."""
    return log(1.0 / report_p) / (1.0 - report_p)


class Assessment:
    """The subjects' incidents and the recent events of one shard. owners: the monitor of each
    training feature; None where nothing is learned. reports_grouped: all reports on an event come in
    one batch, next to each other. sources: the number of partitions that events come from.
    ahead_max_ms: `limits.time_ahead_max`."""

    def __init__(
        self,
        policy: PolicySpec,
        key: HashKey,
        monitors: int,
        capacity: int,
        events_max: int,
        shards: int,
        report_p: float = REPORT_P,
        owners: list[int] | None = None,
        *,
        shard: int = 0,
        reports_grouped: bool = False,
        sources: int = 1,
        ahead_max_ms: float = AHEAD_MAX_MS,
    ) -> None:
        self.key = key
        self.clock = StreamClock(sources, ahead_max_ms)
        self.settings = AssessmentSettings(
            report_p, censored_inverse_p(report_p), policy.warm_up_events, reports_grouped
        )
        self.subjects = EntityTable(capacity)
        self.words: F64 = np.zeros((capacity, INCIDENT_WORDS))
        self.policy = Policy(policy_limits(policy, shards, shard))
        self.remembered = empty_memory(events_max, monitors)
        self.learns = owners is not None
        slots = len(self.remembered.p) if self.learns else 0
        self.learner = new_learner(slots, monitors, owners or [])
        inputs = len(self.learner.input_monitor)
        self.scratch = AssessmentScratch(
            p=np.zeros(monitors),
            surprised=np.zeros(monitors),
            inputs=np.zeros(inputs),
            contribution=np.zeros(inputs),
            all_p=np.zeros(monitors),
        )

    def process(
        self, batch: EventBatch, subject: str, monitor: I64, p_value: F64, values: F64
    ) -> AssessmentOutput:
        """Process n rows in order: events with their subject, or labels. monitor: int64[n], the
        monitor that sent the row, -1 for a label; p_value: float64[n]; values: float64[n, features]."""
        n = len(batch)
        rows = self._rows(batch, monitor, p_value, values)
        keys = hash_text(batch.text[subject], self.key)
        report_times, times = self._bounded_times(batch, keys, rows.is_report)
        admitted = self.subjects.admit(keys[rows.is_report], report_times, NO_LATENESS_MS)
        positions = EventPositions(times.bounded_ms, times.stream_ms, batch.source, batch.offset)
        monitors, inputs = self.remembered.p.shape[1], len(self.learner.input_monitor)
        out = AssessmentOutput(
            keys=keys,
            p=np.ones(n),
            by_monitor=np.full((n, monitors), np.nan),
            policy_outcome=undecided_outcome(n),
            warm=np.zeros(n, np.bool_),
            is_report=rows.is_report,
            p_of_all=np.full(n, np.nan),
            contribution=np.empty((n, inputs)),  # set only where the row raises an alert
            value=np.empty((n, inputs)),
            low=np.empty((n, inputs)),
            high=np.empty((n, inputs)),
            order=np.zeros((COUNTERFACTUAL_MAX, n), np.int64),
            counterfactual_p=np.full((COUNTERFACTUAL_MAX, n), np.nan),
        )
        start = 0
        while start < n:
            start = assess_rows(
                start,
                self.words,
                self.remembered,
                self.learner,
                admitted,
                positions,
                rows,
                times,
                self.settings,
                self.policy.limits,
                self.policy.state,
                self.scratch,
                out,
            )
            if start < n:
                refit(self.learner, int(times.bounded_ms[start]))
        return out

    def _bounded_times(
        self, batch: EventBatch, keys: U64, is_report: Bools
    ) -> tuple[BoundedTimes, RowTimes]:
        """Bounded times of the reports, and of every row. Unreported p-values do not advance stream time:
        otherwise the result would depend on whether every event is scored."""
        advances_time = is_report | (batch.type_code == LABEL_TYPE)
        rows = np.flatnonzero(advances_time)
        before_ms = self.clock.now_ms
        bounded = self.clock.advance(
            batch.time_ms[rows],
            None if batch.append_ms is None else batch.append_ms[rows],
            batch.source[rows],
            np.ascontiguousarray(keys[rows, 0]),
            is_report[rows],
        )
        times = RowTimes(
            bounded_ms=batch.time_ms.astype(np.float64),
            stream_ms=np.concatenate([[before_ms], bounded.stream_ms])[np.cumsum(advances_time)],
            set_back=np.zeros(len(batch), np.bool_),
        )
        times.bounded_ms[rows] = bounded.time_ms
        times.set_back[rows] = bounded.set_back
        report_rows = is_report[rows]
        return BoundedTimes._make(column[report_rows] for column in bounded), times

    def _rows(self, batch: EventBatch, monitor: I64, p_value: F64, values: F64) -> AssessmentInput:
        is_label = batch.type_code == LABEL_TYPE
        event = hash_text(batch.event_id, self.key)
        sampled = event[:, 1] % np.uint64(SAMPLE) == 0
        if is_label.any():
            event[is_label] = hash_text(batch.text["labelled_event_id"], self.key)[is_label]
        is_report = ~is_label & ((p_value < self.settings.report_p) | sampled)
        return AssessmentInput(
            event=np.ascontiguousarray(event[:, 0]),
            monitor=monitor,
            verdict=verdict_codes(batch),
            p=p_value,
            values=values,
            is_report=is_report,
            is_sampled=sampled,
            report_row=np.cumsum(is_report) - 1,
        )

    def counts(self) -> dict[str, int]:
        """Labels by outcome, and the status of learning; empty where nothing is learned."""
        if not self.learns:
            return {}
        counts = self.learner.sums.counts
        return {
            "labels": int(counts[model_state.LABELS]),
            "labels_changed": int(counts[model_state.CHANGED]),
            "labels_unmatched": int(counts[model_state.UNMATCHED]),
            **model_state.learning_status(self.learner),
        }

    def save(self) -> Arrays:
        """The whole state as arrays by name."""
        rows = self.subjects.rows_used
        parts = {
            "clock": self.clock.save(),
            "subjects": self.subjects.save(),
            "policy": self.policy.save(),
            "remembered": state_arrays(self.remembered),
        }
        parts |= {"learner": model_state.save(self.learner)} if self.learns else {}
        return {"words": self.words[:rows], **add_prefix(parts)}

    def load(self, state: Arrays) -> None:
        """Replace the whole state by one saved under the same configuration."""
        self.words[: len(state["words"])] = state["words"]
        clear(self.words[len(state["words"]) :])
        self.clock.load(select_prefix("clock", state))
        self.subjects.load(select_prefix("subjects", state))
        self.policy.load(select_prefix("policy", state))
        load(self.remembered, select_prefix("remembered", state))
        if self.learns:
            model_state.load(self.learner, select_prefix("learner", state))
