"""Commands that read the results of runs: `eddy query`, `eddy top`, `eddy explain`."""

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
"""Rows printed as a table; csv and json have all rows."""
FEATURES_SHOWN: Final = 12
"""Features printed for an event without an alert, the smallest p-values first."""
FORMULA_STARTS: Final = ("=", "+", "-", "@", "\t")
"""Spreadsheets read a text that begins with one of these as a formula; `escape_control_characters`
removes the other such characters."""
Format = Literal["table", "csv", "json"]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="A folder that eddy replay wrote.")]
FormatOption = Annotated[
    Format, typer.Option("--format", help="json: one object per line.", show_default=True)
]


@app.command()
def query(
    arguments: Annotated[
        list[str], typer.Argument(metavar="RUN… SQL", help="Folders of runs, then one SELECT.")
    ],
    format_: FormatOption = "table",
    columns: Annotated[
        bool,
        typer.Option(
            "--columns", help="List the tables and the meaning of their columns; takes no SQL."
        ),
    ] = False,
) -> None:
    """Query runs in SQL (DuckDB). Tables: scores, alerts, incidents, labels and frauds (with labels),
    missed (frauds that were not caught), features (with --features). The column run names the run.

    The ten accounts with the largest amount of missed fraud:

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
            help="Sort by the highest score of an alert, the number of alerts, the amount in "
            "incidents, or the amount of missed frauds."
        ),
    ] = "score",
    entity: Annotated[
        str | None, typer.Option(help="Only entities of this type, such as account.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Number of entities.")] = 10,
    format_: FormatOption = "table",
) -> None:
    """List the top entities of a run, by the events that were evaluated.

    Example: eddy top out/shop --by missed --entity account
    """
    from stream.evaluation import queries

    with queries.open_runs([run]) as tables:
        print_answer(tables.top(by, entity, limit), format_)


@app.command()
def explain(
    run: RunPath,
    id_: Annotated[
        str,
        typer.Argument(metavar="ID", help="Id of an alert, an incident, an event or an entity."),
    ],
) -> None:
    """Explain an alert, an event or an entity of a run.

    For an entity, its alert with the highest score is explained, evaluated ones first. Without an
    alert: each monitor's score of the event, or of the entity's most surprising event.

    Example: eddy explain out/shop acct-1186
    """
    from stream.evaluation import queries

    with queries.open_runs([run]) as tables:
        explanation = tables.explain(id_)
        if isinstance(explanation, queries.UnalertedExplanation):
            _print_unalerted(explanation)
        else:
            _print_explanation(explanation)


@app.command(name="pseudonym")
def print_pseudonym(
    config: ConfigPath,
    field: Annotated[
        str, typer.Argument(metavar="TYPE", help="The entity's type, such as account.")
    ],
    entity: Annotated[str, typer.Argument(metavar="ID", help="The entity's raw id.")],
) -> None:
    """Print the pseudonym that an entity has in alerts and tables.

    Pseudonyms are keyed with the configuration's secret, which must be the run's.

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
    normalised = pa.array([normalise_entity_id(field, entity)], pa.string())
    hashed = hash_text(normalised, hash_key(load(config).secret))
    typer.echo(pseudonym(hashed[0]))


def print_answer(answer: "QueryResult", format_: Format) -> None:
    """Print the result of a query."""
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
    """Print a line that may contain texts from events."""
    typer.echo(escape_control_characters(line).replace("\n", "\\n"))


def _print_table(answer: "QueryResult") -> None:
    from itertools import islice

    rows = list(islice(answer.rows, TABLE_ROWS_MAX + 1))
    _print_rows(answer.names, rows[:TABLE_ROWS_MAX])
    if len(rows) > TABLE_ROWS_MAX:
        typer.echo(f"the first {TABLE_ROWS_MAX:,} rows; use --format csv or json for all")


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
                Text(escape_control_characters(cell), justify="right" if is_number else "left")
                for cell, is_number in zip(cells, numeric, strict=True)
            )
        )
    console = Console()
    # without a terminal there is no width, and nothing is folded
    Console(width=console.width if console.is_terminal else 10_000).print(table)


def _print_explanation(explanation: "Explanation") -> None:
    alert, incident = explanation.alert, explanation.incident
    entity = f"{alert['entity_type']} {alert['entity']}"
    rarity = f"one in {1 / alert['p_value']:,.0f} honest events" if alert["p_value"] else ""
    _print_line(f"{entity}: {alert['severity']}, score {alert['score']:.2f} ({rarity})")
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
                part["feature"],
                part["actual"],
                _expected(part["expected_low"], part["expected_high"]),
                part["p_value"],
                f"{part['share']:.0%}",
            )
            for part in alert["contributions"]
        ],
    )
    if alert["counterfactual"]:
        _print_line(f"no alert if these had expected values: {', '.join(alert['counterfactual'])}")
    for related in alert["related"]:
        _print_line(f"with {related['type']} {related['id']}")
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
    names = [
        name for name in [*names, "amount"] if explanation.events and name in explanation.events[0]
    ]
    _print_rows(names, [[row[name] for name in names] for row in explanation.events])
    others = [
        other for other in explanation.incidents if other["incident_id"] != incident["incident_id"]
    ]
    if others:
        names = ["incident_id", "monitor", "opened", "last", "alerts", "top_score", "amount"]
        _print_line(f"other incidents of {entity}:")
        _print_rows(names, [[other[name] for name in names] for other in others])


def _print_unalerted(explanation: "UnalertedExplanation") -> None:
    event = explanation.event
    if explanation.what == "event":
        twice = f" (the most surprising of {explanation.events:,} events with this id)"
        _print_line(f"event {event['event_id']}: no alert{twice if explanation.events > 1 else ''}")
    else:
        _print_line(
            f"{explanation.what} {event[explanation.what]}: no alert in {explanation.events:,} events from "
            f"{_short_text(explanation.first)} to {_short_text(explanation.last)}; its most surprising one:"
        )
    amount = f", amount {_short_text(event['amount'])}" if event["amount"] is not None else ""
    _print_line(
        f"event {event['event_id']} at {_short_text(event['event_time'])} ({event['topic']}"
        f"[{event['partition']}] at {event['offset']}){amount}: score {event['score']:.2f}"
    )
    reports = [
        (monitor, f"{score:.2f}", activity or "no alert", surprised or "")
        for monitor, score, activity, surprised in explanation.reports
    ]
    _print_rows(["monitor", "score", "policy", "features with p < 0.1"], reports)
    if explanation.features:
        _print_rows(["feature", "value", "its p"], explanation.features[:FEATURES_SHOWN])
    if explanation.fraud and explanation.fraud["gap"] is not None:
        _print_line(
            f"labelled fraud; nearest to an alert was {explanation.fraud['nearest']}, by "
            f"a score difference of {explanation.fraud['gap']:.2f}"
        )
    elif explanation.label:
        _print_line(f"labelled {explanation.label['verdict']}")


def _expected(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{_short_text(low)} to {_short_text(high)}"


def _json_value(value: Any) -> Any:
    """A value for JSON: times as ISO 8601, numbers that JSON cannot hold as texts."""
    if isinstance(value, datetime):
        return f"{value.isoformat(timespec='milliseconds')}Z"
    if isinstance(value, Decimal):
        return _json_value(int(value)) if value == value.to_integral_value() else float(value)
    if isinstance(value, list):
        return [_json_value(item) for item in value]
    if isinstance(value, dict):
        return {_cell_text(name): _json_value(item) for name, item in value.items()}
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return str(value)
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _cell_text(value: Any, *, short: bool = False) -> str:
    """A value for CSV: lists and objects as JSON, null as "". short: numbers with six digits, or with
    two decimals, for tables."""
    plain = _json_value(value)
    if isinstance(plain, list | dict):
        return orjson.dumps(plain).decode()
    if short and isinstance(plain, float):
        return f"{plain:.6g}" if abs(plain) < 1e4 else f"{plain:.2f}"
    return "" if plain is None else str(plain)


def _csv_cell(value: Any) -> str:
    """A CSV cell that is safe in terminals and spreadsheets: no control character, no formula."""
    text = escape_control_characters(_cell_text(value))
    is_formula = isinstance(value, str) and text.startswith(FORMULA_STARTS)
    return f"'{text}" if is_formula else text


def _short_text(value: Any) -> str:
    return _cell_text(value, short=True)
