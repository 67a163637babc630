"""Learned state that a start would drop, and the arguments of `eddy run` that allow it.

Without these arguments the start is refused before anything is written.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from typing import Any, Final, NamedTuple

import msgspec

from detectors.state import STATE_VERSION
from stream.checkpoints.manifest import Manifest, parse_pointer
from stream.checkpoints.migration import migration_results, repartitioned_logs
from stream.checkpoints.store import Folder, ObjectStorage, topics_of
from stream.config import Config, StateConfig, fingerprint, state_config, with_state_config
from stream.errors import CheckpointCorrupt, CheckpointIncompatible, StateWouldBeDropped
from stream.kafka.positions import CommittedOffset, Partition

DROP_OPTION: Final = "--drop-state"
EVERYTHING: Final = "all"
DROP: Final = re.compile(r"[^@]+@[0-9a-f]{32}")
"""An argument of that option: a stage or `all`, and the fingerprint of the configuration under which
the state was learned, so that an argument left in place drops nothing later."""


class StateLoss(NamedTuple):
    """Learned state that a start would drop, and the argument of `eddy run` that allows it."""

    title: str
    reason: str
    argument: str

    def line(self) -> str:
        """The line of the error."""
        return f"{self.title}: {self.reason}: {DROP_OPTION} {self.argument}"


def state_losses(old: StateConfig, new: StateConfig, fingerprint: str) -> list[StateLoss]:
    """The learned state that a start under another configuration drops. fingerprint: the old one's."""
    secret_changed = old.secret != new.secret
    return [
        StateLoss(
            result.title,
            result.reason,
            f"{EVERYTHING if secret_changed else result.stage}@{fingerprint}",
        )
        for result in migration_results(old, new)
        if result.drops_state()
    ]


def all_state_lost(
    state_config: Mapping[str, Any], reason: str, fingerprint: str
) -> list[StateLoss]:
    """The losses where the whole state is unusable: one for each monitor in `state_config`, under which it
    was learned and which this version may not be able to read."""
    entries = state_config.get("monitors")
    monitors = entries if isinstance(entries, list) else []
    named = [monitor.get("name") for monitor in monitors if isinstance(monitor, dict)]
    names = [name for name in named if isinstance(name, str)] or [EVERYTHING]
    titles = [name if name == EVERYTHING else f"monitor {name}" for name in names]
    return [StateLoss(title, reason, f"{EVERYTHING}@{fingerprint}") for title in titles]


def refuse_unless_allowed(lost: Iterable[StateLoss], allowed: Collection[str]) -> None:
    """Raise StateWouldBeDropped unless the arguments of `eddy run` allow every loss."""
    refused = [
        loss.line()
        for loss in lost
        if not {loss.argument, f"{EVERYTHING}@{loss.argument.rpartition('@')[2]}"} & {*allowed}
    ]
    if refused:
        raise StateWouldBeDropped(refused)


def check_state_losses(
    config: Config,
    committed: Mapping[Partition, CommittedOffset | None],
    objects: ObjectStorage,
    allowed_drops: Collection[str],
) -> None:
    """Raise StateWouldBeDropped for the whole group, before a worker joins it.

    committed: of every partition that the configuration reads. One checkpoint is read for each
    configuration that the offsets' metadata names; where none is named, the newest one of every
    topic that the group has read.
    """
    current = fingerprint(config)
    pointers = {
        partition: offset and parse_pointer(offset.metadata)
        for partition, offset in committed.items()
    }
    by_fingerprint = {
        pointer.fingerprint: (partition, pointer)
        for partition, pointer in pointers.items()
        if pointer
    }
    manifests: list[Manifest] = []
    for partition, pointer in by_fingerprint.values():
        with suppress(CheckpointCorrupt, CheckpointIncompatible):  # an earlier one may be intact
            folder = Folder(objects, config.group, *partition)
            manifests.append(folder.manifest(pointer.checkpoint))
    if not by_fingerprint:
        for topic in topics_of(objects, config.group):
            folder = Folder(objects, config.group, topic, 0)
            with suppress(CheckpointCorrupt, CheckpointIncompatible):
                newest = folder.newest_of_topic()
                manifests += [newest] if newest and newest.has_state() else []
    of_other_configs = (
        manifest
        for manifest in manifests
        if manifest.fingerprint != current and current not in manifest.superseded
    )
    refuse_unless_allowed(
        [loss for manifest in of_other_configs for loss in _losses_in(config, manifest)],
        allowed_drops,
    )


def _losses_in(config: Config, manifest: Manifest) -> list[StateLoss]:
    """The learned state of a checkpoint that a start would drop; empty where numbers of partitions differ,
    since that is reported as an error of its own."""
    try:
        old = state_config_of(manifest)
    except ValueError as error:
        return all_state_lost(manifest.state_config, str(error), manifest.fingerprint)
    if repartitioned_logs(with_state_config(config, old), config):
        return []
    return state_losses(old, state_config(config), manifest.fingerprint)


def state_config_of(manifest: Manifest) -> StateConfig:
    """The settings that determined the state. Raises ValueError where this version cannot read them."""
    if manifest.state_version != STATE_VERSION:
        raise ValueError(
            f"its state is of version {manifest.state_version}; this is version {STATE_VERSION}"
        )
    try:
        return msgspec.convert(manifest.state_config, StateConfig)
    except msgspec.ValidationError as error:
        raise ValueError(
            f"it was learned under a configuration that this version cannot read: {error}"
        ) from error
