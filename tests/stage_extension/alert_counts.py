"""A stage as another package would add it: it counts the alerts on each entity."""

import msgspec
import numpy as np

from detectors.spec import Spec
from detectors.state import Arrays
from stream.config.stage_graph import OutputTopic, StageDeclaration
from stream.pipeline.alert_batches import AlertBatch, alerts_by_entity, entity_key
from stream.pipeline.counters import STAGE_LABELS, Metric, StageCounter
from stream.pipeline.stages import OutputRecord, Stage, StageOutput


class AlertCountsSpec(Spec, frozen=True, kw_only=True):
    """The table [stages.alert_counts]. topic: holds the number of alerts on each entity."""

    topic: str
    partitions: int = 1


class AlertCounts(Stage):
    """Counts the alerts on each entity. State: the numbers, as JSON."""

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self._numbers: dict[str, int] = {}

    def process(self, batch: AlertBatch) -> StageOutput:
        """Count alerts; the new number of each entity."""
        records: list[OutputRecord] = []
        for entity in map(entity_key, batch.alerts):
            self._numbers[entity] = number = self._numbers.get(entity, 0) + 1
            records.append(OutputRecord(self._topic, entity.encode(), str(number).encode()))
        return StageOutput(records=records)

    def counts(self) -> dict[str, int]:
        """All alerts so far."""
        return {"alerts_counted": sum(self._numbers.values())}

    def save(self) -> Arrays:
        """The numbers."""
        return {"numbers": np.frombuffer(msgspec.json.encode(self._numbers), np.uint8)}

    def load(self, state: Arrays) -> None:
        """Replace the numbers by saved ones."""
        self._numbers = msgspec.json.decode(state["numbers"].tobytes())


COUNTED = Metric("eddy_alerts_counted", "counter", "alerts", STAGE_LABELS, "alerts counted", "none")
ALERT_COUNTS = StageDeclaration(
    name="alert_counts",
    reads=("alerts",),
    options=AlertCountsSpec,
    make=lambda node, _context, _placement: AlertCounts(node.options.topic),
    subscribe=alerts_by_entity,
    counters=(StageCounter("alerts_counted", COUNTED),),
    outputs=lambda node, _config: [
        OutputTopic(f"{node.config_path}.topic", node.options.topic, "entity", "compact")
    ],
)
