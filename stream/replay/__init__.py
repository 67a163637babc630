"""replay: recorded events through the stages that run live, with every score written down.

Reads files, drives the shards of all their partitions, and writes alerts, dead letters, scores and
a summary into a folder. Never writes to Kafka; its alerts can never reach enforcement.
"""

from collections.abc import Sequence
from pathlib import Path

from stream.config import Config
from stream.replay.driving import Progress, drive
from stream.replay.run import Run
from stream.replay.sources import read_from
from stream.replay.summary import Summary

__all__ = ["Progress", "Summary", "replay"]


def replay(
    config: Config,
    inputs: Sequence[tuple[str, str | Path]],
    out_dir: Path,
    progress: Progress,
    *,
    features: bool = False,
) -> Summary:
    """Run what was recorded through the configuration and write what came of it into out_dir.

    inputs: (the name of an input, a path, folder, glob or address); the files of one name are one
    log, and an input without any has no events. features: whether features.parquet is wanted, too,
    with the features of every event as known then. Results appear under their names only when the
    whole run has succeeded. Raises InputError for names, files and folders that cannot be used.
    """
    readings = read_from(config, inputs)
    with Run(config, out_dir, config.group, features=features) as run:
        drive([(reading, [run]) for reading in readings], progress)
        return run.finish()
