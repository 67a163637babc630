"""Where a partition starts: its checkpoint, what is left to re-learn, and what forbids to go on.

Decides from what the group has committed, what the log still holds, and what the store has. Every
way in which these do not fit together is an error of its own, and never a silent cold start.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import NamedTuple

import msgspec
import structlog

from detectors.state import STATE_VERSION
from stream.checkpoints.loading import load_into
from stream.checkpoints.manifest import SUPERSEDED_MAX, Manifest, Pointer, parse_pointer
from stream.checkpoints.migration import migrate
from stream.checkpoints.state_losses import (
    all_state_lost,
    refuse_unless_allowed,
    state_config_of,
    state_losses,
)
from stream.checkpoints.store import Folder
from stream.config import Config, StateConfig, fingerprint, state_config, with_state_config
from stream.config.stages import logs
from stream.config.topology import Log
from stream.errors import (
    CheckpointCorrupt,
    CheckpointIncompatible,
    CheckpointPointerLost,
    ConfigurationSuperseded,
    ForeignOffset,
    PartitionCountChanged,
    RetentionGap,
    SavedStateUnusable,
)
from stream.executor import ExecutorFactory, ThreadExecutor
from stream.kafka.positions import CommittedOffset, Partition
from stream.pipeline.alerting import RunInfo
from stream.pipeline.shard import Shard, ShardFactory

log = structlog.stdlib.get_logger(__name__)


class StartContext(NamedTuple):
    """What a partition's start is decided from. log: whose partition it is. low, high: its span as
    it is now. beat: called while a checkpoint is read. saved: where a replay has saved a state to
    begin with. offset_at: of the first record that the broker took at a time, in ms, or later.
    drops: arguments of --drop-state.
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
    def where(self) -> Partition:
        """The partition as Kafka names it."""
        return Partition(self.log.topic, self.partition)


@dataclass(slots=True)
class RecoveredState:
    """A shard, and what it was made from.

    head: a manifest without arrays, which says what the shard's state is of now. checkpoint: the
    name of the one that it was loaded from; None where it is empty. broken_checkpoints: checkpoints that
    were not whole. converts: its configuration is another one than this worker's, so that it must
    be converted where re-learning ends, at live_from.
    """

    shard: Shard
    head: Manifest
    live_from: int
    checkpoint: str | None
    broken_checkpoints: int = 0
    needs_migration: bool = False

    def migrate(self, config: Config, run: RunInfo) -> None:
        """Go on under this worker's configuration, with what survives; the log says what does."""
        old = msgspec.convert(self.head.state_config, StateConfig)
        own = configured_log(config, self.head.log)
        shard = ShardFactory(config, run).make(own, self.head.partition)
        migration_results = migrate(self.shard.save(), old, state_config(config), shard)
        for result in migration_results:
            where = {"topic": own.topic, "partition": self.head.partition}
            named = {**where, "stage": result.stage}
            if result.is_kept:
                log.info("another configuration: state kept", **named)
            else:
                dropped = "another configuration: state dropped"
                anew = "another configuration: starting anew"
                held = {"checkpoint": self.checkpoint} if result.drops_state() else {}
                log.warning(dropped if result.is_removed else anew, **named, **held, why=result.why)
        lost = (
            self.checkpoint if any(result.drops_state() for result in migration_results) else None
        )
        self.shard, self.head = shard, _migrated_head(self.head, config, own, self.live_from, lost)
        self.checkpoint, self.needs_migration = None, False


def recover(at: StartContext) -> RecoveredState:
    """A shard as it was at a checkpoint; where the group has read nothing yet, as a replay has saved
    it, or empty.

    Raises SavedStateUnusable, ForeignOffset, RetentionGap, CheckpointPointerLost, CheckpointCorrupt,
    CheckpointIncompatible, StateWouldBeDropped, PartitionCountChanged, ConfigurationSuperseded,
    StoreFailure. Writes nothing.
    """
    if at.committed is None:
        _check_nothing_was_read(at)
        return _empty(at, at.low, at.low) if at.saved is None else _from_saved_state(at, at.saved)
    pointer = parse_pointer(at.committed.metadata)
    if pointer is None:
        raise _missing_pointer(at, at.committed)
    if at.committed.next_offset > at.high:
        raise RetentionGap(
            f"{at.where}: the group has committed offset {at.committed.next_offset}, and the log "
            f"ends at {at.high}: it is not the log that the state was learned from"
        )
    return _from_checkpoint(at, pointer, at.committed.next_offset)


def _check_nothing_was_read(at: StartContext) -> None:
    """Raise where the group has read the topic before, and only its offset is missing."""
    for name in at.folder.names():
        if at.folder.manifest(name).has_state():
            raise CheckpointPointerLost(
                f"{at.where}: the group has committed no offset, and yet there is checkpoint {name} "
                f"in {at.folder.path}; expected the offset that it belongs to"
            )
    former = at.folder.newest_of_topic()
    if former is not None:
        _check_partition_count(at, former)


def _check_partition_count(at: StartContext, manifest: Manifest) -> None:
    if manifest.log.partitions != at.log.partitions:
        raise PartitionCountChanged(
            f"{at.log.topic}: it has {at.log.partitions} partitions; the state of partition "
            f"{manifest.partition} was learned when it had {manifest.log.partitions}"
        )


def _missing_pointer(at: StartContext, committed: CommittedOffset) -> Exception:
    said = f'{at.where}: the group has committed offset {committed.next_offset} with the note "{committed.metadata}"'
    if names := at.folder.names():
        return CheckpointPointerLost(
            f"{said}; expected the name of a checkpoint, such as {names[0]} in {at.folder.path}"
        )
    return ForeignOffset(f'{said}; expected "eddy2 from=…" and no other program in this group')


def _empty(at: StartContext, first: int, live_from: int) -> RecoveredState:
    head = Manifest(
        state_version=STATE_VERSION,
        fingerprint=fingerprint(at.config),
        state_config=msgspec.to_builtins(state_config(at.config)),
        superseded=[],
        log=at.log,
        partition=at.partition,
        first_offset=first,
        offset=first,
        created_at="",
    )
    shard = ShardFactory(at.config, at.run).make(at.log, at.partition)
    return RecoveredState(shard, head, live_from, checkpoint=None)


def _from_saved_state(
    at: StartContext, saved: Folder, live_from: int | None = None
) -> RecoveredState:
    """A shard that goes on from what a replay has learned. What the topic still holds of that is
    not read again: where the replay has read the topic itself, it begins behind that; else with the
    first record that the broker took when the replay's last event happened, or later. Those of
    before that come again are known by their ids. live_from: the committed offset, if there is one:
    up to there the shard re-learns."""
    name = next(iter(saved.names()), None)
    if name is None:
        raise SavedStateUnusable(f"{at.where}: there is no state in {saved.path}")
    manifest = saved.manifest(name)
    own = fingerprint(at.config), STATE_VERSION
    if (manifest.fingerprint, manifest.state_version) != own:
        raise SavedStateUnusable(
            f"{at.where}: the state in {saved.path} was saved under configuration "
            f"{manifest.fingerprint} and is of version {manifest.state_version}; this is "
            f"configuration {own[0]} and version {own[1]}"
        )
    start = _start_after_saved_state(at, manifest)
    if live_from is not None and manifest.offset == 0:
        # Records of an internal topic are the output of the inputs that the replay has read.
        start = live_from if at.log.internal else min(start, live_from)
    if live_from is not None and start > live_from:
        raise SavedStateUnusable(
            f"{at.where}: the state in {saved.path} was saved at offset {start}, and the group has "
            f"committed offset {live_from}: alerts on the records between them would be lost; expected a "
            f"replay of {saved_range(at)}"
        )
    found = _empty(at, start, start if live_from is None else live_from)
    load_into(found.shard, saved, manifest, at.beat, at.executors)
    # The log alone cannot make it again: without a checkpoint of its own nothing can.
    found.head = msgspec.structs.replace(found.head, first_offset=None, resumed_from=start)
    log.info("begun from a saved state", **at.where._asdict(), next_offset=start)
    return found


def _start_after_saved_state(at: StartContext, saved: Manifest) -> int:
    """The offset of the first record that a saved state has not seen."""
    if saved.offset == 0:
        if saved.until_ms is None or at.offset_at is None:
            return at.low
        return max(at.low, at.offset_at(saved.until_ms))
    if at.low <= saved.offset <= at.high:
        return saved.offset
    raise RetentionGap(
        f"{at.where}: the state was saved at offset {saved.offset}, and the log now holds {at.low} to "
        f"{at.high}: what it has not seen of it is gone, or it is not the log that was replayed"
    )


def saved_range(at: StartContext) -> str:
    """The range of the partition that a replay must read, so that a worker can start from its state."""
    until = "" if at.committed is None else f"&until={at.partition}:{at.committed.next_offset}"
    return f"kafka://{at.where.topic}?from={at.partition}:{at.low}{until}"


def _migrated_head(
    head: Manifest, config: Config, log: Log, offset: int, lost: str | None = None
) -> Manifest:
    """The head of a state that goes on under another configuration, or state version, from there.

    The log alone cannot make it again. lost: the checkpoint whose state was dropped.
    """
    own = fingerprint(config)
    former = [*(one for one in head.superseded if one != head.fingerprint), head.fingerprint]
    return msgspec.structs.replace(
        head,
        state_version=STATE_VERSION,
        fingerprint=own,
        state_config=msgspec.to_builtins(state_config(config)),
        superseded=[one for one in former if one != own][-SUPERSEDED_MAX:],
        log=log,
        first_offset=None,
        resumed_from=None,
        offset=offset,
        dropped=[*head.dropped, *([lost] if lost else [])],
    )


def _from_checkpoint(at: StartContext, pointer: Pointer, live_from: int) -> RecoveredState:
    """The checkpoint that the pointer names; where it is not whole the one before it, loudly."""
    earlier = (name for name in at.folder.names() if name < pointer.checkpoint)
    broken: list[str] = []
    for name in (pointer.checkpoint, *earlier):
        try:
            manifest = at.folder.manifest(name)
            if broken and not _can_replace(at, manifest, pointer):
                broken.append(_why_not_replaced(at, name, manifest))
                continue
            found = _check_and_load(at, name, manifest, live_from)
        except CheckpointIncompatible as error:
            refuse_unless_allowed(
                all_state_lost({}, error.message, pointer.fingerprint), at.allowed_drops
            )
            head = _empty(at, live_from, live_from).head
            head = msgspec.structs.replace(head, fingerprint=pointer.fingerprint)
            return _restart_without_state(at, head, name, live_from)
        except CheckpointCorrupt as error:
            log.error(  # noqa: TRY400 - an expected error, which says all without a traceback
                "checkpoint is not whole, falling back", **at.where._asdict(), error=str(error)
            )
            broken.append(str(error))
        else:
            found.broken_checkpoints = len(broken)
            return found
    if pointer.first_offset is not None and pointer.first_offset >= at.low:
        if pointer.fingerprint == fingerprint(at.config):
            log.error(
                "no checkpoint is whole, re-learning from the first record", **at.where._asdict()
            )
            found = _empty(at, pointer.first_offset, live_from)
            found.broken_checkpoints = len(broken)
            return found
        broken.append(f"the first record was learned under configuration {pointer.fingerprint}")
    if at.saved is not None:
        try:
            return _from_saved_state_instead(at, at.saved, pointer, live_from, len(broken))
        except (CheckpointCorrupt, RetentionGap, SavedStateUnusable) as error:
            broken.append(f"checkpoints.start_from: {error.message}")
    needed = "a checkpoint" if pointer.first_offset is None else f"record {pointer.first_offset}"
    raise CheckpointCorrupt(
        f"{at.where}: {'; '.join(broken)}; there is no whole checkpoint before it that the log, "
        f"which begins at {at.low}, could be re-learned from: without {needed} nothing can make the "
        f"state again but a replay of {saved_range(at)}"
    )


def _from_saved_state_instead(
    at: StartContext, saved: Folder, pointer: Pointer, live_from: int, broken_checkpoints: int
) -> RecoveredState:
    """A shard that a replay has learned again, in place of checkpoints of which none is whole."""
    found = _from_saved_state(at, saved, live_from)
    log.error("no checkpoint is whole, beginning from the saved state", **at.where._asdict())
    if pointer.fingerprint != found.head.fingerprint:
        found.head = msgspec.structs.replace(found.head, superseded=[pointer.fingerprint])
    found.broken_checkpoints = broken_checkpoints
    return found


def _why_not_replaced(at: StartContext, name: str, manifest: Manifest) -> str:
    """Why an earlier checkpoint cannot be used instead."""
    if manifest.offset < at.low:
        return f"checkpoint {name} is at an offset before the log start"
    return f"checkpoint {name} was written under configuration {manifest.fingerprint}"


def _can_replace(at: StartContext, manifest: Manifest, pointer: Pointer) -> bool:
    """Whether re-learning from an earlier checkpoint gives the same state."""
    return manifest.fingerprint == pointer.fingerprint and manifest.offset >= at.low


def _check_and_load(
    at: StartContext, name: str, manifest: Manifest, live_from: int
) -> RecoveredState:
    of = Partition(manifest.log.topic, manifest.partition)
    if of != at.where:
        raise CheckpointCorrupt(f"checkpoint {name} is of {of}, not of {at.where}")
    _check_partition_count(at, manifest)
    if manifest.offset > live_from:
        raise CheckpointPointerLost(
            f"{at.where}: checkpoint {name} stands behind the committed offset {live_from}"
        )
    if manifest.offset < at.low:
        raise RetentionGap(
            f"{at.where}: the group's checkpoint stands at offset {manifest.offset}, and the log "
            f"now begins at {at.low}: {at.low - manifest.offset} offsets are gone, so that what the "
            "state has not seen of them can never be learned"
        )
    return _load_state(at, name, manifest, live_from)


def _load_state(at: StartContext, name: str, manifest: Manifest, live_from: int) -> RecoveredState:
    """The shard of a whole checkpoint, under the configuration that it was written with; an empty
    one where the state is unusable, or dropped on purpose."""
    own = fingerprint(at.config)
    head = msgspec.structs.replace(manifest, arrays=[])
    if own in manifest.superseded:
        raise ConfigurationSuperseded(
            f"{at.where}: checkpoint {name} was written under configuration {manifest.fingerprint}; "
            f"the group changed to it from this worker's, {own}"
        )
    try:
        old = state_config_of(manifest)
    except ValueError as error:
        refuse_unless_allowed(
            all_state_lost(manifest.state_config, str(error), manifest.fingerprint),
            at.allowed_drops,
        )
        return _restart_without_state(at, head, name, live_from)
    needs_migration, now = manifest.fingerprint != own, state_config(at.config)
    if needs_migration:
        refuse_unless_allowed(state_losses(old, now, manifest.fingerprint), at.allowed_drops)
    if old.secret != now.secret:
        return _restart_without_state(at, head, name, live_from)
    try:
        shard = ShardFactory(with_state_config(at.config, old), at.run).make(
            manifest.log, manifest.partition
        )
    except LookupError as error:
        raise CheckpointCorrupt(f"checkpoint {name}: its log or steering: {error!r}") from error
    load_into(shard, at.folder, manifest, at.beat, at.executors)
    at.folder.stored_blocks = manifest.blocks()
    return RecoveredState(shard, head, live_from, name, needs_migration=needs_migration)


def _restart_without_state(
    at: StartContext, head: Manifest, name: str, live_from: int
) -> RecoveredState:
    """A shard in place of a checkpoint that is dropped whole: from a saved state where the
    configuration names one, else with nothing learned. head: of that checkpoint."""
    log.warning("state dropped", **at.where._asdict(), checkpoint=name)
    if at.saved is None:
        found = _empty(at, live_from, live_from)
        found.head = _migrated_head(head, at.config, at.log, live_from, name)
        return found
    found = _from_saved_state(at, at.saved, live_from)
    found.head = _migrated_head(head, at.config, at.log, found.head.offset, name)
    return found


def configured_log(config: Config, log: Log) -> Log:
    """What the configuration calls a log, which may have had another name."""
    return next(own for own in logs(config) if own.topic == log.topic)
