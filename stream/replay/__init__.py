"""replay: recorded events through the stages that run live, with every score written down.

Reads files or stretches of topics, drives the shards of all their partitions, and writes alerts,
dead letters, scores and a summary into a folder. Never writes to Kafka; its alerts can never reach
enforcement.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from stream.config import Config
from stream.errors import InputError
from stream.inputs import BATCH_RECORDS, FileReading, Reading
from stream.inputs.places import files_at
from stream.inputs.ranges import RangeReading, is_range, recorded_log, spans_at, topic_of
from stream.kafka.ranges import Range
from stream.replay.driving import Progress, drive
from stream.replay.run import Run
from stream.replay.summary import Summary

__all__ = ["Progress", "Summary", "replay"]


def replay(
    config: Config, inputs: Sequence[tuple[str, str | Path]], out_dir: Path, progress: Progress
) -> Summary:
    """Run what was recorded through the configuration and write what came of it into out_dir.

    inputs: (the name of an input, a path, folder, glob or address); the files of one name are one
    log, and an input without any has no events. A stretch of an internal topic goes under the name
    of the monitor that reads it, or assess. Results appear under their names only when the whole
    run has succeeded. Raises InputError for names, files and folders that cannot be used.
    """
    with (
        reading_from(config, inputs) as readings,
        Run(config, out_dir, readings) as run,
    ):
        drive(readings, [run], progress)
        return run.finish()


@contextmanager
def reading_from(
    config: Config, inputs: Sequence[tuple[str, str | Path]]
) -> Iterator[list[Reading]]:
    """What is to be read. Raises InputError where a name or an address is not usable."""
    if not inputs:
        raise InputError("no input was given; expected NAME=PATH for at least one input")
    places: dict[str, list[str]] = {}
    for name, place in inputs:
        places.setdefault(name, []).append(str(place))
    with ExitStack() as opened:
        yield [
            reading
            for name, of_input in places.items()
            for reading in _readings(config, name, of_input, opened)
        ]


def _readings(config: Config, name: str, places: list[str], opened: ExitStack) -> Iterator[Reading]:
    ranges = [place for place in places if is_range(place)]
    log = recorded_log(config, name, topic_of(ranges[0])) if ranges else None
    if log is None and name not in config.inputs:
        known = ", ".join(config.inputs)
        raise InputError(f"{name}={places[0]}: no input is named {name}; expected one of {known}")
    if not ranges:
        files = [file for place in places for file in files_at(place)]
        yield FileReading(name, files, config.inputs[name])
        return
    if len(places) > 1:
        raise InputError(f"{name}={ranges[0]}: expected one topic for {name}, and nothing besides")
    reader = opened.enter_context(Range(config.kafka, config.group, topic_of(ranges[0])))
    partitions = log.partitions if log else config.inputs[name].partitions
    spans = spans_at(reader, ranges[0], partitions)
    reader.begin(spans)
    for partition, span in spans.items():
        if span.start < span.stop:
            yield RangeReading(name, reader, partition, span, BATCH_RECORDS)
