"""Two runs over the same events held against each other: which caught more, what only one of them
caught, and how far their scores have moved.

Reads what the runs wrote, joined in DuckDB and so in bounded memory. Intervals of a difference are
of resamples in which both runs keep the same days, so that what a day brings to both cancels out.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from schemas.columns import F64, I64
from stream import database
from stream.clock import text_of
from stream.judging.comparison import (
    Difference,
    Drift,
    FoundByOne,
    Overlap,
    Pair,
    Period,
    ScoreBand,
)
from stream.judging.facts import DAY_MS
from stream.judging.measures import (
    HONEST,
    Ranked,
    Reader,
    Rows,
    Totals,
    divided,
    figure,
    resampled,
)
from stream.judging.verdict import AVERAGE_PRECISION, EQUAL_RECALL, PRECISION, of_pair

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

SIDES: Final = ("first", "other")
SCORE_STEP: Final = 0.005
"""Scores are compared by rank in steps of this: a p-value within 1.2 % of another counts as it."""
BANDS: Final = (0.0, 0.301, 0.699, 1.0, 1.301, 2.0, 3.0, 4.0)
"""Scores of p-values 1, 1/2, 1/5, 1/10, 1/20, 1/100, 1/1,000 and 1/10,000."""
FOUND_MAX: Final = 10
PERIODS_MAX: Final = 60
ROWS_AT_ONCE: Final = 100_000


def pair(work: Path, first: tuple[str, Path], other: tuple[str, Path], labelled: bool) -> Pair:
    """The first run and another, each by its name and its folder. work: a folder for what DuckDB
    keeps meanwhile. Raises ExtraMissing."""
    with database.opened(work) as tables:
        _read(tables, first[1], other[1], labelled)
        alerted = _alerted(tables)
        differences = list(_differences(tables, min(alerted))) if labelled else []
        drift = _drift(tables)
        said = of_pair(first[0], other[0], differences, alerted, drift)
        return Pair(
            first=first[0],
            other=other[0],
            **said._asdict(),
            differences=differences,
            overlaps=list(_overlaps(tables, labelled)),
            by_first=_found_by_one(tables, "first_alerted AND NOT other_alerted"),
            by_other=_found_by_one(tables, "other_alerted AND NOT first_alerted"),
            drift=drift,
        )


# -- the tables -----------------------------------------------------------------------------------


def _read(tables: "DuckDBPyConnection", first: Path, other: Path, labelled: bool) -> None:
    """Table event: a row for each that is judged. Tables first_alert, other_alert: as
    alerts.parquet, of these events."""
    paths = [
        str(at / name) for name in ("scores.parquet", "alerts.parquet") for at in (first, other)
    ]
    label = "SELECT NULL::VARCHAR AS event_id, '' AS scenario WHERE false"
    if labelled:
        label = """SELECT event_id, any_value(coalesce(scenario, '')) AS scenario
            FROM read_parquet($5) WHERE verdict = 'fraud' AND event_id IS NOT NULL
            GROUP BY event_id"""
        paths.append(str(first / "labels.parquet"))
    tables.execute(
        f"""CREATE TABLE event AS WITH label AS ({label})
        SELECT a.event_id, epoch_ms(a.event_time) AS time_ms,
            epoch_ms(a.event_time) // {DAY_MS} AS day,
            a.score AS first_score, b.score AS other_score,
            a.amount, coalesce(round(a.amount * 100)::BIGINT, 0) AS hundredths,
            label.event_id IS NOT NULL AS fraud, coalesce(label.scenario, '') AS scenario,
            a.event_id IN (SELECT event_id FROM read_parquet($3)) AS first_alerted,
            a.event_id IN (SELECT event_id FROM read_parquet($4)) AS other_alerted
        FROM read_parquet($1) a JOIN read_parquet($2) b USING (event_id)
            LEFT JOIN label USING (event_id)
        WHERE a.judged AND b.judged""",
        paths,
    )
    for side, folder in (("first", first), ("other", other)):
        tables.execute(
            f"""CREATE TABLE {side}_alert AS SELECT * FROM read_parquet(?)
            WHERE event_id IN (SELECT event_id FROM event WHERE {side}_alerted)""",
            [str(folder / "alerts.parquet")],
        )


def _differences(tables: "DuckDBPyConnection", fewer: int) -> Iterator[Difference]:
    """fewer: events with an alert, of the side that has fewer."""
    days = _columns(
        tables,
        "SELECT day, sum((NOT fraud)::INT), sum(fraud::INT) FROM event GROUP BY day ORDER BY day",
    )
    day, honest, frauds = (column.astype(np.int64) for column in days)
    weights = resampled(len(day))
    totals = Totals(honest, frauds[:, None])
    first, other = (_ranked(tables, side, day, totals, weights) for side in ("first", "other"))
    at_few = "recall at 0.1 % false positives"
    yield _difference(AVERAGE_PRECISION, first.average_precision, other.average_precision, frauds)
    yield _difference("ROC AUC", first.roc_auc, other.roc_auc, frauds)
    yield _difference(
        at_few, first.recall_at_false_positives, other.recall_at_false_positives, frauds
    )
    found = _columns(
        tables,
        f"""SELECT {", ".join(f"sum({one})" for one in _SUMS)}
        FROM (SELECT *, {", ".join(_equal(side, fewer) for side in SIDES)} FROM event)
        GROUP BY day ORDER BY day""",
    )
    found_a, found_b, equal_a, equal_b, alerted_a, alerted_b, amount, amount_a, amount_b = (
        column.astype(np.int64) for column in found
    )
    alerted = alerted_a + alerted_b
    for measure, (part_a, whole_a), (part_b, whole_b), held in (
        (EQUAL_RECALL, (equal_a, frauds), (equal_b, frauds), frauds),
        ("recall at the alert budget", (found_a, frauds), (found_b, frauds), frauds),
        (PRECISION, (found_a, alerted_a), (found_b, alerted_b), alerted),
        ("share of the frauds' amount alerted on", (amount_a, amount), (amount_b, amount), amount),
    ):
        a, b = (
            divided(part @ weights, whole @ weights)
            for part, whole in ((part_a, whole_a), (part_b, whole_b))
        )
        yield _difference(measure, a, b, held)


_SUMS: Final = (
    *(f"(fraud AND {side}_{which})::INT" for which in ("alerted", "equal") for side in SIDES),
    *(f"{side}_alerted::INT" for side in SIDES),
    "hundredths * fraud::INT",
    *(f"hundredths * (fraud AND {side}_alerted)::INT" for side in SIDES),
)


def _equal(side: str, most: int) -> str:
    """Column ‹side›_equal: whether an event is among so many alerts of a side at most, those with
    the highest scores."""
    return (
        f"rowid IN (SELECT rowid FROM event WHERE {side}_alerted "
        f"ORDER BY {side}_score DESC, time_ms, event_id LIMIT {most}) AS {side}_equal"
    )


def _alerted(tables: "DuckDBPyConnection") -> tuple[int, int]:
    """Events with an alert, of either side."""
    counts = ", ".join(f"count(*) FILTER ({side}_alerted)" for side in SIDES)
    first, other = _one(tables, f"SELECT {counts} FROM event")
    return int(first), int(other)


def _difference(measure: str, first: F64, other: F64, held: I64) -> Difference:
    """held: int64[days], how much of what is measured lies in each."""
    blocks = int(np.count_nonzero(held))
    return Difference(
        measure=measure,
        first=figure(first, blocks).value,
        other=figure(other, blocks).value,
        difference=figure(other - first, blocks),
    )


def _ranked(
    tables: "DuckDBPyConnection", side: str, days: I64, totals: Totals, weights: F64
) -> Ranked:
    """The measures of a run's scores. days: int64[blocks], rising."""
    found = tables.sql(
        f"""SELECT {side}_score, day, fraud, count(*), sum(hundredths) FROM event
        GROUP BY {side}_score, day, fraud ORDER BY {side}_score DESC, day, fraud"""
    ).to_arrow_reader(ROWS_AT_ONCE)
    reader = Reader(totals, weights)
    assert found is not None
    for batch in found:
        score, day, fraud, size, hundredths = (
            column.to_numpy(zero_copy_only=False) for column in batch.columns
        )
        reader.add(
            Rows(
                score.astype(np.float64),
                np.searchsorted(days, day),
                np.where(fraud, 0, HONEST).astype(np.int64),
                size.astype(np.int64),
                hundredths.astype(np.int64),
            )
        )
    return reader.finish()


# -- what both have, and what only one ------------------------------------------------------------


def _overlaps(tables: "DuckDBPyConnection", labelled: bool) -> Iterator[Overlap]:
    yield _of_events(tables, "events", "count(*)", "true")
    yield _of_entities(tables, "entities", "")
    yield _incidents(tables)
    yield _of_events(tables, "amount", "sum(hundredths / 100)", "true")
    if labelled:
        yield _of_events(tables, "frauds", "count(*)", "fraud")
        of_fraud = "WHERE event_id IN (SELECT event_id FROM event WHERE fraud)"
        yield _of_entities(tables, "fraud entities", of_fraud)
        yield _of_events(tables, "fraud amount", "sum(hundredths / 100)", "fraud")


def _of_events(tables: "DuckDBPyConnection", what: str, measure: str, among: str) -> Overlap:
    filters = (
        *("first_alerted AND other_alerted", "first_alerted AND NOT other_alerted"),
        "other_alerted AND NOT first_alerted",
    )
    sums = ", ".join(f"coalesce({measure} FILTER ({one} AND {among}), 0)" for one in filters)
    return _overlap(what, _one(tables, f"SELECT {sums} FROM event"))


def _of_entities(tables: "DuckDBPyConnection", what: str, among: str) -> Overlap:
    entities = {
        side: f"SELECT DISTINCT entity_type, entity FROM {side}_alert {among}"
        for side in ("first", "other")
    }
    first, other = entities["first"], entities["other"]
    return _overlap(
        what,
        _one(
            tables,
            f"""SELECT (SELECT count(*) FROM ({first} INTERSECT {other})),
                (SELECT count(*) FROM ({first} EXCEPT {other})),
                (SELECT count(*) FROM ({other} EXCEPT {first}))""",
        ),
    )


def _incidents(tables: "DuckDBPyConnection") -> Overlap:
    counted = {}
    for side, against in (("first", "other"), ("other", "first")):
        counted[side] = _one(
            tables,
            f"""WITH incident AS (SELECT incident_id, entity_type, entity,
                    min(first_seen) AS opened, max(last_seen) AS last FROM {side}_alert GROUP BY ALL)
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


def _found_by_one(tables: "DuckDBPyConnection", which: str) -> list[FoundByOne]:
    rows = tables.execute(
        f"""SELECT event_id, time_ms, scenario, amount, first_score, other_score FROM event
        WHERE fraud AND {which} ORDER BY amount DESC NULLS LAST, event_id LIMIT {FOUND_MAX}"""
    ).fetchall()
    return [
        FoundByOne(
            event_id=event_id,
            event_time=text_of(time_ms),
            scenario=scenario,
            amount=amount,
            first_score=first,
            other_score=other,
        )
        for event_id, time_ms, scenario, amount, first, other in rows
    ]


# -- how far the scores have moved ----------------------------------------------------------------


def _drift(tables: "DuckDBPyConnection") -> Drift:
    events, first_day, last_day, in_both, in_either = _one(
        tables,
        """SELECT count(*), min(day), max(day), count(*) FILTER (first_alerted AND other_alerted),
            count(*) FILTER (first_alerted OR other_alerted) FROM event""",
    )
    bands = _bands(tables)
    period_days = -(-int((last_day or 0) - (first_day or 0) + 1) // PERIODS_MAX)
    return Drift(
        events=int(events),
        rank_correlation=_rank_correlation(tables),
        population_stability=_population_stability(bands, int(events)),
        alerts_in_common=in_both / in_either if in_either else None,
        bands=bands,
        period_days=period_days,
        periods=list(_periods(tables, period_days)),
    )


def _periods(tables: "DuckDBPyConnection", period_days: int) -> Iterator[Period]:
    found = tables.execute(
        f"""SELECT min(day), count(*) FILTER (first_alerted), count(*) FILTER (other_alerted),
            count(*) FILTER (first_alerted AND other_alerted),
            count(*) FILTER (first_alerted OR other_alerted)
        FROM event GROUP BY (day - (SELECT min(day) FROM event)) // {period_days} ORDER BY 1"""
    )
    for day, first, other, both, either in found.fetchall():
        yield Period(
            from_day=text_of(day * DAY_MS)[:10],
            first=first,
            other=other,
            both=both,
            share=both / either if either else None,
        )


def _bands(tables: "DuckDBPyConnection") -> list[ScoreBand]:
    shares = [
        _one(
            tables,
            "SELECT "
            + ", ".join(f"coalesce(avg(({side}_score >= {low})::INT), 0)" for low in BANDS)
            + " FROM event",
        )
        for side in ("first", "other")
    ]
    return [
        ScoreBand(score_from=low, first=float(first), other=float(other))
        for low, first, other in zip(BANDS, *shares, strict=True)
    ]


def _population_stability(bands: list[ScoreBand], events: int) -> float:
    first, other = (
        -np.diff([getattr(one, side) for one in bands], append=0.0) * events + 0.5
        for side in ("first", "other")
    )
    p, q = first / first.sum(), other / other.sum()
    return float(np.sum((q - p) * np.log(q / p)))


def _rank_correlation(tables: "DuckDBPyConnection") -> float | None:
    """Of the joint counts of both scores' steps."""
    first, other, counts = _columns(
        tables,
        f"""SELECT floor(first_score / {SCORE_STEP})::BIGINT, floor(other_score / {SCORE_STEP})::BIGINT,
            count(*) FROM event GROUP BY 1, 2 ORDER BY 1, 2""",
    )
    ranks = [_mean_ranks(steps, counts) for steps in (first, other)]
    weights = counts / max(counts.sum(), 1.0)
    a, b = (rank - weights @ rank for rank in ranks)
    spread = np.sqrt((weights @ a**2) * (weights @ b**2))
    return float(weights @ (a * b) / spread) if spread > 0 else None


def _mean_ranks(steps: F64, counts: F64) -> F64:
    """float64[n]: the mean rank of each entry's step. steps, counts: float64[n]."""
    values, which = np.unique(steps, return_inverse=True)
    held = np.bincount(which, counts, len(values))
    ranks: F64 = (np.cumsum(held) - held / 2)[which]
    return ranks


def _columns(tables: "DuckDBPyConnection", query: str) -> list[F64]:
    """A query's columns of numbers."""
    found = tables.execute(query).fetchnumpy().values()
    return [np.asarray(column, np.float64) for column in found]


def _one(tables: "DuckDBPyConnection", query: str) -> tuple[float, ...]:
    """The only row of a query."""
    row = tables.execute(query).fetchone()
    assert row is not None
    return row
