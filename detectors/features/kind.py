"""What a feature kind is: a kernel over the entities' words, and how its values are judged.

A kernel walks the batch in event order, writes the feature's value at each event and then learns
the event. It owns `words` consecutive 8-byte words of each entity's row.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from detectors.entities import Admitted
from detectors.spec import FeatureSpec
from schemas.columns import F64, U64, Bools
from schemas.events import FIELDS


class Field(NamedTuple):
    """What a feature reads of the batch. active: bool[n], the event matches `where` and has the
    field. number: float64[n] or hashed: uint64[n], the field; empty where the kind reads none."""

    active: Bools
    number: F64
    hashed: U64


Kernel = Callable[[F64, U64, int, Admitted, Field, float, F64], None]
"""kernel(words, bits, at, events, field, half_life_ms, out)

words: float64[rows, w], bits: the same memory as uint64; at: the feature's first word in a row.
Where `events.fresh` the row was given to a new entity and must be reset first. out: float64[n],
the values, NaN where the feature says nothing.
"""

Family = Literal["normal", "rate", "share", "range"]
"""How a value is judged: "normal" in ln(value + shift); "rate": value - shift is a decayed count;
"share": 1 is an occurrence, 0 is not;
"range": only placed between `low` and `high` for the trees, without a tail of its own."""


@dataclass(frozen=True)
class Kind:
    """One kind of feature. `side`: which values surprise unless the configuration says else."""

    name: str
    meaning: str
    update: Kernel
    words: int
    reads: Literal["number", "text"] | None
    decays: bool
    family: Family
    side: Literal["high", "low", "both"]
    shift: float = 0.0
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
        return found
