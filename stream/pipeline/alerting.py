"""Alert bodies: entity, severity, incident, run and evidence, alike for every stage that raises
alerts.

Decides which ids may be shown in clear. When an alert is due is the policy's decision.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from detectors.numeric.hashing import HashKey, hash_text, pseudonym
from detectors.scoring import policy
from detectors.scoring.explain import score_of_p, six_digits
from detectors.scoring.policy import PolicyOutcome
from detectors.spec import PolicySpec, seconds
from schemas.alerts import (
    Action,
    Activity,
    Alert,
    Contribution,
    Entity,
    Evidence,
    Run,
    Severity,
    alert_source,
    stable_id,
)
from schemas.columns import EventBatch
from schemas.events import ENTITY_FIELDS
from stream.clock import format_time_ms, parse_time_ms

Mode = Literal["live", "shadow", "replay"]

SEVERITIES: Final[tuple[tuple[float, Severity], ...]] = (
    (8.0, "critical"),
    (6.5, "high"),
    (5.0, "medium"),
    (0.0, "low"),
)
"""Least score of each severity: one in 10^8, 10^6.5, 10^5 honest events."""

RELATED_MAX: Final = 4
RAW_BYTES_MAX: Final = 128
"""Longer ids, as JSON, and ids that cannot be printed are replaced by pseudonyms: the size of an
alert is limited."""


@dataclass(frozen=True, slots=True)
class RunInfo:
    """The facts about a run that the log does not determine.

    now: the injected wall clock, as ISO 8601 text. A replay does not use it: its alerts are detected
    at their events' times, so that two replays give the same bytes. stale_after_ms: a live alert is
    not enforceable when its event is older than that by this clock; None means no limit.
    """

    mode: Mode
    run_id: str
    now: Callable[[], str]
    stale_after_ms: float | None = None

    def is_stale(self, event_time_ms: int, now: str) -> bool:
        """Whether an alert that is published now is too old to be enforced."""
        after_ms = self.stale_after_ms
        return after_ms is not None and parse_time_ms(now) - event_time_ms > after_ms


class AlertOrigin(NamedTuple):
    """The stage that raises an alert. entity: the event field that names the alert's entity. shards:
    the number of the stage's shards, which share the budget."""

    name: str
    entity: str
    fingerprint: str
    policy: PolicySpec
    shards: int


class AlertRationale(NamedTuple):
    """Why an alert was raised. reason: the most important feature, report or rule. warm: whether the
    stage had learned enough before the event. window_s: the longest half-life of the features shown.
    counterfactual: features without whose surprise there would be no alert, None where unknown."""

    detector: str
    reason: str
    p_value: float
    warm: bool
    window_s: int
    contributions: list[Contribution]
    counterfactual: list[str] | None


def alerting_rows(policy_outcome: PolicyOutcome) -> list[int]:
    """The rows of a policy outcome on which an alert is published."""
    activity = policy_outcome.activity
    alerts = (activity == policy.OPENED) | (activity == policy.UPDATED)
    return [i for i, is_alert in enumerate(alerts.tolist()) if is_alert]


def severity(score: float) -> Severity:
    """The severity of a score."""
    return next(name for least, name in SEVERITIES if score >= least)


class Identity(NamedTuple):
    """The parts of an alert's ids that do not depend on the event, so that two groups, or shadow and
    live, never share an id. mode: the configured one, also in a replay, whose ids equal the live
    ones."""

    group: str
    mode: Literal["live", "shadow"]


class AlertBuilder:
    """Builds the alerts of a configuration. reveal: entity fields whose raw ids may be shown."""

    def __init__(
        self, key: HashKey, reveal: frozenset[str], run: RunInfo, identity: Identity
    ) -> None:
        self.key = key
        self.reveal = reveal
        self.info = run
        self.identity = identity

    def alert(
        self,
        origin: AlertOrigin,
        batch: EventBatch,
        row: int,
        entity_pseudonym: str,
        policy_outcome: PolicyOutcome,
        i: int,
        rationale: AlertRationale,
    ) -> Alert:
        """The alert on the event in a row of the batch, by row i of the policy outcome.

        entity_pseudonym: enters the ids of alert and incident, even if the alert shows the entity's raw id.
        """
        incident = policy_outcome.incident[i]
        revision = int(incident[policy.REVISION])
        activity: Activity = "opened" if policy_outcome.activity[i] == policy.OPENED else "updated"
        evidence = self.evidence(batch, row)
        event = evidence.topic, evidence.partition, evidence.offset
        opening_event = *batch.sources[int(incident[policy.SOURCE])], int(incident[policy.OFFSET])
        score = score_of_p(rationale.p_value)
        action = origin.policy.action
        return Alert(
            alert_id=stable_id(
                *self.identity, *event, origin.name, entity_pseudonym, rationale.detector, revision
            ),
            source=alert_source(*self.identity, origin.name),
            revision=revision,
            activity=activity,
            run=self.run(rationale.warm, int(batch.time_ms[row])),
            monitor=origin.name,
            detector=rationale.detector,
            fingerprint=origin.fingerprint,
            entity=self.entity(origin.entity, batch, row),
            related=self.related(origin.entity, batch, row),
            event_time_ms=int(batch.time_ms[row]),
            window_s=rationale.window_s,
            score=six_digits(score),
            p_value=six_digits(rationale.p_value),
            threshold=six_digits(float(policy_outcome.threshold[i])),
            severity=severity(score),
            alerts_per_day=six_digits(origin.policy.alerts_per_day),
            budget_per_day=six_digits(origin.policy.alerts_per_day / origin.shards),
            budget_used=six_digits(float(policy_outcome.budget_used[i])),
            held_back=int(policy_outcome.held_back[i]),
            contributions=rationale.contributions,
            counterfactual=rationale.counterfactual,
            incident_id=stable_id(*self.identity, *opening_event, origin.name, entity_pseudonym),
            dedup_key=stable_id(*self.identity, origin.name, entity_pseudonym),
            suppressed=int(incident[policy.SUPPRESSED_COUNT]),
            first_seen_ms=int(incident[policy.FIRST_MS]),
            last_seen_ms=int(incident[policy.LAST_MS]),
            action=Action(
                type=action.type,
                scope=origin.entity,
                ttl_s=int(seconds(action.ttl)),
                reason_code=f"{origin.name}.{rationale.reason}",
            ),
            evidence=[evidence],
        )

    def run(self, warm: bool, event_time_ms: int) -> Run:
        """The alert's `run` object: detection time, and whether the alert may be enforced."""
        now = format_time_ms(event_time_ms) if self.info.mode == "replay" else self.info.now()
        blocked_by: str | None = None
        if self.info.mode != "live":
            blocked_by = self.info.mode
        elif self.info.is_stale(event_time_ms, now):
            blocked_by = "stale"
        elif not warm:
            blocked_by = "warming"
        return Run(
            mode=self.info.mode,
            enforceable=blocked_by is None,
            reason=blocked_by,
            run_id=self.info.run_id,
            detected_at=now,
        )

    def entity(self, field: str, batch: EventBatch, row: int) -> Entity:
        """The entity that an event names in a field."""
        raw: str = batch.text[field][row].as_py()
        shown = field in self.reveal and _can_be_shown(raw)
        hashed = hash_text(batch.text[field].slice(row, 1), self.key)[0]
        return Entity(type=field, id=raw if shown else pseudonym(hashed), pseudonym=not shown)

    def display_ids(self, field: str, raw: pa.StringArray) -> pa.StringArray:
        """A column of a field's ids as they may be shown; equals `entity` for each."""
        if field in self.reveal and _can_all_be_shown(raw):
            return raw
        column = raw.dictionary_encode()
        ids = column.dictionary.to_pylist()
        hashes = hash_text(column.dictionary, self.key)
        shown = [
            raw_id if field in self.reveal and _can_be_shown(raw_id) else pseudonym(hashed)
            for raw_id, hashed in zip(ids, hashes, strict=True)
        ]
        return pa.array(shown, pa.string()).take(column.indices)

    def related(self, except_field: str, batch: EventBatch, row: int) -> list[Entity]:
        """The event's other entities, in the order of `ENTITY_FIELDS`."""
        present = [
            field
            for field in ENTITY_FIELDS
            if field != except_field and field in batch.text and batch.text[field][row].is_valid
        ]
        return [self.entity(field, batch, row) for field in present[:RELATED_MAX]]

    def evidence(self, batch: EventBatch, row: int) -> Evidence:
        """The event, by id and by position in its log."""
        topic, partition = batch.sources[int(batch.source[row])]
        return Evidence(
            event_id=self._event_id(batch, row),
            topic=topic,
            partition=partition,
            offset=int(batch.offset[row]),
        )

    def _event_id(self, batch: EventBatch, row: int) -> str:
        raw: str = batch.event_id[row].as_py()
        if _can_be_shown(raw):
            return raw
        return pseudonym(hash_text(batch.event_id.slice(row, 1), self.key)[0])


def _can_all_be_shown(raw: pa.StringArray) -> bool:
    """Whether all ids can be shown without looking at each: printable ASCII, and short even if every
    character had to be escaped."""
    longest = pc.max(pc.binary_length(raw)).as_py() or 0
    return (
        2 * longest + 2 <= RAW_BYTES_MAX and pc.all(pc.ascii_is_printable(raw)).as_py() is not False
    )


def _can_be_shown(raw: str) -> bool:
    """Whether an id can be shown unchanged."""
    return raw.isprintable() and len(msgspec.json.encode(raw)) <= RAW_BYTES_MAX
