"""Replay: recorded events through the stages that run live, with every score written to a folder.

Reads files or ranges of topics, processes them in the shards of all their partitions, and writes
alerts, dead letters, scores and a summary. Never writes to Kafka: its alerts cannot reach
enforcement. The entry points are `replay` and `rerun`.
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

    inputs: names and locations. All files of one name form one log; an input without files has no
    events. For a range of an internal topic, the name is that of the monitor that reads it, or
    `assess`. labels: names and locations of label files, which are joined to the events of all inputs. split: the events to evaluate;
    models learn from all of them. save_state: a folder or the URL of an object store, for the
    learned state. writes_features: whether to write features.parquet, with the feature values of every
    event at its time. render: makes index.html; without it there is none. Files appear under their
    names only when the whole run has succeeded. Raises InputError for names, files and folders that
    cannot be used, OutputFailure where results cannot be written, ExtraMissing where labels need
    DuckDB and it is not installed.
    """
    if save_state is not None:
        _check_save_target(config, save_state, out_dir)
    with map_write_errors(out_dir), ExitStack() as exit_stack:
        inputs, labels = spool_pipes([inputs, labels], exit_stack)
        request = run_request(
            config.group,
            config,
            out_dir,
            inputs,
            labels,
            split,
            exit_stack,
            writes_features=writes_features,
        )
        return _run(request, request.provenance(), progress, render, save_state)


class RerunResult(NamedTuple):
    """The result of a repeated run. changed_files: files whose bytes differ from the first run's."""

    summary: Summary
    changed_files: list[str]


def rerun(
    recorded: RunManifest,
    provided: Config | None,
    out_dir: Path,
    progress: Progress,
    render: Render | None = None,
) -> RerunResult:
    """Repeat the run of a manifest, into out_dir, and compare the files.

    provided: a configuration with the run's secret and brokers, if the run had them; its other keys are
    ignored. Raises InputError where the inputs are no longer the same.
    """
    inputs, labels = map(_input_locations, (recorded.inputs, recorded.labels))
    config = manifest.rebuild_config(recorded, provided)
    with map_write_errors(out_dir), ExitStack() as exit_stack:
        inputs, labels = spool_pipes([inputs, labels], exit_stack)
        request = run_request(
            config.group,
            config,
            out_dir,
            inputs,
            labels,
            recorded.split,
            exit_stack,
            writes_features=recorded.writes_features,
        )
        provenance = request.provenance()
        if changed_inputs := manifest.input_differences(recorded, provenance):
            raise InputError("\n".join(changed_inputs))
        summary = _run(request, provenance, progress, render)
    return RerunResult(summary, manifest.changed_outputs(recorded, manifest.read(out_dir)))


def _run(
    request: RunRequest,
    provenance: Provenance,
    progress: Progress,
    render: Render | None,
    save_state: str | None = None,
) -> Summary:
    """Read all inputs in the order of event time, then evaluate and publish the results."""
    if save_state is not None and any(source.log for source in request.event_inputs):
        raise InputError(
            "--save-state: an internal topic does not hold what the stages before it have "
            "learned; expected inputs"
        )
    span = request.split.span(request.config, open_readers(request.external_inputs()))
    with ReplayRun(request, provenance, span) as run:
        logs = open_logs_and_join_labels([run], [source.name for source in request.event_inputs])
        read_in_time_order(logs, progress)
        if save_state is not None:
            saving.save(request.config, _at_range_ends(run.states(), request), save_state)
        return run.finish(render)


def _check_save_target(config: Config, save_state: str, out_dir: Path) -> None:
    """Raise InputError where the learned state cannot be saved to this location."""
    if Location.of(save_state).is_same_as(Location.of(str(out_dir))):
        raise InputError(
            f"--save-state {save_state}: the results are written there; expected another folder"
        )
    saving.check_save_target(config, save_state)


def _input_locations(inputs: list[ManifestInput]) -> InputLocations:
    """The files and topics of a manifest. Raises InputError where credentials were left out."""
    locations = [(source.name, location) for source in inputs for location in source.locations]
    for name, location in locations:
        if REDACTED in location:
            raise InputError(
                f"{name}={location}: the manifest holds no credentials; expected an address without "
                "any: run `eddy replay` with --input, credentials in the environment (AWS_* and the "
                "like), then that run can be repeated"
            )
    return locations


def _at_range_ends(
    states: Iterable[PartitionState], request: RunRequest
) -> Iterator[PartitionState]:
    """The states; those of topics are moved to the end of the range that was read, because transaction
    markers, aborted records or compacted gaps may follow the last record, or there was no record."""
    range_ends = {
        (source.name, partition): stop
        for source in request.event_inputs
        for partition, stop in source.stops.items()
    }
    for state in states:
        stop = range_ends.get((state.log.name, state.partition))
        if stop is None or state.log.internal:
            yield state
        else:
            yield state._replace(next_offset=stop, until_ms=None)
