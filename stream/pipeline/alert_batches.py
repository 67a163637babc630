"""Alerts as rows of an internal topic, for stages that read the alerts of all shards."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from schemas.alerts import Alert
from schemas.columns import I32, I64
from stream.config.stage_graph import StageNode
from stream.pipeline.stages import BatchCodec, Selected, StageOutput, Subscription


@dataclass(frozen=True, slots=True)
class AlertBatch:
    """n alerts in the order of their log, each with the position and time of its event.

    sources: (topic, partition) pairs; source: int32[n] indexes them; offset, time_ms: int64[n].
    """

    sources: tuple[tuple[str, int], ...]
    source: I32
    offset: I64
    time_ms: I64
    alerts: list[Alert]

    def __len__(self) -> int:
        return len(self.alerts)

    def take(self, rows: I64) -> "AlertBatch":
        """The given rows, in the given order."""
        alerts = [self.alerts[row] for row in rows.tolist()]
        columns = self.source[rows], self.offset[rows], self.time_ms[rows]
        return AlertBatch(self.sources, *columns, alerts)

    def slice(self, start: int, stop: int) -> "AlertBatch":
        """The rows start … stop - 1."""
        return self.take(np.arange(start, stop))


class AlertCodec:
    """Each alert is one message: its published JSON. sources: every (topic, partition) that the
    alerts' events may come from."""

    def __init__(self, sources: tuple[tuple[str, int], ...]) -> None:
        self._sources = sources
        self._index = {source: i for i, source in enumerate(sources)}
        self._decoder = msgspec.json.Decoder(Alert)

    def write(self, batch: AlertBatch) -> Iterator[bytes]:
        """A message for each alert."""
        return map(msgspec.json.encode, batch.alerts)

    def read(self, values: Sequence[bytes | None]) -> AlertBatch:
        """The alerts of the messages. Raises ValueError where one is no alert on a known event."""
        try:
            alerts = [self._decoder.decode(value or b"") for value in values]
            evidence = [alert.evidence[0] for alert in alerts]
            source = [self._index[event.topic, event.partition] for event in evidence]
        except (msgspec.MsgspecError, IndexError) as error:
            raise ValueError(f"is no alert of Eddy's: {error}") from error
        except KeyError as error:
            raise ValueError(f"is an alert on an event of {error}, which no input reads") from error
        return AlertBatch(
            self._sources,
            np.array(source, np.int32),
            np.array([event.offset for event in evidence], np.int64),
            np.array([alert.event_time_ms for alert in alerts], np.int64),
            alerts,
        )

    def join(self, batches: Sequence[AlertBatch]) -> AlertBatch:
        """One batch of several."""
        return AlertBatch(
            batches[0].sources,
            np.concatenate([batch.source for batch in batches]),
            np.concatenate([batch.offset for batch in batches]),
            np.concatenate([batch.time_ms for batch in batches]),
            [alert for batch in batches for alert in batch.alerts],
        )


def entity_key(alert: Alert) -> str:
    """An alert's entity as a key: its type and id."""
    return f"{alert.entity.type}:{alert.entity.id}"


class AlertSubscription(Subscription[AlertBatch]):
    """Reads the alerts of every stage, by default keyed by their entity."""

    def __init__(
        self,
        sources: tuple[tuple[str, int], ...],
        key: Callable[[Alert], str] = entity_key,
    ) -> None:
        self.codec: BatchCodec[AlertBatch] = AlertCodec(sources)
        self._key = key

    def keys(self, batch: AlertBatch) -> pa.StringArray:
        """The key of each alert."""
        return pa.array(map(self._key, batch.alerts), pa.string())

    def select_output(
        self, name: str, batch: Any, output: StageOutput
    ) -> Selected[AlertBatch] | None:
        """The alerts of a stage's output."""
        if not output.alerts:
            return None
        rows = np.array([at_row.row for at_row in output.alerts], np.int64)
        columns = batch.source[rows], batch.offset[rows], batch.time_ms[rows]
        alerts = [at_row.alert for at_row in output.alerts]
        return Selected(AlertBatch(batch.sources, *columns, alerts), rows)


def alerts_by_entity(_node: StageNode, context: Any) -> AlertSubscription:
    """Subscribe a stage to all alerts, keyed by their entity."""
    return AlertSubscription(context.all_sources())
