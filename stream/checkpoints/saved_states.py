"""Starts a partition from a state that a replay has saved."""

import msgspec
import structlog

from detectors.state import STATE_VERSION
from stream.checkpoints.loading import load_into
from stream.checkpoints.manifest import Manifest, Pointer
from stream.checkpoints.recovered import RecoveredState, StartContext, empty_state
from stream.checkpoints.store import Folder
from stream.config import fingerprint
from stream.errors import RetentionGap, SavedStateUnusable

logger = structlog.stdlib.get_logger(__name__)


def from_saved_state(
    context: StartContext, saved: Folder, live_from: int | None = None
) -> RecoveredState:
    """Load a saved state, and continue after what the replay has read.

    If the replay read the topic itself, that is the offset it ended at. Otherwise it is the first
    record that the broker appended at or after the time of the replay's last event; earlier events
    that are read again are dropped as duplicates. live_from: the committed offset, None without one: the
    shard re-learns the records before it.
    """
    name = next(iter(saved.names()), None)
    if name is None:
        raise SavedStateUnusable(f"{context.topic_partition}: there is no state in {saved.path}")
    manifest = saved.manifest(name)
    current = fingerprint(context.config), STATE_VERSION
    if (manifest.fingerprint, manifest.state_version) != current:
        raise SavedStateUnusable(
            f"{context.topic_partition}: the state in {saved.path} is of configuration "
            f"{manifest.fingerprint} and version {manifest.state_version}; expected configuration "
            f"{current[0]} and version {current[1]}"
        )
    start = _first_unread_offset(context, manifest)
    if live_from is not None and manifest.offset == 0:
        # Records of an internal topic are output of the inputs that the replay has read.
        start = live_from if context.log.internal else min(start, live_from)
    if live_from is not None and start > live_from:
        raise SavedStateUnusable(
            f"{context.topic_partition}: the state in {saved.path} ends at offset {start}, and the "
            f"group has committed offset {live_from}: alerts on the records between them would be "
            f"lost; expected a replay of {saved_range(context)}"
        )
    state = empty_state(context, start, start if live_from is None else live_from)
    load_into(state.shard, saved, manifest, context.beat, context.executors)
    # first_offset is None: re-learning the log from its start would not give this state.
    state.head = msgspec.structs.replace(state.head, first_offset=None, resumed_from=start)
    logger.info(
        "starting from a saved state", **context.topic_partition._asdict(), next_offset=start
    )
    return state


def _first_unread_offset(context: StartContext, saved: Manifest) -> int:
    """The offset of the first record that the saved state does not include."""
    if saved.offset == 0:
        if saved.until_ms is None or context.offset_at is None:
            return context.low
        return max(context.low, context.offset_at(saved.until_ms))
    if context.low <= saved.offset <= context.high:
        return saved.offset
    raise RetentionGap(
        f"{context.topic_partition}: the state was saved at offset {saved.offset}, and the log holds "
        f"offsets {context.low} to {context.high}: records that the state does not include are "
        "deleted, or this is not the log that was replayed"
    )


def saved_range(context: StartContext) -> str:
    """The range of the partition that a replay must read so that a worker can start from it."""
    partition, committed = context.partition, context.committed
    until = "" if committed is None else f"&until={partition}:{committed.next_offset}"
    return f"kafka://{context.log.topic}?from={partition}:{context.low}{until}"


def replace_broken_checkpoints(
    context: StartContext, saved: Folder, pointer: Pointer, live_from: int, broken: int
) -> RecoveredState:
    """Start from a saved state where no checkpoint is intact. broken: their number."""
    state = from_saved_state(context, saved, live_from)
    log_fields = context.topic_partition._asdict()
    logger.error("no intact checkpoint: starting from the saved state", **log_fields)
    if pointer.fingerprint != state.head.fingerprint:
        state.head = msgspec.structs.replace(state.head, superseded=[pointer.fingerprint])
    state.broken_checkpoints = broken
    return state
