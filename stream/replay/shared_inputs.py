"""The logs that runs read: each log once for all runs that take the same events from it, and the joined
labels of each run.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pyarrow as pa

from stream.config import Config, is_input_read, label_entity_fields
from stream.inputs import InputReader
from stream.pipeline.decoding import DecodingKey, decoding_key
from stream.pipeline.stages.route import make_route
from stream.replay.inputs import Input
from stream.replay.labels import EventTable, join
from stream.replay.replay_run import ReplayRun


def open_logs_and_join_labels(
    runs: Sequence[ReplayRun], names: Sequence[str]
) -> list[tuple[InputReader, list[ReplayRun]]]:
    """Each log with the runs that take the same events from it; then each run's labels.

    Runs that drop different records of a log read it separately, because the next log to read
    depends on the event time that each has reached.

    names: the inputs in the order of the request: at the same event time the first is read first,
    so that a run reads as it would alone.
    """
    labels = _joined(runs)  # reads all events once, before the logs are read by the runs
    shared: dict[_InputKey | tuple[str, ReplayRun], tuple[Input, list[ReplayRun]]] = {}
    for run in runs:
        for one in run.request.events:
            key = (one.topic, run) if one.log else _key(run.config, one)
            shared.setdefault(key, (one, []))[1].append(run)
    in_order = sorted(shared.values(), key=lambda source: list(names).index(source[0].name))
    events = ((reader, read_by) for one, read_by in in_order for reader in one.open_readers())
    return [*events, *labels]


class _InputKey(NamedTuple):
    """What must be equal for two runs to take the same events from an input."""

    how: DecodingKey
    duplicate_window: int
    is_read: bool


@dataclass(slots=True)
class _JoinedInput:
    """An input that labels are joined to. entity_fields: the entities they get, in any of the runs."""

    input: Input
    config: Config
    entity_fields: set[str] = field(default_factory=set)

    def table(self, folder: Path) -> EventTable:
        """Its events, as the runs will take them."""
        table = EventTable(folder / "events.part", sorted(self.entity_fields))
        table.read(self.input.open_readers(), partial(make_route, self.config, self.input.name))
        return table


def _joined(runs: Sequence[ReplayRun]) -> list[tuple[InputReader, list[ReplayRun]]]:
    """The joined labels of every run that has any, as inputs."""
    labelled = [run for run in runs if run.request.labels]
    shared: dict[_InputKey, _JoinedInput] = {}
    for run in labelled:
        names = [one.name for one in run.request.labels]
        for one in run.request.events:
            joined_input = shared.setdefault(_key(run.config, one), _JoinedInput(one, run.config))
            joined_input.entity_fields.update(
                *(label_entity_fields(run.config, name) for name in names)
            )
    with ExitStack() as opened:
        folders = (
            Path(opened.enter_context(TemporaryDirectory(dir=labelled[0].work_dir))) for _ in shared
        )
        tables = {key: joined_input.table(next(folders)) for key, joined_input in shared.items()}
        joined = [
            (_join(run, one, tables), [run]) for run in labelled for one in run.request.labels
        ]
    pa.default_memory_pool().release_unused()  # else its memory is kept while the runs need theirs
    return joined


def _join(run: ReplayRun, labels: Input, tables: Mapping[_InputKey, EventTable]) -> InputReader:
    event_tables = [tables[_key(run.config, one)] for one in run.request.events]
    joined = join(run.config, labels.name, labels.open_readers(), event_tables, run.work_dir)
    run.add_joined_labels(labels.name, joined)
    return joined.reader


def _key(config: Config, one: Input) -> _InputKey:
    window, is_read = config.limits.duplicate_window, is_input_read(config, one.name)
    return _InputKey(decoding_key(config, one.name), window, is_read)
