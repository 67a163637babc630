"""assess: reports in, alerts on their subject out. What all monitors say about one event is one
score, which each further report revises.

The combining is `detectors.assessment`'s; here its decisions become alerts, with the reports as
contributions. Reports come over an internal log keyed by the subject, or, where subject and
monitors read the same log, straight from them.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import pyarrow as pa

from detectors import explain
from detectors.assessment import FIRST, REPORT_P, SAMPLED, Assessed, Assessment, combined, sampled
from detectors.combination import P_MIN
from detectors.hashing import HashKey, pseudonym
from detectors.state import AboutToWrite, Arrays, prefixed, under
from schemas.alerts import Alert, Contribution
from schemas.codecs.slim import MONITOR, P_VALUE
from schemas.columns import F64, I64, EventBatch
from stream.alerting import Origin, Reasons, Teller, published
from stream.config import ASSESS, AssessSpec
from stream.stages import Found

EXPLAINED_MAX: Final = 3
EXPECTED_SCORE: Final = explain.short(explain.surprise(REPORT_P))
"""Below it a monitor does not report."""


def reports(
    monitor: str, events: EventBatch, p_value: F64, subject: str, key: HashKey
) -> tuple[EventBatch, I64]:
    """A monitor's reports on a batch, and the rows that they speak of: what surprised it, and the
    sample; an event without subject is nobody's. p_value: float64[n], NaN where it did not
    judge."""
    due = (p_value < REPORT_P) | (sampled(events, key) & ~np.isnan(p_value))
    if subject in events.text:
        due &= events.text[subject].is_valid().to_numpy(zero_copy_only=False)
    else:
        due[:] = False
    rows = np.flatnonzero(due).astype(np.int64)
    chosen = events.take(rows)
    text = {**chosen.text, MONITOR: pa.repeat(pa.scalar(monitor, pa.string()), len(rows))}
    number = {P_VALUE: p_value[rows]}
    return replace(chosen, text=text, number=number), rows


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
        self.teller = teller
        self.assessment = Assessment(
            spec.policy, teller.key, len(self.monitors), spec.capacity, spec.events_max, shards
        )
        budget = self.assessment.policy.limits.budget
        self.origin = Origin(ASSESS, spec.subject, fingerprint, spec.policy, budget)
        self.tally = np.zeros(2, np.int64)

    def process(self, batch: EventBatch) -> list[Found]:
        """Take reports in order; alerts for what the policy opened or updated.

        Reports of a monitor that the configuration no longer has may still stand in the log; they
        are counted, and left out.
        """
        index = {name: k for k, name in enumerate(self.monitors)}
        monitor = np.array([index.get(m, -1) for m in batch.text[MONITOR].to_pylist()], np.int64)
        known = np.flatnonzero(monitor >= 0)
        self.tally += len(known), len(batch) - len(known)
        if len(known) < len(batch):
            batch, monitor = batch.take(known), monitor[known]
        assessed = self.assessment.process(batch, self.spec.subject, monitor, batch.number[P_VALUE])
        return [
            Found(int(known[i]), self._alert(batch, assessed, i))
            for i in published(assessed.decided)
        ]

    def counts(self) -> dict[str, int]:
        """Reports, the events they were on, and alerts by activity."""
        totals = self.assessment.known.totals
        return {
            "reports": int(self.tally[0]),
            "reports_ignored": int(self.tally[1]),
            "reported_events": int(totals[FIRST]),
            "sampled_events": int(totals[SAMPLED]),
            **self.assessment.policy.counts(),
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
        shown = self._contributions(assessed.by_monitor[i])
        threshold = float(assessed.decided.threshold[i])
        reasons = Reasons(
            detector=ASSESS,
            reason=shown[0].feature,
            p_value=float(assessed.p[i]),
            warm=bool(assessed.warm[i]),
            window_s=0,
            contributions=shown,
            counterfactual=self._counterfactual(assessed.by_monitor[i], threshold),
        )
        who = pseudonym(assessed.keys[i])
        return self.teller.alert(self.origin, batch, i, who, assessed.decided, i, reasons)

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
