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

from stream.cli.apps import ConfigPath, app
from stream.errors import QueryError
from stream.formatting import escape_control_characters

if TYPE_CHECKING:
    from stream.evaluation.queries import Explanation, QueryResult, UnalertedExplanation

TABLE_ROWS_MAX: Final = 1_000
"""Rows of a table for the eye; csv and json have them all."""
FEATURES_SHOWN: Final = 12
"""Of an event without an alert: those with the smallest p."""
FORMULA_STARTS: Final = ("=", "+", "-", "@", "\t")
"""A spreadsheet takes a text that begins so for a formula; `escape_control_characters` leaves no other such start."""
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
    from stream.evaluation import queries

    if columns:
        listed = queries.columns([Path(run) for run in arguments])
        print_answer(queries.QueryResult([*queries.Column._fields], iter(listed)), format_)
        return
    *runs, sql = arguments
    if not runs:
        raise QueryError('expected at least one run, then SQL: eddy query out/shop "SELECT …"')
    with queries.open_runs([Path(run) for run in runs]) as tables:
        print_answer(tables.query(sql), format_)


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
    from stream.evaluation import queries

    with queries.open_runs([run]) as tables:
        print_answer(tables.top(by, entity, limit), format_)


@app.command()
def explain(
    run: RunPath,
    what: Annotated[
        str, typer.Argument(metavar="ID", help="An alert, an incident, an event or an entity.")
    ],
) -> None:
    """Explain an alert, an event or an entity of a run.

    Of an entity the alert with the highest score is explained, of the judged ones if there are any.
    Without an alert: each monitor's report on the event, or on the entity's most surprising event.

    Example: eddy explain out/shop acct-1186
    """
    from stream.evaluation import queries

    with queries.open_runs([run]) as tables:
        found = tables.explain(what)
        if isinstance(found, queries.UnalertedExplanation):
            _print_unalerted(found)
        else:
            _print_explanation(found)


@app.command(name="pseudonym")
def print_pseudonym(
    config: ConfigPath,
    field: Annotated[
        str, typer.Argument(metavar="TYPE", help="The entity's type, such as account.")
    ],
    entity: Annotated[str, typer.Argument(metavar="ID", help="The entity's raw id.")],
) -> None:
    """Print the pseudonym of an entity, as in alerts and tables.

    Pseudonyms are keyed with the configuration's secret: it must be the one of the run.

    Example: eddy pseudonym deploy/configs/shop.toml account acct-1186
    """
    import pyarrow as pa

    from detectors.numeric.hashing import hash_key, hash_text, pseudonym
    from schemas.codecs.checks import normalise_entity_id
    from schemas.events import ENTITY_FIELDS
    from stream.config import load

    if field not in ENTITY_FIELDS:
        raise QueryError(f"got type {field}; expected one of {', '.join(ENTITY_FIELDS)}")
    if not entity:
        raise QueryError(f"got an empty id; expected the raw id of one {field}")
    given = pa.array([normalise_entity_id(field, entity)], pa.string())
    hashed = hash_text(given, hash_key(load(config).secret))
    typer.echo(pseudonym(hashed[0]))


def print_answer(answer: "QueryResult", format_: Format) -> None:
    """Print an answer."""
    if format_ == "table":
        _print_table(answer)
    elif format_ == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(map(_csv_cell, answer.names))
        writer.writerows(map(_csv_cell, row) for row in answer.rows)
    else:
        for row in answer.rows:
            plain = {
                name: _json_value(value) for name, value in zip(answer.names, row, strict=True)
            }
            typer.echo(escape_control_characters(orjson.dumps(plain).decode()))


def _print_line(line: str) -> None:
    """Print one line that may hold texts from events."""
    typer.echo(escape_control_characters(line).replace("\n", "\\n"))


def _print_table(answer: "QueryResult") -> None:
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
        table.add_column(Text(escape_control_characters(name)), overflow="fold")
    for row in rows:
        cells = [_short_text(value) for value in row]
        numeric = [isinstance(value, int | float | Decimal) for value in row]
        table.add_row(
            *(
                Text(escape_control_characters(c), justify="right" if n else "left")
                for c, n in zip(cells, numeric, strict=True)
            )
        )
    console = Console()
    # what is piped has no width: nothing is folded then
    Console(width=console.width if console.is_terminal else 10_000).print(table)


def _print_explanation(found: "Explanation") -> None:
    alert, incident = found.alert, found.incident
    who = f"{alert['entity_type']} {alert['entity']}"
    rarity = f"one in {1 / alert['p_value']:,.0f} honest events" if alert["p_value"] else ""
    _print_line(f"{who}: {alert['severity']}, score {alert['score']:.2f} ({rarity})")
    _print_line(
        f"alert {alert['alert_id']}, {alert['monitor']}, at {_short_text(alert['event_time'])}"
    )
    _print_line(
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
        _print_line(f"as expected, would not have alerted: {', '.join(alert['counterfactual'])}")
    for one in alert["related"]:
        _print_line(f"with {one['type']} {one['id']}")
    _print_line("")
    verdict = f", {incident['frauds']} of them fraud" if incident["frauds"] is not None else ""
    amount = f", amount {_short_text(incident['amount'])}" if incident["amount"] is not None else ""
    _print_line(
        f"incident {incident['incident_id']}: {_short_text(incident['opened'])} to "
        f"{_short_text(incident['last'])}, {incident['alerts']} alerts, {incident['suppressed']} only "
        f"counted, {incident['events']} events{verdict}{amount}"
    )
    names = [
        "event_time",
        "event_id",
        f"score_{alert['monitor']}",
        f"surprising_{alert['monitor']}",
    ]
    names = [name for name in [*names, "amount"] if found.events and name in found.events[0]]
    _print_rows(names, [[row[name] for name in names] for row in found.events])
    others = [one for one in found.incidents if one["incident_id"] != incident["incident_id"]]
    if others:
        names = ["incident_id", "monitor", "opened", "last", "alerts", "top_score", "amount"]
        _print_line(f"other incidents of {who}:")
        _print_rows(names, [[one[name] for name in names] for one in others])


def _print_unalerted(found: "UnalertedExplanation") -> None:
    event = found.event
    if found.what == "event":
        twice = f", an id that {found.events:,} events have: the most surprising one"
        _print_line(f"event {event['event_id']}: no alert{twice if found.events > 1 else ''}")
    else:
        _print_line(
            f"{found.what} {event[found.what]}: no alert in {found.events:,} events from "
            f"{_short_text(found.first)} to {_short_text(found.last)}; its most surprising one:"
        )
    amount = f", amount {_short_text(event['amount'])}" if event["amount"] is not None else ""
    _print_line(
        f"event {event['event_id']} at {_short_text(event['event_time'])} ({event['topic']}"
        f"[{event['partition']}] at {event['offset']}){amount}: score {event['score']:.2f}"
    )
    reports = [
        (monitor, f"{score:.2f}", activity or "no alert", surprised or "")
        for monitor, score, activity, surprised in found.reports
    ]
    _print_rows(["monitor", "score", "policy", "features with p < 0.1"], reports)
    if found.features:
        _print_rows(["feature", "value", "its p"], found.features[:FEATURES_SHOWN])
    if found.fraud and found.fraud["gap"] is not None:
        _print_line(
            f"confirmed as fraud; nearest to an alert was {found.fraud['nearest']}, by "
            f"{found.fraud['gap']:.2f} of a score"
        )
    elif found.label:
        _print_line(f"labelled {found.label['verdict']}")


def _expected(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{_short_text(low)} to {_short_text(high)}"


def _json_value(value: Any) -> Any:
    """As JSON has it: times as ISO 8601, and what it has no number for as text."""
    if isinstance(value, datetime):
        return f"{value.isoformat(timespec='milliseconds')}Z"
    if isinstance(value, Decimal):
        return _json_value(int(value)) if value == value.to_integral_value() else float(value)
    if isinstance(value, list):
        return [_json_value(one) for one in value]
    if isinstance(value, dict):
        return {_cell_text(name): _json_value(one) for name, one in value.items()}
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return str(value)
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _cell_text(value: Any, *, short: bool = False) -> str:
    """As CSV has it: what is no single value as JSON, nothing where it is null. short: as a table
    has it, six digits or hundredths."""
    plain = _json_value(value)
    if isinstance(plain, list | dict):
        return orjson.dumps(plain).decode()
    if short and isinstance(plain, float):
        return f"{plain:.6g}" if abs(plain) < 1e4 else f"{plain:.2f}"
    return "" if plain is None else str(plain)


def _csv_cell(value: Any) -> str:
    """As CSV has it, for a terminal and a spreadsheet: no control character, no formula."""
    text = escape_control_characters(_cell_text(value))
    is_formula = isinstance(value, str) and text.startswith(FORMULA_STARTS)
    return f"'{text}" if is_formula else text


def _short_text(value: Any) -> str:
    return _cell_text(value, short=True)
