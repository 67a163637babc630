"""Selects the rows that assess reads: the monitors' reports, and labels."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from detectors.fusion.assessment import is_sampled
from detectors.monitor import is_label_of
from detectors.numeric.hashing import HashKey
from schemas.codecs.reports import ReportCodec
from schemas.columns import F64, I64, Bools, EventBatch
from schemas.reports import ReportBatch
from stream.config import AssessSpec
from stream.pipeline.stages import Selected, StageOutput, Subscription
from stream.pipeline.stages.watch import WatchOutput


class ReportSubscription(Subscription[ReportBatch]):
    """Selects the monitors' reports and the labels that assess learns from, keyed by the subject.

    A monitor reports an event whose p-value is below report_p, and a sample of all events; an event
    without the subject is not reported. score_all: every scored event is selected, so that a replay can score
    it; assess learns only from reports.
    """

    def __init__(
        self,
        spec: AssessSpec,
        codec: ReportCodec,
        key: HashKey,
        *,
        score_all: bool,
    ) -> None:
        self.codec = codec
        self._spec = spec
        self._key = key
        self._score_all = score_all
        self._sampled: tuple[EventBatch, Bools] | None = None

    def keys(self, batch: ReportBatch) -> pa.StringArray:
        """The subject of each row."""
        return batch.events.text[self._spec.subject]

    def select_events(self, events: EventBatch) -> Selected[ReportBatch] | None:
        """The labels that assess learns from."""
        if not self._spec.learning:
            return None
        rows = np.flatnonzero(is_label_of(events, self._spec.subject)).astype(np.int64)
        return Selected(self._reports(None, events, rows, np.full(len(events), np.nan), {}), rows)

    def select_output(
        self, name: str, batch: EventBatch, output: StageOutput
    ) -> Selected[ReportBatch] | None:
        """A monitor's reports."""
        if not isinstance(output, WatchOutput):
            return None
        is_reported = ~np.isnan(output.p_value)
        if not self._score_all:
            is_reported &= (output.p_value < self._spec.report_p) | self._is_sampled(batch)
        if self._spec.subject in batch.text:
            is_reported &= batch.text[self._spec.subject].is_valid().to_numpy(zero_copy_only=False)
        else:
            is_reported[:] = False
        rows = np.flatnonzero(is_reported).astype(np.int64)
        features = output.training_features
        return Selected(self._reports(name, batch, rows, output.p_value, features), rows)

    def _is_sampled(self, events: EventBatch) -> Bools:
        """bool[n]: whether each event is sampled; cached, since every monitor asks for the same batch."""
        if self._sampled is None or self._sampled[0] is not events:
            self._sampled = events, is_sampled(events, self._key)
        return self._sampled[1]

    def _reports(
        self,
        monitor: str | None,
        events: EventBatch,
        rows: I64,
        p_value: F64,
        features: Mapping[str, F64],
    ) -> ReportBatch:
        absent = np.full(len(rows), np.nan)
        names = self._spec.training_features()
        return ReportBatch(
            events.take(rows),
            pa.repeat(pa.scalar(monitor, pa.string()), len(rows)),
            p_value[rows],
            {name: features[name][rows] if name in features else absent for name in names},
        )
