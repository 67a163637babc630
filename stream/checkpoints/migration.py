"""Migrates a state to another configuration: decides which stages keep what they learned.

Each stage declares what determines its learned state (`StageDeclaration.state_inputs`). A stage keeps
its state while that is the same; otherwise it starts with nothing learned, and the log says so.
"""

from collections.abc import Iterator
from typing import NamedTuple

from detectors.state import Arrays
from stream.config import Config, StateConfig
from stream.config.stage_graph import StageDeclaration, StateInputs, declared_stages, logs
from stream.config.topology import Log
from stream.pipeline.shard import Shard


class MigrationResult(NamedTuple):
    """Whether a stage keeps its state under a new configuration.

    title: the stage's name for messages. reason: why it does not keep its state. is_removed: the new
    configuration does not have the stage. is_new: the old one did not have it.
    """

    stage: str
    title: str
    is_kept: bool
    reason: str
    is_removed: bool = False
    is_new: bool = False

    def drops_state(self) -> bool:
        """Whether learned state is dropped."""
        return not (self.is_kept or self.is_new)


def migration_results(old: StateConfig, new: StateConfig) -> list[MigrationResult]:
    """The result for every stage of the new configuration, then for those that it no longer has."""
    before, after = _state_inputs(old), _state_inputs(new)
    results: list[MigrationResult] = []
    for name, (declaration, inputs) in after.items():
        was = before.pop(name, None)
        reason = "it is new" if was is None else ", ".join(_changes(was[1], inputs))
        title = declaration.title(name)
        results.append(MigrationResult(name, title, not reason, reason, is_new=was is None))
    removed = {name: declaration.title(name) for name, (declaration, _) in before.items()}
    removed |= {name: name for name in old.stages.keys() - after.keys() - removed.keys()}
    return [
        *results,
        *(
            MigrationResult(name, title, is_kept=False, reason="it was removed", is_removed=True)
            for name, title in removed.items()
        ),
    ]


def _state_inputs(state: StateConfig) -> dict[str, tuple[StageDeclaration, StateInputs]]:
    """Stage name → its declaration, and what determines its learned state."""
    return {
        name: (declaration, inputs)
        for declaration in declared_stages().values()
        for name, inputs in declaration.state_inputs_of(state).items()
    }


def _changes(was: StateInputs, now: StateInputs) -> Iterator[str]:
    """The state inputs that have changed."""
    yield from (f"{part} changed" for part in now if part in was and was[part] != now[part])


def repartitioned_logs(old: Config, new: Config) -> list[str]:
    """The logs whose number of partitions has changed, so that no state can be kept."""
    before = {(log.name, log.internal): log.partitions for log in logs(old)}
    return [
        f"{_log_path(log)}: {log.partitions} partitions instead of {was}"
        for log in logs(new)
        if (was := before.get((log.name, log.internal))) and was != log.partitions
    ]


def _log_path(log: Log) -> str:
    return f"internal topic of {log.name}" if log.internal else f"inputs.{log.name}"


def migrate(
    state: Arrays, old: StateConfig, new: StateConfig, shard: Shard
) -> list[MigrationResult]:
    """Load a state into a new shard, except the arrays of stages that must start with nothing learned.

    Return the result for every stage. Counters are always kept.
    """
    empty = shard.save()
    stages = {name.partition("/")[0] for name in state | empty}
    results = [result for result in migration_results(old, new) if result.stage in stages]
    kept = {result.stage for result in results if result.is_kept}
    learned = {
        name: declaration.learned_arrays for name, (declaration, _) in _state_inputs(new).items()
    }

    def is_kept(name: str) -> bool:
        stage, _, array = name.partition("/")
        if stage in kept or not array.startswith(learned[stage]):
            return name in state
        return False

    shard.load({n: state[n] if is_kept(n) else a.copy() for n, a in empty.items()})
    shard.backfill_not_applicable()
    return results
