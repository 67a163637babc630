"""Saves what a replay has learned, for a live group to start from: one checkpoint a partition.

A checkpoint of a topic holds the offset that the replay ended at; of files, the time of the last
event. `saved_states` decides where a group continues. A saved state has a store of its own, to which
no live group writes.
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
from stream.config.stage_graph import logs
from stream.errors import InputError
from stream.location import Location
from stream.pipeline.cluster import PartitionState

OPTION = "--save-state"


def check_save_target(config: Config, url: str) -> None:
    """Raise InputError if the URL is the live group's store, or holds a saved state already."""
    if Location.of(url).is_same_as(Location.of(config.checkpoints.url)):
        raise InputError(
            f"{OPTION} {url}: the live group's checkpoints are there (checkpoints.url); expected "
            "another store"
        )
    objects = open_store(url, OPTION)
    for log in logs(config):
        folder = saved_folder(objects, log, 0)
        if folder.newest_of_topic() is not None:
            raise InputError(
                f"{OPTION} {url}: it already holds a state of {log.name}; expected an empty store"
            )


def save(config: Config, states: Iterable[PartitionState], url: str) -> None:
    """Write the state of every partition. Raises StoreFailure."""
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
        write(folder, head, Snapshot(arrays, set(arrays)))
