"""What labels say, as numbers."""

from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.columns import I64, Bools, EventBatch

UNKNOWN, HONEST, FRAUD = range(-1, 2)
_NAMES: Final = {"honest": HONEST, "fraud": FRAUD}


def is_known_verdict(verdict: pa.StringArray) -> Bools:
    """bool[n]: whether these say fraud or honest; whoever says else says nothing of the event."""
    found: Bools = pc.is_in(verdict, pa.array(list(_NAMES))).to_numpy(zero_copy_only=False)
    return found


def verdict_codes(labels: EventBatch) -> I64:
    """int64[n]: what each label says of its event; `UNKNOWN` where it is anything else, or none."""
    code = np.full(len(labels), UNKNOWN)
    if "verdict" in labels.text:
        for name, number in _NAMES.items():
            said = pc.fill_null(pc.equal(labels.text["verdict"], name), fill_value=False)
            code[said.to_numpy(zero_copy_only=False)] = number
    return code
