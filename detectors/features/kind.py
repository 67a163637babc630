"""What a feature kind is: a kernel over the entities' words, and how its values are judged.

A kernel walks the batch in event order, writes the feature's value at each event and then learns
the event. It owns `words` consecutive 8-byte words of each entity's row, and `shared` ones that
all entities of the shard have in common.
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
"""Events: a kernel is through with so many while memory answers."""


class FeatureMemory(NamedTuple):
    """What a feature remembers. words: float64[rows, w], its entity's row, of which it owns
    `FeatureKind.words` from `at` on; bits: the same memory as uint64. shared: float64[`FeatureKind.shared`], one
    for all entities of the shard; shared_bits: the same memory as uint64. copy:
    float64[`FeatureKind.words`], for `begin_event`; backup_bits: the same memory as uint64."""

    words: F64
    bits: U64
    at: int
    shared: F64
    shared_bits: U64
    backup: F64
    backup_bits: U64


class FeatureInput(NamedTuple):
    """What a feature reads of the batch. active: bool[n], the event matches `where` and has the
    field. number: float64[n] or hashed: uint64[n], the field; empty where the kind reads none.
    beside: float64[k, n], the k numbers that `FeatureKind.beside` names. occurs: bool[n], the event also
    matches `of`; empty where the kind does not ask. entity: uint64[n], the entity's hash."""

    active: Bools
    number: F64
    hashed: U64
    extra_fields: F64
    occurs: Bools
    entity: U64


class Durations(NamedTuple):
    """Durations in ms, 0 where not given: the half-life, and the one it is compared with."""

    half_life_ms: float
    against_ms: float


Word = TypeVar("Word", np.float64, np.uint64)

FeatureKernel = Callable[[FeatureMemory, AdmittedEvents, FeatureInput, Durations, F64], None]
"""kernel(memory, events, field, spans, out)

Walks the events in order; with `prefetch_ahead` at each it waits less for memory. Where `events.fresh`
the row was given to a new entity and the feature's words in it must be reset first. out: float64[n], the values, NaN where the feature says nothing.
"""

Family = Literal["normal", "rate", "share", "range"]
"""How a value is judged: "normal" in ln(value + shift); "rate": value - shift is a decayed count;
"share": 1 is an occurrence, 0 is not;
"range": only placed between `low` and `high` for the trees, without a tail of its own."""


@dataclass(frozen=True)
class FeatureKind:
    """One kind of feature.

    side: which values surprise unless the configuration says else. shift: see `Family`. shared:
    words that all entities of a shard have in common. beside: further numbers that it reads.
    compares: it needs `against`, a second duration. divides: it needs `of`. relative: the value has
    no unit, whatever number it reads. crowded: many values are exactly alike, and surprising.
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
        """What is wrong with a declaration of this kind: one line each, path first."""
        found = []
        if self.reads is None and spec.field is not None:
            found.append(f"field: {self.name} reads no field; remove it")
        elif self.reads is not None and (
            spec.field not in FIELDS or FIELDS[spec.field].kind != self.reads
        ):
            of_kind = ", ".join(name for name, f in FIELDS.items() if f.kind == self.reads)
            found.append(f"field: got {spec.field}; {self.name} reads one of {of_kind}")
        if self.decays and spec.half_life is None:
            found.append(f'half_life: missing; {self.name} needs one, such as "1h"')
        if not self.decays and spec.half_life is not None:
            found.append(f"half_life: {self.name} does not decay; remove it")
        if self.needs_against != (spec.against is not None):
            found.append(
                'against: missing; it needs a second duration, such as "24h"'
                if self.needs_against
                else f"against: {self.name} compares no durations; remove it"
            )
        elif spec.against and spec.half_life and seconds(spec.against) <= seconds(spec.half_life):
            found.append(f"against: got {spec.against}; expected more than the half_life")
        if self.needs_of != bool(spec.of):
            found.append(
                'of: missing; expected which events occur, such as { kind = "failure" }'
                if self.needs_of
                else f"of: {self.name} tells no events apart; remove it"
            )
        if spec.scale != "log" and self.family != "normal":
            found.append(f"scale: {self.name} is not judged on a scale; remove it")
        return found

    @property
    def parameters(self) -> list[str]:
        """What a declaration of this kind must give, besides its name."""
        asked = {
            f"`field` (a {self.reads})": self.reads is not None,
            "`half_life`": self.decays,
            "`against`": self.needs_against,
            "`of`": self.needs_of,
        }
        return [name for name, asks in asked.items() if asks]


@kernel
def prefetch_ahead(memory: FeatureMemory, events: AdmittedEvents, i: int) -> None:
    """Have the words brought near that an event soon after i will need."""
    if i + PREFETCH_EVENTS < len(events.row):
        prefetch_words(memory.words, events.row[i + PREFETCH_EVENTS], memory.at, len(memory.backup))


@kernel
def begin_event(
    state: NDArray[Word], events: AdmittedEvents, i: int, backup: NDArray[Word]
) -> None:
    """Make event i's own words ready: zeros where its entity is new.

    mine: `FeatureKind.words` words of its row. A kernel may change them as it likes and call `undo_unless_learned`
    afterwards; `backup` is for that.
    """
    if events.fresh[i]:
        for k in range(len(state)):
            state[k] = 0
    if not events.learn[i]:
        for k in range(len(state)):
            backup[k] = state[k]


@kernel
def undo_unless_learned(
    state: NDArray[Word], events: AdmittedEvents, i: int, backup: NDArray[Word]
) -> None:
    """Put the words back as `begin_event` found them where event i may not be learned."""
    if not events.learn[i]:
        for k in range(len(state)):
            state[k] = backup[k]


ALL, OCCURRED, LAST_MS = range(3)
SHARE_WORDS: Final = 3
WITHOUT: Final = 2.0
"""Occasions without an occurrence that are assumed before the first."""


@kernel
def share_of(state: F64, occurs: bool, time_ms: float, half_life_ms: float) -> float:
    """k / (c + 2) of decayed counts, c of all and k of those that occur, with this one. mine:
    `SHARE_WORDS` words."""
    since_ms = time_ms - state[LAST_MS]
    state[ALL] = decayed(state[ALL], since_ms, half_life_ms) + 1.0
    state[OCCURRED] = decayed(state[OCCURRED], since_ms, half_life_ms)
    if occurs:
        state[OCCURRED] += 1.0
    state[LAST_MS] = time_ms
    return float(state[OCCURRED] / (state[ALL] + WITHOUT))
