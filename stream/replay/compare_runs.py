"""Compares configurations over the same records in one pass; each has a complete run in its own folder.

Records are read and decoded once for all configurations that take the same events from an input: the
same mapping, the same fields, the same records dropped. The results of each run are the same as in a
replay of its own.
"""

from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from schemas.mapping import compile_mapping
from stream.config import Config, InputSpec
from stream.errors import InputError
from stream.evaluation import database
from stream.evaluation.comparison import ComparedRun, Comparison, SettingDifference
from stream.evaluation.pairs import pair
from stream.pipeline.decoding import shared_decoders
from stream.replay.driver import Progress, read_in_time_order
from stream.replay.inputs import InputLocations, open_readers, spool_pipes
from stream.replay.replay_run import Render, ReplayRun
from stream.replay.request import RunRequest, run_request
from stream.replay.run_files import (
    PAGE,
    PART_SUFFIX,
    make_folder,
    map_write_errors,
    require_replay_folder,
)
from stream.replay.shared_inputs import open_logs_and_join_labels
from stream.replay.summary import Summary
from stream.replay.time_split import NO_SPLIT, TimeSplit

COMPARISON: Final = "comparison.json"
SETTINGS_MAX: Final = 30
"""Setting differences that are listed; configurations with more are not variants of each other."""
ONLY_ENTITY_LABELS: Final = "Labels name entities alone, and runs are compared by events."


class Candidate(NamedTuple):
    """A configuration to compare, under a unique name, with the files of its labels."""

    name: str
    config: Config
    labels: InputLocations = ()


class Renderers(NamedTuple):
    """Make the pages, HTML: of each run, and of the comparison."""

    run: Render
    comparison: Callable[[Comparison], str]


def compare(
    candidates: Sequence[Candidate],
    inputs: InputLocations,
    out_dir: Path,
    progress: Progress,
    split: TimeSplit = NO_SPLIT,
    render: Renderers | None = None,
) -> Comparison:
    """Run every configuration over the inputs, and compare each with the first.

    Each run is written to a folder under out_dir, comparison.json beside them. split: the events to
    evaluate. render: makes index.html of all of these; without it there is none. Raises InputError
    for names, files and folders that cannot be used, ExtraMissing without DuckDB.
    """
    names = [candidate.name for candidate in candidates]
    if len(set(names)) < max(len(names), 2):
        raise InputError(
            f"got the configuration {', '.join(names)}; expected two or more with different names"
        )
    database.check_installed()
    _check_inputs(candidates, inputs)
    by_position = _check_partitions(candidates, {name for name, _ in inputs})
    require_replay_folder(
        out_dir, {COMPARISON, PAGE, COMPARISON + PART_SUFFIX, PAGE + PART_SUFFIX, *names}
    )
    with map_write_errors(out_dir):
        with ExitStack() as exit_stack:
            requests = _requests(candidates, inputs, out_dir, split, exit_stack)
            make_folder(out_dir)
            for previous in (COMPARISON, PAGE):
                (out_dir / previous).unlink(missing_ok=True)
            runs = _open_runs(requests, exit_stack)
            read_in_time_order(
                open_logs_and_join_labels(runs, [name for name, _ in inputs]), progress
            )
            costs = [(run.cpu_s, run.state_bytes()) for run in runs]
            summaries = [run.finish(render.run if render else None) for run in runs]
        configs = [candidate.config for candidate in candidates]
        comparison = _comparison(configs, summaries, costs, out_dir, by_position)
        _write(comparison, out_dir, render.comparison(comparison) if render else None)
    return comparison


def _requests(
    candidates: Sequence[Candidate],
    inputs: InputLocations,
    out_dir: Path,
    split: TimeSplit,
    exit_stack: ExitStack,
) -> list[RunRequest]:
    inputs, *labels = spool_pipes(
        [inputs, *(candidate.labels for candidate in candidates)], exit_stack
    )
    return [
        run_request(
            candidate.name,
            candidate.config,
            out_dir / candidate.name,
            _configured(candidate.config, inputs),
            labels_of_run,
            split,
            exit_stack,
        )
        for candidate, labels_of_run in zip(candidates, labels, strict=True)
    ]


def _open_runs(requests: Sequence[RunRequest], exit_stack: ExitStack) -> list[ReplayRun]:
    """The runs, with one evaluation span and shared decoders."""
    first = requests[0]
    span = first.split.span(first.config, open_readers(first.external_inputs()))
    decoders = shared_decoders([request.config for request in requests])
    return [
        exit_stack.enter_context(ReplayRun(request, request.provenance(), span, shared))
        for request, shared in zip(requests, decoders, strict=True)
    ]


def _check_inputs(candidates: Sequence[Candidate], inputs: InputLocations) -> None:
    """Raise InputError for an input of no configuration, and a configuration without any input."""
    configured = {name for candidate in candidates for name in candidate.config.inputs}
    if not inputs:
        raise InputError("no input was given; expected NAME=PATH for at least one input")
    for name, path in inputs:
        if name not in configured:
            raise InputError(
                f"{name}={path}: no input is named {name}; expected one of {', '.join(sorted(configured))}"
            )
    given = {name for name, _ in inputs}
    for candidate in candidates:
        if not given & candidate.config.inputs.keys():
            got, expected = (", ".join(sorted(names)) for names in (given, candidate.config.inputs))
            raise InputError(
                f"{candidate.name} has none of the inputs {got}; expected a file for one of its inputs: "
                f"{expected}"
            )


def _configured(config: Config, inputs: InputLocations) -> InputLocations:
    """The inputs that the configuration has."""
    return [(name, location) for name, location in inputs if name in config.inputs]


def _check_partitions(candidates: Sequence[Candidate], given: AbstractSet[str]) -> bool:
    """Whether all configurations partition their common inputs alike, so that an event has the same
    position in all runs. Raises InputError if they do not and event ids are positions."""
    is_same = True
    for name in sorted(given):
        specs = [each.config.inputs[name] for each in candidates if name in each.config.inputs]
        partitionings = {(spec.partitions, spec.keyed_by, spec.partitioner) for spec in specs}
        if len(partitionings) > 1:
            is_same = False
            if any(_id_is_position(spec) for spec in specs):
                raise InputError(
                    f"inputs.{name}: its event ids are positions, and the configurations divide it into "
                    "different partitions, so events cannot be matched; expected the same "
                    "partitions, keyed_by and partitioner in all"
                )
    return is_same


def _id_is_position(spec: InputSpec) -> bool:
    return compile_mapping(spec.layout, spec.type, spec.fields, ()).event_id is None


def _comparison(
    configs: Sequence[Config],
    summaries: Sequence[Summary],
    costs: Sequence[tuple[float, int]],
    out_dir: Path,
    by_position: bool,
) -> Comparison:
    no_evaluation_reason = next(
        (run.no_evaluation_reason for run in summaries if run.no_evaluation_reason), None
    )
    if not all(run.evaluation and run.evaluation.events_known for run in summaries):
        no_evaluation_reason = no_evaluation_reason or ONLY_ENTITY_LABELS
    first = summaries[0]
    folders = [(summary.name, out_dir / summary.name) for summary in summaries]
    pairs = [
        pair(
            out_dir,
            folders[0],
            other,
            labelled=no_evaluation_reason is None,
            by_position=by_position,
        )
        for other in folders[1:]
    ]
    differences = _setting_differences(configs)
    return Comparison(
        conclusion=" ".join(f"{each.conclusion}. {each.alert_volume}." for each in pairs),
        no_evaluation_reason=no_evaluation_reason,
        first_event_time=first.first_event_time,
        last_event_time=first.last_event_time,
        evaluated_from=first.evaluation_span.from_time,
        evaluated_until=first.evaluation_span.until_time,
        settings=differences[:SETTINGS_MAX],
        settings_differing=len(differences),
        runs=[
            ComparedRun(
                name=summary.name,
                folder=summary.name,
                fingerprint=summary.fingerprint,
                events=summary.evaluation_span.events,
                alerts=summary.alerts_published,
                incidents=summary.incidents_opened,
                dead_letters=summary.dead_letters,
                cpu_s=round(cpu_s, 3),
                state_bytes=state_bytes,
                view=summary.evaluation.views[0] if summary.evaluation else None,
            )
            for summary, (cpu_s, state_bytes) in zip(summaries, costs, strict=True)
        ],
        pairs=pairs,
    )


def _setting_differences(configs: Sequence[Config]) -> list[SettingDifference]:
    """The settings that differ, of those that determine what is learned; no secret is among them."""
    settings = [
        dict(
            _flatten(
                "",
                msgspec.to_builtins(
                    {
                        "inputs": config.inputs,
                        "limits": config.limits,
                        "monitors": {monitor.name: monitor for monitor in config.monitors},
                        "assess": config.assess,
                    }
                ),
            )
        )
        for config in configs
    ]
    keys = dict.fromkeys(key for of_config in settings for key in of_config)
    compared = (
        SettingDifference(key=key, values=[of_config.get(key) for of_config in settings])
        for key in keys
    )
    return [setting for setting in compared if len(set(setting.values)) > 1]


def _flatten(key: str, value: Any) -> Iterator[tuple[str, str]]:
    """Every value in a document, with its key path. key: the path of the document."""
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _flatten(f"{key}.{name}" if key else name, inner)
    elif isinstance(value, list) and value:
        for index, inner in enumerate(value):
            yield from _flatten(f"{key}[{index}]", inner)
    elif value is not None:
        yield key, msgspec.json.encode(value).decode()


def _write(comparison: Comparison, out_dir: Path, page: str | None) -> None:
    """Write the page, then comparison.json: a folder that holds it is complete."""
    encoded = msgspec.json.format(msgspec.json.encode(comparison)) + b"\n"
    contents = {COMPARISON: encoded} if page is None else {PAGE: page.encode(), COMPARISON: encoded}
    parts = {name: out_dir / (name + PART_SUFFIX) for name in contents}
    try:
        for name, part in parts.items():
            part.write_bytes(contents[name])
            part.replace(out_dir / name)
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)
