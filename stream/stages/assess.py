"""assess: reports in, alerts on their subject out. What all monitors say about one event is one
score, which each further report revises.

The combining is `detectors.assessment`'s, learned from labels where the configuration says so; here
its decisions become alerts, with the reports, and what it learned to look at, as contributions.
Reports come over an internal log keyed by the subject, or, where subject and monitors read the same
log, straight from them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import pyarrow as pa

from detectors import explain
from detectors.assessment import FIRST, SAMPLED, Assessed, Assessment
from detectors.clock import AHEAD_MAX_MS
from detectors.hashing import pseudonym
from detectors.monitor import LABEL
from detectors.policy import COUNTED, OPENED, OVER_BUDGET, QUIET, UPDATED
from detectors.state import AboutToWrite, Arrays, prefixed, under
from schemas.alerts import Alert, Contribution
from schemas.codecs.slim import MONITOR, P_VALUE
from schemas.columns import F64, I64, U8, Bools, EventBatch
from stream.alerting import Origin, Reasons, Teller, published
from stream.config import ASSESS, AssessSpec
from stream.stages import Found
from stream.stages.watch import NOTHING_WANTED, Said, silence


@dataclass(frozen=True, slots=True)
class Opinion:
    """alerts in the order of the rows; p_value: float64[n], of each row's event, NaN for what
    is left out; for labels NaN where every event is scored, else 1. activity: uint8[n], what became
    of each row."""

    alerts: list[Found]
    p_value: F64
    activity: U8


FOREMOST: Final = np.array([QUIET, OVER_BUDGET, COUNTED, UPDATED, OPENED], np.uint8)
"""What becomes of an event by its reports is the last of these that became of one."""


def said(batch: EventBatch, opinion: Opinion) -> Said:
    """What assess says of each row's event. Rows about one event stand next to each other; each has
    what became of any of them."""
    another = np.diff(batch.offset, prepend=-1) != 0
    another |= np.diff(batch.source, prepend=-1) != 0
    event = np.cumsum(another) - 1
    foremost = np.zeros(int(another.sum()), np.int64)
    np.maximum.at(foremost, event, np.argsort(FOREMOST)[opinion.activity])
    unheard = silence(0, len(batch), NOTHING_WANTED)
    return unheard._replace(p_value=opinion.p_value, activity=FOREMOST[foremost[event]])


def reports(
    monitor: str,
    events: EventBatch,
    said: Mapping[str, F64],
    spec: AssessSpec,
    chosen: Bools,
    every: bool,
) -> tuple[EventBatch, I64]:
    """A monitor's reports on a batch, and the rows that they speak of: what surprised it, and the
    sample; an event without subject is nobody's. said: float64[n] each, its "p_value", NaN where it
    did not judge, and what assess looks at. chosen: bool[n], the sample; every: whatever it judged,
    so that assess can score it."""
    p_value = said[P_VALUE]
    due = ~np.isnan(p_value)
    if not every:
        due &= (p_value < spec.report_p) | chosen
    if spec.subject in events.text:
        due &= events.text[spec.subject].is_valid().to_numpy(zero_copy_only=False)
    else:
        due[:] = False
    rows = np.flatnonzero(due).astype(np.int64)
    return spoken(monitor, events, said, spec, rows), rows


def spoken(
    monitor: str | None, events: EventBatch, said: Mapping[str, F64], spec: AssessSpec, rows: I64
) -> EventBatch:
    """What a monitor says of these rows, as assess reads it; labels where it is no monitor."""
    chosen = events.take(rows)
    text = {**chosen.text, MONITOR: pa.repeat(pa.scalar(monitor, pa.string()), len(rows))}
    absent = np.full(len(rows), np.nan)
    number = dict.fromkeys((P_VALUE, *looked_at(spec)), absent)
    number |= {name: column[rows] for name, column in said.items()}
    return replace(chosen, text=text, number=number)


def looked_at(spec: AssessSpec) -> list[str]:
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
        teller: Teller,
        *,
        shard: int = 0,
        every: bool = False,
        whole: bool = False,
        sources: int = 1,
        ahead_max_ms: float = AHEAD_MAX_MS,
    ) -> None:
        self.spec = spec
        self._every = every
        self.monitors = list(monitors)
        self.teller = teller
        features = looked_at(spec)
        self.names = [*self.monitors, *features]
        owners = [self.monitors.index(name.partition(".")[0]) for name in features]
        self.assessment = Assessment(
            spec.policy,
            teller.key,
            len(self.monitors),
            spec.capacity,
            spec.events_max,
            shards,
            spec.report_p,
            owners if spec.learning else None,
            shard=shard,
            whole=whole,
            sources=sources,
            ahead_max_ms=ahead_max_ms,
        )
        self.expected_score = explain.short(explain.surprise(spec.report_p))
        """Below it a monitor does not report."""
        self.origin = Origin(ASSESS, spec.subject, fingerprint, spec.policy, shards)
        self.tally = np.zeros(2, np.int64)

    def process(self, batch: EventBatch) -> Opinion:
        """Take reports and labels in order; alerts for what the policy opened or updated.

        Reports of a monitor that the configuration no longer has may still stand in the log; they
        are counted, and left out. So are labels where nothing is learned.
        """
        index = {name: k for k, name in enumerate(self.monitors)}
        monitor = np.array([index.get(m, -1) for m in batch.text[MONITOR].to_pylist()], np.int64)
        labels = (batch.type_code == LABEL) & self.assessment.learns
        known = np.flatnonzero((monitor >= 0) | labels)
        p_value = np.full(len(batch), np.nan)
        ignored = len(batch) - len(known)
        if ignored:
            batch, monitor = batch.take(known), monitor[known]
        values = [batch.number[name] for name in looked_at(self.spec)]
        assessed = self.assessment.process(
            batch,
            self.spec.subject,
            monitor,
            batch.number[P_VALUE],
            np.array(values).reshape(len(values), len(batch)).T.copy(),
        )
        self.tally += int(assessed.due.sum()), ignored
        activity = np.zeros(len(p_value), np.uint8)
        p_value[known] = assessed.written if self._every else assessed.p
        activity[known] = assessed.decided.activity
        alerts = [
            Found(int(known[i]), self._alert(batch, assessed, i))
            for i in published(assessed.decided)
        ]
        return Opinion(alerts, p_value, activity)

    def counts(self) -> dict[str, int]:
        """Reports, the events they were on, and alerts by activity."""
        totals = self.assessment.known.totals
        return {
            "reports": int(self.tally[0]),
            "reports_ignored": int(self.tally[1]),
            "reported_events": int(totals[FIRST]),
            "sampled_events": int(totals[SAMPLED]),
            **self.assessment.counts(),
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
        """None: of its state, a row for every subject with an incident and what is known of the
        latest events, a batch changes much."""
        return set()

    def announce(self, about_to_write: AboutToWrite | None) -> None:
        """Nothing is announced."""

    def _alert(self, batch: EventBatch, assessed: Assessed, i: int) -> Alert:
        shown = self._contributions(assessed, i)
        threshold = float(assessed.decided.threshold[i])
        reasons = Reasons(
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
        who = pseudonym(assessed.keys[i])
        return self.teller.alert(self.origin, batch, i, who, assessed.decided, i, reasons)

    def _contributions(self, assessed: Assessed, i: int) -> list[Contribution]:
        """The reports, and the features that it looks at, by their share in what they say together;
        what speaks against it has none."""
        weight = assessed.weight[i]
        spoke = np.flatnonzero(~np.isnan(weight))
        part = np.maximum(weight[spoke], 0.0)
        part = part if part.any() else np.ones(len(spoke))
        shown = np.argsort(-part, kind="stable")[: explain.SHOWN_MAX]
        share = part[shown] / part[shown].sum()
        return [
            self._contribution(assessed, i, j, one)
            for j, one in zip(spoke[shown].tolist(), share.tolist(), strict=True)
        ]

    def _contribution(self, assessed: Assessed, i: int, j: int, share: float) -> Contribution:
        """Of one input: a monitor's score, or a feature's value, and what is usual among the reports,
        where this one is not: together with others what is usual may tell as well."""
        p = float(assessed.by_monitor[i, self.assessment.learner.owner[j]])
        if j < len(self.monitors):
            actual, low, high = explain.surprise(p), 0.0, self.expected_score
        else:
            actual, low, high = (
                float(of[i, j]) for of in (assessed.value, assessed.low, assessed.high)
            )
            low = max(low, 0.0)  # as features are magnitudes
        unusual = actual < low or actual > high
        return Contribution(
            feature=self.names[j],
            actual=explain.short(actual),
            expected_low=explain.short(low) if unusual else None,
            expected_high=explain.short(high) if unusual else None,
            p_value=explain.short(p),
            share=share,
        )
