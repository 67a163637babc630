"""The context that stages are made in."""

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
    """Everything that the stages of a configuration share. topics: input name → topic of its
    records. decoders: input name → decoder, shared between the configurations that a comparison replays."""

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
        """The sources of all inputs, sorted by input name."""
        return self.sources(sorted(self.config.inputs))


class Placement(NamedTuple):
    """The partition that a stage runs for. log: the log that feeds the shard. inline: whether the stage runs
    on the output of the stage that reads the log."""

    log: Log
    partition: int
    inline: bool
