"""A monitor: what watches one entity type. Events in, p-values and decisions out, step by step.

`process` is the whole way of a batch through the engine, and the only way its state changes: bound
times → admit → features → tails → own detectors → trees → calibration → policy. Each step walks the
batch in event order, and a later step never feeds an earlier one.
"""

from dataclasses import dataclass, replace
from math import inf
from typing import Annotated, Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Meta

from detectors.clock import AHEAD_MAX_MS, BoundedTimes, Clock
from detectors.cohorts import COHORTS_MAX, Cohorts
from detectors.entities import EVICTIONS, PROMOTIONS, AdmittedEvents, EntityTable
from detectors.features import KINDS
from detectors.features.kind import Durations, FeatureInput, FeatureMemory
from detectors.models import AnyDetector, tail
from detectors.models.half_space_trees import (
    COUNTERFACTUAL_MAX,
    HalfSpaceTrees,
    RiverTreesSpec,
    TreesOutput,
    TreesSpec,
)
from detectors.models.interface import (
    DetectorInput,
    DetectorOutput,
    LabelEvents,
    StandaloneDetector,
    StandaloneSpec,
)
from detectors.models.pool import PooledPart
from detectors.models.tail import TailSpec
from detectors.money import Money
from detectors.numeric.hashing import HashKey, hash_text
from detectors.scoring.calibration import WORDS as CALIBRATION_WORDS
from detectors.scoring.calibration import Calibration, CalibrationInput, CalibrationOutput
from detectors.scoring.explain import FeatureValues
from detectors.scoring.policy import WORDS as INCIDENT_WORDS
from detectors.scoring.policy import Policy, PolicyOutcome, policy_limits
from detectors.spec import (
    Duration,
    EventFilter,
    FeatureSpec,
    Name,
    PolicySpec,
    RuleSpec,
    Spec,
    seconds,
)
from detectors.state import Arrays, WriteHook, add_prefix, clear, prefixed_hook, select_prefix
from schemas.columns import F64, I64, U64, Bools, EventBatch
from schemas.events import LABEL_TYPE, TYPES

SIDES: Final = {"high": tail.HIGH, "low": tail.LOW, "both": tail.BOTH}
FAMILIES: Final = {
    "normal": tail.NORMAL,
    "rate": tail.RATE,
    "share": tail.SHARE,
    "range": tail.RANGE,
}


class MonitorSpec(Spec, frozen=True, kw_only=True):
    """A monitor: the features, detectors and policy for one entity type. Labels are never scored;
    detectors that learn from labels read them whatever `where` says."""

    name: Name
    """Name of the monitor in alerts, tables and metrics."""
    entity: str
    """Event field that names the entity, such as `card`."""
    inputs: Annotated[list[str], Meta(min_length=1)]
    """Inputs that the monitor reads."""
    partitions: Annotated[int, Meta(ge=1, le=10_000)] | None = None
    """Partitions of the monitor's internal topic. If set, its events pass through that topic even
    where they need not, so that more workers share them. Default: the largest number of
    partitions of its inputs."""
    capacity: Annotated[int, Meta(ge=16, le=100_000_000)] = 100_000
    """Upper bound on the entities remembered per shard. When it is reached, entities with few events
    are forgotten first."""
    where: EventFilter = msgspec.field(default_factory=dict)
    """Only events that match are watched; others are counted as not applicable. Written as a
    feature's `where`."""
    lateness_max: Duration = "1h"
    """How much older than its entity's last event an event may be and still be learned."""
    session_gap: Duration | None = None
    """After this much silence an entity is treated as never seen before, so that the monitor
    watches sessions."""
    cohort: str | None = None
    """Text field whose value selects the peers that an entity is compared with, such as `country`.
    Without it, and for rare values, all entities are peers."""
    features: Annotated[list[FeatureSpec], Meta(min_length=1, max_length=64)]
    """Features that the detectors see."""
    detectors: Annotated[list[AnyDetector], Meta(min_length=1)] = msgspec.field(
        default_factory=lambda: [TailSpec(), TreesSpec()]
    )
    """Detectors. Default: `tail` and `half_space_trees`."""
    rules: list[RuleSpec] = msgspec.field(default_factory=list)
    """Rules beside the detectors. Where several match, the first of those with the smallest `p`
    counts."""
    policy: PolicySpec = PolicySpec()
    """When an event becomes an alert."""


@dataclass(frozen=True, slots=True)
class MonitorOutput:
    """What a monitor found in a batch; every array but `index` speaks of the m applicable events.

    index: int64[m], their rows in the batch. labels: how many of the others were labels. keys:
    uint64[m, 2], their entities' hashes. told: what each feature, and behind them each detector of
    its own, said. p: float64[m], combined and calibrated, 1 where nothing is known; at most what
    rule[i], of the declared ones, says. rule: int64[m], -1 where what was learned says as much.
    warm: bool[m], enough was learned before. ahead: bool[m], the event's time lies in the future and
    moved no time.
    """

    index: I64
    labels: int
    keys: U64
    admitted: AdmittedEvents
    feature_values: FeatureValues
    tail_output: tail.TailOutput
    trees: TreesOutput | None
    calibrated: CalibrationOutput
    policy_outcome: PolicyOutcome
    p: F64
    rule: I64
    warm: Bools
    ahead: Bools


class Monitor:
    """The state of one monitor for one shard, as arrays with a row an entity. sources: partitions
    that its events come from. ahead_max_ms: `limits.time_ahead_max`."""

    def __init__(
        self,
        spec: MonitorSpec,
        key: HashKey,
        shards: int = 1,
        shard: int = 0,
        sources: int = 1,
        ahead_max_ms: float = AHEAD_MAX_MS,
    ) -> None:
        self.spec = spec
        self.clock = Clock(sources, ahead_max_ms)
        self.key = key
        self.kinds = [KINDS[f.kind] for f in spec.features]
        own = [d for d in spec.detectors if isinstance(d, StandaloneSpec)]
        self.names = value_names(spec)
        count = len(spec.features)
        self.tails = next((d for d in spec.detectors if isinstance(d, TailSpec)), None)
        trees = next((d for d in spec.detectors if isinstance(d, TreesSpec | RiverTreesSpec)), None)
        self.lateness_max_ms = _ms(spec.lateness_max)
        self.session_gap_ms = _ms(spec.session_gap) or inf
        self.tail_half_life_ms = 1000.0 * seconds((self.tails or TailSpec()).half_life)

        self.shape = tail.tail_layout(
            families=[FAMILIES[k.family] for k in self.kinds],
            sides=[SIDES[f.side or k.side] for f, k in zip(spec.features, self.kinds, strict=True)],
            shift=[k.shift for k in self.kinds],
            root=[f.scale == "root" for f in spec.features],
            low=[k.low for k in self.kinds],
            high=[k.high for k in self.kinds],
        )

        self.tail_at = sum(k.words for k in self.kinds)
        self.calibration_at = self.tail_at + tail.words(self.shape)
        self.incident_at = self.calibration_at + CALIBRATION_WORDS
        width = self.incident_at + INCIDENT_WORDS
        # Zero pages are not in memory until they are touched: capacity costs nothing by itself.
        self.words: F64 = np.zeros((spec.capacity, width))
        self.bits: U64 = self.words.view(np.uint64)
        self.shared = [np.zeros(k.shared) for k in self.kinds]
        self.memories = []
        at = 0
        for kind, shared in zip(self.kinds, self.shared, strict=True):
            copy = np.zeros(kind.words)
            beside = (shared, shared.view("u8"), copy, copy.view("u8"))
            self.memories.append(FeatureMemory(self.words, self.bits, at, *beside))
            at += kind.words
        self.durations = [Durations(_ms(f.half_life), _ms(f.against)) for f in spec.features]

        self.sources: tuple[tuple[str, int], ...] | None = None
        """Where its events may come from: every batch's, once there was one."""
        self.entities = EntityTable(spec.capacity)
        self.money = Money()
        self.cohorts = Cohorts()
        numbers = 1 + (COHORTS_MAX if spec.cohort else 0)
        self.cohort: F64 = np.zeros((numbers, len(self.shape.blocks), tail.COHORT_WORDS))
        self.trees = HalfSpaceTrees(trees, count, spec.capacity) if trees else None
        self.own = {d.name: d.build(count, spec.capacity) for d in own}
        self.before_write: WriteHook | None = None
        has_ties = (k.family == "share" or k.has_ties for k in self.kinds)
        discrete = [*has_ties, *(d.discrete() for d in own)]
        self.calibration = Calibration([*discrete, False] if trees else discrete)
        self.policy = Policy(policy_limits(spec.policy, shards, shard))

    def process(self, batch: EventBatch) -> MonitorOutput:
        """Watch the events that apply: judge each, learn each, decide on each, in order."""
        # An incident remembers its opening by an index into the batch's sources.
        assert self.sources in (None, batch.sources), (self.sources, batch.sources)
        self.sources = batch.sources
        index = np.flatnonzero(self._applies(batch)).astype(np.int64)
        events = batch if len(index) == len(batch) else batch.take(index)
        keys = hash_text(events.text[self.spec.entity], self.key)
        labels, timed = self._timed(batch, events, index, keys)
        admitted = self.entities.admit(keys, timed, self.lateness_max_ms, self.session_gap_ms)
        if self.before_write is not None:  # nothing but the entity table has changed yet
            self.before_write("words", admitted.row)
        values, units = self._features(events, admitted, keys)
        tail_output = self._tails(events, values, admitted)
        verdicts = self._own(events, admitted, labels, values, tail_output)
        trees = self._trees(tail_output, admitted)
        calibrated = self._calibrate(tail_output, verdicts, trees, admitted)
        p, rule = self._ruled(calibrated.combined, values, units)
        warm = calibrated.learned >= self.spec.policy.warm_up_events
        policy_outcome = self.policy.process(
            self.words, self.incident_at, admitted, events, p, warm
        )
        feature_values = _told(values, units, tail_output, verdicts)
        told_of = len(labels.events)
        return MonitorOutput(
            index,
            told_of,
            keys,
            admitted,
            feature_values,
            tail_output,
            trees,
            calibrated,
            policy_outcome,
            p,
            rule,
            warm,
            timed.ahead,
        )

    def hooked_arrays(self) -> set[str]:
        """The saved arrays of which rows are written only when that was said before."""
        pooled = self._pooled().items()
        return {
            "words",
            *(f"{name}/{array}" for name, part in pooled for array in part.arrays_by_slot),
        }

    def on_write(self, before_write: WriteHook | None) -> None:
        """From now on say to this callable, or to nobody, what a batch is about to write."""
        self.before_write = before_write
        for name, part in self._pooled().items():
            part.before_write = before_write and prefixed_hook(name, before_write)

    def _pooled(self) -> dict[str, PooledPart]:
        return {name: part for name, part in self._parts().items() if isinstance(part, PooledPart)}

    def _applies(self, batch: EventBatch) -> Bools:
        return _applies(batch, self.spec)

    def _timed(
        self, batch: EventBatch, events: EventBatch, index: I64, keys: U64
    ) -> tuple[LabelEvents, BoundedTimes]:
        """The batch's labels with bounded times, and the times of the events that apply. events,
        index, keys: the events that apply, their rows, and their entities' hashes."""
        rows = np.flatnonzero(batch.type_code == LABEL_TYPE).astype(np.int64)
        if not len(rows):
            entity = np.ascontiguousarray(keys[:, 0])
            timed = self.clock.take(events.time_ms, events.append_ms, events.source, entity)
            return self._labels(batch.slice(0, 0), rows), timed
        before = np.searchsorted(index, rows).astype(np.int64)
        both = batch.take(np.sort(np.concatenate([index, rows])))
        moves = both.type_code != LABEL_TYPE
        entity = self._hash(both, self.spec.entity)
        timed = self.clock.take(both.time_ms, both.append_ms, both.source, entity, moves)
        labels = replace(batch.take(rows), time_ms=timed.time_ms[~moves])
        return self._labels(labels, before), BoundedTimes._make(column[moves] for column in timed)

    def _labels(self, events: EventBatch, before: I64) -> LabelEvents:
        return LabelEvents(events, before, lambda field: self._hash(events, field))

    def _features(self, events: EventBatch, admitted: AdmittedEvents, keys: U64) -> tuple[F64, F64]:
        """(values, units), each float64[features, n]; value times unit is the natural one."""
        values = np.empty((len(self.kinds), len(events)))
        units = np.ones((len(self.kinds), len(events)))
        hashes: dict[str, U64] = {}
        absent = np.full(len(events), np.nan)
        numbers, amount_unit = self._numbers(events, admitted)
        entity = np.ascontiguousarray(keys[:, 0])
        for j, (spec, kind) in enumerate(zip(self.spec.features, self.kinds, strict=True)):
            active = matches(events, spec.where)
            number: F64 = np.empty(0)
            hashed: U64 = np.empty(0, np.uint64)
            if kind.reads == "text" and spec.field is not None:
                active &= present(events, spec.field)
                if spec.field not in hashes:
                    hashes[spec.field] = self._hash(events, spec.field)
                hashed = hashes[spec.field]
            elif kind.reads == "number" and spec.field is not None:
                number = numbers.get(spec.field, absent)
            if spec.field == "amount" and not kind.unitless:
                units[j] = amount_unit
            beside = np.empty((len(kind.extra_fields), len(events)))
            for k, name in enumerate(kind.extra_fields):
                beside[k] = numbers.get(name, absent)
            occurs = matches(events, spec.of) if kind.needs_of else np.empty(0, np.bool_)
            field = FeatureInput(active, number, hashed, beside, occurs, entity)
            kind.update(self.memories[j], admitted, field, self.durations[j], values[j])
        return values, units

    def _numbers(self, events: EventBatch, admitted: AdmittedEvents) -> tuple[dict[str, F64], F64]:
        """The events' numbers, an amount relative to what is typical, which stands beside them."""
        read = {
            name
            for f, k in zip(self.spec.features, self.kinds, strict=True)
            for name in (f.field, *k.extra_fields)
        }
        if "amount" not in read or "amount" not in events.number:
            return events.number, np.ones(len(events))
        currency = self._hash(events, "currency")
        relative, unit = self.money.relative(currency, events.number["amount"], admitted.learn)
        return {**events.number, "amount": relative}, unit

    def _hash(self, events: EventBatch, field: str) -> U64:
        """uint64[n]: the field's keyed hash, 0 where absent."""
        if field not in events.text:
            return np.zeros(len(events), np.uint64)
        return np.ascontiguousarray(hash_text(events.text[field], self.key)[:, 0])

    def _tails(self, events: EventBatch, values: F64, admitted: AdmittedEvents) -> tail.TailOutput:
        tail_output = tail.empty_output(*values.shape)
        field = self.spec.cohort
        peers: I64 = np.zeros(len(events), np.int64)
        if field:
            peers = self.cohorts.of(self._hash(events, field), admitted.learn)
        tail.score(
            self.words,
            self.tail_at,
            admitted,
            values,
            self.shape,
            self.tail_half_life_ms,
            self.cohort,
            peers,
            tail_output,
        )
        return tail_output

    def _own(
        self,
        events: EventBatch,
        admitted: AdmittedEvents,
        labels: LabelEvents,
        values: F64,
        tail_output: tail.TailOutput,
    ) -> list[DetectorOutput]:
        hashes: dict[str, U64] = {}

        def hashed(field: str) -> U64:
            if field not in hashes:
                hashes[field] = self._hash(events, field)
            return hashes[field]

        names = [f.name for f in self.spec.features]
        entity = self.spec.entity
        seen = DetectorInput(
            events, admitted, labels, entity, names, values, tail_output.scaled, hashed
        )
        return [detector.process(seen) for detector in self.own.values()]

    def _trees(self, tail_output: tail.TailOutput, admitted: AdmittedEvents) -> TreesOutput | None:
        return self.trees.process(admitted, tail_output) if self.trees else None

    def _calibrate(
        self,
        tail_output: tail.TailOutput,
        verdicts: list[DetectorOutput],
        trees: TreesOutput | None,
        admitted: AdmittedEvents,
    ) -> CalibrationOutput:
        features, n = tail_output.surprise.shape
        spoken = features + len(verdicts)
        raw = np.full((n, spoken + (trees is not None)), np.nan).T
        if self.tails is not None:
            raw[:features] = tail_output.surprise
        for j, verdict in enumerate(verdicts):
            raw[features + j] = verdict.surprise
        if trees is not None:
            raw[spoken] = trees.surprise
            surprise = CalibrationInput(raw, spoken, trees.order, trees.without)
        else:
            none = np.full((COUNTERFACTUAL_MAX, n), -1, np.int64)
            surprise = CalibrationInput(raw, -1, none, np.full((COUNTERFACTUAL_MAX, n), np.nan))
        return self.calibration.process(self.words, self.calibration_at, admitted, surprise)

    def _ruled(self, combined: F64, values: F64, units: F64) -> tuple[F64, I64]:
        """(p, the rule that it is of or -1). combined: float64[n], NaN where nothing is known, as a
        value may be, which is never enough."""
        p = np.where(np.isnan(combined), 1.0, combined)
        rule = np.full(len(p), -1, np.int64)
        place = {feature.name: j for j, feature in enumerate(self.spec.features)}
        for k, one in enumerate(self.spec.rules):
            holds = p > one.p
            for name, least in one.at_least.items():
                holds &= values[place[name]] * units[place[name]] >= least
            p[holds] = one.p
            rule[holds] = k
        return p, rule

    def measures(self) -> dict[str, int]:
        """Sizes and counts that an operator watches."""
        return {
            "entities": self.entities.rows_used,
            "evictions": int(self.entities.table.marks[EVICTIONS]),
            "promotions": int(self.entities.table.marks[PROMOTIONS]),
        }

    def _parts(self) -> dict[str, "Part"]:
        parts: dict[str, Part] = {
            "clock": self.clock,
            "entities": self.entities,
            "money": self.money,
            "cohorts": self.cohorts,
            "calibration": self.calibration,
            "policy": self.policy,
        }
        own = {f"own/{name}": detector for name, detector in self.own.items()}
        return {**parts, **own} | ({"trees": self.trees} if self.trees else {})

    def save(self) -> Arrays:
        """The whole state as arrays by name, as they live."""
        words = self.words[: self.entities.rows_used]
        parts = {name: part.save() for name, part in self._parts().items()}
        shared = {f"shared/{j}": own for j, own in enumerate(self.shared) if len(own)}
        return {"words": words, "cohort": self.cohort, **shared, **add_prefix(parts)}

    def load(self, state: Arrays) -> None:
        """Replace the whole state by one saved from the same specification."""
        self.words[: len(state["words"])] = state["words"]
        clear(self.words[len(state["words"]) :])
        self.cohort[:] = state["cohort"]
        for name, own in select_prefix("shared", state).items():
            self.shared[int(name)][:] = own
        for name, part in self._parts().items():
            part.load(select_prefix(name, state))


Part = (
    Clock
    | EntityTable
    | Money
    | Cohorts
    | Calibration
    | Policy
    | HalfSpaceTrees
    | StandaloneDetector
)


def _told(
    values: F64, units: F64, tail_output: tail.TailOutput, verdicts: list[DetectorOutput]
) -> FeatureValues:
    """The features' values with what was expected, and the detectors' own behind them."""
    if not verdicts:
        return FeatureValues(values, units, tail_output.centre, tail_output.spread)
    own = np.stack([verdict.value for verdict in verdicts])
    expected = np.stack([verdict.expected for verdict in verdicts])
    return FeatureValues(
        np.concatenate([values, own]),
        np.concatenate([units, np.ones_like(own)]),
        np.concatenate([tail_output.centre, expected]),
        np.concatenate([tail_output.spread, np.zeros_like(own)]),
    )


def value_names(spec: MonitorSpec) -> list[str]:
    """What a monitor tells of an event: its features', then its own detectors' names."""
    own = (detector.name for detector in spec.detectors if isinstance(detector, StandaloneSpec))
    return [*(feature.name for feature in spec.features), *own]


def is_relevant(events: EventBatch, spec: MonitorSpec) -> Bools:
    """bool[n]: the events that the monitor judges, and the labels of its entities."""
    return _applies(events, spec) | is_label_of(events, spec.entity)


def is_label_of(events: EventBatch, entity: str) -> Bools:
    """bool[n]: the labels that name an entity of that kind."""
    labels: Bools = events.type_code == LABEL_TYPE
    return labels & present(events, entity)


def _applies(events: EventBatch, spec: MonitorSpec) -> Bools:
    applying: Bools = matches(events, spec.where) & present(events, spec.entity)
    applying &= events.type_code != LABEL_TYPE
    return applying


def matches(events: EventBatch, where: EventFilter) -> Bools:
    """bool[n]: the events whose fields have the values, or one of the values, that `where` names.

    "" stands for a field that is absent.
    """
    matching = np.ones(len(events), np.bool_)
    for field, wanted in where.items():
        values = [wanted] if isinstance(wanted, str) else wanted
        if field == "type":
            codes: list[int] = [k for k, name in enumerate(TYPES) if name in values]
            matching &= np.isin(events.type_code, np.array(codes, np.uint8))
        elif field in events.text:
            texts = pc.fill_null(events.text[field], "")
            found = pc.is_in(texts, value_set=pa.array(values, pa.string()))
            matching &= np.asarray(found.to_numpy(zero_copy_only=False), np.bool_)
        elif "" not in values:
            matching[:] = False
    return matching


def _ms(duration: Duration | None) -> float:
    return 1000.0 * seconds(duration) if duration else 0.0


def present(events: EventBatch, field: str) -> Bools:
    """bool[n]: the events that have this text."""
    if field not in events.text:
        return np.zeros(len(events), np.bool_)
    return np.asarray(events.text[field].is_valid().to_numpy(zero_copy_only=False), np.bool_)
