"""A stage as another package would add it: it counts the events of every input by their type."""

from typing import Any

import numpy as np
import pyarrow as pa

from detectors.spec import Spec
from detectors.state import Arrays
from schemas.codecs.internal_events import InternalEventCodec
from schemas.columns import EventBatch
from schemas.events import TYPES
from stream.config.stage_graph import StageDeclaration
from stream.pipeline.counters import STAGE_LABELS, Metric, StageCounter
from stream.pipeline.stages import Selected, Stage, StageOutput, Subscription


class EventCountsSpec(Spec, frozen=True, kw_only=True):
    """The table [stages.event_counts]."""

    partitions: int = 1


class EventCounts(Stage):
    """Counts events. State: int64[types]."""

    def __init__(self) -> None:
        self._events = np.zeros(len(TYPES), np.int64)

    def process(self, batch: EventBatch) -> StageOutput:
        """Count the events."""
        self._events += np.bincount(batch.type_code, minlength=len(TYPES))
        return StageOutput()

    def counts(self) -> dict[str, int]:
        """All events so far."""
        return {"events_counted": int(self._events.sum())}

    def save(self) -> Arrays:
        """The counts."""
        return {"events": self._events}

    def load(self, state: Arrays) -> None:
        """Replace the counts by saved ones."""
        self._events[:] = state["events"]


class EventSubscription(Subscription[EventBatch]):
    """Reads all events without their fields, keyed by their ids."""

    def __init__(self, sources: tuple[tuple[str, int], ...]) -> None:
        self.codec = self._codec = InternalEventCodec((), sources)

    def keys(self, batch: EventBatch) -> pa.StringArray:
        """The id of each event."""
        return batch.event_id

    def select_events(self, events: EventBatch) -> Selected[EventBatch]:
        """All events of an input."""
        return Selected(self._codec.select_fields(events), np.arange(len(events)))


def _subscribe(_node: object, context: Any) -> EventSubscription:
    return EventSubscription(context.all_sources())


COUNTED = Metric("eddy_events_counted", "counter", "events", STAGE_LABELS, "events counted", "none")
EVENT_COUNTS = StageDeclaration(
    name="event_counts",
    reads=("events",),
    options=EventCountsSpec,
    make=lambda _node, _context, _placement: EventCounts(),
    subscribe=_subscribe,
    counters=(StageCounter("events_counted", COUNTED),),
)
