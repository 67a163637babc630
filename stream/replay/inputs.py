"""The inputs of a replay: finds their files and topics, identifies their content, opens them for reading."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from stream.config import Config, InputSpec, label_inputs
from stream.config.topology import Log
from stream.errors import InputError
from stream.inputs import BATCH_RECORDS, FileReader, InputReader
from stream.inputs.files import STANDARD_INPUT, InputFile, find_files, is_pipe, spool_pipe
from stream.inputs.ranges import (
    TopicRangeReader,
    find_internal_log,
    is_topic_range,
    range_address,
    resolve_ranges,
    topic_of,
)
from stream.kafka.topic_reader import TopicReader
from stream.location import Location, hide_credentials
from stream.replay.manifest import ManifestFile, ManifestInput

InputLocations = Sequence[tuple[str, str | Path | InputFile]]
"""Pairs of an input's name and a path, folder, glob or address, or the content of a pipe."""


@dataclass(frozen=True, slots=True)
class Input:
    """One input, ready to be read.

    locations: paths and addresses without credentials, from which a rerun finds it; for a topic, with
    its offsets. topic: of its records. log: the internal log, if the input is one. files: empty for a
    topic. open_readers: opens its logs; each call reads them from their beginning. stops: for a
    topic, the offset up to which each partition is read.
    """

    name: str
    locations: list[str]
    topic: str
    log: Log | None
    files: list[InputFile]
    open_readers: Callable[[], list[InputReader]]
    stops: Mapping[int, int] = field(default_factory=dict)

    def manifest_entry(self) -> ManifestInput:
        """The input as the manifest records it; reads every local file for its content_id."""
        files = [ManifestFile(file.name, file.size_bytes, file.content_id()) for file in self.files]
        return ManifestInput(self.name, self.locations, files)


def spool_pipes(lists: Sequence[InputLocations], exit_stack: ExitStack) -> list[InputLocations]:
    """The lists of inputs, with a temporary file in place of each pipe, which is copied once however
    often it is named. exit_stack: removes the copies.
    """
    copies: dict[str, InputFile] = {}

    def without_pipe(location: str | Path | InputFile) -> str | Path | InputFile:
        if isinstance(location, InputFile) or not is_pipe(str(location)):
            return location
        path = STANDARD_INPUT if str(location) == "-" else str(location)
        if path not in copies:
            copies[path] = spool_pipe(path, exit_stack)
        return copies[path]

    return [[(name, without_pipe(location)) for name, location in inputs] for inputs in lists]


def find_inputs(config: Config, inputs: InputLocations, exit_stack: ExitStack) -> list[Input]:
    """Find and open the inputs, each with all of its locations, in the order of their first location.

    exit_stack: closes them. Raises InputError where one is not usable.
    """
    locations: dict[str, list[str | InputFile]] = {}
    for name, location in inputs:
        text = location if isinstance(location, InputFile) else str(location)
        locations.setdefault(name, []).append(text)
    return [
        _input(config, name, input_locations, exit_stack)
        for name, input_locations in locations.items()
    ]


def with_label_input(config: Config, others: Iterable[Config] = ()) -> Config:
    """The configuration with a label input. If it has none, one is added: the first label input of the
    other configurations of a comparison, else one with Eddy's own field names. An added input changes
    the fingerprint."""
    if label_inputs(config):
        return config
    added = {name: other.inputs[name] for other in others for name in label_inputs(other)[:1]}
    name, spec = next(iter(added.items()), ("labels", InputSpec(topic="labels", type="label")))
    if name in config.inputs:
        raise InputError(
            f'--labels: inputs.{name} holds events; expected an input of type = "label"; give '
            f"the labels an input of their own, or rename inputs.{name}"
        )
    return msgspec.structs.replace(config, inputs={name: spec, **config.inputs})


def open_readers(inputs: Sequence[Input]) -> list[InputReader]:
    """Readers of all logs of these inputs, from their beginning."""
    return [reader for each in inputs for reader in each.open_readers()]


def _input(
    config: Config, name: str, locations: list[str | InputFile], exit_stack: ExitStack
) -> Input:
    topic_ranges = [text for text in locations if isinstance(text, str) and is_topic_range(text)]
    log = find_internal_log(config, name, topic_of(topic_ranges[0])) if topic_ranges else None
    if log is None and name not in config.inputs:
        expected = ", ".join(config.inputs)
        first = locations[0].name if isinstance(locations[0], InputFile) else locations[0]
        raise InputError(f"{name}={first}: no input is named {name}; expected one of {expected}")
    if topic_ranges:
        if len(locations) > 1:
            raise InputError(f"{name}={topic_ranges[0]}: expected one topic, and nothing besides")
        return _topic_input(config, name, topic_ranges[0], log, exit_stack)
    files = [
        file
        for location in locations
        for file in ([location] if isinstance(location, InputFile) else find_files(location))
    ]
    shown_locations = [
        location.name
        if isinstance(location, InputFile)
        else hide_credentials(Location.of(location).text)
        for location in locations
    ]

    def open_readers() -> list[InputReader]:
        return [FileReader(name, files, config.inputs[name])]

    return Input(name, shown_locations, name, None, files, open_readers)


def _topic_input(
    config: Config, name: str, address: str, log: Log | None, exit_stack: ExitStack
) -> Input:
    topic = topic_of(address)
    reader = exit_stack.enter_context(TopicReader(config.kafka, config.group, topic))
    offset_ranges = resolve_ranges(
        reader, address, log.partitions if log else config.inputs[name].partitions
    )

    def open_readers() -> list[InputReader]:
        reader.start(offset_ranges)
        return [
            TopicRangeReader(name, reader, partition, offsets, BATCH_RECORDS)
            for partition, offsets in offset_ranges.items()
            if offsets.start < offsets.stop
        ]

    stops = {partition: offsets.stop for partition, offsets in offset_ranges.items()}
    address = range_address(topic, offset_ranges)
    return Input(name, [address], topic, log, [], open_readers, stops)
