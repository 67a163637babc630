"""The alert, which Eddy publishes and an enforcement service can act on by itself.

Defines its shape, id, bytes and CloudEvents headers, and its JSON Schema. When an alert is raised is
decided in `detectors.scoring.policy`.
"""

from typing import Any, Final, Literal, NamedTuple
from urllib.parse import quote

import msgspec
import xxhash

SCHEMA_VERSION: Final = 1
ALERT_BYTES_MAX: Final = 4096
GROUP_MAX: Final = 249
"""Length limit of a group's name in an alert, percent-encoded, since an alert has a size limit."""
Severity = Literal["low", "medium", "high", "critical"]
Activity = Literal["opened", "updated", "closed"]


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """The only part of an alert that the log does not determine, and that differs in a replay.

    reason: why the alert is not enforceable: "replay", "shadow", "stale" (its event is older than
    outputs.stale_after) or "warming" (the monitor has not learned enough); null where it is.
    """

    mode: Literal["live", "shadow", "replay"]
    enforceable: bool
    reason: str | None
    run_id: str
    detected_at: str


class Entity(msgspec.Struct, frozen=True, kw_only=True):
    """An entity by type and id; `pseudonym`: the id is a keyed hash, not the raw id."""

    type: str
    id: str
    pseudonym: bool


class Contribution(msgspec.Struct, frozen=True, kw_only=True):
    """One surprising feature: its value, the expected range, and its share of the surprise."""

    feature: str
    actual: float
    expected_low: float | None
    expected_high: float | None
    p_value: float
    share: float


class Action(msgspec.Struct, frozen=True, kw_only=True):
    """The recommended action, its scope, and for how long."""

    type: Literal["review", "challenge", "throttle", "block"]
    scope: str
    ttl_s: int
    reason_code: str


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """The event that raised the alert, by id and by position in its log."""

    event_id: str
    topic: str
    partition: int
    offset: int


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """One alert. Times are milliseconds since 1970 UTC; p-values in (0, 1]; score = -log10(p).

    source: eddy/GROUP/MODE/MONITOR, with the group, the configured mode and the monitor.
    alerts_per_day: the configured budget. budget_per_day: the share of the shard that raised it.
    budget_used: share of that shard's allowance for this UTC day, 0 to 1. held_back: the monitor's
    alerts in that shard that the budget held back since the last published one.
    """

    schema_version: int = SCHEMA_VERSION
    alert_id: str
    source: str
    revision: int
    activity: Activity
    run: Run
    monitor: str
    detector: str
    fingerprint: str
    entity: Entity
    related: list[Entity]
    event_time_ms: int
    window_s: int
    score: float
    p_value: float
    threshold: float
    severity: Severity
    alerts_per_day: float
    budget_per_day: float
    budget_used: float
    held_back: int
    contributions: list[Contribution]
    counterfactual: list[str] | None
    incident_id: str
    dedup_key: str
    suppressed: int
    first_seen_ms: int
    last_seen_ms: int
    action: Action
    evidence: list[Evidence]


class AlertRecord(NamedTuple):
    """An alert's record in the alerts topic: key (the entity), JSON body, CloudEvents headers."""

    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]


def stable_id(*parts: object) -> str:
    """A 128-bit hex id of the given parts, which must not include a clock or a counter.

    Each part is prefixed with its length, so that different lists of parts give different texts.
    """
    text = "".join(f"{len(part)}:{part}" for part in map(str, parts))
    return xxhash.xxh3_128_hexdigest(text.encode())


def alert_source(group: str, mode: str, monitor: str) -> str:
    """The source of a monitor's alerts, a URI reference; a group name that is too long is hashed."""
    shown = quote(group, safe="")
    return f"eddy/{shown if len(shown) <= GROUP_MAX else stable_id(group)}/{mode}/{monitor}"


def alert_record(alert: Alert) -> AlertRecord:
    """The alert's record: body of at most `ALERT_BYTES_MAX`, CloudEvents 1.0 binary headers."""
    body = msgspec.json.encode(alert)
    if len(body) > ALERT_BYTES_MAX:
        body = msgspec.json.encode(_shortened(alert))
    assert len(body) <= ALERT_BYTES_MAX, (len(body), alert.monitor)
    headers = {
        "ce_specversion": "1.0",
        "ce_id": alert.alert_id,
        "ce_source": alert.source,
        "ce_type": f"eddy.alert.{alert.activity}.v{SCHEMA_VERSION}",
        "ce_subject": f"{alert.entity.type}/{alert.entity.id}",
        "content-type": "application/json",
    }
    key = f"{alert.entity.type}:{alert.entity.id}".encode()
    return AlertRecord(key, body, [(name, text.encode()) for name, text in headers.items()])


def _shortened(alert: Alert) -> Alert:
    """The alert without related entities and minor contributions."""
    first = alert.contributions[:2]
    total = sum(contribution.share for contribution in first) or 1.0
    rescaled = [
        msgspec.structs.replace(contribution, share=contribution.share / total)
        for contribution in first
    ]
    return msgspec.structs.replace(alert, related=[], contributions=rescaled)


def without_run(body: bytes) -> bytes:
    """An alert's body without its `run` object, which is what the log determines, byte for byte."""
    fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    return msgspec.json.encode({name: raw for name, raw in fields.items() if name != "run"})


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of the alert's body; `schemas/json/alert.v1.json` holds the same."""
    dialect = "https://json-schema.org/draft/2020-12/schema"
    return {"$schema": dialect, **msgspec.json.schema(Alert)}
