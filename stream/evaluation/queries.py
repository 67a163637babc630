"""Queries of runs: their tables as SQL views, and the most common queries as methods.

Read-only: a query can read only these files, and cannot write, use the network or load an extension.
Caught and missed frauds are read from frauds.parquet.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import pyarrow.parquet as pq
from pyarrow.dataset import dataset

from schemas.events import ENTITY_FIELDS
from stream.errors import QueryError
from stream.evaluation import database
from stream.evaluation.labelled_run import MISSED_FRAUDS_SQL

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

TABLES: Final = ("scores", "alerts", "incidents", "frauds", "labels", "features")
OPTION_OF_TABLE: Final = {"features": "--features", "frauds": "--labels", "missed": "--labels"}
"""Tables that a run has only with an option of `eddy replay`."""
ROWS_AT_ONCE: Final = 1_000
EVENTS_SHOWN: Final = 12
"""Events shown of an incident: the last ones in an explanation, the first ones on a run's page."""
TopOrder = Literal["score", "alerts", "amount", "missed"]


class QueryResult(NamedTuple):
    """Column names, and rows, which are fetched while they are iterated."""

    names: list[str]
    rows: Iterator[tuple[Any, ...]]


class Column(NamedTuple):
    """A column of a table, with its meaning."""

    table: str
    column: str
    type: str
    meaning: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why an entity was flagged: one alert with its incident, the events of that incident, and all
    incidents of the entity. Rows by column name; events at most `EVENTS_SHOWN`, the last ones."""

    alert: dict[str, Any]
    incident: dict[str, Any]
    events: list[dict[str, Any]]
    incidents: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class UnalertedExplanation:
    """An event without an alert of its own, or an entity without any.

    what: "event", or the field that names the entity. event: the row in scores, of an entity the
    one with the highest score. reports: of each monitor that scored it (monitor, score, activity,
    surprised features). features: (feature, value, p), the smallest p first; empty where the run has
    no features.parquet. label: its row in labels, and fraud: in frauds; None if there is none.
    events: the number of events with the id, from first to last.
    """

    what: str
    event: dict[str, Any]
    reports: list[tuple[str, float, str | None, str | None]]
    features: list[tuple[str, float, float]]
    label: dict[str, Any] | None
    fraud: dict[str, Any] | None
    events: int
    first: datetime
    last: datetime


class RunDatabase:
    """The tables of one or more runs as views; the column `run` is the run's folder."""

    def __init__(self, tables: "DuckDBPyConnection", fields: list[str]) -> None:
        self._tables = tables
        self._fields = fields

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> QueryResult:
        """The result of one SELECT. Raises QueryError for other statements and for mistakes."""
        import duckdb

        try:
            kinds = [str(statement.type) for statement in self._tables.extract_statements(sql)]
            if kinds == ["StatementType.MULTI"]:
                raise QueryError(
                    f"got {_short(sql)}; expected a PIVOT with its values, ON column IN ('a', 'b'): "
                    "without them, DuckDB would have to write a table"
                )
            if len(kinds) != 1 or kinds[0] not in READ_STATEMENTS:
                raise QueryError(f"got {_short(sql)}; expected one SELECT: runs are only read")
            by_others = not parameters and kinds[0] == READ_STATEMENTS[0]
            answer = self._execute(self._with_utc_times(sql) if by_others else sql, parameters)
            return QueryResult(
                _unique_names(str(column[0]) for column in answer.description or ()), self._fetch()
            )
        except duckdb.CatalogException as error:
            for table, option in OPTION_OF_TABLE.items():
                if f"Table with name {table} does not exist" in str(error):
                    message = f"there is no table {table}: eddy replay writes it with {option}"
                    raise QueryError(message) from error
            raise QueryError(str(error).strip()) from error
        except duckdb.Error as error:
            raise QueryError(str(error).strip()) from error

    def _with_utc_times(self, sql: str) -> str:
        """The same SELECT with times in UTC, because DuckDB needs pytz to return times with a zone."""
        relation = self._tables.sql(sql)  # binds the statement without running it
        types = [str(kind) for kind in relation.types]
        if not any(WITH_TIME_ZONE in kind for kind in types):
            return sql
        columns = [f"column_{i}" for i in range(len(types))]
        cast = (
            f'CAST({column} AS {kind.replace(WITH_TIME_ZONE, "TIMESTAMP")}) AS "{name}"'
            for column, kind, name in zip(
                columns, types, (name.replace('"', '""') for name in relation.columns), strict=True
            )
        )
        return f"SELECT {', '.join(cast)} FROM ({_without_semicolon(sql)}\n) AS answer({', '.join(columns)})"

    def _execute(self, sql: str, parameters: Sequence[Any]) -> "DuckDBPyConnection":
        """Execute in a thread, because DuckDB does not stop every query on Ctrl-C."""
        with ThreadPoolExecutor(1) as thread:
            answer = thread.submit(self._tables.execute, sql, list(parameters))
            try:
                return answer.result()
            finally:
                while not answer.done():  # repeatedly: a query that has not begun ignores it
                    self._tables.interrupt()
                    wait([answer], timeout=0.1)

    def _fetch(self) -> Iterator[tuple[Any, ...]]:
        import duckdb

        try:
            while rows := self._tables.fetchmany(ROWS_AT_ONCE):
                yield from rows
        except duckdb.Error as error:
            raise QueryError(str(error).strip()) from error

    def top(self, by: TopOrder, field: str | None, limit: int) -> QueryResult:
        """The first entities of a run's evaluated time by the highest score of their alerts, by alerts, by the amount
        in their incidents, or by the amount of frauds that were missed."""
        if field is not None and field not in self._fields:
            raise QueryError(
                f"no monitor watches {field}; expected one of {self._monitored_fields()}"
            )
        if by == "missed":
            return self._top_missed(field or self._fields[0], limit)
        order = {"score": "top_score", "alerts": "alerts", "amount": "amount"}[by]
        return self.query(
            "SELECT entity_type, entity, max(top_score) AS top_score, CAST(sum(alerts) AS BIGINT) "
            "AS alerts, count(*) AS incidents, sum(amount) AS amount, CAST(sum(frauds) AS BIGINT) "
            "AS frauds, min(opened) AS first_opened, max(last) AS last FROM incidents "
            "WHERE evaluated AND coalesce(entity_type = ?, true) GROUP BY entity_type, entity "
            f"ORDER BY {order} DESC NULLS LAST, entity_type, entity LIMIT ?",
            (field, limit),
        )

    def _top_missed(self, field: str, limit: int) -> QueryResult:
        if not self._has("frauds"):
            raise QueryError("this run has no frauds: it was replayed without --labels")
        _, rows = self.query("SELECT 1 FROM frauds LIMIT 1")
        if not list(rows):
            raise QueryError("no event of this run is labelled fraud, so no fraud was missed")
        return self.query(
            f"SELECT {field}, sum(amount) AS missed, count(*) AS frauds, min(gap) AS nearest_gap, "
            f"min(event_time) AS first, max(event_time) AS last FROM missed "
            f"WHERE {field} IS NOT NULL GROUP BY {field} "
            f"ORDER BY missed DESC NULLS LAST, {field} LIMIT ?",
            (limit,),
        )

    def explain(self, what: str) -> Explanation | UnalertedExplanation:
        """Why an alert was raised, or how near an event or entity came to one.

        what: an alert's id, its incident's, an event's, or an entity, of which the worst alert is
        explained, of the evaluated ones where there are any. Raises QueryError where the run has none.
        """
        matches = self._query_dicts(
            "SELECT * FROM alerts WHERE alert_id = $1 OR incident_id = $1 OR entity = $1 OR "
            "event_id = $1 ORDER BY alert_id = $1 DESC, incident_id = $1 DESC, entity = $1 DESC, "
            "evaluated DESC, score DESC, event_time LIMIT 1",
            (what,),
        )
        if not matches:
            return self._explain_unalerted(what)
        [alert] = matches
        field, entity = alert["entity_type"], alert["entity"]
        [incident] = self._query_dicts(
            "SELECT * FROM incidents WHERE incident_id = ?", (alert["incident_id"],)
        )
        events = self._query_dicts(
            f"SELECT * FROM (SELECT * FROM scores WHERE {field} = ? AND event_time BETWEEN ? AND ? "
            f"ORDER BY event_time DESC LIMIT {EVENTS_SHOWN}) ORDER BY event_time",
            (entity, incident["opened"], incident["last"]),
        )
        incidents = self._query_dicts(
            "SELECT * FROM incidents WHERE entity_type = ? AND entity = ? ORDER BY opened",
            (field, entity),
        )
        return Explanation(alert, incident, events, incidents)

    def _explain_unalerted(self, what: str) -> UnalertedExplanation:
        for name in ("event_id", *self._fields):
            source = f"FROM scores WHERE {name} = ?"
            matches = self._query_dicts(
                f"SELECT * {source} ORDER BY evaluated DESC, score DESC, event_time LIMIT 1",
                (what,),
            )
            if matches:
                [event], is_event = matches, name == "event_id"
                _, rows = self.query(
                    f"SELECT count(*), min(event_time), max(event_time) {source}", (what,)
                )
                [(events, first, last)] = rows
                return UnalertedExplanation(
                    "event" if is_event else name,
                    event,
                    _reports(event),
                    self._features_of(event),
                    self._row_of(event, "labels"),
                    self._row_of(event, "frauds"),
                    events,
                    first,
                    last,
                )
        raise QueryError(
            f"{what}: no alert, incident, event or entity of this run has this id; ids that are not "
            "revealed are pseudonyms: eddy pseudonym CONFIG TYPE ID prints one"
        )

    def _row_of(self, event: dict[str, Any], table: str) -> dict[str, Any] | None:
        """The event's row in a table that the run may not have."""
        if not self._has(table):
            return None
        rows = self._query_dicts(f"SELECT * FROM {table} WHERE event_id = ?", (event["event_id"],))
        return rows[-1] if rows else None

    def _features_of(self, event: dict[str, Any]) -> list[tuple[str, float, float]]:
        row = self._row_of(event, "features") or {}
        named = [
            (name.removesuffix("__p").replace("__", "."), row[name.removesuffix("__p")], p)
            for name, p in row.items()
            if name.endswith("__p") and p is not None
        ]
        return sorted(named, key=lambda feature: feature[2])

    def _query_dicts(self, sql: str, parameters: Sequence[Any]) -> list[dict[str, Any]]:
        names, rows = self.query(sql, parameters)
        return [dict(zip(names, row, strict=True)) for row in rows]

    def _has(self, table: str) -> bool:
        _, rows = self.query("SELECT 1 FROM duckdb_views() WHERE view_name = ?", (table,))
        return bool(list(rows))

    def _monitored_fields(self) -> str:
        return ", ".join(self._fields)


def _reports(event: dict[str, Any]) -> list[tuple[str, float, str | None, str | None]]:
    """The report of each monitor that scored an event, the highest score first."""
    scored = [
        (name.removeprefix("score_"), value)
        for name, value in event.items()
        if name.startswith("score_") and value is not None
    ]
    return [
        (name, score, event.get(f"activity_{name}"), event.get(f"surprising_{name}"))
        for name, score in sorted(scored, key=lambda item: -item[1])
    ]


READ_STATEMENTS: Final = ("StatementType.SELECT", "StatementType.EXPLAIN")
WITH_TIME_ZONE: Final = "TIMESTAMP WITH TIME ZONE"


@contextmanager
def open_runs(runs: Sequence[Path]) -> Iterator[RunDatabase]:
    """The tables of these runs, as views; and `missed`, where labels are known. Raises QueryError
    for a folder without a run, ExtraMissing without DuckDB."""
    for k, run in enumerate(runs):
        _require_run(run)
        if run.resolve() in (earlier.resolve() for earlier in runs[:k]):
            raise QueryError(f"{run} was named twice: its rows would count twice; expected it once")
    database.check_installed()
    import duckdb

    with TemporaryDirectory(prefix="eddy-query-") as spill:
        settings: dict[str, Any] = {
            "temp_directory": spill,
            "autoload_known_extensions": False,
            "autoinstall_known_extensions": False,
            "python_enable_replacements": False,  # otherwise a name in SQL may refer to a Python variable
        }
        with duckdb.connect(config=settings) as tables:
            database.disable_progress_bar(tables)
            tables.execute("SET TimeZone = 'UTC'")
            for name in TABLES:
                files = [(k, run, run / f"{name}.parquet") for k, run in enumerate(runs)]
                parts = [
                    _table_sql(tables, f"{name}_{k}", *of) for k, *of in files if of[1].is_file()
                ]
                if parts:
                    tables.execute(f"CREATE VIEW {name} AS {' UNION ALL BY NAME '.join(parts)}")
                    if name == "frauds":
                        tables.execute(f"CREATE VIEW missed AS {MISSED_FRAUDS_SQL}")
            # DuckDB's allowed_directories and allowed_paths permit writing, too: none is allowed.
            tables.execute("SET enable_external_access = false")
            tables.execute("SET lock_configuration = true")
            names = pq.read_schema(runs[0] / "scores.parquet").names
            yield RunDatabase(tables, [field for field in names if field in ENTITY_FIELDS])


def columns(runs: Sequence[Path]) -> list[Column]:
    """Every column of the runs' tables, once, with its meaning. Raises QueryError for a folder without a
    run."""
    listed: dict[tuple[str, str], Column] = {}
    for run in runs:
        _require_run(run)
        for table in TABLES:
            file = run / f"{table}.parquet"
            for field in pq.read_schema(file) if file.is_file() else ():
                meaning = (field.metadata or {}).get(b"meaning", b"").decode()
                column = Column(table, field.name, str(field.type), meaning)
                listed.setdefault((table, field.name), column)
    return list(listed.values())


def _require_run(run: Path) -> None:
    if not (run / "summary.json").is_file():
        raise QueryError(f"{run}: is not a run; expected a folder that eddy replay wrote")


def _table_sql(tables: "DuckDBPyConnection", name: str, run: Path, file: Path) -> str:
    """The rows of one run's file as SQL reads them. DuckDB gets an open Arrow dataset, no path."""
    tables.register(name, dataset(file, format="parquet"))
    quoted = str(run).replace("'", "''")
    return f"SELECT '{quoted}' AS run, * FROM {name}"


def _unique_names(names: Iterable[str]) -> list[str]:
    """Column names without duplicates: repeated names get a number."""
    unique: list[str] = []
    for name in names:
        numbered, count = name, 1
        while numbered in unique:
            count += 1
            numbered = f"{name}_{count}"
        unique.append(numbered)
    return unique


def _without_semicolon(sql: str) -> str:
    """A statement without the semicolon at its end and the text after that."""
    import duckdb

    text = sql.encode()
    ends = (start for start, _ in duckdb.tokenize(sql) if text[start : start + 1] == b";")
    return text[: next(ends, len(text))].decode()


def _short(sql: str) -> str:
    return sql if len(sql) <= 60 else f"{sql[:60]}…"
