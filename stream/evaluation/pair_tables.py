"""The events and alerts of two runs, joined in tables of a database."""

from pathlib import Path
from typing import Final

import pyarrow.parquet as pq

from stream.evaluation.database import SqlSession, parquet_source
from stream.evaluation.labelled_run import ALERTED, CENTS, PUBLISHED, activity_is, calendar_day

SIDES: Final = ("first", "other")
BOTH: Final = "(first_published AND other_published)"
EITHER: Final = "(first_published OR other_published)"
ONLY_FIRST: Final = "(first_published AND NOT other_published)"
ONLY_OTHER: Final = "(other_published AND NOT first_published)"
"""SQL for which of the two runs has an alert on an event."""


def read_runs(sql: SqlSession, first: Path, other: Path, labelled: bool, position: str) -> None:
    """Make the table `event`, a row for each event that is evaluated in both runs, and the tables
    `first_alert` and `other_alert`, the alerts on these events with the state of their incidents.

    position: the columns that, with topic and time, identify an event in both runs.
    """
    for side, folder in zip(SIDES, (first, other), strict=True):
        scores = folder / "scores.parquet"
        names = pq.read_schema(scores).names
        scorers = [name.removeprefix("activity_") for name in names if name.startswith("activity_")]
        sql.execute(
            f"CREATE VIEW {side}_score AS SELECT *, {CENTS} AS cents, "
            f"{activity_is(scorers, ALERTED)} AS alerted, {activity_is(scorers, PUBLISHED)} AS published "
            f"FROM {parquet_source(scores)} WHERE evaluated"
        )
    frauds = "(SELECT *, '' AS scenario FROM first_score WHERE false)"
    if labelled:
        frauds = parquet_source(first / "frauds.parquet")
    sides = ", ".join(
        f'{side}."{name}" AS {side}_{name}'
        for side in SIDES
        for name in ("partition", "offset", "score", "alerted", "published")
    )
    sql.execute(
        f"""CREATE TABLE event AS SELECT first.topic, first.event_id,
            epoch_ms(first.event_time) AS time_ms, {calendar_day("first.event_time")} AS day,
            first.amount, first.cents,
            f.topic IS NOT NULL AS fraud, coalesce(f.scenario, '') AS scenario, {sides}
        FROM first_score first JOIN other_score other USING (topic, event_time, {position})
            LEFT JOIN {frauds} f ON f.topic = first.topic AND f.partition = first.partition
            AND f."offset" = first."offset" """
    )
    for side, folder in zip(SIDES, (first, other), strict=True):
        sql.execute(
            f"""CREATE TABLE {side}_alert AS SELECT a.*, i.opened, i.last, i.verdict
            FROM {parquet_source(folder / "alerts.parquet")} a
            JOIN {parquet_source(folder / "incidents.parquet")} i USING (incident_id)
            SEMI JOIN event e ON e.topic = a.topic AND e.{side}_partition = a.partition
            AND e.{side}_offset = a."offset" """
        )


def events_with_alert(sql: SqlSession) -> tuple[int, int]:
    """The number of events with an alert, of each run."""
    counts = ", ".join(f"count(*) FILTER ({side}_published)" for side in SIDES)
    [(first, other)] = sql.fetch_rows(f"SELECT {counts} FROM event")
    return int(first), int(other)


def fetch_row(sql: SqlSession, query: str) -> tuple[float, ...]:
    """The only row of a query."""
    [row] = sql.fetch_rows(query)
    return row
