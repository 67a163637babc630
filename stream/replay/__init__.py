"""replay: recorded events through the stages that run live, with every score written down.

Reads files or stretches of topics, drives the shards of all their partitions, and writes alerts,
dead letters, scores and a summary into a folder. Never writes to Kafka; its alerts can never reach
enforcement.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from stream.chain import State
from stream.checkpoints import saving
from stream.config import Config
from stream.errors import InputError
from stream.place import HIDDEN, Place
from stream.replay import manifest
from stream.replay.driving import Progress, drive
from stream.replay.jobs import Jobs
from stream.replay.manifest import Manifest, Source
from stream.replay.opening import Named, readings_of, with_pipes
from stream.replay.reading import sources_of
from stream.replay.recording import written_to
from stream.replay.run import Asked, Run, asked_for
from stream.replay.span import WHOLE, Split
from stream.replay.summary import Summary

__all__ = ["Again", "Progress", "Split", "Summary", "again", "replay"]


def replay(
    config: Config,
    inputs: Named,
    out_dir: Path,
    progress: Progress,
    labels: Named = (),
    split: Split = WHOLE,
    jobs: int = 1,
    save_state: str | None = None,
    *,
    features: bool = False,
) -> Summary:
    """Run what was recorded through the configuration and write what came of it into out_dir.

    inputs: the files of one name are one log, and an input without any has no events. A stretch of
    an internal topic goes under the name of the monitor that reads it, or assess. labels: the same
    for files of labels, which are joined to the events of all inputs. split: what is judged; all
    else is only learned. features: whether the features of every event, as known then, are written
    down, too. jobs: processes that hold the shards, which changes no byte. save_state: a
    folder or an object store's URL, for what was learned. Results appear under their names only
    when the whole run has succeeded. Raises InputError for names, files and folders that cannot be
    used, OutputFailure where results cannot be written, ExtraMissing where labels need DuckDB and it
    is not there.
    """
    if save_state is not None:
        if Place.of(save_state).same(Place.of(str(out_dir))):
            raise InputError(
                f"--save-state {save_state}: there the results go; expected another place"
            )
        saving.check_place(config, save_state)
    with written_to(out_dir), ExitStack() as opened:
        inputs, labels = with_pipes([inputs, labels], opened)
        asked = asked_for(
            config.group, config, out_dir, inputs, labels, split, opened, features=features
        )
        return _replay(asked, opened, progress, jobs, save_state)


class Again(NamedTuple):
    """What came of running something again. files: those that came out with other bytes; none
    where all is the same."""

    summary: Summary
    files: list[str]


def again(
    of: Manifest, given: Config | None, out_dir: Path, progress: Progress, jobs: int = 1
) -> Again:
    """Run what a manifest says once more, into out_dir, and compare.

    given: a configuration with the secret that the run had, and the broker, where it needs them;
    nothing else of it counts. Raises InputError where the inputs are no longer the same.
    """
    inputs, labels = map(_named, (of.inputs, of.labels))
    for name, place in [*inputs, *labels]:
        if HIDDEN in str(place):
            raise InputError(
                f"{name}={place}: the manifest holds no credentials; expected an address without "
                "any: run `eddy replay` with --input, credentials in the environment (AWS_* and the "
                "like), then that run can be run again"
            )
    config = manifest.config_of(of, given)
    with written_to(out_dir), ExitStack() as opened:
        inputs, labels = with_pipes([inputs, labels], opened)
        asked = asked_for(
            config.group, config, out_dir, inputs, labels, of.split, opened, features=of.features
        )
        summary = _replay(asked, opened, progress, jobs, expected=of)
    return Again(summary, manifest.outputs_that_differ(of, manifest.read(out_dir)))


def _named(sources: list[Source]) -> Named:
    return [(source.name, place) for source in sources for place in source.places]


def _replay(
    asked: Asked,
    opened: ExitStack,
    progress: Progress,
    jobs: int,
    save_state: str | None = None,
    expected: Manifest | None = None,
) -> Summary:
    """opened: closes what is opened here. expected: the manifest whose inputs these must be."""
    origin = asked.origin()
    wrong = manifest.differences(expected, origin) if expected else []
    if wrong:
        raise InputError("\n".join(wrong))
    if save_state is not None and any(one.log for one in asked.events):
        raise InputError(
            "--save-state: an internal topic does not hold what the stages before it have "
            "learned; expected inputs"
        )
    span = asked.split.span(asked.config, readings_of(asked.sources()))
    spread = opened.enter_context(Jobs(jobs)) if jobs > 1 else None
    run = opened.enter_context(Run(asked, origin, span, jobs=spread))
    drive(sources_of([run], [one.name for one in asked.events]), progress)
    if save_state is not None:
        saving.save(asked.config, _at_their_stops(run.states(), asked), save_state)
    return run.finish()


def _at_their_stops(states: Iterable[State], asked: Asked) -> Iterator[State]:
    """The states, those of topics at the offset up to which they were read: after the last record
    there may be transaction markers, aborted records or compacted gaps, or no record at all."""
    stops = {
        (one.name, partition): stop for one in asked.events for partition, stop in one.stops.items()
    }
    for state in states:
        stop = stops.get((state.log.name, state.partition))
        if stop is None or state.log.internal:
            yield state
        else:
            yield state._replace(next_offset=stop, until_ms=None)
