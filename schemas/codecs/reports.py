"""Messages of reports: those of internal events, with the reports' own columns."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from schemas.codecs.internal_events import ColumnKind, InternalEventCodec
from schemas.reports import ReportBatch, concat_reports

MONITOR: Final = "monitor"
P_VALUE: Final = "p_value"


class ReportCodec:
    """Writes and reads the messages of the internal topic of reports: those of
    `InternalEventCodec`, with the reports' own columns.

    fields: of the events; features: that assess learns from; sources: every (topic, partition) that
    the events may come from.
    """

    def __init__(
        self,
        fields: Sequence[str],
        features: Sequence[str],
        sources: tuple[tuple[str, int], ...],
    ) -> None:
        columns: dict[str, ColumnKind] = {MONITOR: "text", P_VALUE: "number"}
        columns |= dict.fromkeys(features, "number")
        self._features = list(features)
        self._codec = InternalEventCodec(fields, sources, columns)

    def write(self, reports: ReportBatch) -> Iterator[bytes]:
        """The messages for the reports, in order for each source; none where there are none."""
        events = reports.events
        text = {**events.text, MONITOR: reports.monitor}
        number = {**events.number, P_VALUE: reports.p_value, **reports.features}
        return self._codec.write(replace(events, text=text, number=number))

    def read(self, values: Sequence[bytes | None]) -> ReportBatch:
        """The reports of the messages, in order. Raises ValueError as `InternalEventCodec.read`."""
        events = self._codec.read(values)
        monitor, p_value = events.text.pop(MONITOR), events.number.pop(P_VALUE)
        features = {name: events.number.pop(name) for name in self._features}
        return ReportBatch(events, monitor, p_value, features)

    @staticmethod
    def join(batches: Sequence[ReportBatch]) -> ReportBatch:
        """One batch of several."""
        return concat_reports(batches)
