"""Commands on recorded events: `eddy replay`."""

from pathlib import Path
from typing import Annotated

import typer

from stream.cli.apps import ConfigPath, app
from stream.errors import InputError


@app.command()
def replay(
    config: ConfigPath,
    inputs: Annotated[
        list[str],
        typer.Option(
            "--input",
            metavar="NAME=PATH",
            help="An input of the configuration and a file of it: Parquet, CSV (named .csv), "
            "NDJSON or an access log, plain, gzip or zstd; or a folder, a glob, or an address such "
            "as s3://bucket/2026-03-*.parquet. May be repeated, also for the same input: its files "
            "are merged by event time. Or kafka://TOPIC?from=...&until=... with offsets or ISO "
            "times, the broker from the configuration; an internal topic under its monitor's name.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for alerts, scores and summary.")],
) -> None:
    """Run recorded events through the stages that run live, and write every score; needs no Kafka.

    Example: eddy replay handbook.toml --input transaction=handbook.parquet --out out/handbook
    """
    from rich.console import Console
    from rich.progress import Progress, TimeElapsedColumn

    from stream import replay as replaying
    from stream.config import load

    pairs = [_name_and_path(text) for text in inputs]
    columns = (*Progress.get_default_columns(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("replay", total=1.0)

        def show(records: int, share: float) -> None:
            bar.update(task, completed=share, description=f"{records:,} records")

        summary = replaying.replay(load(config), pairs, out, show)
    typer.echo(f"{summary.events:,} events in {summary.seconds:.1f} s, results in {out}")
    if summary.dead_letters:
        typer.echo(
            f"{summary.dead_letters:,} dead letters, each with its reason: {out}/dead_letters.ndjson"
        )
    late = sum(counts.get("late", 0) for counts in summary.monitors.values())
    if late:
        typer.echo(f"{late:,} events older than their entity's last; they were scored as late")


def _name_and_path(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise InputError(f'--input: got "{text}"; expected NAME=PATH')
    return name, path
