"""replay: recorded events through the stages that run live, with every score written down.

Reads files, drives the shards of all their partitions, and writes alerts, dead letters, scores and
a summary into a folder. Never writes to Kafka; its alerts can never reach enforcement.
"""

from collections.abc import Sequence
from pathlib import Path

from stream.config import Config
from stream.replay.driving import Progress, drive
from stream.replay.run import Run
from stream.replay.sources import labels_from, read_from
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
    *,
    features: bool = False,
) -> Summary:
    """Run what was recorded through the configuration and write what came of it into out_dir.

    inputs: (the name of an input, a path, folder, glob or address); the files of one name are one
    log, and an input without any has no events. labels: the same for files of labels, which are
    joined to the events of all inputs. split: what is judged; all else is only learned.
    features: whether the features of every event, as known then, are written down, too. Results
    appear under their names only when the whole run has succeeded. Raises InputError for names,
    files and folders that cannot be used, ExtraMissing where labels need DuckDB and it is not
    there.
    """
    span = split.span(config, read_from(config, inputs))
    with Run(config, out_dir, config.group, span, features=features) as run:
        readings = [*read_from(config, inputs), *labels_from(run, labels, inputs)]
        drive([(reading, [run]) for reading in readings], progress)
        return run.finish()
