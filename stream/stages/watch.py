"""watch: events in, alerts out. The heart of the chain: one monitor, one partition.

The learning is `detectors.monitor`'s; here its decisions become alerts: identity, evidence,
explanation, recommended action. Knows no topic but the positions that events carry.
"""

from dataclasses import dataclass

import numpy as np

from detectors import explain, policy
from detectors.hashing import HashKey, pseudonym
from detectors.monitor import Monitor, MonitorSpec, Watched
from detectors.spec import seconds
from detectors.state import AboutToWrite, Arrays
from schemas.alerts import Action, Activity, Alert, stable_id
from schemas.columns import F64, EventBatch
from stream.alerting import RunInfo, Teller, severity

SCORED, LATE, NOT_APPLICABLE, SKIPPED_LEARNING, LABELS = range(5)


@dataclass(frozen=True, slots=True)
class Found:
    """An alert and the row of the batch whose event raised it."""

    row: int
    alert: Alert


@dataclass(frozen=True, slots=True)
class Outcome:
    """alerts in event order; p_value: float64[n], NaN where the monitor did not apply."""

    alerts: list[Found]
    p_value: F64


class Watch:
    """The stage of one monitor over one partition."""

    def __init__(
        self,
        spec: MonitorSpec,
        key: HashKey,
        shards: int,
        fingerprint: str,
        reveal: frozenset[str],
        run: RunInfo,
    ) -> None:
        self.name = spec.name
        self.spec = spec
        self.monitor = Monitor(spec, key, shards)
        self.fingerprint = fingerprint
        self.teller = Teller(key, reveal, run)
        self.tally = np.zeros(5, np.int64)

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
        )
        p_value = np.full(len(batch), np.nan)
        p_value[watched.index] = watched.p
        activity = watched.decided.activity
        published = np.flatnonzero((activity == policy.OPENED) | (activity == policy.UPDATED))
        alerts = [
            Found(int(watched.index[i]), self._alert(batch, watched, int(i))) for i in published
        ]
        return Outcome(alerts, p_value)

    def counts(self) -> dict[str, int]:
        """Events by what became of them, alerts by activity, and the monitor's sizes."""
        activities = self.monitor.policy.stream.activities
        return {
            "scored": int(self.tally[SCORED]),
            "late": int(self.tally[LATE]),
            "not_applicable": int(self.tally[NOT_APPLICABLE]),
            "labels": int(self.tally[LABELS]),
            "late_not_learned": int(self.tally[SKIPPED_LEARNING]),
            "alerts_opened": int(activities[policy.OPENED]),
            "alerts_updated": int(activities[policy.UPDATED]),
            "alerts_suppressed": int(activities[policy.COUNTED]),
            "alerts_over_budget": int(activities[policy.OVER_BUDGET]),
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
        row = int(watched.index[i])
        decided = watched.decided
        incident = decided.incident[i]
        revision = int(incident[policy.REVISION])
        opened_in = batch.sources[int(incident[policy.SOURCE])]
        entity = self.teller.entity(self.spec.entity, batch, row)
        # The incident and its key are named by the hash, which is the same whether it is shown.
        who = pseudonym(watched.keys[i])
        topic, partition = batch.sources[int(batch.source[row])]
        offset = int(batch.offset[row])
        calibrated = watched.calibrated
        detector, top_feature = self._rule(watched, i)
        threshold = float(decided.threshold[i])
        shown = explain.contributions(
            i, self.monitor.names, self.spec.features, watched.told, calibrated, watched.trees
        )
        score = explain.surprise(float(watched.p[i]))
        warm = int(calibrated.learned[i]) >= self.spec.policy.warm_up_events
        activity: Activity = "opened" if decided.activity[i] == policy.OPENED else "updated"
        return Alert(
            alert_id=stable_id(topic, partition, offset, self.name, who, detector, revision),
            revision=revision,
            activity=activity,
            run=self.teller.run(warm),
            monitor=self.name,
            detector=detector,
            fingerprint=self.fingerprint,
            entity=entity,
            related=self.teller.related(self.spec.entity, batch, row),
            event_time_ms=int(batch.time_ms[row]),
            window_s=self._window_s({one.feature for one in shown}),
            score=explain.short(score),
            p_value=explain.short(float(watched.p[i])),
            threshold=explain.short(threshold),
            severity=severity(score),
            budget_per_day=explain.short(self.monitor.policy.limits.budget),
            budget_used=explain.short(float(decided.budget_used[i])),
            contributions=shown,
            counterfactual=explain.counterfactual(i, self.monitor.names, calibrated, threshold),
            incident_id=stable_id(*opened_in, int(incident[policy.OFFSET]), self.name, who),
            dedup_key=stable_id(self.name, who),
            suppressed=int(incident[policy.SUPPRESSED]),
            first_seen_ms=int(incident[policy.FIRST_MS]),
            last_seen_ms=int(incident[policy.LAST_MS]),
            action=Action(
                type=self.spec.policy.action.type,
                scope=self.spec.entity,
                ttl_s=int(seconds(self.spec.policy.action.ttl)),
                reason_code=f"{self.name}.{top_feature}",
            ),
            evidence=[self.teller.evidence(batch, row)],
        )

    def _rule(self, watched: Watched, i: int) -> tuple[str, str]:
        """The detector with the smallest p-value, and the feature with the largest share."""
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
