"""assess: reports in, alerts on their subject out. What all monitors say about one event is one
score, which each further report revises.

The combining is `detectors.assessment`'s; here its decisions become alerts, with the reports as
contributions. Reports come over an internal log keyed by the subject, or, where subject and monitors
read the same log, straight from them.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import pyarrow as pa

from detectors import explain, policy
from detectors.assessment import FIRST, REPORT_P, SAMPLED, Assessed, Assessment, combined, sampled
from detectors.combination import P_MIN
from detectors.hashing import HashKey, pseudonym
from detectors.spec import seconds
from detectors.state import AboutToWrite, Arrays, prefixed, under
from schemas.alerts import Action, Activity, Alert, Contribution, stable_id
from schemas.codecs.slim import MONITOR, P_VALUE
from schemas.columns import F64, I64, EventBatch
from stream.alerting import Teller, severity
from stream.config import ASSESS, AssessSpec
from stream.stages.watch import Found

EXPLAINED_MAX: Final = 3
EXPECTED_SCORE: Final = explain.short(explain.surprise(REPORT_P))
"""Below it a monitor does not report."""


def reports(
    monitor: str, events: EventBatch, p_value: F64, subject: str, key: HashKey
) -> tuple[EventBatch, I64]:
    """A monitor's reports on a batch, and the rows that they speak of: what surprised it, and the
    sample; an event without subject is nobody's. p_value: float64[n], NaN where it did not judge."""
    due = (p_value < REPORT_P) | (sampled(events, key) & ~np.isnan(p_value))
    if subject in events.text:
        due &= events.text[subject].is_valid().to_numpy(zero_copy_only=False)
    else:
        due[:] = False
    rows = np.flatnonzero(due).astype(np.int64)
    chosen = events.take(rows)
    text = {**chosen.text, MONITOR: pa.repeat(pa.scalar(monitor, pa.string()), len(rows))}
    number = {P_VALUE: p_value[rows]}
    about = EventBatch(
        chosen.sources,
        chosen.source,
        chosen.offset,
        chosen.time_ms,
        chosen.type_code,
        chosen.event_id,
        text,
        number,
    )
    return about, rows


class Assess:
    """The stage of one partition of the reports, or of one log that holds all there is."""

    name = ASSESS

    def __init__(
        self,
        spec: AssessSpec,
        monitors: Sequence[str],
        shards: int,
        fingerprint: str,
        teller: Teller,
    ) -> None:
        self.spec = spec
        self.monitors = list(monitors)
        self.fingerprint = fingerprint
        self.teller = teller
        self.assessment = Assessment(
            spec.policy, teller.key, len(self.monitors), spec.capacity, spec.events_max, shards
        )
        self.tally = np.zeros(1, np.int64)

    def process(self, batch: EventBatch) -> list[Found]:
        """Take reports in order; alerts for what the policy opened or updated."""
        self.tally += len(batch)
        index = {name: k for k, name in enumerate(self.monitors)}
        monitor = np.array([index[name] for name in batch.text[MONITOR].to_pylist()], np.int64)
        assessed = self.assessment.process(batch, self.spec.subject, monitor, batch.number[P_VALUE])
        activity = assessed.decided.activity
        published = np.flatnonzero((activity == policy.OPENED) | (activity == policy.UPDATED))
        return [Found(i, self._alert(batch, assessed, i)) for i in published.tolist()]

    def counts(self) -> dict[str, int]:
        """Reports, the events they were on, and alerts by activity."""
        activities = self.assessment.policy.stream.activities
        totals = self.assessment.known.totals
        return {
            "reports": int(self.tally[0]),
            "reported_events": int(totals[FIRST]),
            "sampled_events": int(totals[SAMPLED]),
            "alerts_opened": int(activities[policy.OPENED]),
            "alerts_updated": int(activities[policy.UPDATED]),
            "alerts_suppressed": int(activities[policy.COUNTED]),
            "alerts_over_budget": int(activities[policy.OVER_BUDGET]),
        }

    def save(self) -> Arrays:
        """The assessment's state and the tally."""
        return {"tally": self.tally, **prefixed({"assessment": self.assessment.save()})}

    def load(self, state: Arrays) -> None:
        """Replace the state by one saved under the same configuration."""
        self.tally[:] = state["tally"]
        self.assessment.load(under("assessment", state))

    def announced(self) -> set[str]:
        """None: its state is small, a row for every subject with an incident, and what is known of
        the latest events."""
        return set()

    def announce(self, about_to_write: AboutToWrite | None) -> None:
        """Nothing is announced."""

    def _alert(self, batch: EventBatch, assessed: Assessed, i: int) -> Alert:
        decided = assessed.decided
        incident = decided.incident[i]
        revision = int(incident[policy.REVISION])
        opened_in = batch.sources[int(incident[policy.SOURCE])]
        topic, partition = batch.sources[int(batch.source[i])]
        who = pseudonym(assessed.keys[i])
        score = explain.surprise(float(assessed.p[i]))
        threshold = float(decided.threshold[i])
        shown = self._contributions(assessed.by_monitor[i])
        activity: Activity = "opened" if decided.activity[i] == policy.OPENED else "updated"
        action = self.spec.policy.action
        return Alert(
            alert_id=stable_id(
                topic, partition, int(batch.offset[i]), ASSESS, who, ASSESS, revision
            ),
            revision=revision,
            activity=activity,
            run=self.teller.run(bool(assessed.warm[i])),
            monitor=ASSESS,
            detector=ASSESS,
            fingerprint=self.fingerprint,
            entity=self.teller.entity(self.spec.subject, batch, i),
            related=self.teller.related(self.spec.subject, batch, i),
            event_time_ms=int(batch.time_ms[i]),
            window_s=0,
            score=explain.short(score),
            p_value=explain.short(float(assessed.p[i])),
            threshold=explain.short(threshold),
            severity=severity(score),
            budget_per_day=explain.short(self.assessment.policy.limits.budget),
            budget_used=explain.short(float(decided.budget_used[i])),
            contributions=shown,
            counterfactual=self._counterfactual(assessed.by_monitor[i], threshold),
            incident_id=stable_id(*opened_in, int(incident[policy.OFFSET]), ASSESS, who),
            dedup_key=stable_id(ASSESS, who),
            suppressed=int(incident[policy.SUPPRESSED]),
            first_seen_ms=int(incident[policy.FIRST_MS]),
            last_seen_ms=int(incident[policy.LAST_MS]),
            action=Action(
                type=action.type,
                scope=self.spec.subject,
                ttl_s=int(seconds(action.ttl)),
                reason_code=f"{ASSESS}.{shown[0].feature}",
            ),
            evidence=[self.teller.evidence(batch, i)],
        )

    def _ranked(self, p: F64) -> list[int]:
        """The monitors that reported, the most surprised first."""
        spoke = np.flatnonzero(~np.isnan(p)).tolist()
        return sorted(spoke, key=lambda k: (p[k], k))

    def _contributions(self, p: F64) -> list[Contribution]:
        """The reports: a monitor's score, and its share in the harmonic mean."""
        ranked = self._ranked(p)[: explain.SHOWN_MAX]
        inverse = [1.0 / max(float(p[k]), P_MIN) for k in ranked]
        return [
            Contribution(
                feature=self.monitors[k],
                actual=explain.short(explain.surprise(float(p[k]))),
                expected_low=0.0,
                expected_high=EXPECTED_SCORE,
                p_value=explain.short(float(p[k])),
                share=one / sum(inverse),
            )
            for k, one in zip(ranked, inverse, strict=True)
        ]

    def _counterfactual(self, p: F64, threshold: float) -> list[str] | None:
        """The fewest reports, at most three, without which there would be no alert."""
        left, gone = p.copy(), []
        for k in self._ranked(p)[:EXPLAINED_MAX]:
            left[k] = np.nan
            gone.append(self.monitors[k])
            if combined(left) > threshold:
                return gone
        return None
