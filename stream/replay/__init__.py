"""replay: recorded events through the stages that run live, with every score written down.

Reads files or stretches of topics, drives the shards of all their partitions, and writes alerts,
dead letters, scores and a summary into a folder. Never writes to Kafka; its alerts can never reach
enforcement.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from stream.config import Config
from stream.errors import InputError
from stream.replay import manifest
from stream.replay.driving import Progress, drive
from stream.replay.manifest import Manifest, Option
from stream.replay.opening import inputs_from
from stream.replay.run import Run
from stream.replay.summary import Summary

__all__ = ["Again", "Progress", "Summary", "again", "replay"]


def replay(
    config: Config, inputs: Sequence[tuple[str, str | Path]], out_dir: Path, progress: Progress
) -> Summary:
    """Run what was recorded through the configuration and write what came of it into out_dir.

    inputs: (the name of an input, a path, folder, glob or address); the files of one name are one
    log, and an input without any has no events. A stretch of an internal topic goes under the name
    of the monitor that reads it, or assess. Results appear under their names only when the whole
    run has succeeded. Raises InputError for names, files and folders that cannot be used.
    """
    return _replay(config, inputs, out_dir, progress, {}, None)


class Again(NamedTuple):
    """What came of running something again. files: those that came out with other bytes; none
    where all is the same."""

    summary: Summary
    files: list[str]


def again(of: Manifest, given: Config | None, out_dir: Path, progress: Progress) -> Again:
    """Run what a manifest says once more, into out_dir, and compare.

    given: a configuration with the secret that the run had, and the broker, where it needs them;
    nothing else of it counts. Raises InputError where the inputs are no longer the same.
    """
    config = manifest.config_of(of, given)
    pairs = [(source.name, place) for source in of.inputs for place in source.places]
    summary = _replay(config, pairs, out_dir, progress, of.options, of)
    return Again(summary, manifest.outputs_that_differ(of, manifest.read(out_dir)))


def _replay(
    config: Config,
    inputs: Sequence[tuple[str, str | Path]],
    out_dir: Path,
    progress: Progress,
    options: Mapping[str, Option],
    expected: Manifest | None,
) -> Summary:
    """expected: the manifest whose inputs these must be."""
    with inputs_from(config, inputs) as found:
        sources = [one.source() for one in found]
        wrong = list(manifest.differences(expected, sources)) if expected else []
        if wrong:
            raise InputError("\n".join(wrong))
        readings = [reading for one in found for reading in one.readings]
        with Run(config, out_dir, readings, manifest.origin(config, sources, options)) as run:
            drive(readings, [run], progress)
            return run.finish()
