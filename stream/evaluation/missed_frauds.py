"""Missed frauds and the reasons: how near each came to an alert, and which features were not surprising.

The gap of a fraud is the lowest score at which a scorer alerts minus its score.
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
    NotSurprisingFeature,
)

LISTED_MAX: Final = 50
BANDS: Final = (0.0, 0.5, 1.0, 2.0, 4.0)
"""Upper ends of the gaps in each band; the last band has no end."""


def missed_frauds(run: LabelledRun, scorers: Sequence[Scorer]) -> MissedFrauds:
    """The evaluated frauds that were not caught; makes the view `missed` of them."""
    run.execute(f"CREATE VIEW missed AS {MISSED_FRAUDS_SQL}")
    [(count, cents)] = run.fetch_rows("SELECT count(*), coalesce(sum(cents), 0) FROM missed")
    return MissedFrauds(
        frauds=int(count),
        amount=int(cents) / 100,
        by_amount=_listed(run, scorers, "cents DESC"),
        nearest=_listed(run, scorers, "gap"),
        bands=_bands(run, scorers),
        not_surprising_features=[
            feature for scorer in scorers for feature in _not_surprising_features(run, scorer)
        ],
    )


def _listed(run: LabelledRun, scorers: Sequence[Scorer], order: str) -> list[MissedFraud]:
    """The first missed frauds in an order, ties by time."""
    columns = [
        f"score_{scorer.name}, {_held_back([scorer])}, "
        f"{f'surprising_{scorer.name}' if scorer.feature_names else 'NULL'}"
        for scorer in scorers
    ]
    rows = run.fetch_rows(
        f"SELECT event_id, epoch_ms(event_time), scenario, amount, score, nearest, gap, "
        f"{', '.join([*run.fields, *columns])} FROM missed "
        f"ORDER BY {order} NULLS LAST, event_time, row LIMIT {LISTED_MAX}"
    )
    width = len(run.fields)
    listed = []
    for event_id, time_ms, scenario, amount, score, nearest, gap, *rest in rows:
        ids, by_scorer = rest[:width], rest[width:]
        monitors = [
            _monitor_score(scorer, *by_scorer[3 * i : 3 * i + 3])
            for i, scorer in enumerate(scorers)
        ]
        listed.append(
            MissedFraud(
                event_id=event_id,
                event_time=format_time_ms(int(time_ms)),
                scenario=scenario,
                amount=amount,
                score=score,
                entities={
                    field: value
                    for field, value in zip(run.fields, ids, strict=True)
                    if value is not None
                },
                nearest=nearest,
                gap=gap,
                monitors=monitors,
            )
        )
    return listed


def _monitor_score(
    scorer: Scorer, score: float | None, held_back: bool, surprising: str | None
) -> MonitorScore:
    names = surprising.split(",") if surprising else []
    feature_names = scorer.feature_names if score is not None else ()
    return MonitorScore(
        monitor=scorer.name,
        score=score,
        min_alert_score=scorer.min_alert_score,
        held_back=held_back,
        surprising=names,
        not_surprising=[name for name in feature_names if name not in names],
    )


def _held_back(scorers: Sequence[Scorer]) -> str:
    conditions = (f"coalesce(activity_{scorer.name} = 'held_back', false)" for scorer in scorers)
    return f"({' OR '.join(conditions)})"


def _bands(run: LabelledRun, scorers: Sequence[Scorer]) -> list[MissedBand]:
    """All bands: held back by the budget, then by rising gap, then those not scored."""
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


def _not_surprising_features(run: LabelledRun, scorer: Scorer) -> list[NotSurprisingFeature]:
    if not scorer.feature_names:
        return []
    names = f"string_split(surprising_{scorer.name}, ',')"
    not_surprising = [f"NOT list_contains({names}, '{name}')" for name in scorer.feature_names]
    shares = ", ".join(
        f"avg(CASE WHEN {condition} THEN 1.0 ELSE 0.0 END) FILTER ({caught})"
        for condition in not_surprising
        for caught in ("NOT caught", "caught")
    )
    [row] = run.fetch_rows(
        f"SELECT {shares} FROM frauds WHERE evaluated AND score_{scorer.name} IS NOT NULL"
    )
    return [
        NotSurprisingFeature(
            monitor=scorer.name,
            feature=name,
            share_missed=row[2 * i],
            share_caught=row[2 * i + 1],
        )
        for i, name in enumerate(scorer.feature_names)
    ]
