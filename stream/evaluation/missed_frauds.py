"""Missed frauds: how near each came to an alert, and which features were not surprising.

The gap of a fraud is the lowest alerting score of a scorer minus the score that it gave.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from stream.clock import format_time_ms
from stream.evaluation.labelled_run import MISSED_FRAUDS_SQL, LabelledRun, Scorer
from stream.evaluation.results import (
    MissedBand,
    MissedFraud,
    MissedFrauds,
    MonitorScore,
    OrdinaryFeature,
)

LISTED_MAX: Final = 50
BANDS: Final = (0.0, 0.5, 1.0, 2.0, 4.0)
"""Upper bounds of the bands of gaps; the last band has none."""


def missed_frauds(run: LabelledRun, scorers: Sequence[Scorer]) -> MissedFrauds:
    """Summarise the evaluated frauds that were not caught. Makes the view `missed`."""
    run.execute(f"CREATE VIEW missed AS {MISSED_FRAUDS_SQL}")
    [(count, cents)] = run.fetch_rows("SELECT count(*), coalesce(sum(cents), 0) FROM missed")
    return MissedFrauds(
        frauds=int(count),
        amount=int(cents) / 100,
        by_amount=_listed(run, scorers, "cents DESC"),
        nearest=_listed(run, scorers, "gap"),
        bands=_bands(run, scorers),
        ordinary_features=[
            feature for scorer in scorers for feature in _ordinary_features(run, scorer)
        ],
    )


def _listed(run: LabelledRun, scorers: Sequence[Scorer], order: str) -> list[MissedFraud]:
    """The first `LISTED_MAX` missed frauds in an order, ties by time."""
    columns = [
        f"score_{one.name}, {_held_back([one])}, {f'surprising_{one.name}' if one.feature_names else 'NULL'}"
        for one in scorers
    ]
    rows = run.fetch_rows(
        f"SELECT event_id, epoch_ms(event_time), scenario, amount, score, nearest, gap, "
        f"{', '.join([*run.fields, *columns])} FROM missed "
        f"ORDER BY {order} NULLS LAST, event_time, row LIMIT {LISTED_MAX}"
    )
    width = len(run.fields)
    listed = []
    for event_id, time_ms, scenario, amount, score, nearest, gap, *rest in rows:
        ids, score_columns = rest[:width], rest[width:]
        monitors = [
            _monitor_score(scorer, *score_columns[3 * i : 3 * i + 3])
            for i, scorer in enumerate(scorers)
        ]
        listed.append(
            MissedFraud(
                event_id=event_id,
                event_time=format_time_ms(int(time_ms)),
                scenario=scenario,
                amount=amount,
                score=score,
                entities={f: v for f, v in zip(run.fields, ids, strict=True) if v is not None},
                nearest=nearest,
                gap=gap,
                monitors=monitors,
            )
        )
    return listed


def _monitor_score(
    scorer: Scorer, score: float | None, held_back: bool, surprised: str | None
) -> MonitorScore:
    names = surprised.split(",") if surprised else []
    features = scorer.feature_names if score is not None else ()
    return MonitorScore(
        monitor=scorer.name,
        score=score,
        min_alert_score=scorer.min_alert_score,
        held_back=held_back,
        surprising=names,
        ordinary=[name for name in features if name not in names],
    )


def _held_back(scorers: Sequence[Scorer]) -> str:
    held_back = (f"coalesce(activity_{one.name} = 'held_back', false)" for one in scorers)
    return f"({' OR '.join(held_back)})"


def _bands(run: LabelledRun, scorers: Sequence[Scorer]) -> list[MissedBand]:
    """All bands: held back by the budget, by rising gap, and not scored."""
    edges = [f"{low:g} to {high:g}" for low, high in pairwise(BANDS)]
    names = ["held back", "budget", *edges, f"more than {BANDS[-1]:g}", "not scored"]
    ends = " ".join(f"WHEN gap <= {end} THEN {k}" for k, end in enumerate(BANDS, 1))
    rows = run.fetch_rows(
        f"SELECT CASE WHEN {_held_back(scorers)} THEN 0 WHEN gap IS NULL THEN {len(names) - 1} "
        f"{ends} ELSE {len(names) - 2} END, count(*), sum(cents) FROM missed GROUP BY 1"
    )
    counts = {band: (int(count), int(cents) / 100) for band, count, cents in rows}
    return [
        MissedBand(name=name, frauds=frauds, amount=amount)
        for k, name in enumerate(names)
        for frauds, amount in [counts.get(k, (0, 0.0))]
    ]


def _ordinary_features(run: LabelledRun, scorer: Scorer) -> list[OrdinaryFeature]:
    if not scorer.feature_names:
        return []
    names = f"string_split(surprising_{scorer.name}, ',')"
    not_surprising = [f"NOT list_contains({names}, '{name}')" for name in scorer.feature_names]
    shares = ", ".join(
        f"avg(CASE WHEN {condition} THEN 1.0 ELSE 0.0 END) FILTER ({group})"
        for condition in not_surprising
        for group in ("NOT caught", "caught")
    )
    [row] = run.fetch_rows(
        f"SELECT {shares} FROM frauds WHERE evaluated AND score_{scorer.name} IS NOT NULL"
    )
    return [
        OrdinaryFeature(
            monitor=scorer.name,
            feature=name,
            share_missed=row[2 * i],
            share_caught=row[2 * i + 1],
        )
        for i, name in enumerate(scorer.feature_names)
    ]
