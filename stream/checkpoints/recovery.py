"""Decides where a partition starts: from which checkpoint, and what it re-learns.

The decision follows from the committed offset, the offsets that the log still holds, and the
checkpoints in the store.
Every contradiction between these is an error of its own; a learned state is never dropped silently.
"""

import msgspec
import structlog

from stream.checkpoints.loading import load_into
from stream.checkpoints.manifest import Manifest, Pointer, parse_pointer
from stream.checkpoints.recovered import (
    RecoveredState,
    StartContext,
    empty_state,
    migrated_head,
)
from stream.checkpoints.saved_states import (
    from_saved_state,
    replace_broken_checkpoints,
    saved_range,
)
from stream.checkpoints.state_losses import (
    all_state_lost,
    refuse_unless_allowed,
    state_config_of,
    state_losses,
)
from stream.config import fingerprint, state_config, with_state_config
from stream.errors import (
    CheckpointCorrupt,
    CheckpointIncompatible,
    CheckpointPointerLost,
    ConfigurationSuperseded,
    EddyError,
    ForeignOffset,
    PartitionCountChanged,
    RetentionGap,
    SavedStateUnusable,
)
from stream.kafka.positions import CommittedOffset, Partition
from stream.pipeline.shard import ShardFactory

logger = structlog.stdlib.get_logger(__name__)


def recover(context: StartContext) -> RecoveredState:
    """Load the state that the committed offset names.

    Where the group has committed nothing, start from a saved state or with nothing learned.
    Raises SavedStateUnusable, ForeignOffset, RetentionGap, CheckpointPointerLost, CheckpointCorrupt,
    CheckpointIncompatible, StateWouldBeDropped, PartitionCountChanged, ConfigurationSuperseded,
    StoreFailure. Writes nothing.
    """
    committed = context.committed
    if committed is None:
        _check_nothing_was_read(context)
        if context.saved is None:
            return empty_state(context, context.low, context.low)
        return from_saved_state(context, context.saved)
    pointer = parse_pointer(committed.metadata)
    if pointer is None:
        raise _missing_pointer(context, committed)
    if committed.next_offset > context.high:
        raise RetentionGap(
            f"{context.topic_partition}: the group has committed offset {committed.next_offset}, and "
            f"the log ends at {context.high}: it is not the log that the state was learned from"
        )
    return _from_checkpoint(context, pointer, committed.next_offset)


def _check_nothing_was_read(context: StartContext) -> None:
    """Raise where the group has read the topic before, and only its offset is missing."""
    for name in context.folder.names():
        if context.folder.manifest(name).has_state():
            raise CheckpointPointerLost(
                f"{context.topic_partition}: the group has committed no offset, but there is "
                f"checkpoint {name} in {context.folder.path}; expected the offset that it belongs to"
            )
    newest = context.folder.newest_of_topic()
    if newest is not None:
        _check_partition_count(context, newest)


def _check_partition_count(context: StartContext, manifest: Manifest) -> None:
    if manifest.log.partitions != context.log.partitions:
        raise PartitionCountChanged(
            f"{context.log.topic}: it has {context.log.partitions} partitions; the state of "
            f"partition {manifest.partition} was learned when it had {manifest.log.partitions}"
        )


def _missing_pointer(context: StartContext, committed: CommittedOffset) -> EddyError:
    got = (
        f"{context.topic_partition}: the group has committed offset {committed.next_offset} with "
        f'metadata "{committed.metadata}"'
    )
    if names := context.folder.names():
        return CheckpointPointerLost(
            f"{got}; expected the name of a checkpoint, such as {names[0]} in {context.folder.path}"
        )
    return ForeignOffset(f'{got}; expected "eddy2 from=…" and no other program in this group')


def _from_checkpoint(context: StartContext, pointer: Pointer, live_from: int) -> RecoveredState:
    """Load the checkpoint that the pointer names; if it is damaged, an earlier one."""
    earlier = (name for name in context.folder.names() if name < pointer.checkpoint)
    broken: list[str] = []
    for name in (pointer.checkpoint, *earlier):
        try:
            manifest = context.folder.manifest(name)
            if broken and (problem := _why_no_replacement(context, name, manifest, pointer)):
                broken.append(problem)
                continue
            state = _check_and_load(context, name, manifest, live_from)
        except CheckpointIncompatible as error:
            lost = all_state_lost({}, error.message, pointer.fingerprint)
            refuse_unless_allowed(lost, context.allowed_drops)
            head = empty_state(context, live_from, live_from).head
            head = msgspec.structs.replace(head, fingerprint=pointer.fingerprint)
            return _restart_without_state(context, head, name, live_from)
        except CheckpointCorrupt as error:
            logger.error(  # noqa: TRY400 - an expected error: a traceback adds nothing
                "checkpoint is damaged: falling back to an earlier one",
                **context.topic_partition._asdict(),
                error=str(error),
            )
            broken.append(str(error))
        else:
            state.broken_checkpoints = len(broken)
            return state
    return _without_checkpoint(context, pointer, live_from, broken)


def _without_checkpoint(
    context: StartContext, pointer: Pointer, live_from: int, broken: list[str]
) -> RecoveredState:
    """Rebuild the state where no checkpoint is intact. broken: a line for each that is not."""
    first = pointer.first_offset
    if first is not None and first >= context.low:
        if pointer.fingerprint == fingerprint(context.config):
            logger.error(
                "no intact checkpoint: re-learning from the first record",
                **context.topic_partition._asdict(),
            )
            state = empty_state(context, first, live_from)
            state.broken_checkpoints = len(broken)
            return state
        broken.append(f"the first record was learned under configuration {pointer.fingerprint}")
    if context.saved is not None:
        try:
            return replace_broken_checkpoints(
                context, context.saved, pointer, live_from, len(broken)
            )
        except (CheckpointCorrupt, RetentionGap, SavedStateUnusable) as error:
            broken.append(f"checkpoints.start_from: {error.message}")
    needed = "a checkpoint" if first is None else f"record {first}"
    raise CheckpointCorrupt(
        f"{context.topic_partition}: {'; '.join(broken)}; there is no intact checkpoint from which "
        f"the log, which begins at {context.low}, could be re-learned: without {needed} only a "
        f"replay of {saved_range(context)} can rebuild the state"
    )


def _why_no_replacement(
    context: StartContext, name: str, manifest: Manifest, pointer: Pointer
) -> str:
    """Why re-learning from an earlier checkpoint would not give the same state; "" if it would."""
    if manifest.offset < context.low:
        return f"checkpoint {name} is at an offset before the log start"
    if manifest.fingerprint != pointer.fingerprint:
        return f"checkpoint {name} was written under configuration {manifest.fingerprint}"
    return ""


def _check_and_load(
    context: StartContext, name: str, manifest: Manifest, live_from: int
) -> RecoveredState:
    owner = Partition(manifest.log.topic, manifest.partition)
    if owner != context.topic_partition:
        raise CheckpointCorrupt(
            f"checkpoint {name} is of {owner}; expected {context.topic_partition}"
        )
    _check_partition_count(context, manifest)
    if manifest.offset > live_from:
        raise CheckpointPointerLost(
            f"{context.topic_partition}: checkpoint {name} is after the committed offset {live_from}"
        )
    if manifest.offset < context.low:
        raise RetentionGap(
            f"{context.topic_partition}: the group's checkpoint is at offset {manifest.offset}, and "
            f"the log now begins at {context.low}: {context.low - manifest.offset} offsets are "
            "deleted, and what the state does not include of them can never be learned"
        )
    return _load_state(context, name, manifest, live_from)


def _load_state(
    context: StartContext, name: str, manifest: Manifest, live_from: int
) -> RecoveredState:
    """Load an intact checkpoint under the configuration that it was written with.

    Where its state is unusable, or dropped on purpose, start without it.
    """
    current = fingerprint(context.config)
    head = msgspec.structs.replace(manifest, arrays=[])
    if current in manifest.superseded:
        raise ConfigurationSuperseded(
            f"{context.topic_partition}: checkpoint {name} was written under configuration "
            f"{manifest.fingerprint}; the group changed to it from this worker's, {current}"
        )
    try:
        old = state_config_of(manifest)
    except ValueError as error:
        lost = all_state_lost(manifest.state_config, str(error), manifest.fingerprint)
        refuse_unless_allowed(lost, context.allowed_drops)
        return _restart_without_state(context, head, name, live_from)
    needs_migration, new = manifest.fingerprint != current, state_config(context.config)
    if needs_migration:
        lost = state_losses(old, new, manifest.fingerprint)
        refuse_unless_allowed(lost, context.allowed_drops)
    if old.secret != new.secret:
        return _restart_without_state(context, head, name, live_from)
    try:
        factory = ShardFactory(with_state_config(context.config, old), context.run)
        shard = factory.make(manifest.log, manifest.partition)
    except LookupError as error:
        raise CheckpointCorrupt(
            f"checkpoint {name}: its log or configuration: {error!r}"
        ) from error
    load_into(shard, context.folder, manifest, context.beat, context.executors)
    context.folder.stored_blocks = manifest.blocks()
    return RecoveredState(shard, head, live_from, name, needs_migration=needs_migration)


def _restart_without_state(
    context: StartContext, head: Manifest, name: str, live_from: int
) -> RecoveredState:
    """Start in place of a checkpoint whose whole state is dropped: from a saved state where the
    configuration names one, else with nothing learned. head: the checkpoint's."""
    logger.warning("state dropped", **context.topic_partition._asdict(), checkpoint=name)
    if context.saved is None:
        state = empty_state(context, live_from, live_from)
    else:
        state = from_saved_state(context, context.saved, live_from)
    offset = live_from if context.saved is None else state.head.offset
    state.head = migrated_head(head, context.config, context.log, offset, name)
    return state
