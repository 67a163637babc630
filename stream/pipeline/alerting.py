"""What all alerts have in common, whichever stage raises them: who, where, how severe, in which
incident and run.

Knows what may be shown of an id and what must not; decides nothing.
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
"""Ids longer than that in JSON, and those that cannot be printed, stand as pseudonyms: an alert has
a size limit."""


@dataclass(frozen=True, slots=True)
class RunInfo:
    """What the log does not determine. now: the wall clock as ISO 8601 text, injected. A replay
    never asks it: its alerts are detected at their events' times, so that two give the same bytes.

    stale_after_ms: a live alert on an event that is older by that clock may not be enforced; None
    where age does not matter.
    """

    mode: Mode
    run_id: str
    now: Callable[[], str]
    stale_after_ms: float | None = None

    def is_stale(self, event_time_ms: int, now: str) -> bool:
        """Whether an alert that is published now is too late to be enforced."""
        after_ms = self.stale_after_ms
        return after_ms is not None and parse_time_ms(now) - event_time_ms > after_ms


class AlertOrigin(NamedTuple):
    """Which stage raises alerts, and under what. entity: the field of an event that names whom they
    are about. shards: the number of its shards, which share the budget."""

    name: str
    entity: str
    fingerprint: str
    policy: PolicySpec
    shards: int


class AlertRationale(NamedTuple):
    """What a stage says of an event that alarms. reason: what says most; warm: enough was learned
    before it."""

    detector: str
    reason: str
    p_value: float
    warm: bool
    window_s: int
    contributions: list[Contribution]
    counterfactual: list[str] | None


def alerting_rows(policy_outcome: PolicyOutcome) -> list[int]:
    """The events of a batch on which there is an alert."""
    found = (policy_outcome.activity == policy.OPENED) | (policy_outcome.activity == policy.UPDATED)
    return [i for i, is_published in enumerate(found.tolist()) if is_published]


def severity(score: float) -> Severity:
    """The severity of a score."""
    return next(name for least, name in SEVERITIES if score >= least)


class Identity(NamedTuple):
    """The parts of every alert's ids that do not depend on the event: two groups, or shadow and live,
    never share an id. mode: as configured, in a replay, too, so that its ids equal live's."""

    group: str
    mode: Literal["live", "shadow"]


class AlertBuilder:
    """Makes alerts of events. reveal: entity fields whose raw ids may be shown."""

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
        """The alert on the event in a row of the batch, as it was decided under i.

        who: the pseudonym of its entity, which names the incident whether the id is shown or not.
        """
        incident = policy_outcome.incident[i]
        revision = int(incident[policy.REVISION])
        activity: Activity = "opened" if policy_outcome.activity[i] == policy.OPENED else "updated"
        evidence = self.evidence(batch, row)
        at = evidence.topic, evidence.partition, evidence.offset
        opened_at = *batch.sources[int(incident[policy.SOURCE])], int(incident[policy.OFFSET])
        score = score_of_p(rationale.p_value)
        action = origin.policy.action
        return Alert(
            alert_id=stable_id(
                *self.identity, *at, origin.name, entity_pseudonym, rationale.detector, revision
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
            incident_id=stable_id(*self.identity, *opened_at, origin.name, entity_pseudonym),
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
        """The run, and whether its alert may be enforced. warm: enough was learned."""
        now = format_time_ms(event_time_ms) if self.info.mode == "replay" else self.info.now()
        why_not: str | None = None
        if self.info.mode != "live":
            why_not = self.info.mode
        elif self.info.is_stale(event_time_ms, now):
            why_not = "stale"
        elif not warm:
            why_not = "warming"
        return Run(
            mode=self.info.mode,
            enforceable=why_not is None,
            reason=why_not,
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
        """What may be shown of a column of ids of a field, as `entity` shows each."""
        if field in self.reveal and _can_all_be_shown(raw):
            return raw
        column = raw.dictionary_encode()
        names, codes = column.dictionary, column.indices
        seen = names.to_pylist()
        hidden = [field not in self.reveal or not _can_be_shown(name) for name in seen]
        hashed = hash_text(names, self.key)
        rows = zip(seen, hashed, hidden, strict=True)
        return pa.array([pseudonym(h) if hide else n for n, h, hide in rows], pa.string()).take(
            codes
        )

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
    """Whether ids fit without a doubt: in plain characters, short even if each had to be escaped."""
    longest = pc.max(pc.binary_length(raw)).as_py() or 0
    return (
        2 * longest + 2 <= RAW_BYTES_MAX and pc.all(pc.ascii_is_printable(raw)).as_py() is not False
    )


def _can_be_shown(raw: str) -> bool:
    """Whether an id may stand in an alert as it is."""
    return raw.isprintable() and len(msgspec.json.encode(raw)) <= RAW_BYTES_MAX
