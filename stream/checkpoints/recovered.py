"""A partition's recovered state, and the facts that recovery depends on."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import NamedTuple

import msgspec
import structlog

from detectors.state import STATE_VERSION
from stream.checkpoints.manifest import SUPERSEDED_MAX, Manifest
from stream.checkpoints.migration import migrate
from stream.checkpoints.store import Folder
from stream.config import Config, StateConfig, fingerprint, state_config
from stream.config.stage_graph import logs
from stream.config.topology import Log
from stream.executor import ExecutorFactory, ThreadExecutor
from stream.kafka.positions import CommittedOffset, Partition
from stream.pipeline.alerting import RunInfo
from stream.pipeline.shard import Shard, ShardFactory

logger = structlog.stdlib.get_logger(__name__)


class StartContext(NamedTuple):
    """The facts that decide where a partition starts.

    log, partition: what is read. folder: its checkpoints. committed: the group's offset. low, high:
    its first offset, and the one after its last record. beat: called while a checkpoint is read.
    saved: a state that a replay has saved, to begin with. offset_at: looks up the first offset whose
    broker time is that, in milliseconds, or later. allowed_drops: arguments of --drop-state.
    """

    config: Config
    run: RunInfo
    log: Log
    partition: int
    folder: Folder
    committed: CommittedOffset | None
    low: int
    high: int
    beat: Callable[[], None]
    saved: Folder | None = None
    offset_at: Callable[[int], int] | None = None
    allowed_drops: Collection[str] = ()
    executors: ExecutorFactory = ThreadExecutor

    @property
    def topic_partition(self) -> Partition:
        """The partition as Kafka names it."""
        return Partition(self.log.topic, self.partition)


@dataclass(slots=True)
class RecoveredState:
    """A shard, and where its state comes from.

    head: a manifest without arrays that describes the shard's present state. live_from: the
    committed offset; earlier records are re-learned. checkpoint: the one that was loaded, None for a
    new state. broken_checkpoints: the number of damaged checkpoints that were skipped. needs_migration: the state
    is of another configuration than this worker's, and must be migrated at live_from.
    """

    shard: Shard
    head: Manifest
    live_from: int
    checkpoint: str | None
    broken_checkpoints: int = 0
    needs_migration: bool = False

    def migrate(self, config: Config, run: RunInfo) -> None:
        """Move the state to this worker's configuration; log which stages keep their state."""
        old = msgspec.convert(self.head.state_config, StateConfig)
        log = configured_log(config, self.head.log)
        shard = ShardFactory(config, run).make(log, self.head.partition)
        results = migrate(self.shard.save(), old, state_config(config), shard)
        partition = {"topic": log.topic, "partition": self.head.partition}
        for result in results:
            log_fields = {**partition, "stage": result.stage}
            if result.is_kept:
                logger.info("configuration changed: state kept", **log_fields)
                continue
            dropped = {"checkpoint": self.checkpoint} if result.drops_state() else {}
            logger.warning(
                "configuration changed: state dropped"
                if result.is_removed
                else "configuration changed: stage starts with nothing learned",
                **log_fields,
                **dropped,
                reason=result.reason,
            )
        drops = any(result.drops_state() for result in results)
        self.head = migrated_head(
            self.head, config, log, self.live_from, self.checkpoint if drops else None
        )
        self.shard, self.checkpoint, self.needs_migration = shard, None, False


def empty_state(context: StartContext, first: int, live_from: int) -> RecoveredState:
    """A shard with nothing learned, for a log that it reads from offset `first`."""
    head = Manifest(
        state_version=STATE_VERSION,
        fingerprint=fingerprint(context.config),
        state_config=msgspec.to_builtins(state_config(context.config)),
        superseded=[],
        log=context.log,
        partition=context.partition,
        first_offset=first,
        offset=first,
        created_at="",
    )
    shard = ShardFactory(context.config, context.run).make(context.log, context.partition)
    return RecoveredState(shard, head, live_from, checkpoint=None)


def migrated_head(
    head: Manifest, config: Config, log: Log, offset: int, dropped: str | None = None
) -> Manifest:
    """The head of a state that continues from that offset under another configuration or version.

    Its first_offset is None: re-learning the log would not give the same state. dropped: the checkpoint whose state was dropped.
    """
    current = fingerprint(config)
    earlier = [
        *(old for old in head.superseded if old != head.fingerprint),
        head.fingerprint,
    ]
    return msgspec.structs.replace(
        head,
        state_version=STATE_VERSION,
        fingerprint=current,
        state_config=msgspec.to_builtins(state_config(config)),
        superseded=[old for old in earlier if old != current][-SUPERSEDED_MAX:],
        log=log,
        first_offset=None,
        resumed_from=None,
        offset=offset,
        dropped=[*head.dropped, *([dropped] if dropped else [])],
    )


def configured_log(config: Config, log: Log) -> Log:
    """The log of the same topic in the configuration, which may give its input another name."""
    return next(current for current in logs(config) if current.topic == log.topic)
