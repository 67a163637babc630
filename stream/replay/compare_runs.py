"""Compare configurations over the same records in one pass; each is a whole run in its own folder.

Records are read and decoded once for all configurations that take the same events from an input: the
same mapping, the same fields, the same records dropped. Each run gives what it gives alone.
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
    names = [one.name for one in candidates]
    if len(set(names)) < max(len(names), 2):
        raise InputError(
            f"got the configuration {', '.join(names)}; expected two or more with different names"
        )
    database.check_installed()
    _check_inputs(candidates, inputs)
    by_position = _partitioned_alike(candidates, {name for name, _ in inputs})
    require_replay_folder(
        out_dir, {COMPARISON, PAGE, COMPARISON + PART_SUFFIX, PAGE + PART_SUFFIX, *names}
    )
    with map_write_errors(out_dir):
        with ExitStack() as opened:
            requests = _requests(candidates, inputs, out_dir, split, opened)
            make_folder(out_dir)
            for previous in (COMPARISON, PAGE):
                (out_dir / previous).unlink(missing_ok=True)
            runs = _open_runs(requests, opened)
            read_in_time_order(
                open_logs_and_join_labels(runs, [name for name, _ in inputs]), progress
            )
            costs = [(run.cpu_s, run.state_bytes()) for run in runs]
            summaries = [run.finish(render.run if render else None) for run in runs]
        configs = [one.config for one in candidates]
        comparison = _comparison(configs, summaries, costs, out_dir, by_position)
        _write(comparison, out_dir, render.comparison(comparison) if render else None)
    return comparison


def _requests(
    candidates: Sequence[Candidate],
    inputs: InputLocations,
    out_dir: Path,
    split: TimeSplit,
    opened: ExitStack,
) -> list[RunRequest]:
    inputs, *labels = spool_pipes([inputs, *(one.labels for one in candidates)], opened)
    return [
        run_request(
            one.name,
            one.config,
            out_dir / one.name,
            _own_inputs(one.config, inputs),
            own_labels,
            split,
            opened,
        )
        for one, own_labels in zip(candidates, labels, strict=True)
    ]


def _open_runs(requests: Sequence[RunRequest], opened: ExitStack) -> list[ReplayRun]:
    """The runs, with one evaluation span and shared decoders."""
    first = requests[0]
    span = first.split.span(first.config, open_readers(first.sources()))
    decoders = shared_decoders([one.config for one in requests])
    return [
        opened.enter_context(ReplayRun(one, one.provenance(), span, shared))
        for one, shared in zip(requests, decoders, strict=True)
    ]


def _check_inputs(candidates: Sequence[Candidate], inputs: InputLocations) -> None:
    """Raise InputError for an input of no configuration, and a configuration without any input."""
    known = {name for one in candidates for name in one.config.inputs}
    if not inputs:
        raise InputError("no input was given; expected NAME=PATH for at least one input")
    for name, path in inputs:
        if name not in known:
            raise InputError(
                f"{name}={path}: no input is named {name}; expected one of {', '.join(sorted(known))}"
            )
    given = {name for name, _ in inputs}
    for one in candidates:
        if not given & one.config.inputs.keys():
            got, own = (", ".join(sorted(names)) for names in (given, one.config.inputs))
            raise InputError(
                f"{one.name} reads nothing of {got}; expected a file for one of its inputs: {own}"
            )


def _own_inputs(config: Config, inputs: InputLocations) -> InputLocations:
    """Those of the inputs that the configuration has."""
    return [one for one in inputs if one[0] in config.inputs]


def _partitioned_alike(candidates: Sequence[Candidate], given: AbstractSet[str]) -> bool:
    """Whether all cut the inputs that they share into the same partitions, so that an event has one
    position in all. Raises InputError where they do not, and its id is its position."""
    alike = True
    for name in sorted(given):
        specs = [one.config.inputs[name] for one in candidates if name in one.config.inputs]
        partitionings = {(spec.partitions, spec.keyed_by, spec.partitioner) for spec in specs}
        if len(partitionings) > 1:
            alike = False
            if any(_id_is_position(spec) for spec in specs):
                raise InputError(
                    f"inputs.{name}: its event ids are positions, and the configurations cut it into "
                    "different partitions: no event could be found in both; expected the same "
                    "partitions, keyed_by and partitioner in all"
                )
    return alike


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
        (one.no_evaluation_reason for one in summaries if one.no_evaluation_reason), None
    )
    if not all(one.evaluation and one.evaluation.events_known for one in summaries):
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
    settings = list(_settings(configs))
    return Comparison(
        conclusion=" ".join(f"{one.conclusion}. {one.alert_volume}." for one in pairs),
        no_evaluation_reason=no_evaluation_reason,
        first_event_time=first.first_event_time,
        last_event_time=first.last_event_time,
        evaluated_from=first.evaluation_span.from_time,
        evaluated_until=first.evaluation_span.until_time,
        settings=settings[:SETTINGS_MAX],
        settings_differing=len(settings),
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


def _settings(configs: Sequence[Config]) -> list[SettingDifference]:
    """Where the configurations differ in what steers the fold; no secret is among it."""
    leaves = [
        dict(
            _settings_of(
                "",
                msgspec.to_builtins(
                    {
                        "inputs": one.inputs,
                        "limits": one.limits,
                        "monitors": {m.name: m for m in one.monitors},
                        "assess": one.assess,
                    }
                ),
            )
        )
        for one in configs
    ]
    places = dict.fromkeys(where for one in leaves for where in one)
    found = (
        SettingDifference(key=where, values=[one.get(where) for one in leaves]) for where in places
    )
    return [one for one in found if len(set(one.values)) > 1]


def _settings_of(where: str, value: Any) -> Iterator[tuple[str, str]]:
    """Every value of a document by its key path."""
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _settings_of(f"{where}.{name}" if where else name, inner)
    elif isinstance(value, list) and value:
        for index, inner in enumerate(value):
            yield from _settings_of(f"{where}[{index}]", inner)
    elif value is not None:
        yield where, msgspec.json.encode(value).decode()


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
