"""What the stages of a configuration are made from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from detectors.spec import seconds
from stream.config import Config
from stream.config.topology import Log, source_partitions
from stream.pipeline.alerting import AlertBuilder
from stream.pipeline.decoding import SharedDecoder
from stream.pipeline.scores import ScoreSelection


@dataclass(frozen=True, slots=True)
class StageContext:
    """What stages of a configuration are made from. topics: by input, the topic that its records
    name. decoders: by input, shared between the configurations that a comparison replays."""

    config: Config
    alert_builder: AlertBuilder
    fingerprint: str
    topics: Mapping[str, str]
    decoders: Mapping[str, SharedDecoder]
    selection: ScoreSelection

    @property
    def ahead_max_ms(self) -> float:
        """limits.time_ahead_max."""
        return 1000.0 * seconds(self.config.limits.time_ahead_max)

    def sources(self, inputs: Sequence[str]) -> tuple[tuple[str, int], ...]:
        """Every topic and partition that events of these inputs may come from."""
        return source_partitions(self.config, inputs, self.topics)

    def all_sources(self) -> tuple[tuple[str, int], ...]:
        """Those of all inputs, in an order that does not depend on the configuration's."""
        return self.sources(sorted(self.config.inputs))


class Placement(NamedTuple):
    """The partition that a stage runs for. log: that feeds it; inline: it is not the log's reader,
    but runs on the reader's output."""

    log: Log
    partition: int
    inline: bool
