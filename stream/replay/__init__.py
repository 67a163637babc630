"""replay: recorded events through the stages that run live, with every score written down.

Reads files or stretches of topics, drives the shards of all their partitions, and writes alerts,
dead letters, scores and a summary into a folder. Never writes to Kafka; its alerts can never reach
enforcement.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from stream.checkpoints import saving
from stream.config import Config
from stream.errors import InputError
from stream.location import REDACTED, Location
from stream.pipeline.cluster import PartitionState
from stream.replay import manifest
from stream.replay.driver import Progress, drive
from stream.replay.inputs import InputLocations, open_readings, spool_pipes
from stream.replay.manifest import Manifest, ManifestInput
from stream.replay.run import ReplayRun, RunRequest, run_request
from stream.replay.run_files import map_write_errors
from stream.replay.shared_inputs import shared_readings
from stream.replay.summary import Summary
from stream.replay.time_split import NO_SPLIT, TimeSplit

__all__ = ["Progress", "RerunResult", "Summary", "TimeSplit", "replay", "rerun"]


def replay(
    config: Config,
    inputs: InputLocations,
    out_dir: Path,
    progress: Progress,
    labels: InputLocations = (),
    split: TimeSplit = NO_SPLIT,
    save_state: str | None = None,
    *,
    features: bool = False,
) -> Summary:
    """Run what was recorded through the configuration and write what came of it into out_dir.

    inputs: the files of one name are one log, and an input without any has no events. A stretch of
    an internal topic goes under the name of the monitor that reads it, or assess. labels: the same
    for files of labels, which are joined to the events of all inputs. split: what is evaluated; all
    else is only learned. features: whether the features of every event, as known then, are written
    down, too. save_state: a
    folder or an object store's URL, for what was learned. Results appear under their names only
    when the whole run has succeeded. Raises InputError for names, files and folders that cannot be
    used, OutputFailure where results cannot be written, ExtraMissing where labels need DuckDB and it
    is not there.
    """
    if save_state is not None:
        if Location.of(save_state).is_same_as(Location.of(str(out_dir))):
            raise InputError(
                f"--save-state {save_state}: there the results go; expected another place"
            )
        saving.check_save_target(config, save_state)
    with map_write_errors(out_dir), ExitStack() as opened:
        inputs, labels = spool_pipes([inputs, labels], opened)
        request = run_request(
            config.group, config, out_dir, inputs, labels, split, opened, features=features
        )
        return _replay(request, opened, progress, save_state)


class RerunResult(NamedTuple):
    """What came of running something again. files: those that came out with other bytes; none
    where all is the same."""

    summary: Summary
    changed_files: list[str]


def rerun(of: Manifest, given: Config | None, out_dir: Path, progress: Progress) -> RerunResult:
    """Run what a manifest says once more, into out_dir, and compare.

    given: a configuration with the secret that the run had, and the broker, where it needs them;
    nothing else of it counts. Raises InputError where the inputs are no longer the same.
    """
    inputs, labels = map(_input_locations, (of.inputs, of.labels))
    for name, place in [*inputs, *labels]:
        if REDACTED in str(place):
            raise InputError(
                f"{name}={place}: the manifest holds no credentials; expected an address without "
                "any: run `eddy replay` with --input, credentials in the environment (AWS_* and the "
                "like), then that run can be run again"
            )
    config = manifest.rebuild_config(of, given)
    with map_write_errors(out_dir), ExitStack() as opened:
        inputs, labels = spool_pipes([inputs, labels], opened)
        request = run_request(
            config.group, config, out_dir, inputs, labels, of.split, opened, features=of.features
        )
        summary = _replay(request, opened, progress, expected=of)
    return RerunResult(summary, manifest.changed_outputs(of, manifest.read(out_dir)))


def _input_locations(sources: list[ManifestInput]) -> InputLocations:
    return [(source.name, place) for source in sources for place in source.locations]


def _replay(
    request: RunRequest,
    opened: ExitStack,
    progress: Progress,
    save_state: str | None = None,
    expected: Manifest | None = None,
) -> Summary:
    """opened: closes what is opened here. expected: the manifest whose inputs these must be."""
    provenance = request.provenance()
    wrong = manifest.input_differences(expected, provenance) if expected else []
    if wrong:
        raise InputError("\n".join(wrong))
    if save_state is not None and any(one.log for one in request.events):
        raise InputError(
            "--save-state: an internal topic does not hold what the stages before it have "
            "learned; expected inputs"
        )
    span = request.split.span(request.config, open_readings(request.sources()))
    run = opened.enter_context(ReplayRun(request, provenance, span))
    drive(shared_readings([run], [one.name for one in request.events]), progress)
    if save_state is not None:
        saving.save(request.config, _at_range_ends(run.states(), request), save_state)
    return run.finish()


def _at_range_ends(
    states: Iterable[PartitionState], request: RunRequest
) -> Iterator[PartitionState]:
    """The states, those of topics at the offset up to which they were read: after the last record
    there may be transaction markers, aborted records or compacted gaps, or no record at all."""
    stops = {
        (one.name, partition): stop
        for one in request.events
        for partition, stop in one.stops.items()
    }
    for state in states:
        stop = stops.get((state.log.name, state.partition))
        if stop is None or state.log.internal:
            yield state
        else:
            yield state._replace(next_offset=stop, until_ms=None)
