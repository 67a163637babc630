"""Reads each log once for all runs that take the same events from it, and joins the labels of each run."""

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
    """Each log with the runs that read it; then the joined labels of each run.

    Runs share a log if they take the same events from it. Runs that drop different records of a log
    read it separately, because which log is read next depends on the event time that each has reached.

    names: the inputs in the order of the request. Of logs that have reached the same event time, the
    first is read first, so that a run in a comparison reads in the same order as alone.
    """
    labels = _joined_labels(runs)  # reads all events once, before the runs read them
    shared: dict[_InputKey | tuple[str, ReplayRun], tuple[Input, list[ReplayRun]]] = {}
    for run in runs:
        for source in run.request.event_inputs:
            key = (source.topic, run) if source.log else _input_key(run.config, source)
            shared.setdefault(key, (source, []))[1].append(run)
    in_order = sorted(shared.values(), key=lambda entry: list(names).index(entry[0].name))
    events = ((reader, read_by) for source, read_by in in_order for reader in source.open_readers())
    return [*events, *labels]


class _InputKey(NamedTuple):
    """What must be equal for two runs to take the same events from an input."""

    decoding: DecodingKey
    duplicate_window: int
    is_read: bool


@dataclass(slots=True)
class _JoinedInput:
    """An input that labels are joined to. entity_fields: the entity fields that labels of any run copy
    from its events."""

    input: Input
    config: Config
    entity_fields: set[str] = field(default_factory=set)

    def table(self, folder: Path) -> EventTable:
        """The events of the input after decoding and routing, the same as in the runs."""
        table = EventTable(folder / "events.part", sorted(self.entity_fields))
        table.fill(self.input.open_readers(), partial(make_route, self.config, self.input.name))
        return table


def _joined_labels(runs: Sequence[ReplayRun]) -> list[tuple[InputReader, list[ReplayRun]]]:
    """A reader of each label input after the join, with its run."""
    labelled = [run for run in runs if run.request.label_inputs]
    shared: dict[_InputKey, _JoinedInput] = {}
    for run in labelled:
        names = [source.name for source in run.request.label_inputs]
        for source in run.request.event_inputs:
            new = _JoinedInput(source, run.config)
            joined_input = shared.setdefault(_input_key(run.config, source), new)
            joined_input.entity_fields.update(
                *(label_entity_fields(run.config, name) for name in names)
            )
    with ExitStack() as exit_stack:
        folders = (
            Path(exit_stack.enter_context(TemporaryDirectory(dir=labelled[0].work_dir)))
            for _ in shared
        )
        tables = {key: joined.table(next(folders)) for key, joined in shared.items()}
        labels = [
            (_join(run, source, tables), [run])
            for run in labelled
            for source in run.request.label_inputs
        ]
    pa.default_memory_pool().release_unused()  # the runs need the memory
    return labels


def _join(run: ReplayRun, labels: Input, tables: Mapping[_InputKey, EventTable]) -> InputReader:
    events = [tables[_input_key(run.config, source)] for source in run.request.event_inputs]
    joined = join(run.config, labels.name, labels.open_readers(), events, run.work_dir)
    run.add_joined_labels(labels.name, joined)
    return joined.reader


def _input_key(config: Config, source: Input) -> _InputKey:
    window, is_read = config.limits.duplicate_window, is_input_read(config, source.name)
    return _InputKey(decoding_key(config, source.name), window, is_read)
