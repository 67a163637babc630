"""Commands on recorded events: `eddy replay`, `eddy compare`."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from stream.cli.apps import ConfigPath, app
from stream.errors import InputError

Inputs = Annotated[
    list[str],
    typer.Option(
        "--input",
        metavar="NAME=PATH",
        help="An input of the configuration and a file of it: Parquet, CSV (named .csv), "
        "NDJSON or an access log, plain, gzip or zstd; or a folder, a glob, or an address such "
        "as s3://bucket/2026-03-*.parquet. May be repeated, also for the same input: its files "
        "are merged by event time.",
    ),
]


@app.command()
def replay(
    config: ConfigPath,
    inputs: Inputs,
    out: Annotated[Path, typer.Option(help="Folder for alerts, scores and summary.")],
) -> None:
    """Run recorded events through the stages that run live, and write every score; needs no Kafka.

    Example: eddy replay handbook.toml --input transaction=handbook.parquet --out out/handbook
    """
    from stream import replay as replaying
    from stream.config import load

    pairs = [_name_and_path(text) for text in inputs]
    with _progress("replay") as show:
        summary = replaying.replay(load(config), pairs, out, show)
    typer.echo(f"{summary.events:,} events in {summary.seconds:.1f} s, results in {out}")
    if summary.dead_letters:
        typer.echo(
            f"{summary.dead_letters:,} dead letters, each with its reason: {out}/dead_letters.ndjson"
        )
    late = sum(counts.get("late", 0) for counts in summary.monitors.values())
    if late:
        typer.echo(f"{late:,} events older than their entity's last; they were scored as late")


@app.command()
def compare(
    configs: Annotated[
        list[Path],
        typer.Argument(
            metavar="CONFIG CONFIG…",
            help="Configurations in TOML, two or more; the others are held against the first.",
        ),
    ],
    inputs: Inputs,
    out: Annotated[
        Path,
        typer.Option(
            help="Folder for the comparison, and in it one for every configuration's run."
        ),
    ],
) -> None:
    """Run several configurations over the same recorded events in one pass, and say which is
    better; needs no Kafka.

    Example: eddy compare today.toml new.toml --input shop=march.parquet --out out/compared
    """
    from stream.config import load
    from stream.replay.comparing import compare as run_all

    loaded = [(name, load(path)) for name, path in zip(_names(configs), configs, strict=True)]
    pairs = [_name_and_path(text) for text in inputs]
    with _progress("compare") as show:
        compared = run_all(loaded, pairs, out, show)
    for pair in compared.pairs:
        typer.echo(f"{pair.verdict}: {pair.because}")
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


def _name_and_path(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise InputError(f'--input: got "{text}"; expected NAME=PATH')
    return name, path
