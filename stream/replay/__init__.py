"""Replay: recorded events through the stages that run live, with every score written to a folder.

Reads files or ranges of topics, processes them in the shards of all their partitions, and writes
alerts, dead letters, scores and a summary. Never writes to Kafka: its alerts cannot reach
enforcement. `replay` and `rerun` are the two entry points, and read from top to bottom.
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
from stream.replay.driver import Progress, read_in_time_order
from stream.replay.inputs import InputLocations, open_readers, spool_pipes
from stream.replay.manifest import ManifestInput, Provenance, RunManifest
from stream.replay.replay_run import Render, ReplayRun
from stream.replay.request import RunRequest, run_request
from stream.replay.run_files import map_write_errors
from stream.replay.shared_inputs import open_logs_and_join_labels
from stream.replay.summary import Summary
from stream.replay.time_split import NO_SPLIT, TimeSplit

__all__ = ["Progress", "Render", "RerunResult", "Summary", "TimeSplit", "replay", "rerun"]


def replay(
    config: Config,
    inputs: InputLocations,
    out_dir: Path,
    progress: Progress,
    labels: InputLocations = (),
    split: TimeSplit = NO_SPLIT,
    save_state: str | None = None,
    *,
    writes_features: bool = False,
    render: Render | None = None,
) -> Summary:
    """Process recorded events by a configuration and write the results into out_dir.

    inputs: the files of one name are one log, and an input without any has no events. A range of an
    internal topic goes under the name of the monitor that reads it, or `assess`. labels: files of
    labels, by input, which are joined to the events of all inputs. split: the events to evaluate;
    models learn from all of them. save_state: a folder or the URL of an object store, for the
    learned state. features: whether to write features.parquet, the features of every event as they
    were known then. render: makes index.html; without it there is none. Files appear under their
    names only when the whole run has succeeded. Raises InputError for names, files and folders that
    cannot be used, OutputFailure where results cannot be written, ExtraMissing where labels need
    DuckDB and it is not installed.
    """
    if save_state is not None:
        _check_save_target(config, save_state, out_dir)
    with map_write_errors(out_dir), ExitStack() as opened:
        inputs, labels = spool_pipes([inputs, labels], opened)
        request = run_request(
            config.group,
            config,
            out_dir,
            inputs,
            labels,
            split,
            opened,
            writes_features=writes_features,
        )
        return _run(request, request.provenance(), progress, render, save_state)


class RerunResult(NamedTuple):
    """The result of a repeated run. changed_files: files whose bytes differ from the first run's."""

    summary: Summary
    changed_files: list[str]


def rerun(
    of: RunManifest,
    given: Config | None,
    out_dir: Path,
    progress: Progress,
    render: Render | None = None,
) -> RerunResult:
    """Repeat the run of a manifest, into out_dir, and compare the files.

    given: a configuration that holds the run's secret, and the broker, where the run needed them;
    its other keys are ignored. Raises InputError where the inputs are no longer the same.
    """
    inputs, labels = map(_input_locations, (of.inputs, of.labels))
    config = manifest.rebuild_config(of, given)
    with map_write_errors(out_dir), ExitStack() as opened:
        inputs, labels = spool_pipes([inputs, labels], opened)
        request = run_request(
            config.group,
            config,
            out_dir,
            inputs,
            labels,
            of.split,
            opened,
            writes_features=of.writes_features,
        )
        provenance = request.provenance()
        if changed_inputs := manifest.input_differences(of, provenance):
            raise InputError("\n".join(changed_inputs))
        summary = _run(request, provenance, progress, render)
    return RerunResult(summary, manifest.changed_outputs(of, manifest.read(out_dir)))


def _run(
    request: RunRequest,
    provenance: Provenance,
    progress: Progress,
    render: Render | None,
    save_state: str | None = None,
) -> Summary:
    """Read all inputs in the order of event time, then evaluate and publish the results."""
    if save_state is not None and any(one.log for one in request.events):
        raise InputError(
            "--save-state: an internal topic does not hold what the stages before it have "
            "learned; expected inputs"
        )
    span = request.split.span(request.config, open_readers(request.sources()))
    with ReplayRun(request, provenance, span) as run:
        logs = open_logs_and_join_labels([run], [one.name for one in request.events])
        read_in_time_order(logs, progress)
        if save_state is not None:
            saving.save(request.config, _at_range_ends(run.states(), request), save_state)
        return run.finish(render)


def _check_save_target(config: Config, save_state: str, out_dir: Path) -> None:
    """Raise InputError for a place that cannot take the learned state."""
    if Location.of(save_state).is_same_as(Location.of(str(out_dir))):
        raise InputError(
            f"--save-state {save_state}: the results are written there; expected another folder"
        )
    saving.check_save_target(config, save_state)


def _input_locations(inputs: list[ManifestInput]) -> InputLocations:
    """The files and topics of a manifest. Raises InputError where credentials were left out."""
    locations = [(one.name, location) for one in inputs for location in one.locations]
    for name, location in locations:
        if REDACTED in location:
            raise InputError(
                f"{name}={location}: the manifest holds no credentials; expected an address without "
                "any: run `eddy replay` with --input, credentials in the environment (AWS_* and the "
                "like), then that run can be run again"
            )
    return locations


def _at_range_ends(
    states: Iterable[PartitionState], request: RunRequest
) -> Iterator[PartitionState]:
    """The states, those of topics at the end of the range that was read: after the last record there
    may be transaction markers, aborted records or compacted gaps, or no record at all."""
    range_ends = {
        (one.name, partition): stop
        for one in request.events
        for partition, stop in one.stops.items()
    }
    for state in states:
        stop = range_ends.get((state.log.name, state.partition))
        if stop is None or state.log.internal:
            yield state
        else:
            yield state._replace(next_offset=stop, until_ms=None)
