"""What declarations are made of: durations, names, features, policy, and the bases of the rest.

A detector's declaration stands in the detector's own module, a monitor's in `detectors.monitor`.
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
"""From a millisecond to about a hundred years: in milliseconds an int64 holds any sum of a few."""
_SECONDS: Final = {"ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}

Duration = Annotated[
    str, Meta(pattern=DURATION.pattern, description='such as "1h", from "1ms" to "36500d"')
]
Name = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,62}\Z", description="lower_case name")]
P_MAX: Final = 0.01
"""Largest p-value that may alert: beyond it nothing is explained."""
EventFilter = dict[str, str | list[str]]
"""Event fields (and `type`) → the value, or the values, that the event must have; "": absent."""


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
    """One feature: a kind from the vocabulary (`detectors.features.KINDS`) and its parameters.

    name: as it appears in alerts. field: the event field it reads, where its kind reads one.
    half_life: of the decay, where its kind decays. against: a second, longer
    one, where its kind compares. where: only events that match count, and only
    on them has the feature a value. of: those among them that its kind tells
    from the others, where it does. side: which values are surprising. scale: on
    which a value is judged: root where it varies less than its size, as payments of one person do.
    """

    name: Name
    kind: str
    field: str | None = None
    half_life: Duration | None = None
    against: Duration | None = None
    where: EventFilter = msgspec.field(default_factory=dict)
    of: EventFilter = msgspec.field(default_factory=dict)
    side: Literal["high", "low", "both"] | None = None
    scale: Literal["log", "root"] = "log"


class DetectorSpec(Spec, frozen=True, kw_only=True, tag_field="kind"):
    """Base of a detector's declaration; `kind` in the configuration chooses among them."""


class ActionSpec(Spec, frozen=True, kw_only=True):
    """What an alert of this monitor recommends."""

    type: Literal["review", "challenge", "throttle", "block"] = "review"
    ttl: Duration = "1h"


class RuleSpec(Spec, frozen=True, kw_only=True):
    """What is known beforehand, and no log full of it can make ordinary: an event at which every
    named feature is at least so large has at most this p-value.

    at_least: features → values, in the feature's own units. It stands beside what is learned, which
    goes on as it would without.
    """

    name: Name
    at_least: Annotated[dict[str, float], Meta(min_length=1)]
    p: Annotated[float, Meta(gt=0, le=P_MAX)] = 1e-4


class PolicySpec(Spec, frozen=True, kw_only=True):
    """When an event becomes an alert.

    p_max: never alert above this p-value. alerts_per_day: a cap over all shards and for each UTC day
    of stream time, never a target; rounded up or down from day to day if it is no whole number.
    incident_gap: quiet time after which an entity's next alert opens a new incident.
    warm_up_events: scored events before a shard's alerts may be enforced.
    """

    p_max: Annotated[float, Meta(gt=0, le=P_MAX)] = 1e-4
    alerts_per_day: Annotated[float, Meta(gt=0)] = 100.0
    incident_gap: Duration = "1h"
    warm_up_events: Annotated[int, Meta(ge=0)] = 10_000
    action: ActionSpec = ActionSpec()
