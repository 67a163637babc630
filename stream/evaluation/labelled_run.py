"""A run's tables joined with its labels, in a database.

This module alone defines which event is a fraud, which event is alerted, which fraud is caught, and
which entity is known as compromised on a day:

- A label with an event id applies to the event with that id, in any input; if there are several, to
  the first by event time.
- An event is *alerted* if the policy opened an incident with it, updated one, or counted it in one.
  Verdicts of incidents, recall, delays and caught frauds are based on alerted events.
- An event is *published* if an alert was published on it, which an analyst has to review. Precision
  is based on published events.
- A fraud is *caught* if it is alerted, or if it happens while an action recommended by an alert on
  one of its entities is in force.
- A label that names only entities marks them as fraudulent without naming the event. It counts for
  these entities and their incidents; from its time on they are known as compromised.

DuckDB moves data that does not fit into memory to disk.
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
"""The most frequent scenarios are evaluated separately; the rarer ones together, as `OTHERS`."""
OTHERS: Final = "(others)"
MISSED_FRAUDS_SQL: Final = "SELECT * FROM frauds WHERE evaluated AND NOT caught"
CENTS: Final = "CAST(round_even(least(abs(coalesce(amount, 0)) * 100, 9e15), 0) AS BIGINT)"
"""SQL for an amount in whole cents. Sums of integers do not depend on the order of addition; the bound
prevents overflow. A negative amount, such as a refund, counts by its absolute value: a stolen refund
is a loss. `incident_table.in_cents` does the same for arrays."""
PUBLISHED: Final = ("opened", "updated")
ALERTED: Final = (*PUBLISHED, "counted")
"""Activities of an event that belongs to an incident; `table_columns.ACTIVITIES` has all."""
ROWS_MAX: Final = 1_000_000_000_000


@dataclass(frozen=True, slots=True)
class TableFiles:
    """A run's tables on disk."""

    scores: Path
    alerts: Path
    labels: Path


@dataclass(frozen=True, slots=True)
class Scorer:
    """A stage whose scores are evaluated. min_alert_score: the lowest score that can raise an alert.
    feature_names: names of a monitor's features and detectors. combines: it combines the reports of
    the other stages (assess); an event without a report scores 0."""

    name: str
    entity: str
    min_alert_score: float
    feature_names: tuple[str, ...]
    combines: bool = False


class LabelledRun(SqlSession):
    """The tables `days`, `events`, `frauds`, `alerted_events`, `labelled_entities` and `compromised`.

    - days: calendar (days since 1970) and day (0, 1, …) of each day with an evaluated event.
    - events: one row for each evaluated event: day, scenario_index (-1: honest), cents, score, the
      entity fields, alerted and published. Also, for each scorer, alerted_‹scorer›,
      published_‹scorer› and score_‹scorer›; the score of assess is 0 without a report.
    - frauds: every event labelled fraud, with all columns of scores, scenario, scenario_index,
      known_time, caught and caught_‹scorer›. nearest: the scorer whose score was nearest to an alert.
      gap: its min_alert_score minus its score. Both are null if no monitor scored the event.
    - alerted_events: event_time and entity fields of every alerted event.
    - labelled_entities: field, entity and known_time of entities that labels name as fraudulent
      without an event.
    - compromised: entity and day, for the entities of one field known as compromised on that day.

    scenarios: the scenario of each scenario_index; `OTHERS` stands for several.
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
        self._make_labelled_frauds()
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
        """The rows of frauds.parquet: the columns of scores, then those from labels and alerts."""
        columns = ", ".join(f'"{name}"' for name in self._columns)
        return self.fetch_batches(
            f"SELECT {columns}, scenario, known_time, alerted, published, caught, nearest, gap "
            "FROM frauds ORDER BY event_time, row"
        )

    def make_compromised(self, field: str) -> None:
        """Make `compromised` for a field, by the rule of the Fraud Detection Handbook. In the week that
        starts on day W, an entity is compromised on day D if a fraud of it became known from W - 7
        to D - 1. With labels 7 days late, these are frauds from W - 14 to D - 8. The first week starts
        on the first evaluated day.
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
        """Make `days`, and set days: int64[days], the calendar days with an evaluated event, rising; and
        span_ms: the first and the last time of such an event."""
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
        self.execute(
            "CREATE TABLE scenarios AS SELECT scenario, least(row_number() OVER (ORDER BY frauds DESC, "
            f"scenario), {SCENARIOS_MAX}) - 1 AS scenario_index FROM (SELECT coalesce(l.scenario, '') AS "
            "scenario, count(*) AS frauds FROM labels l WHERE verdict = 'fraud' AND event_id IS NOT NULL "
            "GROUP BY 1)"
        )
        rows = self.fetch_rows(
            "SELECT CASE WHEN count(*) > 1 THEN NULL ELSE min(scenario) END FROM scenarios "
            "GROUP BY scenario_index ORDER BY scenario_index"
        )
        self.scenarios = [OTHERS if name is None else str(name) for (name,) in rows]

    def _make_labelled_frauds(self) -> None:
        """Make `labelled_frauds`: row, scenario, scenario_index and known_time of every event labelled
        fraud, and the number of events with its id. Only labels of frauds are joined, because they
        are few. The join that picks the event uses only numbers, which DuckDB can move to disk."""
        self.execute(
            "CREATE TABLE labelled_frauds AS SELECT row, scenario, scenario_index, known_time, "
            "events_with_id FROM (SELECT "
            f"l.row AS label_row, CAST(min(epoch_ms(s.event_time)::HUGEINT * {ROWS_MAX} + s.row) % "
            f"{ROWS_MAX} AS BIGINT) AS row, count(*) AS events_with_id FROM scores s JOIN labels l "
            "USING (event_id) WHERE l.verdict = 'fraud' GROUP BY l.row) JOIN (SELECT row AS label_row, "
            "coalesce(l.scenario, '') AS scenario, known_time FROM labels l) USING (label_row) "
            "JOIN scenarios USING (scenario)"
        )

    def _make_events(self) -> None:
        """An event without a label counts as honest."""
        scores = (self._score(scorer) for scorer in self.scorers)
        self.execute(
            f"CREATE TABLE events AS SELECT day, coalesce(l.scenario_index, -1) AS scenario_index, {CENTS} "
            f"AS cents, score, {', '.join([*scores, *self.fields])}, {self._activity_columns()} "
            f"FROM scores s LEFT JOIN labelled_frauds l USING (row) JOIN days ON calendar = "
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
            f", bool_or(monitor = '{scorer.name}') AS in_force_{scorer.name}"
            for scorer in self.scorers
        )
        caught = (
            f"f.alerted{suffix} OR coalesce(a.in_force{suffix}, false) AS caught{suffix}"
            for suffix in self._column_suffixes()
        )
        gaps = {
            scorer.name: f"{scorer.min_alert_score!r} - score_{scorer.name}"
            for scorer in self.scorers
        }
        nearest = (f"WHEN {gap} THEN '{name}'" for name, gap in gaps.items())
        smallest_gap = f"least({', '.join(gaps.values())})"
        self.execute(
            f"CREATE TABLE frauds AS WITH fraud AS (SELECT s.*, known_time, day, l.scenario, scenario_index, "
            f"{CENTS} AS cents, {self._activity_columns()}, {smallest_gap} AS gap, "
            f"CASE {smallest_gap} {' '.join(nearest)} END AS nearest FROM scores s "
            f"JOIN labelled_frauds l USING (row) LEFT JOIN days ON calendar = {calendar_day('event_time')}) "
            f"SELECT f.*, {', '.join(caught)} FROM fraud f LEFT JOIN (SELECT row, true AS in_force"
            f"{''.join(by_scorer)} FROM ({' UNION ALL '.join(actions_in_force)}) GROUP BY row) a USING (row)"
        )

    def _make_labelled_entities(self, columns: Sequence[str]) -> None:
        """columns: those of labels.parquet; it has entity columns only if labels name entities without an
        event."""
        by_field = (
            f"SELECT '{field}' AS field, {field} AS entity, known_time FROM labels "
            f"WHERE verdict = 'fraud' AND {field} IS NOT NULL"
            for field in ENTITY_FIELDS
            if field in columns
        )
        no_rows = "SELECT '' AS field, '' AS entity, now()::TIMESTAMP AS known_time WHERE false"
        self.execute(
            f"CREATE TABLE labelled_entities AS {' UNION ALL '.join([no_rows, *by_field])}"
        )

    def _score(self, scorer: Scorer) -> str:
        name = f"score_{scorer.name}"
        if not scorer.combines:
            return name
        return f"CASE WHEN {scorer.entity} IS NOT NULL THEN coalesce({name}, 0) END AS {name}"

    def _activity_columns(self) -> str:
        """SQL for the columns alerted and published, of all scorers together and of each."""
        all_names = [scorer.name for scorer in self.scorers]
        return ", ".join(
            f"{activity_is(names, activities)} AS {column}{suffix}"
            for column, activities in (("alerted", ALERTED), ("published", PUBLISHED))
            for names, suffix in zip(
                [all_names, *([name] for name in all_names)], self._column_suffixes(), strict=True
            )
        )

    def _column_suffixes(self) -> list[str]:
        """The suffixes of column names: of all scorers together, then of each."""
        return ["", *(f"_{scorer.name}" for scorer in self.scorers)]


def calendar_day(time: str) -> str:
    """SQL for the day of a timestamp, counted from 1970."""
    return f"epoch_ms({time}) // {DAY_MS}"


def activity_is(scorers: Sequence[str], activities: tuple[str, ...]) -> str:
    """SQL for whether an event has one of these activities for any of the scorers."""
    return f"({' OR '.join(f'coalesce(activity_{name} IN {activities!r}, false)' for name in scorers)})"
