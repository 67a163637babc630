"""Commands on recorded events: `eddy replay`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stream.cli.apps import ConfigPath, app
from stream.errors import InputError

if TYPE_CHECKING:
    from stream.config import Config


@app.command()
def replay(
    config: ConfigPath,
    inputs: Annotated[
        list[str],
        typer.Option(
            "--input",
            metavar="NAME=PATH",
            help="An input of the configuration and its file: Parquet, NDJSON or an access log, "
            "plain, gzip or zstd. May be repeated.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for alerts, scores and summary.")],
    labels: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATH",
            help="A file of confirmed verdicts, mapped by the input of type label (NAME=PATH where "
            "there are several): joined to the events by id, known to the models only from its own "
            "time on.",
        ),
    ] = None,
) -> None:
    """Run recorded events through the stages that run live, and write every score; needs no Kafka.

    Example: eddy replay handbook.toml --input transaction=handbook.parquet --out out/handbook
    """
    from rich.console import Console
    from rich.progress import Progress, TimeElapsedColumn

    from stream import replay as replaying
    from stream.config import load

    loaded = load(config)
    pairs = [_name_and_path(text) for text in inputs]
    label_pairs = [labels_of(loaded, text) for text in labels or ()]
    columns = (*Progress.get_default_columns(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("replay", total=1.0)

        def show(records: int, share: float) -> None:
            bar.update(task, completed=share, description=f"{records:,} records")

        summary = replaying.replay(loaded, pairs, out, show, label_pairs)
    typer.echo(f"{summary.events:,} events in {summary.seconds:.1f} s, results in {out}")
    if summary.dead_letters:
        typer.echo(
            f"{summary.dead_letters:,} dead letters, each with its reason: {out}/dead_letters.ndjson"
        )
    for name, counts in summary.labels.items():
        typer.echo(f"{name}: {_said_of_labels(counts)}")
    late = sum(counts.get("late", 0) for counts in summary.monitors.values())
    if late:
        typer.echo(f"{late:,} events older than their entity's last: is the file in time order?")


def _said_of_labels(counts: dict[str, int]) -> str:
    """What became of a label file, in a line."""
    said = f"{counts['read']:,} labels, {counts['joined']:,} joined to their events"
    of_few = {
        "named": "named an entity themselves",
        "unknown_event": "of events that are not there",
        "of_nobody": "of events without an entity that learns from labels",
        "dead_letters": "unreadable",
        "before_their_event": "known before their event, counted from behind it",
    }
    return ", ".join([said, *(f"{counts[k]:,} {text}" for k, text in of_few.items() if counts[k])])


def labels_of(config: "Config", text: str) -> tuple[str, Path]:
    """The input and the file that --labels means."""
    from stream.config import label_inputs

    known = label_inputs(config)
    name, equals, path = text.partition("=")
    if equals and path and name in known:
        return name, Path(path)
    if len(known) == 1:
        return known[0], Path(text)
    if not known:
        raise InputError(
            '--labels: the configuration has no input of type = "label"; expected one that says '
            "where event id, verdict and time are"
        )
    raise InputError(f'--labels: got "{text}"; expected NAME=PATH, NAME one of {", ".join(known)}')


def _name_and_path(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise InputError(f'--input: got "{text}"; expected NAME=PATH')
    return name, Path(path)
