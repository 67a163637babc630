"""Reports: what monitors state about surprising events, as columns.

A report is an event with the monitor that reports it, its p-value, and the feature values that
assess learns from. Labels that assess learns from travel among the reports, with no monitor.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from schemas.columns import F64, I32, I64, EventBatch, concat_batches


@dataclass(frozen=True, slots=True)
class ReportBatch:
    """n reports and labels, in the order of their log.

    events: the event, or label, of each row. monitor: Arrow string[n], null for a label. p_value:
    float64[n], NaN for a label. features: name such as "card.amount" → float64[n], NaN where absent.
    """

    events: EventBatch
    monitor: pa.StringArray
    p_value: F64
    features: dict[str, F64]

    @property
    def sources(self) -> tuple[tuple[str, int], ...]:
        """The (topic, partition) pairs that the events come from."""
        return self.events.sources

    @property
    def source(self) -> I32:
        """int32[n]: index into `sources`."""
        return self.events.source

    @property
    def offset(self) -> I64:
        """int64[n]: each event's position in its source partition."""
        return self.events.offset

    @property
    def time_ms(self) -> I64:
        """int64[n]: each event's time."""
        return self.events.time_ms

    def __len__(self) -> int:
        return len(self.events)

    def take(self, rows: I64) -> "ReportBatch":
        """The given rows, in the given order."""
        return ReportBatch(
            self.events.take(rows),
            self.monitor.take(pa.array(rows)),
            self.p_value[rows],
            {name: column[rows] for name, column in self.features.items()},
        )

    def slice(self, start: int, stop: int) -> "ReportBatch":
        """The rows start … stop - 1, sharing memory with this batch."""
        return ReportBatch(
            self.events.slice(start, stop),
            self.monitor.slice(start, stop - start),
            self.p_value[start:stop],
            {name: column[start:stop] for name, column in self.features.items()},
        )


def concat_reports(batches: Sequence[ReportBatch]) -> ReportBatch:
    """One batch of several that have the same sources, fields and features."""
    return ReportBatch(
        concat_batches([batch.events for batch in batches]),
        pa.concat_arrays([batch.monitor for batch in batches]),
        np.concatenate([batch.p_value for batch in batches]),
        {
            name: np.concatenate([batch.features[name] for batch in batches])
            for name in batches[0].features
        },
    )
