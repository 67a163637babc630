"""Detectors that judge something of their own, beside the features: what they are handed and give.

Each is declared by a Struct derived from `StandaloneSpec`, whose `build` makes its state. What it says
stands in alerts under its name like a feature's, with a value, what was expected, and a share.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

from detectors.entities import AdmittedEvents
from detectors.spec import DetectorSpec, Name
from detectors.state import Arrays
from schemas.columns import F64, I64, U64, EventBatch


class LabelEvents(NamedTuple):
    """The label events of a batch. They teach detectors, and nobody judges them.

    before: int64[k], how many of the judged events stand before each in the log. hashed: as of
    `DetectorInput`, but of these events.
    """

    events: EventBatch
    before: I64
    hashed: Callable[[str], U64]


class DetectorInput(NamedTuple):
    """What a detector may look at. events: those that apply; admitted: where they go.

    entity: the field that names the monitor's entity. names: the features'; values:
    float64[features, n] of them in natural units, NaN where silent; place: float64[features, n],
    their places in [0, 1] among the cohort's. hashed(field): uint64[n], a text field's keyed hash,
    0 where absent.
    """

    events: EventBatch
    admitted: AdmittedEvents
    labels: LabelEvents
    entity: str
    names: list[str]
    values: F64
    scaled: F64
    hashed: Callable[[str], U64]


class DetectorOutput(NamedTuple):
    """What it says of each event; all float64[n], NaN where it says nothing.

    value: in natural units. surprise: -ln of a raw p-value, or anything that grows with how unusual
    the event is; calibration makes a p-value of it. expected: an upper end of what was expected.
    """

    value: F64
    surprise: F64
    expected: F64


class StandaloneDetector(Protocol):
    """The state of one such detector for one shard: a deterministic, bounded fold."""

    def process(self, batch: DetectorInput) -> DetectorOutput:
        """Judge each event, then learn it, in order; what is not `admitted.learn` is not
        learned."""

    def save(self) -> Arrays:
        """The whole state; the arrays may be the live ones, which go on changing."""

    def load(self, state: Arrays) -> None:
        """Replace the state by one saved from the same declaration."""


class StandaloneSpec(DetectorSpec, frozen=True, kw_only=True):
    """Base of the declarations of detectors that are named in alerts."""

    name: Name
    """Name of the detector in alerts."""

    def build(self, features: int, capacity: int) -> StandaloneDetector:
        """Empty state for a monitor with so many features and rows."""
        asked = f"build(features={features}, capacity={capacity})"
        raise TypeError(f"{type(self).__name__} does not say what {asked} makes")

    def fields(self) -> list[str]:
        """The event fields that it reads."""
        return []

    def problems(self) -> list[str]:
        """What is wrong with the declaration, beyond its keys' types: one line each, path first."""
        return []

    def discrete(self) -> bool:
        """Whether its surprise has so few values that p must not be interpolated between them."""
        return False
