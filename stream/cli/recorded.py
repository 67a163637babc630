"""Commands on recorded events: `eddy replay`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from stream.cli.apps import app
from stream.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from stream.config import Config
    from stream.replay import Progress, Summary

T = TypeVar("T")


@app.command()
def replay(
    config: Annotated[
        Path | None, typer.Argument(metavar="CONFIG", help="The configuration, TOML.")
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="NAME=PATH",
            help="An input of the configuration and a file of it: Parquet, CSV (named .csv), "
            "NDJSON or an access log, plain, gzip or zstd; or a folder, a glob, or an address such "
            "as s3://bucket/2026-03-*.parquet. May be repeated, also for the same input: its files "
            "are merged by event time. Or kafka://TOPIC?from=...&until=... with offsets or ISO "
            "times, the broker from the configuration; an internal topic under its monitor's name.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for alerts, scores, summary and manifest. With --again: by default the "
            "former run's folder with -again behind its name."
        ),
    ] = None,
    again: Annotated[
        Path | None,
        typer.Option(
            metavar="MANIFEST",
            help="Run once more what a manifest.json says, and compare every byte: exit code 1 "
            "where one differs. Instead of --input; CONFIG only gives the secret and the broker, "
            "where the run had them.",
        ),
    ] = None,
) -> None:
    """Run recorded events through the stages that run live, and write every score; needs no Kafka.

    Example: eddy replay handbook.toml --input transaction=handbook.parquet --out out/handbook
    """
    from stream import replay as replaying
    from stream.config import load

    if again is not None:
        if inputs:
            raise InputError("--again: the manifest says what is read; expected no --input")
        _again(again, load(config) if config else None, out)
        return
    if config is None or out is None:
        raise InputError("expected CONFIG, --input and --out, or --again MANIFEST")
    pairs = [_name_and_path(text) for text in inputs or ()]
    loaded = load(config)
    _tell(_showing(lambda show: replaying.replay(loaded, pairs, out, show)), out)


def _again(of: Path, given: "Config | None", out: Path | None) -> None:
    """Run once more, and say what differs."""
    from stream import replay as replaying
    from stream.replay import manifest

    found = manifest.read(of)
    folder = (of if of.is_dir() else of.parent).absolute()
    target = out or folder.with_name(f"{folder.name}-again")
    for line in manifest.code_differences(found):
        typer.echo(f"other code than then: {line}")
    repeated = _showing(lambda show: replaying.again(found, given, target, show))
    _tell(repeated.summary, target)
    if repeated.files:
        typer.echo(f"not the same bytes: {', '.join(repeated.files)}")
        raise typer.Exit(1)
    typer.echo("the same bytes in every file (but summary.json, which says how long it took)")


def _showing(run: "Callable[[Progress], T]") -> "T":
    """What a run returns, its progress being shown meanwhile."""
    from rich.console import Console
    from rich.progress import Progress, TimeElapsedColumn

    columns = (*Progress.get_default_columns(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("replay", total=1.0)

        def show(records: int, share: float) -> None:
            bar.update(task, completed=share, description=f"{records:,} records")

        return run(show)


def _tell(summary: "Summary", out: Path) -> None:
    """Say what a run led to."""
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
