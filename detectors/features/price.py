"""Price: is this amount what the product usually costs?

The value is the amount (relative to its currency, see `detectors.money`) divided by the exponential
of the product's decayed mean of ln|amount| in the whole shard; NaN below a weight of `AMOUNTS_MIN`.
An amount moves the mean by 1/weight of the difference, the weight being at most `MEMORY` and the
difference at most `STEP_MAX`.

Bounded: `SETS` sets of `SLOTS_PER_SET` products by the product's keyed hash. In a full set a new
product takes the slot of least weight, and all weights of the set shrink by an eighth, so that
products that are no longer sold are displaced, and invented products are hard to rotate in. No words
an entity; shared: 3 · 16,384 words (hash, weight, mean), that is 384 KiB a shard.
"""

from math import exp, log
from typing import Final

import numpy as np

from detectors.entities import AdmittedEvents
from detectors.features.kind import Durations, FeatureInput, FeatureKind, FeatureMemory
from detectors.money import AMOUNT_MIN, STEP_MAX
from detectors.numeric.kernels import kernel
from schemas.columns import F64, U64

SLOTS_PER_SET: Final = 8
SETS: Final = 2_048
PRODUCT, WEIGHT, MEAN = range(3)
SLOT: Final = 3
"""Words of a slot."""
WORDS: Final = SLOT * SLOTS_PER_SET * SETS
MEMORY: Final = 100.0
AMOUNTS_MIN: Final = 3.0
SHRINK: Final = 7.0 / 8.0


@kernel
def _slot(shared: F64, bits: U64, product: np.uint64) -> int:
    """The index of the product's slot, or of the slot that it would take."""
    first = SLOT * SLOTS_PER_SET * np.int64(product & np.uint64(SETS - 1))
    least = first
    for k in range(SLOTS_PER_SET):
        slot = first + SLOT * k
        if shared[slot + WEIGHT] > 0.0 and bits[slot + PRODUCT] == product:
            return int(slot)
        if shared[slot + WEIGHT] < shared[least + WEIGHT]:
            least = slot
    return int(least)


@kernel
def _make_room(shared: F64, bits: U64, slot: int, product: np.uint64, mean: float) -> None:
    """Give the slot to the product; where another product had it, shrink the weights of the set."""
    if shared[slot + WEIGHT] > 0.0:
        first = slot - slot % (SLOT * SLOTS_PER_SET)
        for k in range(SLOTS_PER_SET):
            shared[first + SLOT * k + WEIGHT] *= SHRINK
    bits[slot + PRODUCT] = product
    shared[slot + WEIGHT] = 0.0
    shared[slot + MEAN] = mean


@kernel
def price_ratio(
    memory: FeatureMemory,
    admitted: AdmittedEvents,
    field: FeatureInput,
    durations: Durations,
    out: F64,
) -> None:
    """|amount| over the product's usual one before this event; extra field: the amount."""
    shared = memory.shared
    bits = memory.shared_bits
    for i in range(len(admitted.row)):
        out[i] = np.nan
        size = abs(field.extra_fields[0, i])
        if not field.active[i] or not size >= 0.0:
            continue
        slot = _slot(shared, bits, field.hashed[i])
        is_known = shared[slot + WEIGHT] > 0.0 and bits[slot + PRODUCT] == field.hashed[i]
        if is_known and shared[slot + WEIGHT] >= AMOUNTS_MIN:
            out[i] = size * exp(-shared[slot + MEAN])
        if admitted.learn[i] and size >= AMOUNT_MIN:
            if not is_known:
                _make_room(shared, bits, slot, field.hashed[i], log(size))
            weight = min(shared[slot + WEIGHT] + 1.0, MEMORY)
            difference = log(size) - shared[slot + MEAN]
            shared[slot + WEIGHT] = weight
            shared[slot + MEAN] += min(max(difference, -STEP_MAX), STEP_MAX) / weight


KINDS: Final = (
    FeatureKind(
        name="price_ratio",
        meaning="amount over what this value of a field (the product) usually costs",
        update=price_ratio,
        words=0,
        shared=WORDS,
        reads="text",
        decays=False,
        family="normal",
        side="both",
        shift=0.01,
        extra_fields=("amount",),
    ),
)
