"""The events, alerts and incidents of one view of a run, counted in SQL and returned as arrays.

A view is one score with its alerts: that of all monitors together, or of one scorer. Entities are
the values of one field.
"""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa

from schemas.columns import F64, I64
from stream.config import ALL_MONITORS
from stream.evaluation import measures
from stream.evaluation.labelled_run import LabelledRun, calendar_day
from stream.evaluation.measures import RankedRows, RankingMeasures, RankingReader, RankingTotals

ENTITY_BLOCKS: Final = 64
BLOCK: Final = f"CAST(md5_number_lower(entity) % {ENTITY_BLOCKS} AS BIGINT)"
"""The bootstrap block of an entity: its days depend on each other and are drawn together."""


EVENTS, EVENT_FRAUDS, EVENTS_PUBLISHED, FRAUDS_PUBLISHED = range(4)
"""Rows of `ViewTables.events_by_day`."""
FRAUDS, FRAUDS_ALERTED, FRAUDS_CAUGHT, FRAUD_CENTS, CAUGHT_CENTS = range(5)
"""Rows of `ViewTables.frauds_by_day`."""


class Ranking(NamedTuple):
    """A ranking, measured. counts: int64[3, blocks, 1 + scenarios], all rows, those alerted and
    those published, honest rows first. weights: float64[blocks, 1 + resamples]."""

    measures: RankingMeasures
    counts: I64
    weights: F64


class ViewTables:
    """SQL views and tables of one view: `view_events`, `view_frauds`, `view_alerts` (alerts on its
    events), `view_incidents` (opened on them), `entity_days` and `compromised`.

    name: the scorer's, or "all". entity: the field of the entities.
    """

    def __init__(self, run: LabelledRun, name: str, entity: str) -> None:
        self.days = len(run.days)
        self.day_weights = measures.resample_weights(self.days)
        self.entity_weights = measures.resample_weights(ENTITY_BLOCKS)
        self._run = run
        self._name = name
        self._entity = entity
        self._suffix = "" if name == ALL_MONITORS else f"_{name}"
        self._make_views()

    def _make_views(self) -> None:
        run, entity, suffix = self._run, self._entity, self._suffix
        outcome = f"alerted{suffix} AS alerted, published{suffix} AS published"
        score = f"score{suffix}"
        run.execute(
            f"CREATE OR REPLACE VIEW view_events AS SELECT day, scenario_index, cents, {score} AS score, "
            f"{entity} AS entity, {outcome} FROM events WHERE {score} IS NOT NULL"
        )
        combines = any(
            scorer.name == self._name and scorer.combines_reports for scorer in run.scorers
        )
        required = entity if combines else score  # assess scores events without a report as 0
        run.execute(
            "CREATE OR REPLACE VIEW view_frauds AS SELECT event_time, day, scenario_index, cents, "
            f"{entity} AS entity, alerted{suffix} AS alerted, caught{suffix} AS caught FROM frauds "
            f"WHERE evaluated AND {required} IS NOT NULL"
        )
        only_scorer = f"AND monitor = '{self._name}'" if suffix else ""
        for table, time in (("alerts", "event_time"), ("incidents", "opened")):
            run.execute(
                f"CREATE OR REPLACE VIEW view_{table} AS SELECT a.*, day FROM {table} a JOIN days ON "
                f"calendar = {calendar_day(time)} WHERE evaluated {only_scorer}"
            )
        run.execute(
            "CREATE OR REPLACE TABLE entity_days AS SELECT entity, day, max(score) AS score, "
            "bool_or(scenario_index >= 0) AS fraud, bool_or(alerted) AS alerted, bool_or(published) AS "
            "published FROM view_events WHERE entity IS NOT NULL GROUP BY entity, day"
        )
        run.make_compromised(entity)

    def dense_counts(self, query: str, shape: tuple[int, ...]) -> I64:
        """int64[values, *shape]: the first columns of the query are indexes, the others values; 0
        where there is no row."""
        columns = [*self._run.fetch_columns(query).values()]
        indexes, values = columns[: len(shape)], columns[len(shape) :]
        filled = np.zeros((len(values), *shape), np.int64)
        for target, column in zip(filled, values, strict=True):
            target[tuple(index.astype(np.int64) for index in indexes)] = column
        return filled

    def alerts(self) -> int:
        """The number of alerts on events of the view."""
        [(count,)] = self._run.fetch_rows("SELECT count(*) FROM view_alerts")
        return int(count)

    def incidents_by_day(self) -> I64:
        """int64[2, days]: alerts of the incidents opened on each day, and these incidents."""
        return self.dense_counts(
            "SELECT day, sum(alerts), count(*) FROM view_incidents GROUP BY day", (self.days,)
        )

    def events_by_day(self) -> I64:
        """int64[4, days]: counts of events, indexed by `EVENTS` … `FRAUDS_PUBLISHED`."""
        return self.dense_counts(
            "SELECT day, count(*), count(*) FILTER (scenario_index >= 0), count(*) FILTER (published), "
            "count(*) FILTER (published AND scenario_index >= 0) FROM view_events GROUP BY day",
            (self.days,),
        )

    def frauds_by_day(self) -> I64:
        """int64[5, scenarios, days]: sums over frauds, indexed by `FRAUDS` … `CAUGHT_CENTS`."""
        return self.dense_counts(
            "SELECT scenario_index, day, count(*), count(*) FILTER (alerted), count(*) FILTER (caught), "
            "sum(cents), coalesce(sum(cents) FILTER (caught), 0) FROM view_frauds "
            "GROUP BY scenario_index, day",
            (len(self._run.scenarios), self.days),
        )

    def honest_by_score(self, half_units: int) -> I64:
        """int64[days, half_units + 1]: honest events by score in steps of 0.5, the last open."""
        [counts] = self.dense_counts(
            f"SELECT day, greatest(least(CAST(floor(score * 2) AS BIGINT), {half_units}), 0), "
            "count(*) FROM view_events WHERE scenario_index < 0 GROUP BY 1, 2",
            (self.days, half_units + 1),
        )
        honest: I64 = counts
        return honest

    # -- rankings ---------------------------------------------------------------------------------

    def rank_events(self, budgets: F64) -> tuple[Ranking, Ranking]:
        """The rankings of all events, and of those of entities not known as compromised that day.

        budgets: numbers of alerts, rising, for the budget curve.
        """
        query = (
            "SELECT day AS block, scenario_index, cents, alerted, published, score, c.day IS NULL AS new "
            "FROM view_events LEFT JOIN compromised c USING (entity, day)"
        )
        all_events, new_events = self._rank(query, self.day_weights, ("true", "new"), budgets)
        return all_events, new_events

    def rank_entities(self) -> Ranking:
        """The ranking of entities by their highest score."""
        entities = (
            "SELECT entity, max(score) AS score, bool_or(fraud) OR entity IN (SELECT entity FROM "
            f"labelled_entities WHERE field = '{self._entity}') AS fraud, bool_or(alerted) AS "
            "alerted, bool_or(published) AS published FROM entity_days GROUP BY entity"
        )
        [ranking] = self._rank(
            f"SELECT {BLOCK} AS block, {_FRAUD_ROW} FROM ({entities})", self.entity_weights
        )
        return ranking

    def rank_entity_days(self) -> Ranking:
        """The ranking of entities by their highest score of each day."""
        query = f"SELECT day AS block, {_FRAUD_ROW} FROM entity_days"
        [ranking] = self._rank(query, self.day_weights)
        return ranking

    def rank_incidents(self) -> Ranking:
        """The ranking of incidents by their highest score."""
        incidents = (
            "SELECT day AS block, verdict = 'fraud' AS fraud, true AS alerted, true AS published, "
            "top_score AS score FROM view_incidents"
        )
        [ranking] = self._rank(f"SELECT block, {_FRAUD_ROW} FROM ({incidents})", self.day_weights)
        return ranking

    def _rank(
        self,
        query: str,
        weights: F64,
        conditions: Sequence[str] = ("true",),
        budgets: F64 | None = None,
    ) -> list[Ranking]:
        """For each condition, the ranking of the rows for which it holds; they are sorted once.

        The columns of the query are block, scenario_index, cents, alerted, published and score.
        """
        counts = [
            self._counts(f"SELECT * FROM ({query}) WHERE {condition}", weights)
            for condition in conditions
        ]
        readers = [
            RankingReader(
                RankingTotals(honest=count[0, :, 0], frauds=count[0, :, 1:]), weights, budgets
            )
            for count in counts
        ]
        columns = ", ".join(
            f"{condition} AS condition_{i}" for i, condition in enumerate(conditions)
        )
        for batch in self._run.fetch_batches(
            f"SELECT score, block, scenario_index, cents, {columns} FROM ({query}) ORDER BY score DESC"
        ):
            for i, reader in enumerate(readers):
                reader.add(_ranked_rows(batch.filter(batch.column(f"condition_{i}"))))
        return [
            Ranking(reader.finish(), count, weights)
            for reader, count in zip(readers, counts, strict=True)
        ]

    def _counts(self, query: str, weights: F64) -> I64:
        """int64[3, blocks, 1 + scenarios]: all rows, those alerted, those published; honest rows
        first."""
        return self.dense_counts(
            "SELECT block, scenario_index + 1, count(*), count(*) FILTER (alerted), "
            f"count(*) FILTER (published) FROM ({query}) GROUP BY block, scenario_index",
            (len(weights), max(len(self._run.scenarios), 1) + 1),
        )

    def daily_rankings(self, limit: int) -> Iterator[tuple[int, list[str], list[bool]]]:
        """(day, entities, whether fraud) of each day in order, by falling score, at most `limit`;
        without entities known as compromised."""
        names: list[str] = []
        frauds: list[bool] = []
        today = -1
        for batch in self._run.fetch_batches(
            "SELECT day, entity, fraud FROM entity_days ANTI JOIN compromised USING (entity, day) "
            "ORDER BY day, score DESC, entity"
        ):
            days = batch.column("day").to_numpy()
            for day in np.unique(days).tolist():
                if day != today and names:
                    yield today, names, frauds
                    names, frauds = [], []
                today = day
                start, stop = np.searchsorted(days, (day, day + 1)).tolist()
                rows = batch.slice(start, min(stop - start, limit - len(names)))
                names += rows.column("entity").to_pylist()
                frauds += rows.column("fraud").to_pylist()
        if names:
            yield today, names, frauds

    def delays(self, scenario_index: int | None = None) -> tuple[I64, F64]:
        """(block, seconds) of each entity with a fraud, of one scenario or of any: from its first
        fraud to its next alerted event, NaN without one."""
        condition = "" if scenario_index is None else f"AND scenario_index = {scenario_index}"
        delays = self._run.fetch_columns(
            f"SELECT {BLOCK} AS block, CAST(epoch_ms(min(a.event_time)) - epoch_ms(any_value(first_fraud)) "
            "AS DOUBLE) AS delay_ms FROM (SELECT entity, min(event_time) AS first_fraud FROM view_frauds "
            f"WHERE entity IS NOT NULL {condition} GROUP BY entity) f LEFT JOIN (SELECT "
            f"{self._entity} AS alerted_entity, event_time FROM alerted_events WHERE "
            f"alerted{self._suffix}) a ON alerted_entity = entity AND a.event_time >= first_fraud "
            "GROUP BY entity ORDER BY entity"
        )
        return delays["block"].astype(np.int64), delays["delay_ms"] / 1000


_FRAUD_ROW: Final = (
    "CASE WHEN fraud THEN 0 ELSE -1 END AS scenario_index, 0 AS cents, alerted, published, score"
)


def _ranked_rows(batch: pa.RecordBatch) -> RankedRows:
    score, block, scenario_index, cents = (
        batch.column(name).to_numpy(zero_copy_only=False)
        for name in ("score", "block", "scenario_index", "cents")
    )
    return RankedRows(
        score=score,
        block=block.astype(np.int64),
        scenario_index=scenario_index.astype(np.int64),
        size=np.ones(len(score), np.int64),
        cents=cents.astype(np.int64),
    )
