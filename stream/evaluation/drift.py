"""How far the scores and alerts of one run differ from those of another, without labels."""

from collections.abc import Iterator
from typing import Final

import numpy as np

from schemas.columns import F64
from stream.clock import format_time_ms
from stream.evaluation.comparison import Drift, Period, ScoreBand
from stream.evaluation.database import SqlSession
from stream.evaluation.labelled_run import DAY_MS
from stream.evaluation.pair_tables import BOTH, EITHER, SIDES, fetch_row

SCORE_STEP: Final = 0.005
"""Scores are compared by rank in steps of this size: p-values within 1.2 % of each other are equal."""
BANDS: Final = (0.0, 0.301, 0.699, 1.0, 1.301, 2.0, 3.0, 4.0)
"""Scores of the p-values 1, 1/2, 1/5, 1/10, 1/20, 1/100, 1/1,000 and 1/10,000."""
PERIODS_MAX: Final = 60


def drift_of(sql: SqlSession) -> Drift:
    """The drift between the two runs of the tables."""
    events, days, in_both, in_either = fetch_row(
        sql,
        f"""SELECT count(*), count(DISTINCT day), count(*) FILTER ({BOTH}),
            count(*) FILTER ({EITHER}) FROM event""",
    )
    bands = _bands(sql)
    period_days = max(1, -(-int(days) // PERIODS_MAX))
    return Drift(
        events=int(events),
        rank_correlation=_rank_correlation(sql),
        population_stability=population_stability(bands, int(events)),
        alerts_in_common=in_both / in_either if in_either else None,
        bands=bands,
        period_days=period_days,
        periods=list(_periods(sql, period_days)),
    )


def _periods(sql: SqlSession, period_days: int) -> Iterator[Period]:
    rows = sql.fetch_rows(
        f"""SELECT min(day), sum(first), sum(other), sum(in_both), sum(either) FROM (
            SELECT day, row_number() OVER (ORDER BY day) - 1 AS day_index,
                count(*) FILTER (first_published) AS first,
                count(*) FILTER (other_published) AS other,
                count(*) FILTER ({BOTH}) AS in_both, count(*) FILTER ({EITHER}) AS either
            FROM event GROUP BY day)
        GROUP BY day_index // {period_days} ORDER BY 1"""
    )
    for day, first, other, both, either in rows:
        yield Period(
            from_day=format_time_ms(day * DAY_MS)[:10],
            first=int(first),
            other=int(other),
            both=int(both),
            share=both / either if either else None,
        )


def _bands(sql: SqlSession) -> list[ScoreBand]:
    shares = [
        fetch_row(
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


def population_stability(bands: list[ScoreBand], events: int) -> float:
    """The population stability index of the bands, see `Drift`."""
    first, other = (
        -np.diff([getattr(band, side) for band in bands], append=0.0) * events + 0.5
        for side in SIDES
    )
    p, q = first / first.sum(), other / other.sum()
    return float(np.sum((q - p) * np.log(q / p)))


def _rank_correlation(sql: SqlSession) -> float | None:
    """Spearman's rank correlation, from the joint counts of both scores' steps."""
    joint = sql.fetch_columns(
        f"""SELECT floor(first_score / {SCORE_STEP})::BIGINT AS first,
            floor(other_score / {SCORE_STEP})::BIGINT AS other, count(*) AS counts
        FROM event GROUP BY ALL ORDER BY ALL"""
    )
    first, other, counts = (np.asarray(column, np.float64) for column in joint.values())
    if any(len(np.unique(steps)) < 2 for steps in (first, other)):
        return None
    ranks = [_mean_ranks(steps, counts) for steps in (first, other)]
    weights = counts / counts.sum()
    a, b = (rank - weights @ rank for rank in ranks)
    spread = np.sqrt((weights @ a**2) * (weights @ b**2))
    return float(weights @ (a * b) / spread)


def _mean_ranks(steps: F64, counts: F64) -> F64:
    """float64[n]: the mean rank of each entry's step. steps, counts: float64[n]."""
    values, index = np.unique(steps, return_inverse=True)
    counted = np.bincount(index, counts, len(values))
    ranks: F64 = (np.cumsum(counted) - counted / 2)[index]
    return ranks
