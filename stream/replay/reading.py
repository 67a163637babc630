"""What the runs of a replay or of a comparison read, and in which order: every log once for all that
read it alike; and of the labels, which are joined to the events before, each run's own.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pyarrow as pa

from stream.config import Config, entities_of_labels, input_is_read
from stream.decoding import HowRead, how_read
from stream.inputs import Reading
from stream.replay.labels import EventTable, join
from stream.replay.opening import Input
from stream.replay.run import Run
from stream.shard import route_of


def sources_of(runs: Sequence[Run], names: Sequence[str]) -> list[tuple[Reading, list[Run]]]:
    """Each log once for all runs that take the same events from it; then each run's labels.

    A run that drops other records has come elsewhere in it, and would lead the others astray: which
    log goes next follows from how far each has come.

    names: the inputs' in the order in which they were asked for: at the same event time the first
    goes first, so that a run reads as it would alone.
    """
    labels = _joined(runs)  # which reads all events, before the logs are begun anew
    shared: dict[_Key | tuple[str, Run], tuple[Input, list[Run]]] = {}
    for run in runs:
        for one in run.asked.events:
            key = (one.topic, run) if one.log else _key(run.config, one)
            shared.setdefault(key, (one, []))[1].append(run)
    in_order = sorted(shared.values(), key=lambda source: list(names).index(source[0].name))
    events = ((found, read_by) for one, read_by in in_order for found in one.readings())
    return [*events, *labels]


class _Key(NamedTuple):
    """What must be alike for two runs to take the same for the events of an input."""

    how: HowRead
    duplicate_window: int
    is_read: bool


@dataclass(slots=True)
class _Shared:
    """An input that labels are joined to. learned: the entities that they get, in whichever run."""

    input: Input
    config: Config
    learned: set[str] = field(default_factory=set)

    def table(self, folder: Path) -> EventTable:
        """Its events; who asks is given them as his run will take them."""
        table = EventTable(folder / "events.part", sorted(self.learned))
        table.read(self.input.readings(), partial(route_of, self.config, self.input.name))
        return table


def _joined(runs: Sequence[Run]) -> list[tuple[Reading, list[Run]]]:
    """The labels of every run that has some, as it is to read them."""
    labelled = [run for run in runs if run.asked.labels]
    shared: dict[_Key, _Shared] = {}
    for run in labelled:
        names = [one.name for one in run.asked.labels]
        for one in run.asked.events:
            of = shared.setdefault(_key(run.config, one), _Shared(one, run.config))
            of.learned.update(*(entities_of_labels(run.config, name) for name in names))
    with ExitStack() as opened:
        folders = (
            Path(opened.enter_context(TemporaryDirectory(dir=labelled[0].work))) for _ in shared
        )
        tables = {key: of.table(next(folders)) for key, of in shared.items()}
        joined = [(_join(run, one, tables), [run]) for run in labelled for one in run.asked.labels]
    pa.default_memory_pool().release_unused()  # else what it took stays beside what runs take
    return joined


def _join(run: Run, labels: Input, tables: Mapping[_Key, EventTable]) -> Reading:
    own = [tables[_key(run.config, one)] for one in run.asked.events]
    joined = join(run.config, labels.name, labels.readings(), own, run.work)
    run.take_joined(labels.name, joined)
    return joined.reading


def _key(config: Config, one: Input) -> _Key:
    window, is_read = config.limits.duplicate_window, input_is_read(config, one.name)
    return _Key(how_read(config, one.name), window, is_read)
