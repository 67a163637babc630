"""Two runs over the same events held against each other: which caught more, what only one of them
caught, and how far their scores have moved.

Reads what the runs wrote, joined in DuckDB and so in bounded memory. Intervals of a difference are
of resamples in which both runs keep the same days, so that what a day brings to both cancels out.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow.parquet as pq

from schemas.columns import F64, I64
from stream.clock import format_time_ms
from stream.errors import InputError
from stream.evaluation import database
from stream.evaluation.comparison import (
    CaughtByOne,
    Difference,
    Drift,
    Overlap,
    Pair,
    Period,
    ScoreBand,
)
from stream.evaluation.conclusions import (
    AVERAGE_PRECISION,
    EQUAL_RECALL,
    PRECISION,
    RECALL,
    pair_conclusion,
)
from stream.evaluation.database import SqlSession, parquet_source
from stream.evaluation.labelled_run import (
    ALERTED,
    CENTS,
    DAY_MS,
    PUBLISHED,
    activity_is,
    calendar_day,
)
from stream.evaluation.measures import (
    HONEST,
    RankedRows,
    RankingMeasures,
    RankingReader,
    RankingTotals,
    divide,
    resample_weights,
    sign,
    with_interval,
)

SIDES: Final = ("first", "other")
BOTH: Final = "(first_published AND other_published)"
EITHER: Final = "(first_published OR other_published)"
ONLY_FIRST: Final = "(first_published AND NOT other_published)"
ONLY_OTHER: Final = "(other_published AND NOT first_published)"
"""Which of two runs have an alert on an event."""
SCORE_STEP: Final = 0.005
"""Scores are compared by rank in steps of this: a p-value within 1.2 % of another counts as it."""
BANDS: Final = (0.0, 0.301, 0.699, 1.0, 1.301, 2.0, 3.0, 4.0)
"""Scores of p-values 1, 1/2, 1/5, 1/10, 1/20, 1/100, 1/1,000 and 1/10,000."""
FOUND_MAX: Final = 10
PERIODS_MAX: Final = 60


def pair(
    work: Path,
    first: tuple[str, Path],
    other: tuple[str, Path],
    *,
    labelled: bool,
    by_position: bool,
) -> Pair:
    """The first run and another, each by its name and its folder.

    work: a folder for what DuckDB keeps meanwhile. by_position: an event has the same position in
    both, else the same id. Raises ExtraMissing, InputError where no event is in both.
    """
    with database.open_database(work) as connection:
        sql = SqlSession(connection)
        same = 'partition, "offset"' if by_position else "event_id"
        _read(sql, first[1], other[1], labelled, same)
        [(in_first, in_other, in_both)] = sql.fetch_rows(
            "SELECT (SELECT count(*) FROM first_score), (SELECT count(*) FROM other_score), "
            "(SELECT count(*) FROM event)"
        )
        if in_first and in_other and not in_both:
            raise InputError(
                f"{first[0]} and {other[0]}: of {in_first} and {in_other} events to be evaluated none "
                "has the same id and time in both; expected inputs that both map alike"
            )
        differences = list(_differences(sql)) if labelled else []
        drift = _drift(sql)
        said = pair_conclusion(first[0], other[0], differences, _with_alert(sql), drift)
        return Pair(
            first=first[0],
            other=other[0],
            **said._asdict(),
            differences=differences,
            overlaps=list(_overlaps(sql, labelled)),
            caught_by_first_only=_caught_by_one(sql, ONLY_FIRST),
            caught_by_other_only=_caught_by_one(sql, ONLY_OTHER),
            drift=drift,
        )


# -- the tables -----------------------------------------------------------------------------------


def _read(sql: SqlSession, first: Path, other: Path, labelled: bool, same: str) -> None:
    """Table event: a row for each that is evaluated in both. Tables first_alert, other_alert: the alerts
    on these events, with what incidents.parquet says of their incidents. same: beside topic and time
    the columns that are the same in both of an event."""
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
        FROM first_score first JOIN other_score other USING (topic, event_time, {same})
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


def _differences(sql: SqlSession) -> Iterator[Difference]:
    fewer = min(_with_alert(sql))
    found = sql.fetch_columns(
        f"""SELECT day, count(*) FILTER (NOT fraud) AS honest, count(*) FILTER (fraud) AS frauds,
            count(*) FILTER (fraud AND first_alerted) AS alerted_a,
            count(*) FILTER (fraud AND other_alerted) AS alerted_b,
            count(*) FILTER (fraud AND first_equal) AS equal_a,
            count(*) FILTER (fraud AND other_equal) AS equal_b,
            count(*) FILTER (fraud AND first_published) AS true_a,
            count(*) FILTER (fraud AND other_published) AS true_b,
            count(*) FILTER (first_published) AS published_a,
            count(*) FILTER (other_published) AS published_b,
            coalesce(sum(cents) FILTER (fraud), 0) AS amount,
            coalesce(sum(cents) FILTER (fraud AND first_alerted), 0) AS amount_a,
            coalesce(sum(cents) FILTER (fraud AND other_alerted), 0) AS amount_b
        FROM (SELECT *, {", ".join(_equal(side, fewer) for side in SIDES)} FROM event)
        GROUP BY day ORDER BY day"""
    )
    day = found.pop("day").astype(np.int64)
    weights = resample_weights(len(day))
    honest, frauds = (found[name].astype(np.int64) for name in ("honest", "frauds"))
    totals = RankingTotals(honest, frauds[:, None])
    first, other = (_ranked(sql, side, day, totals, weights) for side in SIDES)
    at_few = "recall at 0.1 % false positives"
    yield _difference(AVERAGE_PRECISION, first.average_precision, other.average_precision, frauds)
    yield _difference("ROC AUC", first.roc_auc, other.roc_auc, frauds)
    yield _difference(
        at_few, first.recall_at_false_positives, other.recall_at_false_positives, frauds
    )
    of = {name: column.astype(np.int64) for name, column in found.items()}
    of["published"] = of["published_a"] + of["published_b"]
    of["compared"] = of["frauds"] * (fewer > 0)  # to no alert at all nothing is equally many
    for measure, parts, wholes, held in (
        (EQUAL_RECALL, ("equal_a", "equal_b"), ("compared", "compared"), "compared"),
        (RECALL, ("alerted_a", "alerted_b"), ("frauds", "frauds"), "frauds"),
        (PRECISION, ("true_a", "true_b"), ("published_a", "published_b"), "published"),
        (
            *("share of the frauds' amount alerted on", ("amount_a", "amount_b")),
            *(("amount", "amount"), "amount"),
        ),
    ):
        a, b = (
            divide(of[part] @ weights, of[whole] @ weights)
            for part, whole in zip(parts, wholes, strict=True)
        )
        yield _difference(measure, a, b, of[held])


def _equal(side: str, most: int) -> str:
    """Column ‹side›_equal: whether an event is among so many at most of a side's events with an
    alert, those with the highest scores."""
    return (
        f"rowid IN (SELECT rowid FROM event WHERE {side}_published "
        f"ORDER BY {side}_score DESC, time_ms, event_id LIMIT {most}) AS {side}_equal"
    )


def _with_alert(sql: SqlSession) -> tuple[int, int]:
    """How many events have an alert, of either side."""
    counts = ", ".join(f"count(*) FILTER ({side}_published)" for side in SIDES)
    [(first, other)] = sql.fetch_rows(f"SELECT {counts} FROM event")
    return int(first), int(other)


def _difference(measure: str, first: F64, other: F64, held: I64) -> Difference:
    """held: int64[days], how much of what is measured lies in each."""
    blocks = int(np.count_nonzero(held))
    difference = with_interval(other - first, blocks)
    return Difference(
        measure=measure,
        first=with_interval(first, blocks).value,
        other=with_interval(other, blocks).value,
        difference=difference,
        sign=sign(difference, blocks),
    )


def _ranked(
    sql: SqlSession, side: str, days: I64, totals: RankingTotals, weights: F64
) -> RankingMeasures:
    """The measures of a run's scores. days: int64[blocks], rising."""
    reader = RankingReader(totals, weights)
    for batch in sql.fetch_batches(
        f"""SELECT {side}_score, day, fraud, count(*), sum(cents) FROM event
        GROUP BY {side}_score, day, fraud ORDER BY {side}_score DESC, day, fraud"""
    ):
        score, day, fraud, size, cents = (
            column.to_numpy(zero_copy_only=False) for column in batch.columns
        )
        reader.add(
            RankedRows(
                score.astype(np.float64),
                np.searchsorted(days, day),
                np.where(fraud, 0, HONEST).astype(np.int64),
                size.astype(np.int64),
                cents.astype(np.int64),
            )
        )
    return reader.finish()


# -- what both have, and what only one ------------------------------------------------------------


def _overlaps(sql: SqlSession, labelled: bool) -> Iterator[Overlap]:
    yield _of_events(sql, "events", "count(*)", "true")
    yield _of_entities(sql, "entities", "")
    yield _incidents(sql)
    yield _of_events(sql, "amount", "sum(cents / 100)", "true")
    if labelled:
        yield _of_events(sql, "frauds", "count(*)", "fraud")
        yield _of_entities(sql, "fraud entities", "WHERE verdict = 'fraud'")
        yield _of_events(sql, "fraud amount", "sum(cents / 100)", "fraud")


def _of_events(sql: SqlSession, what: str, measure: str, among: str) -> Overlap:
    sums = ", ".join(
        f"coalesce({measure} FILTER ({one} AND {among}), 0)"
        for one in (BOTH, ONLY_FIRST, ONLY_OTHER)
    )
    return _overlap(what, _one(sql, f"SELECT {sums} FROM event"))


def _of_entities(sql: SqlSession, what: str, among: str) -> Overlap:
    entities = {
        side: f"SELECT DISTINCT entity_type, entity FROM {side}_alert {among}" for side in SIDES
    }
    first, other = entities["first"], entities["other"]
    return _overlap(
        what,
        _one(
            sql,
            f"""SELECT (SELECT count(*) FROM ({first} INTERSECT {other})),
                (SELECT count(*) FROM ({first} EXCEPT {other})),
                (SELECT count(*) FROM ({other} EXCEPT {first}))""",
        ),
    )


def _incidents(sql: SqlSession) -> Overlap:
    counted = {}
    for side, against in (SIDES, SIDES[::-1]):
        counted[side] = _one(
            sql,
            f"""WITH incident AS (SELECT DISTINCT incident_id, entity_type, entity, opened, last
                FROM {side}_alert)
            SELECT count(*) FILTER (known), count(*) FILTER (NOT known) FROM (
                SELECT EXISTS (FROM {against}_alert a WHERE a.entity_type = incident.entity_type
                    AND a.entity = incident.entity
                    AND a.event_time BETWEEN incident.opened AND incident.last) AS known
                FROM incident)""",
        )
    return _overlap("incidents", (*counted["first"], counted["other"][1]))


def _overlap(what: str, counts: tuple[float, ...]) -> Overlap:
    both, first_only, other_only = map(float, counts)
    return Overlap(what=what, both=both, first_only=first_only, other_only=other_only)


def _caught_by_one(sql: SqlSession, which: str) -> list[CaughtByOne]:
    rows = sql.fetch_rows(
        f"""SELECT event_id, time_ms, scenario, amount, first_score, other_score FROM event
        WHERE fraud AND {which} ORDER BY amount DESC NULLS LAST, time_ms, event_id LIMIT {FOUND_MAX}"""
    )
    return [
        CaughtByOne(
            event_id=event_id,
            event_time=format_time_ms(time_ms),
            scenario=scenario,
            amount=amount,
            first_score=first,
            other_score=other,
        )
        for event_id, time_ms, scenario, amount, first, other in rows
    ]


# -- how far the scores have moved ----------------------------------------------------------------


def _drift(sql: SqlSession) -> Drift:
    events, days, in_both, in_either = _one(
        sql,
        f"""SELECT count(*), count(DISTINCT day), count(*) FILTER ({BOTH}),
            count(*) FILTER ({EITHER}) FROM event""",
    )
    bands = _bands(sql)
    period_days = max(1, -(-int(days) // PERIODS_MAX))
    return Drift(
        events=int(events),
        rank_correlation=_rank_correlation(sql),
        population_stability=_population_stability(bands, int(events)),
        alerts_in_common=in_both / in_either if in_either else None,
        bands=bands,
        period_days=period_days,
        periods=list(_periods(sql, period_days)),
    )


def _periods(sql: SqlSession, period_days: int) -> Iterator[Period]:
    found = sql.fetch_rows(
        f"""SELECT min(day), sum(first), sum(other), sum(in_both), sum(either) FROM (
            SELECT day, row_number() OVER (ORDER BY day) - 1 AS place,
                count(*) FILTER (first_published) AS first,
                count(*) FILTER (other_published) AS other,
                count(*) FILTER ({BOTH}) AS in_both, count(*) FILTER ({EITHER}) AS either
            FROM event GROUP BY day)
        GROUP BY place // {period_days} ORDER BY 1"""
    )
    for day, first, other, both, either in found:
        yield Period(
            from_day=format_time_ms(day * DAY_MS)[:10],
            first=int(first),
            other=int(other),
            both=int(both),
            share=both / either if either else None,
        )


def _bands(sql: SqlSession) -> list[ScoreBand]:
    shares = [
        _one(
            sql,
            "SELECT "
            + ", ".join(f"coalesce(avg(({side}_score >= {low})::INT), 0)" for low in BANDS)
            + " FROM event",
        )
        for side in SIDES
    ]
    return [
        ScoreBand(score_from=low, first=float(first), other=float(other))
        for low, first, other in zip(BANDS, *shares, strict=True)
    ]


def _population_stability(bands: list[ScoreBand], events: int) -> float:
    first, other = (
        -np.diff([getattr(one, side) for one in bands], append=0.0) * events + 0.5 for side in SIDES
    )
    p, q = first / first.sum(), other / other.sum()
    return float(np.sum((q - p) * np.log(q / p)))


def _rank_correlation(sql: SqlSession) -> float | None:
    """Of the joint counts of both scores' steps."""
    found = sql.fetch_columns(
        f"""SELECT floor(first_score / {SCORE_STEP})::BIGINT AS first,
            floor(other_score / {SCORE_STEP})::BIGINT AS other, count(*) AS counts
        FROM event GROUP BY ALL ORDER BY ALL"""
    )
    first, other, counts = (np.asarray(column, np.float64) for column in found.values())
    if any(len(np.unique(steps)) < 2 for steps in (first, other)):
        return None
    ranks = [_mean_ranks(steps, counts) for steps in (first, other)]
    weights = counts / counts.sum()
    a, b = (rank - weights @ rank for rank in ranks)
    spread = np.sqrt((weights @ a**2) * (weights @ b**2))
    return float(weights @ (a * b) / spread)


def _mean_ranks(steps: F64, counts: F64) -> F64:
    """float64[n]: the mean rank of each entry's step. steps, counts: float64[n]."""
    values, which = np.unique(steps, return_inverse=True)
    held = np.bincount(which, counts, len(values))
    ranks: F64 = (np.cumsum(held) - held / 2)[which]
    return ranks


def _one(sql: SqlSession, query: str) -> tuple[float, ...]:
    """The only row of a query."""
    [row] = sql.fetch_rows(query)
    return row
