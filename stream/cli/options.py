"""Options that several commands share, and the parsers of their values."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stream.errors import InputError

if TYPE_CHECKING:
    from stream.config import Config
    from stream.replay import TimeSplit

Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar="NAME=PATH",
        help="An input of the configuration and where its records are: a file (Parquet, CSV named "
        ".csv, NDJSON or an access log; plain, gzip or zstd), a folder, a glob, a pipe (- is "
        "standard input), or an address such as s3://bucket/2026-03-*.parquet. May be repeated; "
        "several files of one input are merged by event time. Or kafka://TOPIC?from=...&until=... "
        "with offsets or ISO times, on the configured brokers. For an internal topic, NAME is the "
        "monitor that reads it.",
    ),
]
Labels = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATH",
        help="Labels (confirmed fraud or honest): a file, an address or a topic, as for --input. "
        "They are mapped by the configuration's input of type label (NAME=PATH if there are "
        "several; if there is none, they must have Eddy's own field names), joined to the events "
        "by id, and reach the models only at their own time. Needs DuckDB: pip install "
        "'eddywatch[backtest]'.",
    ),
]
WarmUp = Annotated[
    str | None,
    typer.Option(
        metavar="DURATION",
        help="Do not evaluate events in this period after the first event, such as 30d; models still "
        "learn from them.",
    ),
]
ScoreFrom = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        help="Evaluate only events from this time on (ISO 8601). Earlier ones are still learned.",
    ),
]
ScoreUntil = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        help="Evaluate only events before this time. Later ones are still learned.",
    ),
]


def parse_duration_option(option: str, text: str | None) -> float | None:
    """Seconds of a duration option; None where it is not given. Raises InputError."""
    from detectors.spec import seconds

    try:
        return None if text is None else seconds(text)
    except ValueError as error:
        raise InputError(f"{option}: {error}") from error


def parse_time_option(option: str, text: str | None) -> int | None:
    """Milliseconds since 1970 of a time option; None where it is not given. Raises InputError."""
    from stream.clock import parse_time_ms

    try:
        return None if text is None else parse_time_ms(text)
    except ValueError as error:
        raise InputError(
            f'{option}: got "{text}"; expected a time such as 2026-03-01 or 2026-03-01T12:00:00Z'
        ) from error


def parse_labels_option(config: "Config", text: str) -> tuple[str, str]:
    """The input and the location that a value of --labels names. Raises InputError."""
    from stream.config import label_inputs

    names = label_inputs(config)
    name, equals, location = text.partition("=")
    if equals and location and name in names:
        return name, location
    if len(names) == 1:
        return names[0], text
    raise InputError(f'--labels: got "{text}"; expected NAME=PATH, NAME one of {", ".join(names)}')


def parse_input_option(text: str) -> tuple[str, str]:
    """The input and the location that a value of --input names. Raises InputError."""
    name, equals, location = text.partition("=")
    if not (name and equals and location):
        raise InputError(f'--input: got "{text}"; expected NAME=PATH')
    return name, location


def time_split(warm_up: str | None, score_from: str | None, score_until: str | None) -> "TimeSplit":
    """Which events to evaluate, by the options."""
    from stream.replay import TimeSplit

    return TimeSplit(
        parse_duration_option("--warm-up", warm_up),
        parse_time_option("--score-from", score_from),
        parse_time_option("--score-until", score_until),
    )


def warn_about_secret(path: Path, config: "Config") -> None:
    """Print a warning where the configuration's secret is too weak for a live worker."""
    from stream.config import secret_problem

    if warning := secret_problem(config):
        typer.echo(f"warning: {path}: {warning}", err=True)


@contextmanager
def progress_bar(label: str) -> Iterator[Callable[[int, float], None]]:
    """A progress bar on standard error; yields the function that takes the number of records read
    and the share of the inputs that was read."""
    from rich.console import Console
    from rich.progress import Progress, TimeElapsedColumn

    columns = (*Progress.get_default_columns(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(label, total=1.0)

        def show(records: int, share: float) -> None:
            bar.update(task, completed=share, description=f"{records:,} records")

        yield show
