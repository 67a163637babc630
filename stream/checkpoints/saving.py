"""How a replay leaves what it has learned for a live group to begin with: a checkpoint for each
partition of every log, in a place of its own.

Of a topic that was read from a broker it has the position; of files only a time up to which they
went. `recovery` says where a group goes on. No live group writes there, and no replay where one
does.
"""

from collections.abc import Iterable

import msgspec

from detectors.state import STATE_VERSION
from stream.checkpoints.manifest import Manifest
from stream.checkpoints.snapshot import Snapshot
from stream.checkpoints.store import open_store, saved_folder
from stream.checkpoints.writing import write
from stream.clock import now_text
from stream.config import Config, fingerprint, state_config
from stream.config.stages import logs
from stream.errors import InputError
from stream.location import Location
from stream.pipeline.cluster import PartitionState

OPTION = "--save-state"


def check_save_target(config: Config, url: str) -> None:
    """Raise InputError where live writes its checkpoints, or something is saved already."""
    if Location.of(url).is_same_as(Location.of(config.checkpoints.url)):
        raise InputError(
            f"{OPTION} {url}: there the live group keeps its checkpoints (checkpoints.url); expected "
            "a place of its own"
        )
    objects = open_store(url, OPTION)
    for log in logs(config):
        folder = saved_folder(objects, log, 0)
        if folder.newest_of_topic() is not None:
            raise InputError(
                f"{OPTION} {url}: it holds a state of {log.name} already; expected an empty place"
            )


def save(config: Config, states: Iterable[PartitionState], url: str) -> None:
    """Write every state. Raises StoreFailure."""
    objects = open_store(url, OPTION)
    for state in states:
        head = Manifest(
            state_version=STATE_VERSION,
            fingerprint=fingerprint(config),
            state_config=msgspec.to_builtins(state_config(config)),
            superseded=[],
            log=state.log,
            partition=state.partition,
            first_offset=None,
            offset=state.next_offset,
            created_at=now_text(),
            until_ms=state.until_ms,
        )
        arrays = state.shard.save()
        folder = saved_folder(objects, state.log, state.partition)
        write(folder, head, Snapshot(arrays, set(arrays)), lambda: True)
