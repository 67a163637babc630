"""What of a state survives another configuration: which stages keep what they learned, and why not.

A monitor keeps its state while what it learns from is the same: its own declaration but for rules
and policy, which steer alerts and not what is learned, the inputs that it reads, and the secret that
entities are hashed with. assess learns from p-values, which say the same whatever monitors learn:
it keeps its state while its own declaration but for the policy, the inputs, and who reports over
which logs are the same. Everything else starts anew, and is said to.
"""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import msgspec

from detectors.monitor import MonitorSpec
from detectors.state import Arrays
from stream.config import ASSESS, ROUTE, AssessSpec, Config, Log, StateConfig, logs
from stream.pipeline.shard import Shard

ALERT_SETTINGS: Final = frozenset({"name", "rules", "policy"})


class MigrationResult(NamedTuple):
    """Whether the state of a monitor, of assess or of route survives a change of configuration. why:
    the reason where it does not. gone: the new configuration does not have the stage. new: the old
    one did not."""

    stage: str
    is_kept: bool
    why: str
    is_removed: bool = False
    is_new: bool = False

    def drops_state(self) -> bool:
        """Whether learned state is dropped."""
        return not (self.is_kept or self.is_new)


def migration_results(old: StateConfig, new: StateConfig) -> list[MigrationResult]:
    """The fate of every monitor of the new configuration and of assess, then of those gone."""
    before: dict[str, MonitorSpec | AssessSpec] = {one.name: one for one in old.monitors}
    after: dict[str, MonitorSpec | AssessSpec] = {one.name: one for one in new.monitors}
    before |= {ASSESS: old.assess} if old.assess else {}
    after |= {ASSESS: new.assess} if new.assess else {}
    found: list[MigrationResult] = []
    for name, now in after.items():
        was = before.pop(name, None)
        why = "it is new" if was is None else ", ".join(_changes(was, now, old, new))
        found.append(MigrationResult(name, not why, why, is_new=was is None))
    if old.limits.duplicate_window != new.limits.duplicate_window:
        why = "limits.duplicate_window changed, so that known event ids are forgotten"
        found.append(MigrationResult(ROUTE, is_kept=False, why=why))
    return [
        *found,
        *(
            MigrationResult(name, is_kept=False, why="it is gone", is_removed=True)
            for name in before
        ),
    ]


def repartitioned_logs(old: Config, new: Config) -> list[str]:
    """The logs whose entities lie in other partitions now, so that no state can go on."""
    before = {(log.name, log.internal): log.partitions for log in logs(old)}
    return [
        f"{_log_path(log)}: {log.partitions} partitions instead of {was}"
        for log in logs(new)
        if (was := before.get((log.name, log.internal))) and was != log.partitions
    ]


def _log_path(log: Log) -> str:
    return f"internal topic of {log.name}" if log.internal else f"inputs.{log.name}"


def _changes(
    was: MonitorSpec | AssessSpec, now: MonitorSpec | AssessSpec, old: StateConfig, new: StateConfig
) -> Iterator[str]:
    """What of that which a monitor, or assess, learns from has changed."""
    if old.secret != new.secret:
        yield "the secret changed"
    before, after = _learning_settings(was), _learning_settings(now)
    yield from (f"its {key} changed" for key in after if before.get(key) != after[key])
    if isinstance(now, AssessSpec):
        names = sorted(new.inputs)
        if [*map(_reporting, old.monitors)] != [*map(_reporting, new.monitors)]:
            yield "the monitors changed"
        if sorted(old.inputs) != names:
            yield "the inputs changed"
        if now.learning and [*map(_reported, old.monitors)] != [*map(_reported, new.monitors)]:
            yield "the monitors' features changed"
    else:
        names = now.inputs
    for name in names:
        if name in old.inputs and old.inputs[name] != new.inputs[name]:
            yield f"inputs.{name} changed"


def _learning_settings(stage: MonitorSpec | AssessSpec) -> dict[str, Any]:
    declared: dict[str, Any] = msgspec.to_builtins(stage)
    return {key: value for key, value in declared.items() if key not in ALERT_SETTINGS}


def _reporting(monitor: MonitorSpec) -> tuple[object, ...]:
    """Who reports, and all that its way is chosen by."""
    return monitor.name, monitor.entity, monitor.inputs, monitor.partitions


def _reported(monitor: MonitorSpec) -> list[object]:
    """What it says of an event, which may be learned from."""
    return [*monitor.features, *monitor.detectors]


def migrate(
    state: Arrays, old: StateConfig, new: StateConfig, shard: Shard
) -> list[MigrationResult]:
    """Give a fresh shard what survives of a state; what became of the stages of either.

    Counts of records are kept.
    """
    fresh = shard.save()
    here = {name.partition("/")[0] for name in state | fresh}
    found = [one for one in migration_results(old, new) if one.stage in here]
    kept = {one.stage for one in found if one.is_kept}
    same_ids = old.secret == new.secret and (
        old.limits.duplicate_window == new.limits.duplicate_window
    )

    def survives(name: str) -> bool:
        stage = name.partition("/")[0]
        if stage == ROUTE:
            return name in state and (same_ids or not name.startswith(f"{ROUTE}/recent_"))
        return stage in kept

    shard.load({n: state[n] if survives(n) else a.copy() for n, a in fresh.items()})
    shard.backfill_not_applicable()
    return found
