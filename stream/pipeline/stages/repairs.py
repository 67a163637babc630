"""Repaired fields of events: their counts, and examples of them.

For each field and code at most one example per minute of stream time goes to the dead-letter topic:
a producer of bad fields cannot fill the topic, and an event from the future cannot end the examples.
Which events are examples depends on the log alone, not on how it was cut into batches.
"""

from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np

from detectors.clock import StreamClock
from detectors.state import Arrays, add_prefix, select_prefix
from schemas.columns import F64, I64, EventBatch
from schemas.dead_letters import RepairExample
from schemas.records import Records
from schemas.repairs import CODES, REPAIRABLE, FieldRepair, repair_message
from stream.pipeline.counters import repair_key

MINUTE_MS: Final = 60_000
NO_MINUTE: Final = -1


class FieldRepairs:
    """The repairs of one log. State: a count and the minute of the last example for each field and
    code, and the clock."""

    def __init__(self) -> None:
        self._clock = StreamClock()
        shape = len(REPAIRABLE), len(CODES)
        self._tally: I64 = np.zeros(shape, np.int64)
        self._minute: I64 = np.full(shape, NO_MINUTE, np.int64)

    def count(
        self, repaired: Iterable[FieldRepair], events: EventBatch, records: Records
    ) -> list[RepairExample]:
        """Count the repairs of a batch's events; the examples among them, by row, then by field. Rows
        that are no events are left out. All events move stream time."""
        source = np.zeros(len(events), np.int32)
        entity = source.astype(np.uint64)
        timed = self._clock.advance(events.time_ms, events.append_ms, source, entity)
        examples = [
            example
            for repair in repaired
            for example in self._count_one(repair, events.offset, timed.stream_ms, records.offset)
        ]
        return sorted(examples, key=lambda example: example.row)

    def _count_one(
        self, repair: FieldRepair, event_offset: I64, stream_ms: F64, offset: I64
    ) -> Iterator[RepairExample]:
        field_and_code = REPAIRABLE.index(repair.field), CODES.index(repair.code)
        rows = repair.rows[np.isin(offset[repair.rows], event_offset)]
        if not len(rows):
            return
        self._tally[field_and_code] += len(rows)
        now_ms = stream_ms[np.searchsorted(event_offset, offset[rows])]
        minute = np.concatenate(
            [self._minute[field_and_code][None], now_ms.astype(np.int64) // MINUTE_MS]
        )
        self._minute[field_and_code] = minute[-1]
        for row in rows[minute[1:] != minute[:-1]].tolist():
            yield RepairExample(
                row, repair.field, repair.code, repair_message(repair.field, repair.code)
            )

    def counts(self) -> dict[str, int]:
        """The number of repairs of each field and code that occurred."""
        return {
            repair_key(REPAIRABLE[field], CODES[code]): int(self._tally[field, code])
            for field, code in np.argwhere(self._tally).tolist()
        }

    def save(self) -> Arrays:
        """The counts, the minutes and the clock."""
        clock = add_prefix({"repaired_clock": self._clock.save()})
        return {"repaired": self._tally, "repaired_minute": self._minute, **clock}

    def load(self, state: Arrays) -> None:
        """Replace counts, minutes and clock by saved ones."""
        self._tally[:] = state["repaired"]
        self._minute[:] = state["repaired_minute"]
        self._clock.load(select_prefix("repaired_clock", state))
