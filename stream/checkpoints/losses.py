"""Learned state that a start would drop, and the arguments of `eddy run` that allow it.

Without them the start is refused before anything is written.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from typing import Any, Final, NamedTuple

import msgspec
from obstore.store import ObjectStore

from detectors.state import STATE_VERSION
from stream.checkpoints.conversion import fates, moved
from stream.checkpoints.manifest import Manifest, pointer_in
from stream.checkpoints.store import Folder, topics_of
from stream.config import STAGES, Config, Steering, fingerprint, steered, steering
from stream.errors import CheckpointCorrupt, CheckpointIncompatible, StateWouldBeDropped
from stream.kafka.positions import Committed, Partition

DROP_OPTION: Final = "--drop-state"
EVERYTHING: Final = "all"
DROP: Final = re.compile(r"[^@]+@[0-9a-f]{32}")
"""An argument of that option: a monitor, assess, route or all, and the fingerprint of the
configuration under which the state was learned. A forgotten argument therefore drops nothing later."""


class Loss(NamedTuple):
    """Learned state that a start would drop, and the argument of `eddy run` that allows it."""

    stage: str
    why: str
    argument: str

    def line(self) -> str:
        """A line of an error."""
        plain = {*STAGES, EVERYTHING}
        who = self.stage if self.stage in plain else f"monitor {self.stage}"
        return f"{who}: {self.why}: {DROP_OPTION} {self.argument}"


def losses(old: Steering, new: Steering, fingerprint: str) -> list[Loss]:
    """The learned state that a start under another configuration drops. fingerprint: of the old one."""
    whole = old.secret != new.secret
    return [
        Loss(fate.stage, fate.why, f"{EVERYTHING if whole else fate.stage}@{fingerprint}")
        for fate in fates(old, new)
        if fate.drops()
    ]


def all_lost(steering: Mapping[str, Any], why: str, fingerprint: str) -> list[Loss]:
    """The same where the whole state is unusable. steering: the configuration under which it was
    learned, which this version may not know."""
    found = steering.get("monitors")
    monitors = found if isinstance(found, list) else []
    named = [one.get("name") for one in monitors if isinstance(one, dict)]
    names = [name for name in named if isinstance(name, str)] or [EVERYTHING]
    return [Loss(name, why, f"{EVERYTHING}@{fingerprint}") for name in names]


def refuse(lost: Iterable[Loss], allowed: Collection[str]) -> None:
    """Raise StateWouldBeDropped unless the arguments of `eddy run` allow every loss."""
    refused = [
        one.line()
        for one in lost
        if not {one.argument, f"{EVERYTHING}@{one.argument.rpartition('@')[2]}"} & {*allowed}
    ]
    if refused:
        raise StateWouldBeDropped(refused)


def refuse_losses(
    config: Config,
    committed: Mapping[Partition, Committed | None],
    objects: ObjectStore,
    drops: Collection[str],
) -> None:
    """Raise StateWouldBeDropped for the whole group, before a worker joins it.

    committed: of all partitions that the configuration reads. One checkpoint is read of each
    configuration that their notes name; where they name none, the newest one of every topic that the
    group has read.
    """
    own = fingerprint(config)
    pointers = {where: one and pointer_in(one.note) for where, one in committed.items()}
    named = {one.fingerprint: (where, one) for where, one in pointers.items() if one}
    manifests: list[Manifest] = []
    for where, pointer in named.values():
        with suppress(CheckpointCorrupt, CheckpointIncompatible):  # an earlier one may be whole
            folder = Folder(objects, config.group, *where)
            manifests.append(folder.manifest(pointer.checkpoint))
    if not named:
        for topic in topics_of(objects, config.group):
            folder = Folder(objects, config.group, topic, 0)
            with suppress(CheckpointCorrupt, CheckpointIncompatible):
                newest = folder.newest_of_topic()
                manifests += [newest] if newest and newest.learned() else []
    foreign = (one for one in manifests if one.fingerprint != own and own not in one.superseded)
    refuse([one for manifest in foreign for one in _losses_of(config, manifest)], drops)


def _losses_of(config: Config, manifest: Manifest) -> list[Loss]:
    """The state in a checkpoint that a start drops; none where its partitions are refused anyway."""
    try:
        old = steering_of(manifest)
    except ValueError as error:
        return all_lost(manifest.steering, str(error), manifest.fingerprint)
    if moved(steered(config, old), config):
        return []
    return losses(old, steering(config), manifest.fingerprint)


def steering_of(manifest: Manifest) -> Steering:
    """The settings that determined the state. Raises ValueError where this version cannot use it."""
    if manifest.state_version != STATE_VERSION:
        raise ValueError(
            f"its state is of version {manifest.state_version}; this is version {STATE_VERSION}"
        )
    try:
        return msgspec.convert(manifest.steering, Steering)
    except msgspec.ValidationError as error:
        raise ValueError(
            f"it was learned under a configuration that this version does not know: {error}"
        ) from error
