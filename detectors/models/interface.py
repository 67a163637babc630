"""The interface of standalone detectors, which score a value that they compute themselves.

Each is declared by a Struct derived from `StandaloneSpec`, whose `build` creates its state. Alerts
show its value under its name, with the expected range and a share, as they do for a feature.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

from detectors.entities import AdmittedEvents
from detectors.spec import DetectorSpec, Name
from detectors.state import Arrays
from schemas.columns import F64, I64, U64, EventBatch


class LabelEvents(NamedTuple):
    """The k labels of a batch, which detectors learn and do not score.

    before: int64[k], the number of scored events before each label in the log. hashed: see
    `DetectorInput`, for these events.
    """

    events: EventBatch
    before: I64
    hashed: Callable[[str], U64]


class DetectorInput(NamedTuple):
    """The n applicable events of a batch. admitted: their rows and times.

    entity_field: the field that names the monitor's entity. names: of the features. values:
    float64[features, n], in natural units, NaN where a feature has no value. scaled:
    float64[features, n], the values scaled to [0, 1] by the cohort. hashed(field): uint64[n], a text
    field's keyed hash, 0 where absent.
    """

    events: EventBatch
    admitted: AdmittedEvents
    labels: LabelEvents
    entity_field: str
    names: list[str]
    values: F64
    scaled: F64
    hashed: Callable[[str], U64]


class DetectorOutput(NamedTuple):
    """The output for n events; all float64[n], NaN where there is none.

    value: in natural units. surprise: -ln of a raw p-value, or any number that grows with how
    unusual the event is; calibration turns it into a p-value. expected: the upper end of the expected
    range.
    """

    value: F64
    surprise: F64
    expected: F64


class StandaloneDetector(Protocol):
    """The state of a standalone detector for one shard: a deterministic, bounded fold."""

    def process(self, batch: DetectorInput) -> DetectorOutput:
        """Score each event, then learn it where `admitted.learn`, in order."""

    def save(self) -> Arrays:
        """The whole state; the arrays may be live, that is, change later."""

    def load(self, state: Arrays) -> None:
        """Replace the state by one saved from the same declaration."""


class StandaloneSpec(DetectorSpec, frozen=True, kw_only=True):
    """Base of the declarations of detectors that are named in alerts."""

    name: Name
    """Name of the detector in alerts."""

    def build(self, features: int, capacity: int) -> StandaloneDetector:
        """Create the empty state for a monitor. capacity: the number of rows."""
        call = f"build(features={features}, capacity={capacity})"
        raise NotImplementedError(f"{type(self).__name__}.{call}")

    def fields(self) -> list[str]:
        """The event fields that the detector reads."""
        return []

    def problems(self) -> list[str]:
        """What is wrong with the declaration beyond the types of its keys: one line each, the key first."""
        return []

    def discrete(self) -> bool:
        """Whether the surprise has few distinct values, so that p must not be interpolated between them."""
        return False
