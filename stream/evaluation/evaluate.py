"""Judging a run: from the facts to the figures, one view at a time.

`evaluate` is all of it. What is counted stands in the database (`stream.evaluation.labelled_run`), what a figure
is in `stream.evaluation.measures`; here is only which facts go into which figure.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import ceil, log10
from typing import Final

import numpy as np
import pyarrow as pa

from schemas.columns import F64, I64
from stream.clock import format_time_ms
from stream.config import ALL_MONITORS, ASSESS
from stream.evaluation import measures
from stream.evaluation.labelled_run import DAY_MS, WEEK_DAYS, LabelledRun, Scorer, calendar_day
from stream.evaluation.measures import (
    Curve,
    RankedRows,
    RankingMeasures,
    RankingReader,
    RankingTotals,
    quantile,
    ratio,
    with_interval,
)
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

TOP_K: Final = (10, 50, 100)
ENTITY_BLOCKS: Final = 64
BUDGET_STEPS: Final = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
HALF_DECADES: Final = range(2, 17)
"""Calibration is looked at where p is 10^-1, 10^-1.5, …, 10^-8."""
BLOCK: Final = f"CAST(md5_number_lower(entity) % {ENTITY_BLOCKS} AS BIGINT)"
"""An entity's block: its days cannot be drawn one by one."""
UNDEFINED: Final = Estimate(value=None, low=None, high=None)


def evaluate(run: LabelledRun, scorers: Sequence[Scorer]) -> Evaluation | None:
    """What the labels say of a run; None where nothing was to be evaluated.

    scorers: the monitors, then assess. The facts must have seen `incidents`.
    """
    if not len(run.days):
        return None
    first_ms, last_ms = run.span_ms
    [(events, frauds, cents)] = run.fetch_rows(
        "SELECT count(*), count(*) FILTER (scenario >= 0), "
        "coalesce(sum(cents) FILTER (scenario >= 0), 0) FROM events"
    )
    [(labelled, ambiguous, named)] = run.fetch_rows(
        "SELECT (SELECT count(*) FROM labels WHERE event_id IS NOT NULL), "
        "(SELECT count(*) FROM labelled WHERE namesakes > 1), "
        "(SELECT count(DISTINCT (field, entity)) FROM named)"
    )
    subject = next((w for w in scorers if w.name == ASSESS), scorers[0])
    alone = scorers if len(scorers) > 1 else ()
    views = [(ALL_MONITORS, subject.entity), *((scorer.name, scorer.entity) for scorer in alone)]
    evaluation = Evaluation(
        first_event_time=format_time_ms(first_ms),
        last_event_time=format_time_ms(last_ms),
        days=len(run.days),
        events=int(events),
        event_labels=int(labelled),
        ambiguous=int(ambiguous),
        labelled_entities=int(named),
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
    """The view where no event is known as fraud: nothing is known of what goes by frauds among
    them."""
    unknown = dict.fromkeys(("events", "new_events", "entity_days"), UNDEFINED)
    return replace(
        view,
        levels={
            level: replace(one, precision=unknown.get(level, one.precision))
            for level, one in view.levels.items()
        },
        precision_at_k=[replace(one, precision=UNDEFINED) for one in view.precision_at_k],
        days=[
            replace(day, precision=None, precision_at_k=[None] * len(TOP_K)) for day in view.days
        ],
        precision_recall=[],
        budget=[],
    )


class _ViewEvaluation:
    """One view: a score, its alerts, and the entities of a field."""

    def __init__(self, run: LabelledRun, name: str, entity: str) -> None:
        own = "" if name == ALL_MONITORS else f"_{name}"
        self._run = run
        self._name = name
        self._entity = entity
        self._days = len(run.days)
        self._weights = measures.resample_weights(self._days)
        self._entity_weights = measures.resample_weights(ENTITY_BLOCKS)
        self._own = own

    def view(self) -> View:
        """All figures of the view."""
        self._make_tables()
        events, frauds = self._events_by_day(), self._frauds_by_day()
        ranked, levels = self._levels()
        found = self._found_in_top()
        [(alerts,)] = self._run.fetch_rows("SELECT count(*) FROM told")
        alerts_of, incidents = self._dense_counts(
            "SELECT day, sum(alerts), count(*) FROM cases GROUP BY day", (self._days,)
        )
        return View(
            name=self._name,
            entity=self._entity,
            alerts=int(alerts),
            incidents=int(incidents.sum()),
            incident_alerts=ratio(alerts_of, incidents, self._weights),
            levels=levels,
            precision_at_k=self._precision_at_k(found, events),
            delay=self._delay(),
            amount=self._amount(frauds),
            scenarios=self._scenario_figures(ranked, frauds),
            days=self._day_figures(events, frauds, found),
            precision_recall=_precision_recall(ranked.by_recall),
            budget=self._budget(ranked.by_budget, events, frauds),
            calibration=self._calibration(),
        )

    def _make_tables(self) -> None:
        """`seen`: the view's events; `lost`: its frauds; `told`: the alerts on its events, and
        `cases`: the incidents opened by them; `entity_days`; and `known`."""
        run, entity, own = self._run, self._entity, self._own
        activity_is = f"alerted{own} AS alerted, published{own} AS published"
        run.execute(
            f"CREATE OR REPLACE VIEW seen AS SELECT day, scenario, cents, score{own} AS score, "
            f"{entity} AS entity, {activity_is} FROM events WHERE score{own} IS NOT NULL"
        )
        there = entity if self._name == ASSESS else f"score{own}"  # who is silent scores nothing
        run.execute(
            f"CREATE OR REPLACE VIEW lost AS SELECT event_time, day, scenario, cents, {entity} "
            f"AS entity, alerted{own} AS alerted, caught{own} AS caught FROM frauds "
            f"WHERE evaluated AND {there} IS NOT NULL"
        )
        of_monitor = f"AND monitor = '{self._name}'" if own else ""
        for view, table, time in (
            ("told", "alerts", "event_time"),
            ("cases", "incidents", "opened"),
        ):
            run.execute(
                f"CREATE OR REPLACE VIEW {view} AS SELECT a.*, day FROM {table} a JOIN days ON "
                f"calendar = {calendar_day(time)} WHERE evaluated {of_monitor}"
            )
        run.execute(
            "CREATE OR REPLACE TABLE entity_days AS SELECT entity, day, max(score) AS score, "
            "bool_or(scenario >= 0) AS fraud, bool_or(alerted) AS alerted, bool_or(published) AS "
            "published FROM seen WHERE entity IS NOT NULL GROUP BY entity, day"
        )
        run.make_compromised(entity)

    def _dense_counts(self, query: str, shape: tuple[int, ...]) -> I64:
        """int64[values, *shape]: a row of the query fills the place that its first columns say."""
        columns = [*self._run.fetch_columns(query).values()]
        places, values = columns[: len(shape)], columns[len(shape) :]
        filled = np.zeros((len(values), *shape), np.int64)
        for target, column in zip(filled, values, strict=True):
            target[tuple(place.astype(np.int64) for place in places)] = column
        return filled

    def _events_by_day(self) -> I64:
        """int64[4, days]: events, frauds, published, frauds published."""
        return self._dense_counts(
            "SELECT day, count(*), count(*) FILTER (scenario >= 0), count(*) FILTER (published), "
            "count(*) FILTER (published AND scenario >= 0) FROM seen GROUP BY day",
            (self._days,),
        )

    def _frauds_by_day(self) -> I64:
        """int64[5, scenarios, days]: frauds, alerted, caught, cents, cents caught."""
        return self._dense_counts(
            "SELECT scenario, day, count(*), count(*) FILTER (alerted), count(*) FILTER (caught), "
            "sum(cents), coalesce(sum(cents) FILTER (caught), 0) FROM lost GROUP BY scenario, day",
            (len(self._run.scenarios), self._days),
        )

    def _levels(self) -> tuple[RankingMeasures, dict[Level, LevelMeasures]]:
        """What the ranking of the events says, and the figures of every level."""
        activity_is = "alerted, published, score"
        fraud = f"CASE WHEN fraud THEN 0 ELSE -1 END AS scenario, 0 AS cents, {activity_is}"
        events = (
            f"SELECT day AS block, scenario, cents, {activity_is}, k.day IS NULL AS new "
            "FROM seen LEFT JOIN known k USING (entity, day)"
        )
        entities = (
            "SELECT entity, max(score) AS score, bool_or(fraud) OR entity IN (SELECT entity FROM "
            f"named WHERE field = '{self._entity}') AS fraud, bool_or(alerted) AS alerted, "
            "bool_or(published) AS published FROM entity_days GROUP BY entity"
        )
        incidents = (
            "SELECT day AS block, verdict = 'fraud' AS fraud, true AS alerted, true AS published, "
            "top_score AS score FROM cases"
        )
        by_entity = f"SELECT {BLOCK} AS block, {fraud} FROM ({entities})"
        by_day = f"SELECT day AS block, {fraud} FROM entity_days"
        (ranked, of_events), (_, of_new) = self._rankings(events, self._weights, ("true", "new"))
        [(_, of_entities)] = self._rankings(by_entity, self._entity_weights)
        [(_, of_days)] = self._rankings(by_day, self._weights)
        by_incident = f"SELECT block, {fraud} FROM ({incidents})"
        [(_, of_incidents)] = self._rankings(by_incident, self._weights)
        return ranked, {
            "events": of_events,
            "new_events": of_new,
            "entities": of_entities,
            "entity_days": of_days,
            "incidents": replace(of_incidents, recall=UNDEFINED),  # all of them are alerted
        }

    def _rankings(
        self, query: str, weights: F64, among: Sequence[str] = ("true",)
    ) -> list[tuple[RankingMeasures, LevelMeasures]]:
        """The rankings of those rows of a query for which each of these conditions holds: sorted
        once. The query gives block, scenario, cents, alerted, published, score."""
        counts = [self._counts(f"SELECT * FROM ({query}) WHERE {one}", weights) for one in among]
        readers = [
            RankingReader(
                RankingTotals(honest=one[0, :, 0], frauds=one[0, :, 1:]),
                weights,
                self._budgets(int(one[0].sum())) * self._days,
            )
            for one in counts
        ]
        columns = ", ".join(f"{one} AS among_{i}" for i, one in enumerate(among))
        for batch in self._run.fetch_batches(
            f"SELECT score, block, scenario, cents, {columns} FROM ({query}) ORDER BY score DESC"
        ):
            for i, reader in enumerate(readers):
                reader.add(_rows(batch.filter(batch.column(f"among_{i}"))))
        ranked = [reader.finish() for reader in readers]
        return [
            (one, _level(one, count, weights)) for one, count in zip(ranked, counts, strict=True)
        ]

    def _counts(self, query: str, weights: F64) -> I64:
        """int64[3, blocks, 1 + scenarios]: the rows, those alerted, those published; what is honest
        first."""
        return self._dense_counts(
            "SELECT block, scenario + 1, count(*), count(*) FILTER (alerted), "
            f"count(*) FILTER (published) FROM ({query}) GROUP BY block, scenario",
            (len(weights), max(len(self._run.scenarios), 1) + 1),
        )

    def _budgets(self, events: int) -> F64:
        """Alerts a day at which the budget curve is looked at: the same steps for every run, up to
        all events."""
        a_day = events / self._days
        tens = range(-1, max(0, ceil(log10(max(a_day, 1.0)))) + 1)
        steps = np.array([step * 10.0**ten for ten in tens for step in BUDGET_STEPS])
        return steps[steps <= a_day]

    def _found_in_top(self) -> I64:
        """int64[days, k]: frauds among the k highest entities of each day, `TOP_K` the k."""
        found = np.zeros((self._days, len(TOP_K)), np.int64)
        known: list[set[str]] = []
        week = -1
        weeks = ((self._run.days - self._run.days[0]) // WEEK_DAYS).tolist()
        for day, names, frauds in self._daily_rankings(WEEK_DAYS * max(TOP_K)):
            if weeks[day] != week:
                week, known = weeks[day], [set() for _ in TOP_K]
            for j, k in enumerate(TOP_K):
                new = measures.found_in_top(names, frauds, k, known[j])
                found[day, j] = len(new)
                known[j] |= new
        return found

    def _daily_rankings(self, most: int) -> Iterator[tuple[int, list[str], list[bool]]]:
        """(day, entities, whether fraud) of each day in order, by falling score, so many at most;
        those known as compromised left out."""
        names: list[str] = []
        frauds: list[bool] = []
        today = -1
        for batch in self._run.fetch_batches(
            "SELECT day, entity, fraud FROM entity_days ANTI JOIN known USING (entity, day) "
            "ORDER BY day, score DESC, entity"
        ):
            days = batch.column("day").to_numpy()
            for day in np.unique(days).tolist():
                if day != today and names:
                    yield today, names, frauds
                    names, frauds = [], []
                today = day
                start, stop = np.searchsorted(days, (day, day + 1)).tolist()
                rows = batch.slice(start, min(stop - start, most - len(names)))
                names += rows.column("entity").to_pylist()
                frauds += rows.column("fraud").to_pylist()
        if names:
            yield today, names, frauds

    def _precision_at_k(self, found: I64, events: I64) -> list[PrecisionAtK]:
        has_events = (events[0] > 0).astype(np.int64)
        return [
            PrecisionAtK(k=k, precision=ratio(found[:, j], k * has_events, self._weights))
            for j, k in enumerate(TOP_K)
        ]

    def _delays(self, scenario: int | None = None) -> tuple[I64, F64]:
        """(block, seconds) of each entity with a fraud, of a scenario or any, from the first to the
        next alert; NaN where there is none."""
        of = "" if scenario is None else f"AND scenario = {scenario}"
        found = self._run.fetch_columns(
            f"SELECT {BLOCK} AS block, CAST(epoch_ms(min(a.event_time)) - epoch_ms(any_value(since)) "
            "AS DOUBLE) AS delay_ms FROM (SELECT entity, min(event_time) AS since FROM lost WHERE "
            f"entity IS NOT NULL {of} GROUP BY entity) f LEFT JOIN (SELECT {self._entity} AS who, "
            f"event_time FROM alerted_events WHERE alerted{self._own}) a "
            "ON who = entity AND a.event_time >= since GROUP BY entity ORDER BY entity"
        )
        return found["block"].astype(np.int64), found["delay_ms"] / 1000

    def _delay(self) -> Delay:
        block, delay_s = self._delays()
        alerted = ~np.isnan(delay_s)
        every = np.bincount(block, minlength=ENTITY_BLOCKS)
        never = np.bincount(block[~alerted], minlength=ENTITY_BLOCKS)
        quartiles = [
            quantile(delay_s[alerted], block[alerted], share, self._entity_weights)
            for share in (0.25, 0.5, 0.75)
        ]
        return Delay(
            entities=len(block),
            never=ratio(never, every, self._entity_weights),
            first_quartile_s=quartiles[0].value,
            median_s=quartiles[1],
            third_quartile_s=quartiles[2].value,
        )

    def _amount(self, frauds: I64) -> Amount:
        cents, caught = frauds[3:].sum(axis=1)
        return Amount(
            fraud=int(cents.sum()) / 100,
            caught=int(caught.sum()) / 100,
            missed=int(cents.sum() - caught.sum()) / 100,
            caught_share=ratio(caught, cents, self._weights),
        )

    def _scenario_figures(self, ranked: RankingMeasures, frauds: I64) -> list[Scenario]:
        present = np.flatnonzero(frauds[0].sum(axis=1)).tolist()
        figures = [self._scenario(s, ranked, frauds[:, s]) for s in present]
        return sorted(figures, key=lambda one: (-one.frauds, one.name))

    def _scenario(self, s: int, ranked: RankingMeasures, frauds: I64) -> Scenario:
        """frauds: int64[5, days], those of the scenario."""
        _, delay_s = self._delays(s)
        alerted = delay_s[~np.isnan(delay_s)]
        one = measures.resample_weights(1)
        nowhere = np.zeros(len(alerted), np.int64)
        count, events_alerted, caught, cents, cents_caught = frauds.sum(axis=1).tolist()
        return Scenario(
            name=self._run.scenarios[s],
            frauds=count,
            roc_auc=_known(ranked.scenario_auc[s]),
            average_precision=_known(ranked.scenario_precision[s]),
            alerted=events_alerted,
            recall=ratio(frauds[1], frauds[0], self._weights),
            caught=caught,
            entities=len(delay_s),
            entities_alerted=len(alerted),
            median_delay_s=quantile(alerted, nowhere, 0.5, one).value,
            amount=cents / 100,
            amount_caught=cents_caught / 100,
            amount_missed=(cents - cents_caught) / 100,
        )

    def _day_figures(self, events: I64, frauds: I64, found: I64) -> list[Day]:
        of_all = frauds.sum(axis=1)
        return [
            self._day(day, events[:, day].tolist(), of_all[:, day].tolist(), found[day].tolist())
            for day in np.flatnonzero(events[0]).tolist()
        ]

    def _day(self, day: int, events: list[int], frauds: list[int], found: list[int]) -> Day:
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
            precision_at_k=[new / k for new, k in zip(found, TOP_K, strict=True)],
        )

    def _budget(self, curve: Curve, events: I64, frauds: I64) -> list[BudgetPoint]:
        budgets = self._budgets(int(events[0].sum()))
        all_frauds, cents = int(events[1].sum()), int(frauds[3].sum())
        points = zip(budgets.tolist(), *(column.tolist() for column in curve), strict=True)
        return [
            BudgetPoint(
                alerts_per_day=alerts_per_day,
                score=score,
                events=int(count),
                precision=found / count,
                recall=found / all_frauds if all_frauds else None,
                amount_caught_share=caught / cents if cents else None,
            )
            for alerts_per_day, score, count, found, caught in points
            if count
        ]

    def _calibration(self) -> list[CalibrationPoint]:
        last = HALF_DECADES[-1]
        [counts] = self._dense_counts(
            f"SELECT day, greatest(least(CAST(floor(score * 2) AS BIGINT), {last}), 0), count(*) "
            "FROM seen WHERE scenario < 0 GROUP BY 1, 2",
            (self._days, last + 1),
        )
        honest = counts.sum(axis=1)
        points = []
        for half in HALF_DECADES:
            p, below = 10.0 ** (-half / 2), counts[:, half:].sum(axis=1)
            points.append(
                CalibrationPoint(
                    p=p,
                    observed=ratio(below, honest, self._weights),
                    events=int(below.sum()),
                )
            )
        return [one for one in points if one.events or one.p * honest.sum() >= 1]


def _level(ranked: RankingMeasures, counts: I64, weights: F64) -> LevelMeasures:
    """counts: int64[3, blocks, 1 + scenarios], as `_ViewEvaluation._counts` gives them."""
    every, alerted, published = counts.sum(axis=2)
    frauds, frauds_alerted, frauds_published = counts[:, :, 1:].sum(axis=2)
    blocks = int(np.count_nonzero(frauds))
    return LevelMeasures(
        count=int(every.sum()),
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


def _rows(batch: pa.RecordBatch) -> RankedRows:
    score, block, scenario, cents = (
        batch.column(name).to_numpy(zero_copy_only=False)
        for name in ("score", "block", "scenario", "cents")
    )
    return RankedRows(
        score=score,
        block=block.astype(np.int64),
        scenario=scenario.astype(np.int64),
        size=np.ones(len(score), np.int64),
        cents=cents.astype(np.int64),
    )


def _precision_recall(curve: Curve) -> list[PrecisionRecallPoint]:
    frauds = max(float(curve.frauds.max(initial=0.0)), 1.0)
    return [
        PrecisionRecallPoint(score=score, recall=found / frauds, precision=found / events)
        for score, events, found in zip(
            curve.score.tolist(), curve.events.tolist(), curve.frauds.tolist(), strict=True
        )
    ]


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
