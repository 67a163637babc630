"""Evaluate a run against its labels: from counts to measures, one view at a time.

Counts come from SQL (`stream.evaluation.view_tables`), definitions of measures from
`stream.evaluation.measures`; this module combines them.
"""

from collections.abc import Sequence
from dataclasses import replace
from math import ceil, log10
from typing import Final

import numpy as np

from schemas.columns import F64, I64
from stream.clock import format_time_ms
from stream.config import ALL_MONITORS
from stream.evaluation import measures
from stream.evaluation.labelled_run import DAY_MS, WEEK_DAYS, LabelledRun, Scorer
from stream.evaluation.measures import Curve, RankingMeasures, quantile, ratio, with_interval
from stream.evaluation.missed_frauds import missed_frauds
from stream.evaluation.results import (
    Amount,
    BudgetPoint,
    CalibrationPoint,
    Day,
    Delay,
    Estimate,
    Evaluation,
    Level,
    LevelMeasures,
    PrecisionAtK,
    PrecisionRecallPoint,
    Scenario,
    View,
)
from stream.evaluation.view_tables import (
    CAUGHT_CENTS,
    ENTITY_BLOCKS,
    EVENT_FRAUDS,
    EVENTS,
    FRAUD_CENTS,
    FRAUDS,
    FRAUDS_ALERTED,
    Ranking,
    ViewTables,
)

TOP_K: Final = (10, 50, 100)
BUDGET_STEPS: Final = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
HALF_DECADES: Final = range(2, 17)
"""Calibration is measured at p = 10^-1, 10^-1.5, …, 10^-8."""
UNDEFINED: Final = Estimate(value=None, low=None, high=None)


def evaluate(run: LabelledRun, scorers: Sequence[Scorer]) -> Evaluation | None:
    """Evaluate a run; None where no event lies in the evaluated time.

    scorers: the monitors, then assess. The run must have the view `incidents`.
    """
    if not len(run.days):
        return None
    first_ms, last_ms = run.span_ms
    [(events, frauds, cents)] = run.fetch_rows(
        "SELECT count(*), count(*) FILTER (scenario_index >= 0), "
        "coalesce(sum(cents) FILTER (scenario_index >= 0), 0) FROM events"
    )
    [(event_labels, ambiguous, entities)] = run.fetch_rows(
        "SELECT (SELECT count(*) FROM labels WHERE event_id IS NOT NULL), "
        "(SELECT count(*) FROM labelled WHERE events_with_id > 1), "
        "(SELECT count(DISTINCT (field, entity)) FROM labelled_entities)"
    )
    main_scorer = next((scorer for scorer in scorers if scorer.combines_reports), scorers[0])
    separate = scorers if len(scorers) > 1 else ()
    views = [
        (ALL_MONITORS, main_scorer.entity),
        *((scorer.name, scorer.entity) for scorer in separate),
    ]
    evaluation = Evaluation(
        first_event_time=format_time_ms(first_ms),
        last_event_time=format_time_ms(last_ms),
        days=len(run.days),
        events=int(events),
        event_labels=int(event_labels),
        ambiguous=int(ambiguous),
        labelled_entities=int(entities),
        frauds=int(frauds),
        amount=int(cents) / 100,
        resamples=measures.RESAMPLES,
        seed=measures.SEED,
        false_positives=measures.FALSE_POSITIVES,
        views=[_ViewEvaluation(run, name, entity).view() for name, entity in views],
        missed=missed_frauds(run, scorers),
    )
    if evaluation.events_known:
        return evaluation
    return replace(evaluation, views=[_without_events(view) for view in evaluation.views])


def _without_events(view: View) -> View:
    """The view of a run whose labels name no event: measures that count frauds among events are undefined."""
    unknown = dict.fromkeys(("events", "new_events", "entity_days"), UNDEFINED)
    return replace(
        view,
        levels={
            level: replace(ranked, precision=unknown.get(level, ranked.precision))
            for level, ranked in view.levels.items()
        },
        precision_at_k=[replace(top, precision=UNDEFINED) for top in view.precision_at_k],
        days=[
            replace(day, precision=None, precision_at_k=[None] * len(TOP_K)) for day in view.days
        ],
        precision_recall=[],
        budget=[],
    )


class _ViewEvaluation:
    """The measures of one view."""

    def __init__(self, run: LabelledRun, name: str, entity: str) -> None:
        self._run = run
        self._name = name
        self._entity = entity
        self._tables = ViewTables(run, name, entity)
        self._days = self._tables.days
        self._weights = self._tables.day_weights
        self._entity_weights = self._tables.entity_weights

    def view(self) -> View:
        """All measures of the view."""
        tables = self._tables
        events, frauds = tables.events_by_day(), tables.frauds_by_day()
        budgets = self._budgets(int(events[EVENTS].sum()))
        all_events, new_events = tables.rank_events(budgets * self._days)
        ranked = all_events.measures
        frauds_in_top = self._frauds_in_top()
        alerts_of_incidents, incidents = tables.incidents_by_day()
        return View(
            name=self._name,
            entity=self._entity,
            alerts=tables.alerts(),
            incidents=int(incidents.sum()),
            incident_alerts=ratio(alerts_of_incidents, incidents, self._weights),
            levels=self._levels(all_events, new_events),
            precision_at_k=self._precision_at_k(frauds_in_top, events),
            delay=self._delay(),
            amount=self._amount(frauds),
            scenarios=self._scenario_figures(ranked, frauds),
            days=self._day_figures(events, frauds, frauds_in_top),
            precision_recall=_precision_recall(ranked.by_recall),
            budget=self._budget(budgets, ranked.by_budget, events, frauds),
            calibration=self._calibration(),
        )

    def _levels(self, events: Ranking, new_events: Ranking) -> dict[Level, LevelMeasures]:
        incidents = _level(self._tables.rank_incidents())
        return {
            "events": _level(events),
            "new_events": _level(new_events),
            "entities": _level(self._tables.rank_entities()),
            "entity_days": _level(self._tables.rank_entity_days()),
            "incidents": replace(incidents, recall=UNDEFINED),  # all of them are alerted
        }

    def _budgets(self, events: int) -> F64:
        """Alerts a day at which the budget curve is measured: the same steps for every run, up to
        all events."""
        events_per_day = events / self._days
        exponents = range(-1, max(0, ceil(log10(max(events_per_day, 1.0)))) + 1)
        steps = np.array([step * 10.0**exponent for exponent in exponents for step in BUDGET_STEPS])
        return steps[steps <= events_per_day]

    def _frauds_in_top(self) -> I64:
        """int64[days, k]: frauds among the k entities with the highest scores of each day, for the
        k of `TOP_K`."""
        frauds_in_top = np.zeros((self._days, len(TOP_K)), np.int64)
        found_this_week: list[set[str]] = []
        week = -1
        weeks = ((self._run.days - self._run.days[0]) // WEEK_DAYS).tolist()
        for day, names, frauds in self._tables.daily_rankings(WEEK_DAYS * max(TOP_K)):
            if weeks[day] != week:
                week, found_this_week = weeks[day], [set() for _ in TOP_K]
            for j, k in enumerate(TOP_K):
                new = measures.found_in_top(names, frauds, k, found_this_week[j])
                frauds_in_top[day, j] = len(new)
                found_this_week[j] |= new
        return frauds_in_top

    def _precision_at_k(self, frauds_in_top: I64, events: I64) -> list[PrecisionAtK]:
        has_events = (events[EVENTS] > 0).astype(np.int64)
        return [
            PrecisionAtK(k=k, precision=ratio(frauds_in_top[:, j], k * has_events, self._weights))
            for j, k in enumerate(TOP_K)
        ]

    def _delay(self) -> Delay:
        block, delay_s = self._tables.delays()
        alerted = ~np.isnan(delay_s)
        entities = np.bincount(block, minlength=ENTITY_BLOCKS)
        never = np.bincount(block[~alerted], minlength=ENTITY_BLOCKS)
        quartiles = [
            quantile(delay_s[alerted], block[alerted], share, self._entity_weights)
            for share in (0.25, 0.5, 0.75)
        ]
        return Delay(
            entities=len(block),
            never=ratio(never, entities, self._entity_weights),
            first_quartile_s=quartiles[0].value,
            median_s=quartiles[1],
            third_quartile_s=quartiles[2].value,
        )

    def _amount(self, frauds: I64) -> Amount:
        cents, caught = frauds[[FRAUD_CENTS, CAUGHT_CENTS]].sum(axis=1)
        return Amount(
            fraud=int(cents.sum()) / 100,
            caught=int(caught.sum()) / 100,
            missed=int(cents.sum() - caught.sum()) / 100,
            caught_share=ratio(caught, cents, self._weights),
        )

    def _scenario_figures(self, ranked: RankingMeasures, frauds: I64) -> list[Scenario]:
        present = np.flatnonzero(frauds[FRAUDS].sum(axis=1)).tolist()
        figures = [self._scenario(index, ranked, frauds[:, index]) for index in present]
        return sorted(figures, key=lambda scenario: (-scenario.frauds, scenario.name))

    def _scenario(self, index: int, ranked: RankingMeasures, frauds: I64) -> Scenario:
        """frauds: int64[5, days], those of the scenario."""
        _, delay_s = self._tables.delays(index)
        alerted = delay_s[~np.isnan(delay_s)]
        weights = measures.resample_weights(1)
        block = np.zeros(len(alerted), np.int64)
        count, events_alerted, caught, cents, cents_caught = frauds.sum(axis=1).tolist()
        return Scenario(
            name=self._run.scenarios[index],
            frauds=count,
            roc_auc=_none_if_nan(ranked.scenario_auc[index]),
            average_precision=_none_if_nan(ranked.scenario_average_precision[index]),
            alerted=events_alerted,
            recall=ratio(frauds[FRAUDS_ALERTED], frauds[FRAUDS], self._weights),
            caught=caught,
            entities=len(delay_s),
            entities_alerted=len(alerted),
            median_delay_s=quantile(alerted, block, 0.5, weights).value,
            amount=cents / 100,
            amount_caught=cents_caught / 100,
            amount_missed=(cents - cents_caught) / 100,
        )

    def _day_figures(self, events: I64, frauds: I64, frauds_in_top: I64) -> list[Day]:
        by_day = frauds.sum(axis=1)
        return [
            self._day(
                day, events[:, day].tolist(), by_day[:, day].tolist(), frauds_in_top[day].tolist()
            )
            for day in np.flatnonzero(events[EVENTS]).tolist()
        ]

    def _day(self, day: int, events: list[int], frauds: list[int], frauds_in_top: list[int]) -> Day:
        count, fraud_count, alerts, true_alerts = events
        _, alerted, caught, cents, cents_caught = frauds
        return Day(
            day=format_time_ms(int(self._run.days[day]) * DAY_MS)[:10],
            events=count,
            frauds=fraud_count,
            alerts=alerts,
            true_alerts=true_alerts,
            alerted=alerted,
            caught=caught,
            precision=true_alerts / alerts if alerts else None,
            recall=alerted / fraud_count if fraud_count else None,
            amount_fraud=cents / 100,
            amount_caught=cents_caught / 100,
            precision_at_k=[count / k for count, k in zip(frauds_in_top, TOP_K, strict=True)],
        )

    def _budget(self, budgets: F64, curve: Curve, events: I64, frauds: I64) -> list[BudgetPoint]:
        all_frauds, cents = int(events[EVENT_FRAUDS].sum()), int(frauds[FRAUD_CENTS].sum())
        points = zip(budgets.tolist(), *(column.tolist() for column in curve), strict=True)
        return [
            BudgetPoint(
                alerts_per_day=alerts_per_day,
                score=score,
                events=int(count),
                precision=fraud_count / count,
                recall=fraud_count / all_frauds if all_frauds else None,
                amount_caught_share=caught_cents / cents if cents else None,
            )
            for alerts_per_day, score, count, fraud_count, caught_cents in points
            if count
        ]

    def _calibration(self) -> list[CalibrationPoint]:
        counts = self._tables.honest_by_score(HALF_DECADES[-1])
        honest = counts.sum(axis=1)
        points = []
        for half_decade in HALF_DECADES:
            p, at_most_p = 10.0 ** (-half_decade / 2), counts[:, half_decade:].sum(axis=1)
            points.append(
                CalibrationPoint(
                    p=p,
                    observed=ratio(at_most_p, honest, self._weights),
                    events=int(at_most_p.sum()),
                )
            )
        return [point for point in points if point.events or point.p * honest.sum() >= 1]


def _level(ranking: Ranking) -> LevelMeasures:
    ranked, weights = ranking.measures, ranking.weights
    all_rows, alerted, published = ranking.counts.sum(axis=2)
    frauds, frauds_alerted, frauds_published = ranking.counts[:, :, 1:].sum(axis=2)
    blocks = int(np.count_nonzero(frauds))
    return LevelMeasures(
        count=int(all_rows.sum()),
        frauds=int(frauds.sum()),
        roc_auc=with_interval(ranked.roc_auc, blocks),
        average_precision=with_interval(ranked.average_precision, blocks),
        recall_at_false_positives=with_interval(ranked.recall_at_false_positives, blocks),
        alerted=int(alerted.sum()),
        frauds_alerted=int(frauds_alerted.sum()),
        published=int(published.sum()),
        frauds_published=int(frauds_published.sum()),
        precision=ratio(frauds_published, published, weights),
        recall=ratio(frauds_alerted, frauds, weights),
    )


def _precision_recall(curve: Curve) -> list[PrecisionRecallPoint]:
    frauds = max(float(curve.frauds.max(initial=0.0)), 1.0)
    return [
        PrecisionRecallPoint(
            score=score, recall=fraud_count / frauds, precision=fraud_count / events
        )
        for score, events, fraud_count in zip(
            curve.score.tolist(), curve.events.tolist(), curve.frauds.tolist(), strict=True
        )
    ]


def _none_if_nan(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
