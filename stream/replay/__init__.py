"""replay: recorded events through the stages that run live, with every score written down.

Reads files, drives the shards of all their partitions, and writes alerts, dead letters, scores and
a summary into a folder. Never writes to Kafka; its alerts can never reach enforcement.
"""

from collections.abc import Sequence
from pathlib import Path

from stream.config import Config
from stream.errors import InputError
from stream.inputs import FileReading, Reading
from stream.inputs.places import File, files_at
from stream.replay.driving import Progress, drive
from stream.replay.labels import join
from stream.replay.run import Run
from stream.replay.span import WHOLE, Split
from stream.replay.summary import Summary

__all__ = ["Progress", "Split", "Summary", "replay"]


def replay(
    config: Config,
    inputs: Sequence[tuple[str, str | Path]],
    out_dir: Path,
    progress: Progress,
    labels: Sequence[tuple[str, str | Path]] = (),
    split: Split = WHOLE,
) -> Summary:
    """Run what was recorded through the configuration and write what came of it into out_dir.

    inputs: (the name of an input, a path, folder, glob or address); the files of one name are one
    log, and an input without any has no events. labels: the same for files of labels, which are
    joined to the events of all inputs. split: what is judged; all else is only learned. Results
    appear under their names only when the whole run has succeeded. Raises InputError for names,
    files and folders that cannot be used, ExtraMissing where labels need DuckDB and it is not
    there.
    """
    span = split.span(config, read_from(config, inputs))
    with Run(config, out_dir, span) as run:
        joined = [
            join(config, one, read_from(config, inputs), run.work)
            for one in (read_from(config, labels) if labels else [])
        ]
        for one in joined:
            run.note(one)
        drive([*read_from(config, inputs), *(one.reading for one in joined)], [run], progress)
        return run.finish()


def read_from(config: Config, inputs: Sequence[tuple[str, str | Path]]) -> list[Reading]:
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
