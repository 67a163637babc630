"""Commands that ask runs: `eddy query`, `eddy top`, `eddy explain`."""

import csv
import sys
from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import orjson
import typer

from stream.cli.apps import app
from stream.errors import QueryError

if TYPE_CHECKING:
    from stream.judging.asking import Answer, Explanation

TABLE_ROWS_MAX: Final = 1_000
"""Rows of a table for the eye; csv and json have them all."""
Format = Literal["table", "csv", "json"]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="A folder that eddy replay wrote.")]
FormatOption = Annotated[
    Format, typer.Option("--format", help="json: one object a line.", show_default=True)
]


@app.command()
def query(
    arguments: Annotated[
        list[str], typer.Argument(metavar="RUN… SQL", help="Runs, and one SELECT over them.")
    ],
    format_: FormatOption = "table",
    columns: Annotated[
        bool, typer.Option("--columns", help="Show the tables and what their columns mean; no SQL.")
    ] = False,
) -> None:
    """Ask runs in SQL (DuckDB). Tables: scores, alerts, incidents, labels and frauds (with labels),
    missed (the frauds not caught), features (with --features); the column run says which run.

    The ten accounts with the most value behind missed fraud:

    Example: eddy query out/shop "SELECT account, sum(amount) AS missed FROM missed GROUP BY account
    ORDER BY missed DESC LIMIT 10"
    """
    from stream.judging import asking

    if columns:
        listed = asking.columns([Path(run) for run in arguments])
        show(asking.Answer([*asking.Column._fields], iter(listed)), format_)
        return
    *runs, sql = arguments
    if not runs:
        raise QueryError('expected at least one run, then SQL: eddy query out/shop "SELECT …"')
    with asking.opened([Path(run) for run in runs]) as tables:
        show(tables.ask(sql), format_)


@app.command()
def top(
    run: RunPath,
    by: Annotated[
        Literal["score", "alerts", "amount", "missed"],
        typer.Option(
            help="The highest score of an alert, the number of alerts, the amount in incidents, or "
            "the amount of frauds that were missed."
        ),
    ] = "score",
    entity: Annotated[
        str | None, typer.Option(help="Only this type of entity, such as account.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many.")] = 10,
    format_: FormatOption = "table",
) -> None:
    """Show the entities of a run that come first, by what happened in the time that is judged.

    Example: eddy top out/shop --by missed --entity account
    """
    from stream.judging import asking

    with asking.opened([run]) as tables:
        show(tables.top(by, entity, limit), format_)


@app.command()
def explain(
    run: RunPath,
    what: Annotated[
        str, typer.Argument(metavar="ALERT|ENTITY", help="An alert, an incident or an entity.")
    ],
) -> None:
    """Say why an alert was raised, what belongs to it, and what its entity did.

    Of an entity the alert with the highest score is explained, of the judged ones if there are any.

    Example: eddy explain out/shop acct-1186
    """
    from stream.judging import asking

    with asking.opened([run]) as tables:
        _print_explanation(tables.explain(what))


def show(answer: "Answer", format_: Format) -> None:
    """Print an answer."""
    if format_ == "table":
        _print_table(answer)
    elif format_ == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(answer.names)
        writer.writerows(map(_text, row) for row in answer.rows)
    else:
        for row in answer.rows:
            plain = {name: _plain(value) for name, value in zip(answer.names, row, strict=True)}
            typer.echo(orjson.dumps(plain))


def _print_table(answer: "Answer") -> None:
    from itertools import islice

    rows = list(islice(answer.rows, TABLE_ROWS_MAX + 1))
    _print_rows(answer.names, rows[:TABLE_ROWS_MAX])
    if len(rows) > TABLE_ROWS_MAX:
        typer.echo(f"the first {TABLE_ROWS_MAX:,} rows; --format csv and json have them all")


def _print_rows(names: list[str], rows: Iterable[Iterable[Any]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in names:
        table.add_column(name, overflow="fold")
    for row in rows:
        cells = [_cell(value) for value in row]
        numeric = [isinstance(value, int | float | Decimal) for value in row]
        table.add_row(
            *(
                Text(c, justify="right" if n else "left")
                for c, n in zip(cells, numeric, strict=True)
            )
        )
    console = Console()
    # what is piped has no width: nothing is folded then
    Console(width=console.width if console.is_terminal else 10_000).print(table)


def _print_explanation(found: "Explanation") -> None:
    alert, incident = found.alert, found.incident
    who = f"{alert['entity_type']} {alert['entity']}"
    odds = f"one in {1 / alert['p_value']:,.0f} honest events" if alert["p_value"] else ""
    typer.echo(f"{who}: {alert['severity']}, score {alert['score']:.2f} ({odds})")
    typer.echo(f"alert {alert['alert_id']}, {alert['monitor']}, at {_cell(alert['event_time'])}")
    typer.echo(
        f"event {alert['event_id']} ({alert['topic']}[{alert['partition']}] at {alert['offset']}); "
        f"recommended: {alert['action']} for {alert['ttl_s']:,} s ({alert['reason_code']})"
    )
    _print_rows(
        ["surprising", "seen", "expected", "its p", "share"],
        [
            (
                one["feature"],
                one["actual"],
                _expected(one["expected_low"], one["expected_high"]),
                one["p_value"],
                f"{one['share']:.0%}",
            )
            for one in alert["contributions"]
        ],
    )
    if alert["counterfactual"]:
        typer.echo(f"as expected, would not have alerted: {', '.join(alert['counterfactual'])}")
    for one in alert["related"]:
        typer.echo(f"with {one['type']} {one['id']}")
    typer.echo("")
    verdict = f", {incident['frauds']} of them fraud" if incident["frauds"] is not None else ""
    amount = f", amount {_cell(incident['amount'])}" if incident["amount"] is not None else ""
    typer.echo(
        f"incident {incident['incident_id']}: {_cell(incident['opened'])} to "
        f"{_cell(incident['last'])}, {incident['alerts']} alerts, {incident['suppressed']} only "
        f"counted, {incident['events']} events{verdict}{amount}"
    )
    names = ["event_time", "event_id", f"score_{alert['monitor']}", f"surprised_{alert['monitor']}"]
    names = [name for name in [*names, "amount"] if found.events and name in found.events[0]]
    _print_rows(names, [[row[name] for name in names] for row in found.events])
    others = [one for one in found.incidents if one["incident_id"] != incident["incident_id"]]
    if others:
        names = ["incident_id", "monitor", "opened", "last", "alerts", "top_score", "amount"]
        typer.echo(f"other incidents of {who}:")
        _print_rows(names, [[one[name] for name in names] for one in others])


def _expected(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{_cell(low)} to {_cell(high)}"


def _plain(value: Any) -> Any:
    """As JSON has it: times as ISO 8601, and what it has no number for as text."""
    if isinstance(value, datetime):
        return f"{value.isoformat(timespec='milliseconds')}Z"
    if isinstance(value, Decimal):
        return _plain(int(value)) if value == value.to_integral_value() else float(value)
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {_text(name): _plain(one) for name, one in value.items()}
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return str(value)
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _text(value: Any, *, short: bool = False) -> str:
    """As CSV has it: what is no single value as JSON, nothing where it is null. short: as a table
    has it, six digits or hundredths."""
    plain = _plain(value)
    if isinstance(plain, list | dict):
        return orjson.dumps(plain).decode()
    if short and isinstance(plain, float):
        return f"{plain:.6g}" if abs(plain) < 1e4 else f"{plain:.2f}"
    return "" if plain is None else str(plain)


def _cell(value: Any) -> str:
    return _text(value, short=True)
