"""The state of a monitor, and the steps of a batch through it.

bounded times → admission → features → tails → standalone detectors → trees → calibration → rules →
policy. Each step processes the batch in event order and uses only the output of earlier steps. Only
`process` and `load` change the state.
"""

from dataclasses import replace
from math import inf
from typing import Final

import numpy as np

from detectors.clock import AHEAD_MAX_MS, BoundedTimes, StreamClock
from detectors.cohorts import COHORTS_MAX, Cohorts
from detectors.entities import EVICTIONS, PROMOTIONS, AdmittedEvents, EntityTable
from detectors.features import KINDS
from detectors.features.kind import Durations, FeatureInput, FeatureMemory
from detectors.models import tail
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
from detectors.models.tail import TailOutput, TailSpec
from detectors.money import Money
from detectors.monitor.declaration import MonitorSpec, value_names
from detectors.monitor.output import MonitorOutput, feature_values
from detectors.monitor.selection import is_applicable, matches, present
from detectors.numeric.hashing import HashKey, hash_text
from detectors.scoring.calibration import (
    CALIBRATION_WORDS,
    Calibration,
    CalibrationInput,
    CalibrationOutput,
)
from detectors.scoring.policy import INCIDENT_WORDS, Policy, policy_limits
from detectors.spec import Duration, seconds
from detectors.state import Arrays, WriteHook, add_prefix, clear, prefixed_hook, select_prefix
from schemas.columns import F64, I64, U64, EventBatch
from schemas.events import LABEL_TYPE

SIDES: Final = {"high": tail.HIGH, "low": tail.LOW, "both": tail.BOTH}
FAMILIES: Final = {
    "normal": tail.NORMAL,
    "rate": tail.RATE,
    "share": tail.SHARE,
    "range": tail.RANGE,
}

Part = (
    StreamClock
    | EntityTable
    | Money
    | Cohorts
    | Calibration
    | Policy
    | HalfSpaceTrees
    | StandaloneDetector
)
"""A part of a monitor with a state of its own."""


class Monitor:
    """The state of one monitor for one shard: arrays with a row for each entity. sources: the number
    of partitions that its events come from. ahead_max_ms: `limits.time_ahead_max`."""

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
        self.key = key
        self.kinds = [KINDS[f.kind] for f in spec.features]
        self.names = value_names(spec)
        self.lateness_max_ms = _ms(spec.lateness_max)
        self.session_gap_ms = _ms(spec.session_gap) or inf
        self.durations = [Durations(_ms(f.half_life), _ms(f.against)) for f in spec.features]
        self.sources: tuple[tuple[str, int], ...] | None = None
        """The partitions that its events come from; known from the first batch on."""
        self.before_write: WriteHook | None = None

        self.clock = StreamClock(sources, ahead_max_ms)
        self.entities = EntityTable(spec.capacity)
        self.money = Money()
        self.cohorts = Cohorts()
        self.policy = Policy(policy_limits(spec.policy, shards, shard))
        self._create_detectors()
        self._create_rows()

    def _create_detectors(self) -> None:
        """The tails, trees, standalone detectors and their calibration."""
        spec, count = self.spec, len(self.spec.features)
        self.tails = next((d for d in spec.detectors if isinstance(d, TailSpec)), None)
        self.tail_half_life_ms = 1000.0 * seconds((self.tails or TailSpec()).half_life)
        self.tail_layout = tail.tail_layout(
            families=[FAMILIES[k.family] for k in self.kinds],
            sides=[SIDES[f.side or k.side] for f, k in zip(spec.features, self.kinds, strict=True)],
            shift=[k.shift for k in self.kinds],
            root=[f.scale == "root" for f in spec.features],
            low=[k.low for k in self.kinds],
            high=[k.high for k in self.kinds],
        )
        cohorts = 1 + (COHORTS_MAX if spec.cohort else 0)
        blocks = len(self.tail_layout.blocks)
        self.cohort: F64 = np.zeros((cohorts, blocks, tail.COHORT_WORDS))
        trees = next((d for d in spec.detectors if isinstance(d, TreesSpec | RiverTreesSpec)), None)
        self.trees = HalfSpaceTrees(trees, count, spec.capacity) if trees else None
        standalone = [d for d in spec.detectors if isinstance(d, StandaloneSpec)]
        self.standalone = {d.name: d.build(count, spec.capacity) for d in standalone}
        has_ties = (k.family == "share" or k.has_ties for k in self.kinds)
        discrete = [*has_ties, *(d.discrete() for d in standalone)]
        self.calibration = Calibration([*discrete, False] if trees else discrete)

    def _create_rows(self) -> None:
        """Allocate a row of 8-byte words for each entity: features, tails, calibration, incident. Zero
        pages use no memory until they are written, so that unused capacity costs nothing."""
        self.tail_first_word = sum(k.words for k in self.kinds)
        self.calibration_first_word = self.tail_first_word + tail.words_per_entity(self.tail_layout)
        self.incident_first_word = self.calibration_first_word + CALIBRATION_WORDS
        self.words: F64 = np.zeros((self.spec.capacity, self.incident_first_word + INCIDENT_WORDS))
        self.bits: U64 = self.words.view(np.uint64)
        self.shared = [np.zeros(k.shared) for k in self.kinds]
        self.memories = []
        first_word = 0
        for kind, shared in zip(self.kinds, self.shared, strict=True):
            backup = np.zeros(kind.words)
            buffers = (shared, shared.view("u8"), backup, backup.view("u8"))
            self.memories.append(FeatureMemory(self.words, self.bits, first_word, *buffers))
            first_word += kind.words

    def process(self, batch: EventBatch) -> MonitorOutput:
        """Score, learn and decide on each applicable event, in order."""
        # an incident stores the position of its first event as an index into the batch's sources
        assert self.sources in (None, batch.sources), (self.sources, batch.sources)
        self.sources = batch.sources
        index = np.flatnonzero(is_applicable(batch, self.spec)).astype(np.int64)
        events = batch if len(index) == len(batch) else batch.take(index)
        keys = hash_text(events.text[self.spec.entity], self.key)
        labels, times = self._bounded_times(batch, events, index, keys)
        admitted = self.entities.admit(keys, times, self.lateness_max_ms, self.session_gap_ms)
        if self.before_write is not None:  # only the entity table has changed so far
            self.before_write("words", admitted.row)
        values, units = self._features(events, admitted, keys)
        tail_output = self._tails(events, values, admitted)
        detectors = self._standalone(events, admitted, labels, values, tail_output)
        trees = self._trees(tail_output, admitted)
        calibrated = self._calibrate(tail_output, detectors, trees, admitted)
        p, rule = self._apply_rules(calibrated.combined, values, units)
        warm = calibrated.learned >= self.spec.policy.warm_up_events
        policy_outcome = self.policy.process(
            self.words, self.incident_first_word, admitted, events, p, warm
        )
        return MonitorOutput(
            index=index,
            labels=len(labels.events),
            keys=keys,
            admitted=admitted,
            feature_values=feature_values(values, units, tail_output, detectors),
            tail_output=tail_output,
            trees=trees,
            calibrated=calibrated,
            policy_outcome=policy_outcome,
            p=p,
            rule=rule,
            warm=warm,
            ahead=times.ahead,
        )

    def copy_on_write_arrays(self) -> set[str]:
        """The saved arrays of which every written row is announced to the write hook."""
        pooled = self._pooled().items()
        by_slot = (f"{name}/{array}" for name, part in pooled for array in part.arrays_by_slot)
        return {"words", *by_slot}

    def set_write_hook(self, before_write: WriteHook | None) -> None:
        """Set the hook that is called before rows are written; None removes it."""
        self.before_write = before_write
        for name, part in self._pooled().items():
            part.before_write = before_write and prefixed_hook(name, before_write)

    def _pooled(self) -> dict[str, PooledPart]:
        return {name: part for name, part in self._parts().items() if isinstance(part, PooledPart)}

    def _bounded_times(
        self, batch: EventBatch, events: EventBatch, index: I64, keys: U64
    ) -> tuple[LabelEvents, BoundedTimes]:
        """The batch's labels with bounded times, and the times of the applicable events. events,
        index, keys: the applicable events, their rows, and their entities' hashes."""
        rows = np.flatnonzero(batch.type_code == LABEL_TYPE).astype(np.int64)
        if not len(rows):
            entity_hash = np.ascontiguousarray(keys[:, 0])
            times = self.clock.advance(events.time_ms, events.append_ms, events.source, entity_hash)
            return self._labels(batch.slice(0, 0), rows), times
        events_before = np.searchsorted(index, rows).astype(np.int64)
        both = batch.take(np.sort(np.concatenate([index, rows])))
        moves_time = both.type_code != LABEL_TYPE
        entity_hash = self._hash(both, self.spec.entity)
        times = self.clock.advance(
            both.time_ms, both.append_ms, both.source, entity_hash, moves_time
        )
        labels = replace(batch.take(rows), time_ms=times.time_ms[~moves_time])
        return self._labels(labels, events_before), BoundedTimes._make(
            array[moves_time] for array in times
        )

    def _labels(self, events: EventBatch, events_before: I64) -> LabelEvents:
        return LabelEvents(events, events_before, lambda field: self._hash(events, field))

    def _features(self, events: EventBatch, admitted: AdmittedEvents, keys: U64) -> tuple[F64, F64]:
        """(values, units), each float64[features, n]; a value times its unit is in natural units."""
        values = np.empty((len(self.kinds), len(events)))
        units = np.ones((len(self.kinds), len(events)))
        hashes: dict[str, U64] = {}
        absent = np.full(len(events), np.nan)
        numbers, amount_unit = self._numbers(events, admitted)
        entity_hash = np.ascontiguousarray(keys[:, 0])
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
            extra = np.empty((len(kind.extra_fields), len(events)))
            for k, name in enumerate(kind.extra_fields):
                extra[k] = numbers.get(name, absent)
            occurs = matches(events, spec.of) if kind.needs_of else np.empty(0, np.bool_)
            field = FeatureInput(active, number, hashed, extra, occurs, entity_hash)
            kind.update(self.memories[j], admitted, field, self.durations[j], values[j])
        return values, units

    def _numbers(self, events: EventBatch, admitted: AdmittedEvents) -> tuple[dict[str, F64], F64]:
        """(Numbers by field, with amounts divided by their currency's typical amount; that amount)."""
        fields_read = {
            name
            for f, k in zip(self.spec.features, self.kinds, strict=True)
            for name in (f.field, *k.extra_fields)
        }
        if "amount" not in fields_read or "amount" not in events.number:
            return events.number, np.ones(len(events))
        currency = self._hash(events, "currency")
        relative, unit = self.money.relative(currency, events.number["amount"], admitted.learn)
        return {**events.number, "amount": relative}, unit

    def _hash(self, events: EventBatch, field: str) -> U64:
        """uint64[n]: the field's keyed hash, 0 where absent."""
        if field not in events.text:
            return np.zeros(len(events), np.uint64)
        return np.ascontiguousarray(hash_text(events.text[field], self.key)[:, 0])

    def _tails(self, events: EventBatch, values: F64, admitted: AdmittedEvents) -> TailOutput:
        output = tail.empty_output(*values.shape)
        field = self.spec.cohort
        cohort_of: I64 = np.zeros(len(events), np.int64)
        if field:
            cohort_of = self.cohorts.numbers(self._hash(events, field), admitted.learn)
        tail.score(
            self.words,
            self.tail_first_word,
            admitted,
            values,
            self.tail_layout,
            self.tail_half_life_ms,
            self.cohort,
            cohort_of,
            output,
        )
        return output

    def _standalone(
        self,
        events: EventBatch,
        admitted: AdmittedEvents,
        labels: LabelEvents,
        values: F64,
        tail_output: TailOutput,
    ) -> list[DetectorOutput]:
        hashes: dict[str, U64] = {}

        def hashed(field: str) -> U64:
            if field not in hashes:
                hashes[field] = self._hash(events, field)
            return hashes[field]

        batch = DetectorInput(
            events=events,
            admitted=admitted,
            labels=labels,
            entity_field=self.spec.entity,
            names=[f.name for f in self.spec.features],
            values=values,
            scaled=tail_output.scaled,
            hashed=hashed,
        )
        return [detector.process(batch) for detector in self.standalone.values()]

    def _trees(self, tail_output: TailOutput, admitted: AdmittedEvents) -> TreesOutput | None:
        return self.trees.process(admitted, tail_output) if self.trees else None

    def _calibrate(
        self,
        tail_output: TailOutput,
        detectors: list[DetectorOutput],
        trees: TreesOutput | None,
        admitted: AdmittedEvents,
    ) -> CalibrationOutput:
        features, n = tail_output.surprise.shape
        count = features + len(detectors)
        raw = np.full((n, count + (trees is not None)), np.nan).T
        if self.tails is not None:
            raw[:features] = tail_output.surprise
        for j, output in enumerate(detectors):
            raw[features + j] = output.surprise
        if trees is not None:
            raw[count] = trees.surprise
            surprise = CalibrationInput(raw, count, trees.order, trees.counterfactual_surprise)
        else:
            none = np.full((COUNTERFACTUAL_MAX, n), -1, np.int64)
            surprise = CalibrationInput(raw, -1, none, np.full((COUNTERFACTUAL_MAX, n), np.nan))
        return self.calibration.process(self.words, self.calibration_first_word, admitted, surprise)

    def _apply_rules(self, combined: F64, values: F64, units: F64) -> tuple[F64, I64]:
        """(p, the index of the rule that lowered it or -1). combined: float64[n], NaN where nothing
        is known. A rule does not match where one of its features is NaN."""
        p = np.where(np.isnan(combined), 1.0, combined)
        rule_index = np.full(len(p), -1, np.int64)
        row = {feature.name: j for j, feature in enumerate(self.spec.features)}
        for k, rule in enumerate(self.spec.rules):
            matching = p > rule.p
            for name, limit in rule.at_least.items():
                matching &= values[row[name]] * units[row[name]] >= limit
            p[matching] = rule.p
            rule_index[matching] = k
        return p, rule_index

    def measures(self) -> dict[str, int]:
        """Sizes and counts of the entity table, for the metrics."""
        return {
            "entities": self.entities.rows_used,
            "evictions": int(self.entities.table.marks[EVICTIONS]),
            "promotions": int(self.entities.table.marks[PROMOTIONS]),
        }

    def _parts(self) -> dict[str, Part]:
        parts: dict[str, Part] = {
            "clock": self.clock,
            "entities": self.entities,
            "money": self.money,
            "cohorts": self.cohorts,
            "calibration": self.calibration,
            "policy": self.policy,
        }
        standalone = {f"own/{name}": detector for name, detector in self.standalone.items()}
        return {**parts, **standalone} | ({"trees": self.trees} if self.trees else {})

    def save(self) -> Arrays:
        """The whole state as arrays by name; the arrays are the live ones."""
        words = self.words[: self.entities.rows_used]
        parts = {name: part.save() for name, part in self._parts().items()}
        shared = {f"shared/{j}": array for j, array in enumerate(self.shared) if len(array)}
        return {"words": words, "cohort": self.cohort, **shared, **add_prefix(parts)}

    def load(self, state: Arrays) -> None:
        """Replace the whole state by one saved from the same declaration."""
        self.words[: len(state["words"])] = state["words"]
        clear(self.words[len(state["words"]) :])
        self.cohort[:] = state["cohort"]
        for name, array in select_prefix("shared", state).items():
            self.shared[int(name)][:] = array
        for name, part in self._parts().items():
            part.load(select_prefix(name, state))


def _ms(duration: Duration | None) -> float:
    return 1000.0 * seconds(duration) if duration else 0.0
