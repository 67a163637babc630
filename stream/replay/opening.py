"""The inputs of a replay as they were asked for: found, fingerprinted, and opened for reading."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from stream.config import Config
from stream.errors import InputError
from stream.inputs import BATCH_RECORDS, FileReading, Reading
from stream.inputs.places import File, files_at
from stream.inputs.ranges import (
    RangeReading,
    is_range,
    recorded_log,
    spans_at,
    spelled,
    topic_of,
)
from stream.kafka.ranges import Range
from stream.replay.manifest import Content, Source


@dataclass(frozen=True, slots=True)
class Input:
    """One input, ready to be read once. places: where it is, so that it can be found again; of a
    topic its offsets. files: none of a topic."""

    name: str
    places: list[str]
    files: list[File]
    readings: list[Reading]

    def source(self) -> Source:
        """What it is known by; reads every local file."""
        files = [Content(file.name, file.size_bytes, file.content()) for file in self.files]
        return Source(self.name, self.places, files)


@contextmanager
def inputs_from(config: Config, inputs: Sequence[tuple[str, str | Path]]) -> Iterator[list[Input]]:
    """The inputs by name, in the order in which they are named first.

    inputs: (the name of an input, a path, folder, glob or address). Raises InputError where one is
    not usable.
    """
    if not inputs:
        raise InputError("no input was given; expected NAME=PATH for at least one input")
    places: dict[str, list[str]] = {}
    for name, place in inputs:
        places.setdefault(name, []).append(str(place))
    with ExitStack() as opened:
        yield [_input(config, name, some, opened) for name, some in places.items()]


def _input(config: Config, name: str, places: list[str], opened: ExitStack) -> Input:
    ranges = [place for place in places if is_range(place)]
    log = recorded_log(config, name, topic_of(ranges[0])) if ranges else None
    if log is None and name not in config.inputs:
        known = ", ".join(config.inputs)
        raise InputError(f"{name}={places[0]}: no input is named {name}; expected one of {known}")
    if ranges:
        if len(places) > 1:
            raise InputError(f"{name}={ranges[0]}: expected one topic, and nothing besides")
        partitions = log.partitions if log else config.inputs[name].partitions
        return _topic(config, name, ranges[0], partitions, opened)
    files = [file for place in places for file in files_at(place)]
    found = [place if "://" in place else str(Path(place).absolute()) for place in places]
    return Input(name, found, files, [FileReading(name, files, config.inputs[name])])


def _topic(config: Config, name: str, address: str, partitions: int, opened: ExitStack) -> Input:
    reader = opened.enter_context(Range(config.kafka, config.group, topic_of(address)))
    spans = spans_at(reader, address, partitions)
    reader.begin(spans)
    readings: list[Reading] = [
        RangeReading(name, reader, partition, span, BATCH_RECORDS)
        for partition, span in spans.items()
        if span.start < span.stop
    ]
    return Input(name, [spelled(reader.topic, spans)], [], readings)
