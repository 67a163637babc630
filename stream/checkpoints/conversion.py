"""What of a state survives another configuration: which monitors keep what they learned, and why not.

A monitor keeps its state while what it learns from is the same: its own declaration but for the
policy, which steers alerts and not what is learned, the inputs that it reads, and the secret that
entities are hashed with. Everything else starts anew, and is said to.
"""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import msgspec

from detectors.monitor import MonitorSpec
from detectors.state import Arrays
from stream.config import Steering
from stream.shard import Shard

GONE: Final = "it is gone"


class Fate(NamedTuple):
    """What becomes of a monitor's state. why: where it does not keep it."""

    monitor: str
    keeps: bool
    why: str


def fates(old: Steering, new: Steering) -> list[Fate]:
    """The fate of every monitor of the new configuration, then of those that are gone."""
    before = {one.name: one for one in old.monitors}
    found: list[Fate] = []
    for monitor in new.monitors:
        was = before.pop(monitor.name, None)
        why = "it is new" if was is None else ", ".join(_changes(was, monitor, old, new))
        found.append(Fate(monitor.name, not why, why))
    return [*found, *(Fate(name, keeps=False, why=GONE) for name in before)]


def moved(old: Steering, new: Steering) -> list[str]:
    """The inputs whose entities lie in other partitions now, so that no state can go on."""
    return [
        f"inputs.{name}: {spec.partitions} partitions instead of {was.partitions}"
        for name, spec in new.inputs.items()
        if (was := old.inputs.get(name)) and was.partitions != spec.partitions
    ]


def _changes(was: MonitorSpec, now: MonitorSpec, old: Steering, new: Steering) -> Iterator[str]:
    """What of that which a monitor learns from has changed."""
    if old.secret != new.secret:
        yield "the secret changed"
    before, after = _learning(was), _learning(now)
    yield from (f"its {key} changed" for key in after if before.get(key) != after[key])
    for name in now.inputs:
        if name in was.inputs and old.inputs[name] != new.inputs[name]:
            yield f"inputs.{name} changed"


def _learning(monitor: MonitorSpec) -> dict[str, Any]:
    declared: dict[str, Any] = msgspec.to_builtins(monitor)
    return {key: value for key, value in declared.items() if key not in {"name", "policy"}}


def convert(state: Arrays, old: Steering, new: Steering, shard: Shard) -> list[Fate]:
    """Give a fresh shard what survives of a state; what became of its monitors.

    Counts of records are kept. What passed before a monitor was there did not apply to it, so that
    its counts go on adding up.
    """
    mine = {watch.name for watch in shard.watches}
    found = [one for one in fates(old, new) if one.monitor in mine or one.why == GONE]
    kept = {one.monitor for one in found if one.keeps}
    same_ids = old.secret == new.secret and (
        old.limits.duplicate_window == new.limits.duplicate_window
    )

    def survives(name: str) -> bool:
        stage = name.partition("/")[0]
        return name == "route/tally" or stage in kept or (stage == "route" and same_ids)

    shard.load({n: state[n] if survives(n) else a.copy() for n, a in shard.save().items()})
    passed = shard.route.counts()["passed"]
    for watch in shard.watches:
        if watch.name not in kept:
            watch.begin_behind(passed)
    return found
