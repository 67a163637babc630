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
from stream.judging.figures import Figure
from stream.judging.measures import (
    HONEST,
    Ranked,
    Ranking,
    Rows,
    Totals,
    divided,
    figure,
    resampled,
)
from stream.page.words import percent, signed

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

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
        differences = list(_differences(tables)) if labelled else []
        drift = _drift(tables)
        said, because = verdict(first[0], other[0], differences, drift)
        return Pair(
            first=first[0],
            other=other[0],
            verdict=said,
            because=because,
            differences=differences,
            overlaps=list(_overlaps(tables, labelled)),
            by_first=_found_by_one(tables, "first_alerted AND NOT other_alerted"),
            by_other=_found_by_one(tables, "other_alerted AND NOT first_alerted"),
            drift=drift,
        )


# -- in a sentence --------------------------------------------------------------------------------

PRECISION, RECALL = "average precision", "recall at the alert budget"


def verdict(first: str, other: str, differences: list[Difference], drift: Drift) -> tuple[str, str]:
    """Which of the two is better, if that can be told; and by how much, both measures as the better
    one has them: the one that ranks better, where another alerts on more."""
    if not differences:
        return f"Without labels nobody can say whether {first} or {other} is better", _common(drift)
    by_measure = {one.measure: one.difference for one in differences}
    ranks, finds = by_measure[PRECISION], by_measure[RECALL]
    by_rank, by_alerts = _sign(ranks), _sign(finds)
    sign = by_rank or by_alerts or 1
    because = f"{_said(PRECISION, ranks, sign)}; {_said(RECALL, finds, sign)}"
    one, than = (other, first) if sign > 0 else (first, other)
    if not by_rank and not by_alerts:
        return f"No difference between {first} and {other} can be told", because
    if by_rank == by_alerts:
        return f"{one} catches more than {than}", because
    if not by_alerts:
        said = "in their alerts no difference can be told"
        return f"{one} ranks frauds higher than {than}; {said}", because
    if not by_rank:
        said = "in how they rank no difference can be told"
        return f"{one} alerts on more frauds than {than}; {said}", because
    said = f"{than} alerts on more of them"
    return f"{one} ranks frauds higher than {than}; {said}", because


def _common(drift: Drift) -> str:
    share = drift.alerts_in_common
    if share is None:
        return "neither alerts at all"
    return f"of the events that one of them alerts on, {percent(share)} are alerted on by both"


def _sign(difference: Figure) -> int:
    """1 where the other run's measure is higher, -1 where the first one's, 0 where its interval
    does not say."""
    if difference.low is None or difference.high is None:
        return 0
    return 1 if difference.low > 0.0 else -1 if difference.high < 0.0 else 0


def _said(measure: str, difference: Figure, sign: int) -> str:
    """The difference as one run has it. sign: 1 for the other, -1 for the first."""
    if difference.value is None:
        return f"{measure} is not defined"
    value = f"{measure} {signed(sign * difference.value)}"
    if difference.low is None or difference.high is None:
        return f"{value} (too few days for an interval)"
    low, high = sorted((sign * difference.low, sign * difference.high))
    return f"{value} (95 %: {signed(low)} to {signed(high)})"


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


def _differences(tables: "DuckDBPyConnection") -> Iterator[Difference]:
    days = _columns(
        tables,
        "SELECT day, sum((NOT fraud)::INT), sum(fraud::INT) FROM event GROUP BY day ORDER BY day",
    )
    day, honest, frauds = (column.astype(np.int64) for column in days)
    weights = resampled(len(day))
    totals = Totals(honest, frauds[:, None])
    first, other = (_ranked(tables, side, day, totals, weights) for side in ("first", "other"))
    yield _difference(PRECISION, first.average_precision, other.average_precision)
    yield _difference("ROC AUC", first.roc_auc, other.roc_auc)
    yield _difference(
        "recall at 0.1 % false positives",
        first.recall_at_false_positives,
        other.recall_at_false_positives,
    )
    found = _columns(
        tables,
        """SELECT sum((fraud AND first_alerted)::INT), sum((fraud AND other_alerted)::INT),
            sum(first_alerted::INT), sum(other_alerted::INT),
            sum(CASE WHEN fraud THEN hundredths ELSE 0 END),
            sum(CASE WHEN fraud AND first_alerted THEN hundredths ELSE 0 END),
            sum(CASE WHEN fraud AND other_alerted THEN hundredths ELSE 0 END)
        FROM event GROUP BY day ORDER BY day""",
    )
    caught_a, caught_b, alerted_a, alerted_b, amount, amount_a, amount_b = (
        column.astype(np.float64) @ weights for column in found
    )
    all_frauds = frauds @ weights
    yield _difference(RECALL, divided(caught_a, all_frauds), divided(caught_b, all_frauds))
    yield _difference(
        "precision at the alert budget", divided(caught_a, alerted_a), divided(caught_b, alerted_b)
    )
    yield _difference(
        "share of the frauds' amount alerted on",
        divided(amount_a, amount),
        divided(amount_b, amount),
    )


def _difference(measure: str, first: F64, other: F64) -> Difference:
    return Difference(
        measure=measure,
        first=figure(first).value,
        other=figure(other).value,
        difference=figure(other - first),
    )


def _ranked(
    tables: "DuckDBPyConnection", side: str, days: I64, totals: Totals, weights: F64
) -> Ranked:
    """The measures of a run's scores. days: int64[blocks], rising."""
    found = tables.sql(
        f"""SELECT {side}_score, day, fraud, count(*), sum(hundredths) FROM event
        GROUP BY {side}_score, day, fraud ORDER BY {side}_score DESC, day, fraud"""
    ).to_arrow_reader(ROWS_AT_ONCE)
    ranking = Ranking(totals, weights)
    assert found is not None
    for batch in found:
        score, day, fraud, size, hundredths = (
            column.to_numpy(zero_copy_only=False) for column in batch.columns
        )
        ranking.add(
            Rows(
                score.astype(np.float64),
                np.searchsorted(days, day),
                np.where(fraud, 0, HONEST).astype(np.int64),
                size.astype(np.int64),
                hundredths.astype(np.int64),
            )
        )
    return ranking.finish()


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
