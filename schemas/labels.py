"""Labels: events that give the verdict on an earlier event.

Two unrelated learners use them. In watch, `detectors.models.label_risk` learns the share of frauds
among an entity's labelled events, which is a detector's value. In assess, `detectors.fusion` learns
how much the monitors' reports on an event mean together, from the fields `LEARNED_LABEL_FIELDS`.
"""

from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.columns import I64, Bools, EventBatch

LABEL_FIELDS: Final = ("kind", "verdict", "labelled_event_id")
"""The fields of a label, besides the entities that it names."""
LEARNED_LABEL_FIELDS: Final = ("verdict", "labelled_event_id")
"""The fields of a label that assess learns from."""

UNKNOWN, HONEST, FRAUD = range(-1, 2)
"""Codes of verdicts; `UNKNOWN` means every verdict but fraud and honest, and for none."""
_CODES: Final = {"honest": HONEST, "fraud": FRAUD}


def is_known_verdict(verdict: pa.StringArray) -> Bools:
    """bool[n]: whether each verdict is fraud or honest."""
    known: Bools = pc.is_in(verdict, pa.array(list(_CODES))).to_numpy(zero_copy_only=False)
    return known


def verdict_codes(labels: EventBatch) -> I64:
    """int64[n]: the code of each label's verdict."""
    codes = np.full(len(labels), UNKNOWN)
    if "verdict" in labels.text:
        for name, code in _CODES.items():
            same = pc.fill_null(pc.equal(labels.text["verdict"], name), fill_value=False)
            codes[same.to_numpy(zero_copy_only=False)] = code
    return codes
