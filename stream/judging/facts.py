"""What a run wrote, joined with its labels, as tables in a database: the facts that are judged.

The one place that says which event is a fraud, which has an alert on it, which fraud was caught and
which entity is known as compromised on a day. Larger than memory is no matter: DuckDB keeps what
does not fit on disk. Measures nothing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection, DuckDBPyRelation

DAY_MS: Final = 86_400_000
WEEK_DAYS: Final = 7
SCENARIOS_MAX: Final = 32
"""Kinds of fraud told apart; the rarer ones are judged together, as `OTHERS`."""
OTHERS: Final = "(others)"
FRAUD_LABELS: Final = (
    "SELECT event_id AS labelled_id, coalesce(scenario, '') AS kind, known_time FROM labels "
    "WHERE verdict = 'fraud' AND event_id IS NOT NULL"
)
MISSED: Final = "SELECT * FROM frauds WHERE judged AND NOT caught"
HUNDREDTHS: Final = "CAST(round(coalesce(s.amount, 0) * 100) AS BIGINT)"
"""Whole numbers: their sums do not depend on the order in which threads come to them."""
ROWS_AT_ONCE: Final = 50_000


@dataclass(frozen=True, slots=True)
class Files:
    """A run's tables on disk."""

    scores: Path
    alerts: Path
    labels: Path


@dataclass(frozen=True, slots=True)
class Watcher:
    """A monitor, or assess, as far as it is judged. needed: the least score on which it can alert.
    told: the names of its features and own detectors; none for assess."""

    name: str
    entity: str
    needed: float
    told: tuple[str, ...]


class Facts:
    """The tables `events`, `frauds` and `known`; days count from the first that is judged.

    events: what is to be judged, a row each: day, scenario (an index into `scenarios`, -1 honest),
    hundredths, score, score_‹monitor›, the entity fields, alerted and alerted_‹watcher›.
    frauds: every event labelled fraud, with all columns of its score; also event_time, known_time,
    judged, caught and caught_‹watcher›, and gap, what the nearest score lacked to an alert, null
    where no monitor judged it. alert_scores: event_time, the entity fields and alerted…
    of every event with an alert on it. known: entity and day: of the entities in the field
    `known` was made for, those known as compromised on that day.
    """

    def __init__(
        self, database: "DuckDBPyConnection", files: Files, watchers: Sequence[Watcher]
    ) -> None:
        self._database = database
        self._watchers = watchers
        self._columns = pq.read_schema(files.scores).names
        self.fields = list(dict.fromkeys(watcher.entity for watcher in watchers))
        for name in ("scores", "alerts", "labels"):
            self.do(f"CREATE VIEW {name} AS SELECT * FROM {parquet(getattr(files, name))}")
        self._make_scenarios()
        self._make_alerted()
        self._make_events()
        self._make_frauds()
        self._make_alert_scores()

    def has_scores_of(self, watcher: str) -> bool:
        """Whether each event's score by that watcher was written down."""
        return f"score_{watcher}" in self._columns

    def do(self, statement: str) -> None:
        """Make a table or a view."""
        self._database.execute(statement)

    def day(self, time: str) -> str:
        """The day of a timestamp, from the first that is judged, as SQL has it."""
        return f"CAST(epoch_ms({time}) // {DAY_MS} - {self.first_day} AS BIGINT)"

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """The rows of a query with few of them."""
        return self._query(query).fetchall()

    def columns(self, query: str) -> dict[str, Any]:
        """A query's columns as numpy arrays."""
        table = self._query(query).to_arrow_table()
        return {name: table[name].to_numpy() for name in table.column_names}

    def batches(self, query: str) -> Iterator[pa.RecordBatch]:
        """A query's rows, however many, part by part."""
        yield from self._query(query).to_arrow_reader(ROWS_AT_ONCE)

    def frauds(self) -> Iterator[pa.RecordBatch]:
        """The columns of frauds.parquet, in a fixed order: those of the scores, and what else is
        known of each."""
        return self.batches(
            f"SELECT {', '.join(self._columns)}, kind AS scenario, known_time, alerted, caught, gap "
            "FROM frauds ORDER BY event_time, event_id"
        )

    def make_known(self, field: str) -> None:
        """Make `known` for a field, as the Fraud Detection Handbook leaves cards out: on a day of
        the week that starts on day W, those with a fraud that became known before that day, and not
        earlier than a week before W. With labels 7 days late, these are frauds from W - 14 days to
        8 days before that day. The first week starts with the first judged day.
        """
        known_day = self.day("f.known_time")
        self.do(
            f"CREATE OR REPLACE TABLE known AS SELECT DISTINCT f.{field} AS entity, d.day "
            f"FROM frauds f JOIN (SELECT DISTINCT day FROM events) d ON {known_day} < d.day "
            f"AND {known_day} >= d.day - d.day % {WEEK_DAYS} - {WEEK_DAYS} "
            f"WHERE f.{field} IS NOT NULL"
        )

    def _query(self, query: str) -> "DuckDBPyRelation":
        return self._database.sql(query)

    def _make_scenarios(self) -> None:
        self.do(
            "CREATE TABLE kinds AS SELECT name, least(row_number() OVER (ORDER BY n DESC, name), "
            f"{SCENARIOS_MAX}) - 1 AS scenario FROM (SELECT coalesce(scenario, '') AS name, "
            "count(*) AS n FROM labels WHERE verdict = 'fraud' AND event_id IS NOT NULL GROUP BY 1)"
        )
        found = self.rows(
            "SELECT CASE WHEN count(*) > 1 THEN NULL ELSE min(name) END FROM kinds "
            "GROUP BY scenario ORDER BY scenario"
        )
        self.scenarios = [OTHERS if name is None else str(name) for (name,) in found]

    def _make_alerted(self) -> None:
        each = (f", bool_or(monitor = '{w.name}') AS alerted_{w.name}" for w in self._watchers)
        self.do(
            "CREATE TABLE alerted_events AS SELECT event_id AS alerted_id, true AS alerted"
            f"{''.join(each)} FROM alerts GROUP BY event_id"
        )

    def _make_events(self) -> None:
        """Only the frauds' labels are joined: they are few. An event without label is honest."""
        [(first_ms, last_ms)] = self.rows(
            "SELECT epoch_ms(min(event_time)), epoch_ms(max(event_time)) FROM scores WHERE judged"
        )
        self.span_ms = (int(first_ms), int(last_ms)) if first_ms is not None else None
        self.first_day = int(first_ms or 0) // DAY_MS
        names = ["score", *(f"score_{w.name}" for w in self._scored()), *self.fields]
        self.do(
            f"CREATE TABLE events AS SELECT {self.day('event_time')} AS day, "
            "CAST(coalesce(k.scenario, -1) AS BIGINT) AS scenario, "
            f"{HUNDREDTHS} AS hundredths, {', '.join(names)}, {self._alerted()} FROM scores s "
            f"LEFT JOIN ({FRAUD_LABELS}) l ON l.labelled_id = s.event_id "
            "LEFT JOIN kinds k ON k.name = l.kind "
            f"LEFT JOIN alerted_events a ON a.alerted_id = s.event_id WHERE judged"
        )

    def _make_frauds(self) -> None:
        self.do(
            f"CREATE TABLE fraud_scores AS SELECT s.*, known_time, "
            f"{self.day('event_time')} AS day, k.scenario, l.kind, {HUNDREDTHS} AS hundredths, "
            f"{self._alerted()} FROM scores s JOIN ({FRAUD_LABELS}) l ON l.labelled_id = s.event_id "
            "JOIN kinds k ON k.name = l.kind LEFT JOIN alerted_events a ON a.alerted_id = s.event_id"
        )
        held = (
            f"SELECT f.rowid AS fraud, h.monitor FROM fraud_scores f JOIN alerts h "
            f"ON h.entity_type = '{field}' AND h.entity = f.{field} "
            "AND f.event_time >= h.event_time "
            "AND f.event_time < h.event_time + to_milliseconds(1000 * h.ttl_s)"
            for field in self.fields
        )
        gaps = (f"{w.needed!r} - f.score_{w.name}" for w in self._scored())
        names = self._suffixed("caught")
        each = (f"f.alerted{name[6:]} OR coalesce(h.{name}, false) AS {name}" for name in names)
        of = (f", bool_or(monitor = '{w.name}') AS caught_{w.name}" for w in self._watchers)
        self.do(
            f"CREATE TABLE frauds AS SELECT f.*, {', '.join(each)}, least({', '.join(gaps)}) AS gap "
            "FROM fraud_scores f LEFT JOIN "
            f"(SELECT fraud, true AS caught{''.join(of)} FROM ({' UNION ALL '.join(held)}) "
            "GROUP BY fraud) h ON h.fraud = f.rowid"
        )

    def _make_alert_scores(self) -> None:
        self.do(
            f"CREATE TABLE alert_scores AS SELECT s.event_time, {', '.join(self.fields)}, "
            f"{self._alerted()} FROM scores s JOIN alerted_events a ON a.alerted_id = s.event_id"
        )

    def _scored(self) -> list[Watcher]:
        return [watcher for watcher in self._watchers if self.has_scores_of(watcher.name)]

    def _alerted(self) -> str:
        names = self._suffixed("alerted")
        return ", ".join(f"coalesce(a.{name}, false) AS {name}" for name in names)

    def _suffixed(self, name: str) -> list[str]:
        """The column of what holds for any watcher, then each watcher's."""
        return [name, *(f"{name}_{watcher.name}" for watcher in self._watchers)]


def parquet(path: Path) -> str:
    """The file as SQL reads it."""
    quoted = str(path).replace("'", "''")
    return f"read_parquet('{quoted}')"
