"""What a replay is to read, from the names and paths that it was given."""

from collections.abc import Sequence
from pathlib import Path

from stream.config import Config
from stream.errors import InputError
from stream.inputs import FileReading, Reading
from stream.inputs.places import File, files_at
from stream.replay.labels import join
from stream.replay.run import Run

Given = Sequence[tuple[str, str | Path]]
"""The name of an input and a path, folder, glob or address, each."""


def read_from(config: Config, inputs: Given) -> list[Reading]:
    """What is to be read. Raises InputError where a name or a path is not usable."""
    files: dict[str, list[File]] = {}
    for name, path in inputs:
        if name not in config.inputs:
            known = ", ".join(config.inputs)
            raise InputError(f"{name}={path}: no input is named {name}; expected one of {known}")
        files.setdefault(name, []).extend(files_at(str(path)))
    if not inputs:
        raise InputError("no input was given; expected NAME=PATH for at least one input")
    return [FileReading(name, found, config.inputs[name]) for name, found in files.items()]


def labels_from(run: Run, labels: Given, inputs: Given) -> list[Reading]:
    """The files of labels, joined to the events of all inputs, as the run is to read them. Raises
    InputError where a name or a path is not usable, ExtraMissing without DuckDB."""
    if not labels:
        return []
    joined = [
        join(run.config, one, read_from(run.config, inputs), run.work)
        for one in read_from(run.config, labels)
    ]
    for one in joined:
        run.note(one)
    return [one.reading for one in joined]
