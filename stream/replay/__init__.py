"""replay: recorded events through the stages that run live, with every score written down.

Reads files, drives the shards of all their partitions, and writes alerts, dead letters, scores and
a summary into a folder. Never writes to Kafka; its alerts can never reach enforcement.
"""

from collections.abc import Sequence
from pathlib import Path

from stream.checkpoints import saving
from stream.config import Config
from stream.errors import InputError
from stream.inputs import InputFile
from stream.replay.driving import Progress, drive
from stream.replay.labels import join
from stream.replay.run import Run
from stream.replay.span import WHOLE, Split
from stream.replay.summary import Summary

__all__ = ["Progress", "Split", "Summary", "replay"]


def replay(
    config: Config,
    inputs: list[tuple[str, Path]],
    out_dir: Path,
    progress: Progress,
    labels: Sequence[tuple[str, Path]] = (),
    split: Split = WHOLE,
    save_state: str | None = None,
) -> Summary:
    """Run the files through the configuration and write what came of it into out_dir.

    inputs: (the name of an input, its file); inputs with no file have no events. labels: the same
    for files of labels, which are joined to the events of all inputs. split: what is judged; all
    else is only learned. save_state: a folder or an object store's URL, for what was learned. Files appear under their
    names only when the whole run has succeeded. Raises InputError for names, files and folders
    that cannot be used, ExtraMissing where labels need DuckDB and it is not there.
    """
    files = _files(config, [*inputs, *labels])
    events, label_files = files[: len(inputs)], files[len(inputs) :]
    if save_state is not None:
        saving.check_place(config, save_state)
    with Run(config, out_dir, split.span(config, events)) as run:
        joined = [join(config, file, events, run.work) for file in label_files]
        for one in joined:
            run.note(one)
        drive([*events, *(one.file for one in joined)], [run], progress)
        if save_state is not None:
            saving.save(config, run.states(), save_state)
        return run.finish()


def _files(config: Config, inputs: list[tuple[str, Path]]) -> list[InputFile]:
    """The files to read. Raises InputError where a name or a path is not usable."""
    names = [name for name, _ in inputs]
    for name, path in inputs:
        if name not in config.inputs:
            known = ", ".join(config.inputs)
            raise InputError(f"{name}={path}: no input is named {name}; expected one of {known}")
        if names.count(name) > 1:
            raise InputError(f"{name}={path}: {name} was given twice; expected one file an input")
        if not path.is_file():
            what = "is a folder; expected a file" if path.is_dir() else "no such file"
            raise InputError(f"{name}={path}: {what}")
    if not inputs:
        raise InputError("no input was given; expected NAME=PATH for at least one input")
    return [InputFile(name, path, config.inputs[name]) for name, path in inputs]
