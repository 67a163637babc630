"""A run's tables joined with its labels, as tables in a database.

This module alone decides which event is a fraud, which event is alerted, which fraud was caught and
which entity is known as compromised on a day:

- A label with an event id applies to the first event in event time that has the id, in any input.
- An event is *alerted* if the policy opened an incident with it, updated one, or counted it in one.
  Verdicts of incidents, recall, delays and caught frauds are based on alerted events. It is
  *published* if an alert was published on it, which somebody has to review: precision is based on
  published events.
- A fraud is *caught* if it is alerted, or while the action recommended by an alert on one of its
  entities is in force.
- A label that names only entities marks them as fraudulent without naming the event. It counts for
  the entities and their incidents, and from its time on for entities known as compromised.

DuckDB moves to disk what does not fit into memory.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.columns import I64
from schemas.events import ENTITY_FIELDS
from stream.evaluation.database import SqlSession, parquet_source

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

DAY_MS: Final = 86_400_000
WEEK_DAYS: Final = 7
SCENARIOS_MAX: Final = 32
"""Kinds of fraud evaluated separately; the rarer ones are evaluated together, as `OTHERS`."""
OTHERS: Final = "(others)"
MISSED_FRAUDS_SQL: Final = "SELECT * FROM frauds WHERE evaluated AND NOT caught"
CENTS: Final = "CAST(round_even(least(abs(coalesce(amount, 0)) * 100, 9e15), 0) AS BIGINT)"
"""Whole cents, whose sums do not depend on the order of addition, bounded because an amount may be any
number. A negative amount, such as a refund, counts by its absolute value: a stolen refund is a loss.
`incident_table.in_cents` is the same for arrays."""
PUBLISHED: Final = ("opened", "updated")
ALERTED: Final = (*PUBLISHED, "suppressed")
"""Policy outcomes of an event that belongs to an incident; `table_columns.ACTIVITIES` has all."""
ROWS_MAX: Final = 1_000_000_000_000
"""More than the rows of a table: event time and row number are one number, whose minimum is the first
event."""


@dataclass(frozen=True, slots=True)
class TableFiles:
    """A run's tables on disk."""

    scores: Path
    alerts: Path
    labels: Path


@dataclass(frozen=True, slots=True)
class Scorer:
    """A stage whose scores are evaluated. min_alert_score: the lowest score at which it alerts.
    feature_names: of a monitor's features and detectors. combines_reports: its scores combine the reports of
    the other stages, and an event without a report scores 0."""

    name: str
    entity: str
    min_alert_score: float
    feature_names: tuple[str, ...]
    combines_reports: bool = False


class LabelledRun(SqlSession):
    """The tables `days`, `events`, `frauds`, `alerted_events`, `labelled_entities` and `compromised`.

    days: a row for each calendar day (counted from 1970) with an evaluated event; day is its number from 0.
    events: a row for each evaluated event: day, scenario_index (an index into `scenarios`, -1 if
    honest), cents, score, the entity fields, score_‹scorer› (of assess 0 where it had no report),
    alerted and published for any scorer, and alerted_‹scorer› and published_‹scorer›. frauds: a row for
    each event labelled fraud: all columns of scores, scenario, scenario_index, known_time, caught and
    caught_‹scorer›; nearest (the scorer whose score was nearest to an alert) and gap (the lowest
    score at which it alerts minus its score), both null if none scored the event. alerted_events:
    event_time and entity fields of every alerted event. labelled_entities: field, entity and known_time
    of the entities that labels name as fraudulent. compromised: entity and day, of the entities in one
    field that were known to be compromised on that day.
    """

    def __init__(
        self, database: "DuckDBPyConnection", files: TableFiles, scorers: Sequence[Scorer]
    ) -> None:
        super().__init__(database)
        self.scorers = scorers
        self._columns = pq.read_schema(files.scores).names
        self.fields = list(dict.fromkeys(scorer.entity for scorer in scorers))
        for name in ("scores", "alerts", "labels"):
            self.add_view(name, getattr(files, name))
        self._make_days()
        self._make_scenarios()
        self._make_labelled()
        self._make_events()
        self._make_frauds()
        self._make_labelled_entities(pq.read_schema(files.labels).names)

    def add_view(self, name: str, path: Path) -> None:
        """Make a view of a file; its column `row` is the row number."""
        self.execute(
            f"CREATE VIEW {name} AS SELECT * EXCLUDE file_row_number, file_row_number AS row "
            f"FROM {parquet_source(path, numbered=True)}"
        )

    def frauds(self) -> Iterator[pa.RecordBatch]:
        """The rows of frauds.parquet: the columns of the scores, and those of labels and alerts."""
        columns = ", ".join(f'"{name}"' for name in self._columns)
        return self.fetch_batches(
            f"SELECT {columns}, scenario, known_time, alerted, published, caught, nearest, gap "
            "FROM frauds ORDER BY event_time, row"
        )

    def make_compromised(self, field: str) -> None:
        """Make `compromised` for a field, by the Fraud Detection Handbook's rule for excluding cards: on a day
        of the week that starts on day W, the entities with a fraud that became known before that day, but
        not more than a week before W. With labels 7 days late, these frauds happened at most 14 days
        before W, and at least 8 days before that day. The first week starts with the first evaluated day.
        """
        self.execute(
            "CREATE OR REPLACE TABLE compromised AS SELECT DISTINCT f.entity, d.day FROM (SELECT "
            f"{field} AS entity, {calendar_day('known_time')} AS known_day FROM frauds UNION ALL SELECT "
            f"entity, {calendar_day('known_time')} FROM labelled_entities WHERE field = '{field}') f JOIN days d ON "
            f"known_day < d.calendar AND known_day >= d.calendar - (d.calendar - {self._first_day}) "
            f"% {WEEK_DAYS} - {WEEK_DAYS} WHERE f.entity IS NOT NULL"
        )

    @property
    def _first_day(self) -> int:
        return int(self.days[0]) if len(self.days) else 0

    def _make_days(self) -> None:
        """days: int64[days], the calendar days with an event to be evaluated, rising. span_ms: the
        first and the last time of such an event."""
        self.execute(
            "CREATE TABLE days AS SELECT row_number() OVER (ORDER BY calendar) - 1 AS day, calendar "
            f"FROM (SELECT DISTINCT {calendar_day('event_time')} AS calendar FROM scores WHERE evaluated)"
        )
        self.days: I64 = self.fetch_columns("SELECT calendar FROM days ORDER BY day")["calendar"]
        [(first_ms, last_ms)] = self.fetch_rows(
            "SELECT epoch_ms(min(event_time)), epoch_ms(max(event_time)) FROM scores WHERE evaluated"
        )
        self.span_ms = int(first_ms or 0), int(last_ms or 0)

    def _make_scenarios(self) -> None:
        """`scenarios`: scenario and scenario_index, by falling number of labels. The scenarios after the
        first `SCENARIOS_MAX` - 1 share the last index, whose name is `OTHERS`."""
        self.execute(
            "CREATE TABLE scenarios AS SELECT scenario, least(row_number() OVER (ORDER BY labels DESC, "
            f"scenario), {SCENARIOS_MAX}) - 1 AS scenario_index FROM (SELECT coalesce(scenario, '') AS "
            "scenario, count(*) AS labels FROM labels WHERE verdict = 'fraud' AND event_id IS NOT NULL GROUP BY 1)"
        )
        names = self.fetch_rows(
            "SELECT CASE WHEN count(*) > 1 THEN NULL ELSE min(scenario) END FROM scenarios "
            "GROUP BY scenario_index ORDER BY scenario_index"
        )
        self.scenarios = [OTHERS if name is None else str(name) for (name,) in names]

    def _make_labelled(self) -> None:
        """`labelled`: row, scenario, scenario_index and known_time of every event labelled fraud, and
        events_with_id, the number of events with its id. Only labels of frauds are joined: they are few.
        The first event with an id is found by numbers only, which DuckDB can move to disk."""
        self.execute(
            "CREATE TABLE labelled AS SELECT row, scenario, scenario_index, known_time, events_with_id "
            f"FROM (SELECT l.row AS label_row, CAST(min(epoch_ms(s.event_time)::HUGEINT * {ROWS_MAX} + s.row) % "
            f"{ROWS_MAX} AS BIGINT) AS row, count(*) AS events_with_id FROM scores s JOIN labels l "
            "USING (event_id) WHERE l.verdict = 'fraud' GROUP BY l.row) JOIN (SELECT row AS label_row, "
            "coalesce(scenario, '') AS scenario, known_time FROM labels) USING (label_row) "
            "JOIN scenarios USING (scenario)"
        )

    def _make_events(self) -> None:
        """Make `events` and `alerted_events`. An event without a label counts as honest."""
        scores = (self._score_column(scorer) for scorer in self.scorers)
        self.execute(
            f"CREATE TABLE events AS SELECT day, coalesce(l.scenario_index, -1) AS scenario_index, {CENTS} "
            f"AS cents, score, {', '.join([*scores, *self.fields])}, {self._activity_columns()} "
            f"FROM scores s LEFT JOIN labelled l USING (row) JOIN days ON calendar = "
            f"{calendar_day('event_time')} WHERE evaluated"
        )
        self.execute(
            f"CREATE TABLE alerted_events AS SELECT event_time, {', '.join(self.fields)}, "
            f"{self._activity_columns()} FROM scores s WHERE alerted"
        )

    def _make_frauds(self) -> None:
        actions_in_force = (
            f"SELECT f.row, a.monitor FROM fraud f JOIN alerts a "
            f"ON a.entity_type = '{field}' AND a.entity = f.{field} "
            "AND f.event_time >= a.event_time "
            "AND f.event_time < a.event_time + to_milliseconds(1000 * a.ttl_s)"
            for field in self.fields
        )
        by_scorer = (
            f", bool_or(monitor = '{scorer.name}') AS action_{scorer.name}"
            for scorer in self.scorers
        )
        caught = (
            f"f.alerted{suffix} OR coalesce(a.action{suffix}, false) AS caught{suffix}"
            for suffix in self._column_suffixes()
        )
        gaps = {
            scorer.name: f"{scorer.min_alert_score!r} - score_{scorer.name}"
            for scorer in self.scorers
        }
        nearest = (f"WHEN {gap} THEN '{name}'" for name, gap in gaps.items())
        lowest_gap = f"least({', '.join(gaps.values())})"
        self.execute(
            f"CREATE TABLE frauds AS WITH fraud AS (SELECT s.*, known_time, day, l.scenario, l.scenario_index, "
            f"{CENTS} AS cents, {self._activity_columns()}, {lowest_gap} AS gap, "
            f"CASE {lowest_gap} {' '.join(nearest)} END AS nearest FROM scores s "
            f"JOIN labelled l USING (row) LEFT JOIN days ON calendar = {calendar_day('event_time')}) "
            f"SELECT f.*, {', '.join(caught)} FROM fraud f LEFT JOIN (SELECT row, true AS action"
            f"{''.join(by_scorer)} FROM ({' UNION ALL '.join(actions_in_force)}) GROUP BY row) a USING (row)"
        )

    def _make_labelled_entities(self, columns: Sequence[str]) -> None:
        """columns: of labels.parquet, with entity columns only where labels name entities alone."""
        by_field = (
            f"SELECT '{field}' AS field, {field} AS entity, known_time FROM labels "
            f"WHERE verdict = 'fraud' AND {field} IS NOT NULL"
            for field in ENTITY_FIELDS
            if field in columns
        )
        no_entities = "SELECT '' AS field, '' AS entity, now()::TIMESTAMP AS known_time WHERE false"
        self.execute(
            f"CREATE TABLE labelled_entities AS {' UNION ALL '.join([no_entities, *by_field])}"
        )

    def _score_column(self, scorer: Scorer) -> str:
        name = f"score_{scorer.name}"
        if not scorer.combines_reports:
            return name
        return f"CASE WHEN {scorer.entity} IS NOT NULL THEN coalesce({name}, 0) END AS {name}"

    def _activity_columns(self) -> str:
        """SQL for the columns alerted and published, for any scorer and for each."""
        all_names = [scorer.name for scorer in self.scorers]
        return ", ".join(
            f"{activity_is(names, outcomes)} AS {column}{suffix}"
            for column, outcomes in (("alerted", ALERTED), ("published", PUBLISHED))
            for names, suffix in zip(
                [all_names, *([name] for name in all_names)], self._column_suffixes(), strict=True
            )
        )

    def _column_suffixes(self) -> list[str]:
        """The suffixes of column names: for any scorer, then for each."""
        return ["", *(f"_{scorer.name}" for scorer in self.scorers)]


def calendar_day(time: str) -> str:
    """SQL for the day of a timestamp, counted from 1970."""
    return f"epoch_ms({time}) // {DAY_MS}"


def activity_is(scorers: Sequence[str], outcomes: tuple[str, ...]) -> str:
    """SQL for whether an event has one of these outcomes for any of the scorers."""
    return (
        f"({' OR '.join(f'coalesce(activity_{name} IN {outcomes!r}, false)' for name in scorers)})"
    )
