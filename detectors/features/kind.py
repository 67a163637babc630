"""The interface of a feature kind: a kernel over the entities' rows, and how its values are scored.

A kernel walks the batch in event order, writes the feature's value at each event and then learns
the event. A feature owns `words` consecutive 8-byte words of each entity's row, and `shared` words
for all entities of the shard together.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from detectors.entities import AdmittedEvents
from detectors.numeric.decay import decayed
from detectors.numeric.kernels import kernel
from detectors.numeric.prefetch import prefetch_words
from detectors.spec import FeatureSpec, seconds
from schemas.columns import F64, U64, Bools
from schemas.events import FIELDS

PREFETCH_EVENTS: Final = 8
"""How many events ahead a kernel prefetches."""


class FeatureMemory(NamedTuple):
    """The state of a feature. words: float64[rows, w], the entities' rows, in which the feature owns
    `FeatureKind.words` words from `first_word` on. shared: float64[`FeatureKind.shared`], for all entities
    of the shard together. backup: float64[`FeatureKind.words`], for `begin_event`. bits,
    shared_bits, backup_bits: the same memory as uint64."""

    words: F64
    bits: U64
    first_word: int
    shared: F64
    shared_bits: U64
    backup: F64
    backup_bits: U64


class FeatureInput(NamedTuple):
    """The columns that a feature reads from a batch. active: bool[n], the event matches `where` and has the field.
    number: float64[n], or hashed: uint64[n], the field; empty where the kind reads none.
    extra_fields: float64[k, n], the numbers of the k `FeatureKind.extra_fields`. occurs: bool[n],
    the event also matches `of`; empty where the kind does not need it. entity_hash: uint64[n], the
    entity's hash."""

    active: Bools
    number: F64
    hashed: U64
    extra_fields: F64
    occurs: Bools
    entity_hash: U64


class Durations(NamedTuple):
    """Durations in ms, 0 where not declared. against_ms: the half-life to compare with, for `ratio`."""

    half_life_ms: float
    against_ms: float


Word = TypeVar("Word", np.float64, np.uint64)

FeatureKernel = Callable[[FeatureMemory, AdmittedEvents, FeatureInput, Durations, F64], None]
"""kernel(memory, events, field, durations, out)

Walks the events in order; `prefetch_ahead` at each event hides the latency of memory. Where
`events.fresh` the row belongs to a new entity, and the feature's words in it must be reset first.
out: float64[n], the values, NaN where the feature has none.
"""

Family = Literal["normal", "rate", "share", "range"]
"""The distribution that a value is scored by. "normal": of ln(value + shift). "rate": value - shift is
a decayed count. "share": 1 is an occurrence, 0 is none. "range": only scaled between `low` and `high`
for the trees, without a tail."""


@dataclass(frozen=True)
class FeatureKind:
    """One kind of feature.

    side: the values that surprise, unless the configuration names another side. shift: see `Family`.
    shared: words for all entities of a shard together. extra_fields: further numbers that it reads.
    needs_against: it compares with a second duration, `against`. needs_of: it needs `of`. unitless:
    the value has no unit, whatever number it reads. has_ties: many surprising values are exactly
    equal.
    """

    name: str
    meaning: str
    update: FeatureKernel
    words: int
    reads: Literal["number", "text"] | None
    decays: bool
    family: Family
    side: Literal["high", "low", "both"]
    shift: float = 0.0
    shared: int = 0
    extra_fields: tuple[str, ...] = ()
    needs_against: bool = False
    needs_of: bool = False
    unitless: bool = False
    has_ties: bool = False
    low: float = 0.0
    high: float = 1.0

    def problems(self, spec: FeatureSpec) -> list[str]:
        """What is wrong with a declaration of this kind: one line each, the key first."""
        problems = []
        if self.reads is None and spec.field is not None:
            problems.append(f"field: {self.name} reads no field; remove it")
        elif self.reads is not None and (
            spec.field not in FIELDS or FIELDS[spec.field].kind != self.reads
        ):
            readable = ", ".join(name for name, f in FIELDS.items() if f.kind == self.reads)
            problems.append(f"field: got {spec.field}; {self.name} reads one of {readable}")
        if self.decays and spec.half_life is None:
            problems.append(f'half_life: missing; {self.name} needs one, such as "1h"')
        if not self.decays and spec.half_life is not None:
            problems.append(f"half_life: {self.name} does not decay; remove it")
        if self.needs_against != (spec.against is not None):
            problems.append(
                'against: missing; it needs a second duration, such as "24h"'
                if self.needs_against
                else f"against: {self.name} compares no durations; remove it"
            )
        elif spec.against and spec.half_life and seconds(spec.against) <= seconds(spec.half_life):
            problems.append(f"against: got {spec.against}; expected more than the half_life")
        if self.needs_of != bool(spec.of):
            problems.append(
                'of: missing; expected which events occur, such as { kind = "failure" }'
                if self.needs_of
                else f"of: {self.name} distinguishes no events; remove it"
            )
        if spec.scale != "log" and self.family != "normal":
            problems.append(f"scale: {self.name} has no scale; remove it")
        return problems

    @property
    def parameters(self) -> list[str]:
        """The keys that a declaration of this kind needs, besides its name."""
        needed = {
            f"`field` (a {self.reads})": self.reads is not None,
            "`half_life`": self.decays,
            "`against`": self.needs_against,
            "`of`": self.needs_of,
        }
        return [name for name, is_needed in needed.items() if is_needed]


@kernel
def prefetch_ahead(memory: FeatureMemory, admitted: AdmittedEvents, i: int) -> None:
    """Prefetch the words of the event `PREFETCH_EVENTS` after event i."""
    if i + PREFETCH_EVENTS < len(admitted.row):
        prefetch_words(
            memory.words, admitted.row[i + PREFETCH_EVENTS], memory.first_word, len(memory.backup)
        )


@kernel
def begin_event(
    state: NDArray[Word], admitted: AdmittedEvents, i: int, backup: NDArray[Word]
) -> None:
    """Reset the entity's words at its first event, and back them up where event i may not be learned.

    state: `FeatureKind.words` words of the entity's row. The kernel may then change them freely and
    call `undo_unless_learned` afterwards.
    """
    if admitted.fresh[i]:
        for k in range(len(state)):
            state[k] = 0
    if not admitted.learn[i]:
        for k in range(len(state)):
            backup[k] = state[k]


@kernel
def undo_unless_learned(
    state: NDArray[Word], admitted: AdmittedEvents, i: int, backup: NDArray[Word]
) -> None:
    """Restore the words where event i may not be learned."""
    if not admitted.learn[i]:
        for k in range(len(state)):
            state[k] = backup[k]


ALL, OCCURRED, LAST_MS = range(3)
SHARE_WORDS: Final = 3
PRIOR_EVENTS: Final = 2.0
"""Assumed events before the first one, without an occurrence."""


@kernel
def share_of(state: F64, occurs: bool, time_ms: float, half_life_ms: float) -> float:
    """k / (c + 2) of decayed counts, c of all events and k of those that occur, this one included.
    state: `SHARE_WORDS` words."""
    elapsed_ms = time_ms - state[LAST_MS]
    state[ALL] = decayed(state[ALL], elapsed_ms, half_life_ms) + 1.0
    state[OCCURRED] = decayed(state[OCCURRED], elapsed_ms, half_life_ms)
    if occurs:
        state[OCCURRED] += 1.0
    state[LAST_MS] = time_ms
    return float(state[OCCURRED] / (state[ALL] + PRIOR_EVENTS))
