"""Compare two runs over the same events: which caught more, and which frauds only one of them caught.

DuckDB joins the tables of the runs in bounded memory. The interval of a difference comes from resamples
that draw the same days for both runs, so that effects of a day on both cancel.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np

from schemas.columns import F64, I64
from stream.clock import format_time_ms
from stream.errors import InputError
from stream.evaluation import database
from stream.evaluation.comparison import CaughtByOne, Difference, Overlap, Pair
from stream.evaluation.conclusions import (
    AVERAGE_PRECISION,
    EQUAL_RECALL,
    PRECISION,
    RECALL,
    pair_conclusion,
)
from stream.evaluation.database import SqlSession
from stream.evaluation.drift import drift_of
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
from stream.evaluation.pair_tables import (
    BOTH,
    ONLY_FIRST,
    ONLY_OTHER,
    SIDES,
    events_with_alert,
    fetch_row,
    read_runs,
)

CAUGHT_MAX: Final = 10


def pair(
    work: Path,
    first: tuple[str, Path],
    other: tuple[str, Path],
    *,
    labelled: bool,
    by_position: bool,
) -> Pair:
    """Compare the first run with another, each given by its name and folder.

    work: a folder for DuckDB's temporary files. labelled: labels say which events are fraud.
    by_position: an event has the same position in both runs, else the same id. Raises ExtraMissing,
    and InputError where no event is in both.
    """
    with database.open_database(work) as connection:
        sql = SqlSession(connection)
        position = 'partition, "offset"' if by_position else "event_id"
        read_runs(sql, first[1], other[1], labelled, position)
        [(in_first, in_other, in_both)] = sql.fetch_rows(
            "SELECT (SELECT count(*) FROM first_score), (SELECT count(*) FROM other_score), "
            "(SELECT count(*) FROM event)"
        )
        if in_first and in_other and not in_both:
            raise InputError(
                f"{first[0]} and {other[0]}: of {in_first} and {in_other} evaluated events none "
                "has the same id and time in both; expected two runs of the same inputs, with the same mapping of id and time"
            )
        differences = list(_differences(sql)) if labelled else []
        drift = drift_of(sql)
        conclusion = pair_conclusion(first[0], other[0], differences, events_with_alert(sql), drift)
        return Pair(
            first=first[0],
            other=other[0],
            **conclusion._asdict(),
            differences=differences,
            overlaps=list(_overlaps(sql, labelled)),
            caught_by_first_only=_caught_by_one(sql, ONLY_FIRST),
            caught_by_other_only=_caught_by_one(sql, ONLY_OTHER),
            drift=drift,
        )


def _differences(sql: SqlSession) -> Iterator[Difference]:
    fewer = min(events_with_alert(sql))
    by_day = sql.fetch_columns(
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
    day = by_day.pop("day").astype(np.int64)
    weights = resample_weights(len(day))
    honest, frauds = (by_day[name].astype(np.int64) for name in ("honest", "frauds"))
    totals = RankingTotals(honest, frauds[:, None])
    first, other = (_ranked(sql, side, day, totals, weights) for side in SIDES)
    at_false_positives = "recall at 0.1 % false positives"
    yield _difference(AVERAGE_PRECISION, first.average_precision, other.average_precision, frauds)
    yield _difference("ROC AUC", first.roc_auc, other.roc_auc, frauds)
    yield _difference(
        at_false_positives, first.recall_at_false_positives, other.recall_at_false_positives, frauds
    )
    sums = {name: column.astype(np.int64) for name, column in by_day.items()}
    sums["published"] = sums["published_a"] + sums["published_b"]
    sums["compared"] = sums["frauds"] * (fewer > 0)  # undefined if one run has no alert
    for measure, parts, wholes, measured in (
        (EQUAL_RECALL, ("equal_a", "equal_b"), ("compared", "compared"), "compared"),
        (RECALL, ("alerted_a", "alerted_b"), ("frauds", "frauds"), "frauds"),
        (PRECISION, ("true_a", "true_b"), ("published_a", "published_b"), "published"),
        (
            *("share of the frauds' amount alerted on", ("amount_a", "amount_b")),
            *(("amount", "amount"), "amount"),
        ),
    ):
        a, b = (
            divide(sums[part] @ weights, sums[whole] @ weights)
            for part, whole in zip(parts, wholes, strict=True)
        )
        yield _difference(measure, a, b, sums[measured])


def _equal(side: str, count: int) -> str:
    """SQL for the column ‹side›_equal: whether an event is one of the `count` events with an alert that
    have the highest scores."""
    return (
        f"rowid IN (SELECT rowid FROM event WHERE {side}_published "
        f"ORDER BY {side}_score DESC, time_ms, event_id LIMIT {count}) AS {side}_equal"
    )


def _difference(measure: str, first: F64, other: F64, measured: I64) -> Difference:
    """The difference in a measure. measured: int64[days], its denominator on each day."""
    blocks = int(np.count_nonzero(measured))
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


def _overlaps(sql: SqlSession, labelled: bool) -> Iterator[Overlap]:
    yield _of_events(sql, "events", "count(*)", "true")
    yield _of_entities(sql, "entities", "")
    yield _incidents(sql)
    yield _of_events(sql, "amount", "sum(cents / 100)", "true")
    if labelled:
        yield _of_events(sql, "frauds", "count(*)", "fraud")
        yield _of_entities(sql, "fraud entities", "WHERE verdict = 'fraud'")
        yield _of_events(sql, "fraud amount", "sum(cents / 100)", "fraud")


def _of_events(sql: SqlSession, what: str, measure: str, condition: str) -> Overlap:
    sums = ", ".join(
        f"coalesce({measure} FILTER ({side} AND {condition}), 0)"
        for side in (BOTH, ONLY_FIRST, ONLY_OTHER)
    )
    return _overlap(what, fetch_row(sql, f"SELECT {sums} FROM event"))


def _of_entities(sql: SqlSession, what: str, where: str) -> Overlap:
    entities = {
        side: f"SELECT DISTINCT entity_type, entity FROM {side}_alert {where}" for side in SIDES
    }
    first, other = entities["first"], entities["other"]
    return _overlap(
        what,
        fetch_row(
            sql,
            f"""SELECT (SELECT count(*) FROM ({first} INTERSECT {other})),
                (SELECT count(*) FROM ({first} EXCEPT {other})),
                (SELECT count(*) FROM ({other} EXCEPT {first}))""",
        ),
    )


def _incidents(sql: SqlSession) -> Overlap:
    counted = {}
    for side, against in (SIDES, SIDES[::-1]):
        counted[side] = fetch_row(
            sql,
            f"""WITH incident AS (SELECT DISTINCT incident_id, entity_type, entity, opened, last
                FROM {side}_alert)
            SELECT count(*) FILTER (in_both), count(*) FILTER (NOT in_both) FROM (
                SELECT EXISTS (FROM {against}_alert a WHERE a.entity_type = incident.entity_type
                    AND a.entity = incident.entity
                    AND a.event_time BETWEEN incident.opened AND incident.last) AS in_both
                FROM incident)""",
        )
    return _overlap("incidents", (*counted["first"], counted["other"][1]))


def _overlap(what: str, counts: tuple[float, ...]) -> Overlap:
    both, first_only, other_only = map(float, counts)
    return Overlap(what=what, both=both, first_only=first_only, other_only=other_only)


def _caught_by_one(sql: SqlSession, which: str) -> list[CaughtByOne]:
    rows = sql.fetch_rows(
        f"""SELECT event_id, time_ms, scenario, amount, first_score, other_score FROM event
        WHERE fraud AND {which} ORDER BY amount DESC NULLS LAST, time_ms, event_id LIMIT {CAUGHT_MAX}"""
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
