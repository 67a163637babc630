"""Commands on recorded events: `eddy replay`, `eddy compare`."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stream.cli.apps import app
from stream.errors import InputError
from stream.formatting import escape_control_characters
from stream.location import hide_credentials

if TYPE_CHECKING:
    from stream.config import Config
    from stream.evaluation.results import Evaluation
    from stream.replay import Summary, TimeSplit

Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar="NAME=PATH",
        help="An input of the configuration and a file of it: Parquet, CSV (named .csv), "
        "NDJSON or an access log, plain, gzip or zstd; or a folder, a glob, a pipe (- is standard "
        "input), or an address such as s3://bucket/2026-03-*.parquet. May be repeated, also for the "
        "same input: its files are merged by event time. Or kafka://TOPIC?from=...&until=... with offsets or ISO "
        "times, the broker from the configuration; an internal topic under its monitor's name.",
    ),
]
Labels = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATH",
        help="Confirmed verdicts: a file, an address or a topic, as for --input, mapped by the input of type label (NAME=PATH where "
        "there are several; Eddy's own shape where there is none): joined to the events by id, "
        "known to the models only from its own time on.",
    ),
]
WarmUp = Annotated[
    str | None,
    typer.Option(
        metavar="DURATION",
        help="Judge nothing for so long from the first event on, such as 30d: it is learned.",
    ),
]
ScoreFrom = Annotated[
    str | None,
    typer.Option(
        metavar="TIME", help="Judge events from this time on (ISO 8601); learn those before."
    ),
]
ScoreUntil = Annotated[
    str | None,
    typer.Option(metavar="TIME", help="Judge events before this time; learn those behind."),
]


@app.command()
def replay(
    config: Annotated[
        Path | None, typer.Argument(metavar="CONFIG", help="The configuration, TOML.")
    ] = None,
    inputs: Inputs = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for alerts, scores, summary and manifest. With --again: by default the "
            "former run's folder with -again behind its name."
        ),
    ] = None,
    jobs: Annotated[int | None, typer.Option(hidden=True)] = None,
    again: Annotated[
        Path | None,
        typer.Option(
            metavar="MANIFEST",
            help="Run once more what a manifest.json says, and compare every byte: exit code 1 "
            "where one differs. Instead of --input; CONFIG only gives the secret and the broker, "
            "where the run had them.",
        ),
    ] = None,
    labels: Labels = None,
    warm_up: WarmUp = None,
    score_from: ScoreFrom = None,
    score_until: ScoreUntil = None,
    save_state: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Save what was learned in this empty folder or object store, for `eddy run` to "
            "begin with (checkpoints.start_from).",
        ),
    ] = None,
    features: Annotated[
        bool,
        typer.Option(
            "--features",
            help="Also write features.parquet: every event's features as known then, for training "
            "elsewhere.",
        ),
    ] = False,
) -> None:
    """Run recorded events through the stages that run live, and write every score; needs no Kafka.

    Exit code 2 where there were records and none became an event; inputs without a record are
    warned of, with exit code 0.

    Example: eddy replay handbook.toml --input transaction=handbook.parquet --out out/handbook
    """
    from stream import replay as replaying
    from stream.config import label_inputs, load
    from stream.replay.inputs import with_label_input
    from stream.report.run import render_run

    if jobs is not None:
        raise InputError(
            "--jobs: was removed: a replay runs in one process, because passing events between "
            "several took as long as they saved; expected the command without it"
        )
    if again is not None:
        options = {
            "--input": inputs,
            "--labels": labels,
            "--warm-up": warm_up,
            "--score-from": score_from,
            "--score-until": score_until,
            "--save-state": save_state,
            "--features": features,
        }
        if given := [option for option, value in options.items() if value]:
            raise InputError(
                f"--again: the manifest says what is run; expected no {' and no '.join(given)}"
            )
        _rerun(again, load(config) if config else None, out)
        return
    if config is None or out is None:
        raise InputError("expected CONFIG, --input and --out, or --again MANIFEST")
    pairs = [_name_and_path(text) for text in inputs or ()]
    loaded = load(config)
    if labels and save_state is not None and not label_inputs(loaded):
        raise InputError(
            f"--save-state beside --labels: {config} has no input of type label, so live, which "
            "starts from that state, would have none to go on with; expected an [inputs.…] of "
            'type = "label" in it, or --save-state without --labels: nothing here learns from them'
        )
    loaded = with_label_input(loaded) if labels else loaded
    label_pairs = [parse_labels_option(loaded, text) for text in labels or ()]
    split = _split(warm_up, score_from, score_until)
    _warn_about_secret(config, loaded)
    with _progress("replay") as show:
        summary = replaying.replay(
            *(loaded, pairs, out, show, label_pairs, split, save_state),
            features=features,
            render=render_run,
        )
    _print_summary(summary, out)
    if save_state is not None:
        address = hide_credentials(save_state)
        typer.echo(f'state saved: begin with it by checkpoints.start_from = "{address}"')
    _require_events(summary)


def _warn_about_secret(path: Path, config: "Config") -> None:
    from stream.config import secret_problem

    if warning := secret_problem(config):
        typer.echo(f"warning: {path}: {warning}", err=True)


def _rerun(of: Path, given: "Config | None", out: Path | None) -> None:
    """Run once more, and say what differs."""
    from stream import replay as replaying
    from stream.replay import manifest
    from stream.replay.run_files import TIMING_FILES
    from stream.report.run import render_run

    found = manifest.read(of)
    folder = (of if of.is_dir() else of.parent).absolute()
    target = out or folder.with_name(f"{folder.name}-again")
    if target.resolve() == folder.resolve():
        raise InputError(f"--out {target}: there lies the run itself; expected another folder")
    for line in manifest.code_differences(found):
        typer.echo(f"other code than then: {line}")
    with _progress("replay") as show:
        repeated = replaying.rerun(found, given, target, show, render_run)
    _print_summary(repeated.summary, target)
    if repeated.changed_files:
        typer.echo(f"not the same bytes: {', '.join(repeated.changed_files)}")
        raise typer.Exit(1)
    timed = " and ".join(sorted(TIMING_FILES))
    typer.echo(f"the same bytes in every file (but {timed}, which say how long it took)")


def _require_events(summary: "Summary") -> None:
    """Raise InputError where there were records and not one became an event. Inputs without any
    record are no error: an hour in which nothing happened is a file, too."""
    dead_letters = sum(
        count
        for counts in summary.inputs.values()
        for what, count in counts.items()
        if what.startswith("dead_letter_")
    )
    if dead_letters and not summary.events:
        raise InputError(
            f"none of {dead_letters:,} records became an event, see above; expected an input's mapping "
            "to be that of its file: compare [inputs.….fields] with a record in dead_letters.ndjson"
        )


def _print_summary(summary: "Summary", out: Path) -> None:
    """Say what a run led to."""
    typer.echo(f"{summary.events:,} events in {summary.seconds:.1f} s, results in {out}")
    if not summary.events:
        typer.echo("warning: no event was read; expected files with rows that the mapping reads")
    typer.echo(_describe_topics(summary), nl=False)
    typer.echo(_describe_time_split(summary))
    duplicates = sum(counts.get("duplicate", 0) for counts in summary.inputs.values())
    if duplicates:
        typer.echo(f"{duplicates:,} duplicates, of an id that came shortly before; left out")
    if summary.dead_letters:
        typer.echo(
            f"{summary.dead_letters:,} dead letters, each with its reason: {out}/dead_letters.ndjson"
        )
    for name, counts in summary.labels.items():
        typer.echo(f"{name}: {_describe_labels(counts)}")
        if not counts["joined"] + counts["with_entity"] + counts["event_without_entity"]:
            typer.echo(
                f"warning: no label of {name} is of these events; expected the same event ids"
            )
    if summary.evaluation is not None:
        typer.echo(_describe_evaluation(summary.evaluation))
    late = {name: n for name, counts in summary.monitors.items() if (n := counts.get("late", 0))}
    if late:
        each = ", ".join(f"{count:,} by {name}" for name, count in late.items())
        typer.echo(f"events older than their entity's last, scored as late: {each}")
    for note in summary.notes:
        typer.echo(escape_control_characters(f"note: {note}"))


@app.command()
def compare(
    configs: Annotated[
        list[Path],
        typer.Argument(
            metavar="CONFIG CONFIG…",
            help="Configurations in TOML, two or more; the others are held against the first.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            help="Folder for the comparison, and in it one for every configuration's run."
        ),
    ],
    inputs: Inputs = None,
    labels: Labels = None,
    warm_up: WarmUp = None,
    score_from: ScoreFrom = None,
    score_until: ScoreUntil = None,
) -> None:
    """Run several configurations over the same recorded events in one pass, and say which is
    better; needs no Kafka.

    Example: eddy compare today.toml new.toml --input shop=march.parquet --out out/compared
    """
    from stream.config import load
    from stream.replay import compare_runs
    from stream.replay.inputs import with_label_input
    from stream.report.comparison import render_comparison
    from stream.report.run import render_run

    loaded = [load(path) for path in configs]
    for path, one in zip(configs, loaded, strict=True):
        _warn_about_secret(path, one)
    if labels:
        loaded = [with_label_input(one, loaded) for one in loaded]
    candidates = [
        compare_runs.Candidate(name, one, [parse_labels_option(one, text) for text in labels or ()])
        for name, one in zip(_names(configs), loaded, strict=True)
    ]
    pairs = [_name_and_path(text) for text in inputs or ()]
    split = _split(warm_up, score_from, score_until)
    renderers = compare_runs.Renderers(render_run, render_comparison)
    with _progress("compare") as show:
        compared = compare_runs.compare(candidates, pairs, out, show, split, renderers)
    for pair in compared.pairs:
        typer.echo(f"{pair.conclusion}: {pair.reason}\n  {pair.alert_volume}")
    typer.echo(f"The page is {out / 'index.html'}")


def _names(configs: list[Path]) -> list[str]:
    """A folder's name for each configuration: its file's, in plain letters, with a number where
    that is not its alone."""
    names: list[str] = []
    for path in configs:
        plain = re.sub(r"[^A-Za-z0-9_-]+", "-", path.stem).strip("-") or "configuration"
        count = 1
        while (name := plain if count == 1 else f"{plain}-{count}") in names:
            count += 1
        names.append(name)
    return names


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int, float], None]]:
    """A bar on standard error, and what it is to be told."""
    from rich.console import Console
    from rich.progress import Progress, TimeElapsedColumn

    columns = (*Progress.get_default_columns(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=1.0)

        def show(records: int, share: float) -> None:
            bar.update(task, completed=share, description=f"{records:,} records")

        yield show


def _describe_labels(counts: dict[str, int]) -> str:
    """What became of a label file, in a line."""
    parts = f"{counts['read']:,} labels, {counts['joined']:,} joined to their events"
    of_few = {
        "with_entity": "named an entity themselves",
        "unknown_event": "of events that are not there",
        "event_without_entity": "of events without an entity that learns from labels",
        "unclear": "neither fraud nor honest, left out",
        "dead_letters": "unreadable",
        "before_event": "known before their event, counted from behind it",
        "after_last_event": "known only after the last event: to judge by, not to learn from",
        "ambiguous": "of an id that several events have, the first of them meant",
    }
    return ", ".join([parts, *(f"{counts[k]:,} {text}" for k, text in of_few.items() if counts[k])])


def _describe_topics(summary: "Summary") -> str:
    """That events count more than once, where several topics that hold them were replayed; a line,
    or nothing."""
    internal = summary.monitors.keys() - summary.adds_up.keys() - {"assess"}
    if not internal or len(internal) + len(summary.inputs) == 1:
        return ""
    return (
        f"warning: an event that lies in several of these topics counts in each, and has a row in "
        f"scores.parquet for each (internal: {', '.join(sorted(internal))}); alerts do not\n"
    )


def _describe_time_split(summary: "Summary") -> str:
    """Which events of a replay are judged, and their alerts, in a line."""
    evaluation = summary.evaluation_span
    raised = f"{summary.alerts_published:,} alerts in {summary.incidents_opened:,} incidents"
    if evaluation.from_time is None and evaluation.until_time is None:
        return raised
    bounds = (("from", evaluation.from_time), ("before", evaluation.until_time))
    parts = " and ".join(f"{word} {time}" for word, time in bounds if time)
    line = f"judged: {evaluation.events:,} events {parts}, {raised}; all others only learned"
    if evaluation.events:
        return line
    return f"{line}\nwarning: no event lies in the time that is judged; expected a time within them"


def _split(warm_up: str | None, score_from: str | None, score_until: str | None) -> "TimeSplit":
    """The time split that the options ask for."""
    from stream.replay import TimeSplit

    return TimeSplit(
        parse_duration_option("--warm-up", warm_up),
        parse_time_ms("--score-from", score_from),
        parse_time_ms("--score-until", score_until),
    )


def _describe_evaluation(evaluation: "Evaluation") -> str:
    """The headline figures, in a line."""
    view, level = evaluation.views[0], evaluation.level
    ranked = view.levels[level]
    figures = (
        ("AUC", ranked.roc_auc),
        ("average precision", ranked.average_precision),
        (f"precision of {level} with an alert", ranked.precision),
        ("recall of alerted", ranked.recall),
        ("precision of incidents", view.levels["incidents"].precision),
        ("amount caught", view.amount.caught_share),
    )
    parts = [
        f"{name} {one.value:.3f}"
        + (f" ({one.low:.3f} to {one.high:.3f})" if one.low is not None else "")
        for name, one in figures
        if one.value is not None
    ]
    caught = (
        f", {evaluation.frauds - evaluation.missed.frauds:,} caught"
        if evaluation.events_known
        else ""
    )
    return f"{ranked.frauds:,} frauds in {ranked.count:,} {level}{caught}: {', '.join(parts)}"


def parse_duration_option(option: str, text: str | None) -> float | None:
    """Seconds of an option's duration, where it is given. Raises InputError."""
    from detectors.spec import seconds

    try:
        return None if text is None else seconds(text)
    except ValueError as error:
        raise InputError(f"{option}: {error}") from error


def parse_time_ms(option: str, text: str | None) -> int | None:
    """Milliseconds since 1970 of an option's time, where it is given. Raises InputError."""
    from stream import clock

    try:
        return None if text is None else clock.parse_time_ms(text)
    except ValueError as error:
        raise InputError(
            f'{option}: got "{text}"; expected a time such as 2026-03-01 or 2026-03-01T12:00:00Z'
        ) from error


def parse_labels_option(config: "Config", text: str) -> tuple[str, str]:
    """The input and the file, or the address, that --labels means."""
    from stream.config import label_inputs

    known = label_inputs(config)
    name, equals, place = text.partition("=")
    if equals and place and name in known:
        return name, place
    if len(known) == 1:
        return known[0], text
    raise InputError(f'--labels: got "{text}"; expected NAME=PATH, NAME one of {", ".join(known)}')


def _name_and_path(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise InputError(f'--input: got "{text}"; expected NAME=PATH')
    return name, path
