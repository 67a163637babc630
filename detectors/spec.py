"""Parts of declarations: durations, names, features, policy, and the base classes of the others.

A detector is declared in its own module, a monitor in `detectors.monitor.declaration`.
Durations are written "30s", "5min", "1h", "7d".
"""

import re
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

DURATION: Final = re.compile(
    r"^(?=.*[1-9])"
    r"(?=(?:[0-9]{1,13}\s*ms|[0-9]{1,10}(?:\.[0-9]{1,3})?\s*s|[0-9]{1,8}(?:\.[0-9]{1,3})?\s*min"
    r"|[0-9]{1,6}(?:\.[0-9]{1,3})?\s*h|[0-9]{1,5}(?:\.[0-9]{1,3})?\s*d)\Z)"
    r"([0-9]+(?:\.[0-9]+)?)\s*(ms|s|min|h|d)\Z"
)
"""From a millisecond to about a hundred years: sums of a few fit an int64 in milliseconds."""
_SECONDS: Final = {"ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}

Duration = Annotated[
    str, Meta(pattern=DURATION.pattern, description='such as "1h", from "1ms" to "36500d"')
]
Name = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,62}\Z", description="lower_case name")]
P_MAX: Final = 0.01
"""Largest p-value that may raise an alert: larger ones are not explained."""
EventFilter = dict[str, str | list[str]]
"""Event field (or `type`) → the value, or the values, that an event must have; "" means absent."""


def seconds(duration: str) -> float:
    """Seconds of a duration such as "1.5h". Raises ValueError where it has another form."""
    match = DURATION.match(duration)
    if match is None:
        raise ValueError(
            f'got "{duration[:80]}"; expected a number above 0 and one of ms, s, min, h, d, from '
            '"1ms" to "36500d"'
        )
    return float(match[1]) * _SECONDS[match[2]]


class Spec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all declarations: immutable, and an unknown key is an error."""


class FeatureSpec(Spec, frozen=True, kw_only=True):
    """One feature of a monitor: a kind (`detectors.features.KINDS`) and its parameters."""

    name: Name
    """Name of the feature in alerts and tables."""
    kind: str
    """Feature kind, such as `count`, `sum` or `novelty`, or one that a package registers as
    `eddy.features`."""
    field: str | None = None
    """Event field that the feature reads, where its kind reads one."""
    half_life: Duration | None = None
    """Half-life of the decay: the time after which an event counts half. For kinds that decay."""
    against: Duration | None = None
    """A second, longer half-life to compare with. For the kind `ratio`."""
    where: EventFilter = msgspec.field(default_factory=dict)
    """Only events that match count, and only they have a value of the feature. Event fields (and
    `type`) with the value or the list of values that matches; `""` matches an absent field."""
    of: EventFilter = msgspec.field(default_factory=dict)
    """Written as `where`. For kinds that count some of the matching events separately, such as
    `share`: those that also match `of`."""
    side: Literal["high", "low", "both"] | None = None
    """Which values are surprising: `high`, `low` or `both`. Default: what the kind declares."""
    scale: Literal["log", "root"] = "log"
    """Scale on which a value is compared: `log`, or `root` where values vary less than their size,
    such as the payments of one person."""


class DetectorSpec(Spec, frozen=True, kw_only=True, tag_field="kind"):
    """Base of a detector's declaration; `kind` in the configuration chooses among them."""


class ActionSpec(Spec, frozen=True, kw_only=True):
    """The action that an alert recommends."""

    type: Literal["review", "challenge", "throttle", "block"] = "review"
    """Recommended action."""
    ttl: Duration = "1h"
    """How long the recommendation holds."""


class RuleSpec(Spec, frozen=True, kw_only=True):
    """A rule: an event whose named features all reach their limits has at most p-value `p`, however
    common such events become. Learning goes on as without the rule."""

    name: Name
    """Name of the rule in alerts."""
    at_least: Annotated[dict[str, float], Meta(min_length=1)]
    """Features and their limits, in the feature's own units. All must be reached."""
    p: Annotated[float, Meta(gt=0, le=P_MAX)] = 1e-4
    """Largest p-value of an event that matches."""


class PolicySpec(Spec, frozen=True, kw_only=True):
    """When an event becomes an alert."""

    p_max: Annotated[float, Meta(gt=0, le=P_MAX)] = 1e-4
    """An event with a larger p-value never alerts."""
    alerts_per_day: Annotated[float, Meta(gt=0)] = 100.0
    """Cap on the alerts of each UTC day of stream time, shared by all shards; never a target. A
    fraction is rounded up or down from day to day."""
    incident_gap: Duration = "1h"
    """Time without alerts after which the entity's next alert opens a new incident."""
    warm_up_events: Annotated[int, Meta(ge=0)] = 10_000
    """Scored events before a shard's alerts may be enforced."""
    action: ActionSpec = ActionSpec()
    """Action that alerts recommend."""
