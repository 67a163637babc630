"""The tables that a run leaves behind, a Parquet file each: their columns and how they are filled.

What a column means stands beside its type, is written into the file, and `eddy query --columns`
shows it. Rows come in a fixed order and in row groups of a fixed size, so that the same run gives
the same bytes. Judges nothing: verdicts come from `stream.evaluation`.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from detectors.monitor import value_names
from detectors.numeric.combination import P_MIN, combine
from detectors.numeric.kernels import kernel
from schemas.alerts import Alert
from schemas.columns import F64, Bools, EventBatch
from schemas.events import LABEL_TYPE
from stream.config import ASSESS, Config, learning_inputs
from stream.evaluation.labelled_run import ALERTED
from stream.pipeline.cluster import ScoredEvents
from stream.replay.time_split import EvaluationSpan

ROW_GROUP_ROWS: Final = 100_000
ALERT_GROUP_ROWS: Final = 2_000
"""An alert takes some two kilobytes while its row group waits in memory."""
TIME: Final = pa.timestamp("ms")
DisplayIds = Callable[[str, pa.StringArray], pa.StringArray]
"""An entity field and its raw ids → the ids as they may be shown."""


def column(name: str, kind: pa.DataType, meaning: str, *, required: bool = False) -> pa.Field:
    """A column that says what it means. always: it is never null."""
    return pa.field(name, kind, nullable=not required, metadata={"meaning": meaning})


EVALUATED: Final = column("evaluated", pa.bool_(), "in the span of the time split", required=True)
EVENT_ID: Final = column("event_id", pa.string(), "the event's own id", required=True)
EVENT_TIME: Final = column("event_time", TIME, "the event's own time, UTC", required=True)
POSITION: Final = (
    column("topic", pa.string(), "where the event lies: its topic", required=True),
    column("partition", pa.int64(), "partition", required=True),
    column("offset", pa.int64(), "and offset", required=True),
)
ACTIVITIES: Final = pa.array([None, *ALERTED, "held_back"])
"""What the policy made of an event, by `policy.QUIET` … `policy.OVER_BUDGET`."""

CONTRIBUTION: Final = pa.struct(
    [
        ("feature", pa.string()),
        ("actual", pa.float64()),
        ("expected_low", pa.float64()),
        ("expected_high", pa.float64()),
        ("p_value", pa.float64()),
        ("share", pa.float64()),
    ]
)
RELATED: Final = pa.struct([("type", pa.string()), ("id", pa.string()), ("pseudonym", pa.bool_())])

ALERT_COLUMNS: Final = pa.schema(
    [
        column("alert_id", pa.string(), "the alert's id", required=True),
        column("incident_id", pa.string(), "its incident", required=True),
        column("revision", pa.int64(), "which alert of its incident, from 1", required=True),
        column("activity", pa.string(), "opened or updated", required=True),
        column("monitor", pa.string(), 'the monitor, or "assess"', required=True),
        column("detector", pa.string(), "what was most surprised", required=True),
        column("entity_type", pa.string(), "the field that names the entity", required=True),
        column("entity", pa.string(), "its id, or its pseudonym", required=True),
        column("pseudonym", pa.bool_(), "whether that is a pseudonym", required=True),
        EVENT_ID,
        EVENT_TIME,
        *POSITION,
        column("score", pa.float64(), "-log10 of the p-value", required=True),
        column("p_value", pa.float64(), "honest: one in 1/p events has it", required=True),
        column("threshold", pa.float64(), "the p-value at which it alerted", required=True),
        column("severity", pa.string(), "low, medium, high or critical", required=True),
        column("budget_used", pa.float64(), "of one day's alert budget", required=True),
        column("suppressed", pa.int64(), "of the incident, so far only counted", required=True),
        column("first_seen", TIME, "of the incident", required=True),
        column("last_seen", TIME, "of the incident, so far", required=True),
        column("action", pa.string(), "review, challenge, throttle or block", required=True),
        column("ttl_s", pa.int64(), "how long the action should stand, seconds", required=True),
        column("reason_code", pa.string(), "monitor and feature that said most", required=True),
        column("counterfactual", pa.list_(pa.string()), "as expected, these would not alert"),
        column("contributions", pa.list_(CONTRIBUTION), "what was surprising", required=True),
        column("related", pa.list_(RELATED), "the event's other entities", required=True),
        EVALUATED,
    ]
)
INCIDENT_COLUMNS: Final = pa.schema(
    [
        column("incident_id", pa.string(), "the incident's id", required=True),
        column("monitor", pa.string(), 'the monitor, or "assess"', required=True),
        column("entity_type", pa.string(), "the field that names the entity", required=True),
        column("entity", pa.string(), "its id, or its pseudonym", required=True),
        column("opened", TIME, "its first event", required=True),
        column("last", TIME, "its last event, told of or counted", required=True),
        column("alerts", pa.int64(), "published", required=True),
        column("suppressed", pa.int64(), "events that were only counted", required=True),
        column("top_score", pa.float64(), "the highest of its alerts", required=True),
        column("severity", pa.string(), "of that alert", required=True),
        column("events", pa.int64(), "of its entity, from opening to last", required=True),
        column(
            "amount",
            pa.float64(),
            "of those events, each without its sign; null where none has one",
        ),
        column("frauds", pa.int64(), "labelled fraud among those events; null without labels"),
        column("fraud_amount", pa.float64(), "of those frauds; null without labels"),
        column(
            "verdict",
            pa.string(),
            "fraud where one is, or its entity, else honest; null without labels",
        ),
        column("evaluated", pa.bool_(), "opened in the span of the time split", required=True),
    ]
)


def entity_columns(config: Config) -> list[str]:
    """The entity fields that stand beside every score: the monitors', and assess's subject."""
    subject = [config.assess.subject] if config.assess else []
    return list(dict.fromkeys([*(monitor.entity for monitor in config.monitors), *subject]))


def score_columns(config: Config) -> pa.Schema:
    """The columns of scores.parquet."""
    names = [monitor.name for monitor in config.monitors]
    of_assess = "assess's of all reports; null without a report"
    if learning_inputs(config):
        of_assess = "assess's of all that monitors say; null where none evaluated"
    assess = [column(f"score_{ASSESS}", pa.float64(), of_assess)] if config.assess else []
    scorers = [*names, *([ASSESS] if config.assess else [])]
    done = "opened, updated or counted into an incident, or held_back by the budget; else null"
    return pa.schema(
        [
            EVENT_ID,
            EVENT_TIME,
            *POSITION,
            column(
                "score", pa.float64(), "-log10 of all monitors' p-values together", required=True
            ),
            *(
                column(f"score_{name}", pa.float64(), f"{name}'s; null where it did not judge")
                for name in names
            ),
            *assess,
            *(column(f"activity_{name}", pa.string(), f"by {name}: {done}") for name in scorers),
            *(
                column(f"surprising_{name}", pa.string(), f"{name}'s features with p < 0.1")
                for name in names
            ),
            *(
                column(field, pa.string(), f"the event's {field}, or its pseudonym")
                for field in entity_columns(config)
            ),
            column("amount", pa.float64(), "the event's, in its own currency"),
            EVALUATED,
        ]
    )


def fraud_columns(config: Config) -> pa.Schema:
    """The columns of frauds.parquet: a score's, and what labels and alerts say of it."""
    return pa.schema(
        [
            *score_columns(config),
            column("scenario", pa.string(), "the kind of fraud, empty where none is named"),
            column("known_time", TIME, "when it became known, UTC"),
            column("alerted", pa.bool_(), "in an incident then: not held_back", required=True),
            column("published", pa.bool_(), "an alert was published on it", required=True),
            column("caught", pa.bool_(), "alerted, or an alert's action stood", required=True),
            column("nearest", pa.string(), "whose score came nearest to an alert; null without"),
            column("gap", pa.float64(), "what that score lacked; null where none evaluated it"),
        ]
    )


def feature_columns(config: Config) -> pa.Schema:
    """The columns of features.parquet."""
    told = [(m.name, name) for m in config.monitors for name in value_names(m)]
    return pa.schema(
        [
            EVENT_ID,
            EVENT_TIME,
            *(
                column(f"{monitor}__{name}{ending}", pa.float64(), f"{monitor}, {name}: {meaning}")
                for monitor, name in told
                for ending, meaning in (
                    ("", "the value as it was known at the event, before it was learned"),
                    ("__p", "its own p-value"),
                )
            ),
        ]
    )


class TableFile:
    """A Parquet file that is written batch by batch. It holds at most a row group in memory."""

    def __init__(self, path: Path, schema: pa.Schema, group_rows: int = ROW_GROUP_ROWS) -> None:
        self._schema = schema
        self._group_rows = group_rows
        self._writer = pq.ParquetWriter(path, schema, compression="zstd")
        self._waiting: list[pa.RecordBatch] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._flush(1)
        self._writer.close()

    def write(self, columns: Sequence[Any]) -> None:
        """Append rows, a column each."""
        self._waiting.append(pa.RecordBatch.from_arrays(columns, schema=self._schema))
        self._flush(self._group_rows)

    def write_batches(self, batches: Iterable[pa.RecordBatch]) -> None:
        """Append rows that have these columns, in whatever order and of types that fit."""
        for batch in batches:
            self.write(batch.select(self._schema.names).cast(self._schema).columns)

    def write_rows(self, rows: list[dict[str, Any]]) -> None:
        """Append rows."""
        if rows:
            self.write(pa.RecordBatch.from_pylist(rows, self._schema).columns)

    def _flush(self, least: int) -> None:
        """Write whole row groups, and at the end what is left."""
        waiting = sum(map(len, self._waiting))
        if waiting >= least:
            table = pa.Table.from_batches(self._waiting, self._schema)
            whole = waiting if least == 1 else waiting - waiting % self._group_rows
            self._writer.write_table(table.slice(0, whole), row_group_size=self._group_rows)
            self._waiting = table.slice(whole).to_batches()


def read_table_batches(
    path: Path, columns: Sequence[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """A table's rows, of which at most a row group is in memory."""
    with pq.ParquetFile(path, pre_buffer=False) as file:  # else all of the file is fetched at once
        yield from file.iter_batches(ROW_GROUP_ROWS, columns=columns)


class ScoreFile(TableFile):
    """scores.parquet: a row for each event, labels left out, with its score and each scorer's, what
    became of it, and whether it is evaluated or only learned."""

    def __init__(
        self, path: Path, config: Config, span: EvaluationSpan, display_ids: DisplayIds
    ) -> None:
        super().__init__(path, score_columns(config))
        self._monitors = {monitor.name: value_names(monitor) for monitor in config.monitors}
        self._scorers = [*self._monitors, *([ASSESS] if config.assess else [])]
        self._assess_scores = bool(learning_inputs(config))
        self._fields = entity_columns(config)
        self._span = span
        self._display_ids = display_ids

    def add(self, scored: ScoredEvents) -> None:
        """Append events."""
        events, said = scored.events, scored.scores
        no_score = np.full(len(events), np.nan)
        absent = pa.nulls(len(events), pa.string())
        p_values = [said[w].p_value if w in said else no_score for w in self._scorers]
        activities = [
            ACTIVITIES.take(pa.array(said[w].activity)) if w in said else absent
            for w in self._scorers
        ]
        combined = (
            said[ASSESS].p_value
            if self._assess_scores and ASSESS in said
            else combine(p_values[: len(self._monitors)])
        )
        topics = pa.array([topic for topic, _ in events.sources], pa.string())
        partitions = np.array([partition for _, partition in events.sources], np.int64)
        surprised = [
            surprising_names(names, said[m].surprised, ~np.isnan(said[m].p_value))
            if m in said
            else absent
            for m, names in self._monitors.items()
        ]
        amount = events.number.get("amount", no_score)
        columns = [
            events.event_id,
            pa.array(events.time_ms).cast(TIME),
            topics.take(pa.array(events.source)),
            pa.array(partitions[events.source]),
            pa.array(events.offset),
            pa.array(scores_from_p(combined)),
            *(pa.array(scores_from_p(p), mask=np.isnan(p)) for p in p_values),
            *activities,
            *surprised,
            *(self._entities(events, field) for field in self._fields),
            pa.array(amount, mask=np.isnan(amount)),
            pa.array(self._span.contains(events.time_ms)),
        ]
        self.write(without_labels(events, columns))

    def _entities(self, events: EventBatch, field: str) -> pa.StringArray:
        if field not in events.text:
            return pa.nulls(len(events), pa.string())
        return self._display_ids(field, events.text[field])


class FeatureFile(TableFile):
    """features.parquet: a row for each event, labels left out, with what every monitor knew."""

    def __init__(self, path: Path, config: Config) -> None:
        super().__init__(path, feature_columns(config))
        self._monitors = {monitor.name: len(value_names(monitor)) for monitor in config.monitors}

    def add(self, scored: ScoredEvents) -> None:
        """Append events."""
        events = scored.events
        columns = [events.event_id, pa.array(events.time_ms).cast(TIME)]
        for name, k in self._monitors.items():
            said = scored.scores.get(name)
            told = said.feature_values if said else np.full((2 * k, len(events)), np.nan)
            for j in range(k):
                columns += [pa.array(row, mask=np.isnan(row)) for row in (told[j], told[k + j])]
        self.write(without_labels(events, columns))


def without_labels(events: EventBatch, columns: list[Any]) -> list[Any]:
    """The columns' rows that are behaviour."""
    behaviour = events.type_code != LABEL_TYPE
    if behaviour.all():
        return columns
    kept = pa.array(behaviour)
    return [one.filter(kept) for one in columns]


def alert_rows(alerts: Sequence[Alert], span: EvaluationSpan) -> list[dict[str, Any]]:
    """Alerts as rows of alerts.parquet."""
    times_ms = np.array([alert.event_time_ms for alert in alerts], np.int64)
    evaluated = span.contains(times_ms).tolist()
    return [
        _alert_row(alert) | {"evaluated": one} for alert, one in zip(alerts, evaluated, strict=True)
    ]


def _alert_row(alert: Alert) -> dict[str, Any]:
    [evidence] = alert.evidence
    same = {name: getattr(alert, name) for name in ALERT_COLUMNS.names if hasattr(alert, name)}
    return same | {
        "entity_type": alert.entity.type,
        "entity": alert.entity.id,
        "pseudonym": alert.entity.pseudonym,
        "event_id": evidence.event_id,
        "event_time": alert.event_time_ms,
        "topic": evidence.topic,
        "partition": evidence.partition,
        "offset": evidence.offset,
        "first_seen": alert.first_seen_ms,
        "last_seen": alert.last_seen_ms,
        "action": alert.action.type,
        "ttl_s": alert.action.ttl_s,
        "reason_code": alert.action.reason_code,
        "contributions": msgspec.to_builtins(alert.contributions),
        "related": msgspec.to_builtins(alert.related),
    }


def scores_from_p(p_values: F64) -> F64:
    """float64[n]: −log10 of each p-value, 0 where it is NaN (nobody evaluated the event)."""
    out = np.zeros(len(p_values))
    _scores(p_values, out)
    return out


@kernel
def _scores(p_values: F64, out: F64) -> None:
    for i in range(len(p_values)):
        if not math.isnan(p_values[i]):
            out[i] = 0.0 - math.log10(max(p_values[i], P_MIN))  # never -0.0


def surprising_names(names: list[str], surprised: Bools, scored: Bools) -> pa.StringArray:
    """The names that are set of each event, by commas; null where it was not evaluated. surprised:
    bool[names, n]."""
    bits = np.ascontiguousarray(np.packbits(surprised, axis=0).T)
    n, width = bits.shape
    packed = pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), n, [None, pa.py_buffer(bits)])
    sets = packed.dictionary_encode()
    chosen = (np.unpackbits(np.frombuffer(one, np.uint8)) for one in sets.dictionary.to_pylist())
    texts = [",".join(np.array(names)[np.flatnonzero(one)]) for one in chosen]
    index = pa.array(sets.indices.to_numpy(), pa.int32(), mask=~scored)
    return pa.array(texts, pa.string()).take(index)
