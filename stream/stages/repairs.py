"""What route counts of fields that were repaired in events, and which it shows as examples.

Of each field and code at most one example a minute of event time goes to the dead-letter topic, so
that a producer of bad fields cannot fill it. A minute that has passed has no more examples: which
events are examples depends on the log alone, and not on how it was cut into batches.
"""

from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np

from detectors.state import Arrays
from schemas.columns import I64, EventBatch
from schemas.dead_letters import Example
from schemas.records import Records
from schemas.repairs import CODES, REPAIRABLE, Repaired, message

MINUTE_MS: Final = 60_000
NO_MINUTE: Final = -1


def count_name(field: str, code: str) -> str:
    """The name of the count of a repair, among route's counts."""
    return f"field_repaired/{field}/{code}"


class FieldRepairs:
    """Counts of repaired fields, and the last minute of each that has an example."""

    def __init__(self) -> None:
        shape = len(REPAIRABLE), len(CODES)
        self._tally: I64 = np.zeros(shape, np.int64)
        self._minute: I64 = np.full(shape, NO_MINUTE, np.int64)

    def take(
        self, repaired: Iterable[Repaired], events: EventBatch, records: Records
    ) -> list[Example]:
        """Count the repairs of a batch's events; the examples among them, by row, then by field.
        Rows that are no events are left out."""
        examples = [
            example for one in repaired for example in self._taken(one, events, records.offset)
        ]
        return sorted(examples, key=lambda one: one.row)

    def _taken(self, one: Repaired, events: EventBatch, offset: I64) -> Iterator[Example]:
        place = REPAIRABLE.index(one.field), CODES.index(one.code)
        rows = one.rows[np.isin(offset[one.rows], events.offset)]
        if not len(rows):
            return
        self._tally[place] += len(rows)
        minute = events.time_ms[np.searchsorted(events.offset, offset[rows])] // MINUTE_MS
        reached = np.maximum.accumulate(np.concatenate([self._minute[place][None], minute]))
        self._minute[place] = reached[-1]
        for row in rows[reached[1:] > reached[:-1]].tolist():
            yield Example(row, one.field, one.code, message(one.field, one.code))

    def counts(self) -> dict[str, int]:
        """How often each field was repaired, as far as it ever was."""
        return {
            count_name(REPAIRABLE[field], CODES[code]): int(self._tally[field, code])
            for field, code in np.argwhere(self._tally).tolist()
        }

    def save(self) -> Arrays:
        """The counts, and the minutes."""
        return {"repaired": self._tally, "repaired_minute": self._minute}

    def load(self, state: Arrays) -> None:
        """Replace counts and minutes by saved ones."""
        self._tally[:] = state["repaired"]
        self._minute[:] = state["repaired_minute"]
