"""The inputs of a replay: found, identified by content and opened for reading."""

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

    locations: paths and addresses without credentials, to find it again; of a topic its offsets.
    topic: of its records. log: the internal log that it is, if it is one. files: none of a topic.
    open_readers: makes a reader of each of its logs, from the beginning. stops: of a topic, the offset up to which
    each partition is read.
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


def spool_pipes(named: Sequence[InputLocations], opened: ExitStack) -> list[InputLocations]:
    """Inputs with every pipe among them read, once for all that name it. opened: closes them."""
    known: dict[str, InputFile] = {}

    def read(place: str | Path | InputFile) -> str | Path | InputFile:
        if isinstance(place, InputFile) or not is_pipe(str(place)):
            return place
        text = STANDARD_INPUT if str(place) == "-" else str(place)
        if text not in known:
            known[text] = spool_pipe(text, opened)
        return known[text]

    return [[(name, read(place)) for name, place in some] for some in named]


def find_inputs(config: Config, named: InputLocations, opened: ExitStack) -> list[Input]:
    """The inputs by name, in the order in which they are named first. opened: what closes them.

    named: (the name of an input, a path, folder, glob or address). Raises InputError where one is
    not usable.
    """
    places: dict[str, list[str | InputFile]] = {}
    for name, place in named:
        places.setdefault(name, []).append(place if isinstance(place, InputFile) else str(place))
    return [_input(config, name, some, opened) for name, some in places.items()]


def with_label_input(config: Config, others: Iterable[Config] = ()) -> Config:
    """The configuration with an input of labels: where it has none, the first that another of the
    same comparison has, else one in Eddy's own shape. The result has a different fingerprint."""
    if label_inputs(config):
        return config
    known = {name: one.inputs[name] for one in others for name in label_inputs(one)[:1]}
    name, spec = next(iter(known.items()), ("labels", InputSpec(topic="labels", type="label")))
    if name in config.inputs:
        raise InputError(
            f'--labels: inputs.{name} holds events; expected an input of type = "label"; give '
            f"the labels an input of their own, or rename inputs.{name}"
        )
    return msgspec.structs.replace(config, inputs={name: spec, **config.inputs})


def open_readers(inputs: Sequence[Input]) -> list[InputReader]:
    """Readers of all logs of these inputs, from their beginning."""
    return [reader for one in inputs for reader in one.open_readers()]


def _input(config: Config, name: str, places: list[str | InputFile], opened: ExitStack) -> Input:
    ranges = [place for place in places if isinstance(place, str) and is_topic_range(place)]
    log = find_internal_log(config, name, topic_of(ranges[0])) if ranges else None
    if log is None and name not in config.inputs:
        known = ", ".join(config.inputs)
        first = places[0].name if isinstance(places[0], InputFile) else places[0]
        raise InputError(f"{name}={first}: no input is named {name}; expected one of {known}")
    if ranges:
        if len(places) > 1:
            raise InputError(f"{name}={ranges[0]}: expected one topic, and nothing besides")
        return _topic(config, name, ranges[0], log, opened)
    each = [[place] if isinstance(place, InputFile) else find_files(place) for place in places]
    files = [file for some in each for file in some]
    where = [
        p.name if isinstance(p, InputFile) else hide_credentials(Location.of(p).text)
        for p in places
    ]

    def readers_of_files() -> list[InputReader]:
        return [FileReader(name, files, config.inputs[name])]

    return Input(name, where, name, None, files, readers_of_files)


def _topic(config: Config, name: str, address: str, log: Log | None, opened: ExitStack) -> Input:
    topic = topic_of(address)
    reader = opened.enter_context(TopicReader(config.kafka, config.group, topic))
    spans = resolve_ranges(
        reader, address, log.partitions if log else config.inputs[name].partitions
    )

    def readers_of_ranges() -> list[InputReader]:
        reader.start(spans)
        return [
            TopicRangeReader(name, reader, partition, span, BATCH_RECORDS)
            for partition, span in spans.items()
            if span.start < span.stop
        ]

    stops = {partition: span.stop for partition, span in spans.items()}
    return Input(name, [range_address(topic, spans)], topic, log, [], readers_of_ranges, stops)
