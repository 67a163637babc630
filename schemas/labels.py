"""Labels: events that give the verdict on an earlier event.

Two independent learners use them. In the watch stage, the detector `detectors.models.label_risk` learns
the share of frauds among an entity's labelled events. In the assess stage, `detectors.fusion` learns
from the fields `LEARNED_LABEL_FIELDS` how to combine the monitors' reports on an event.
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
"""Codes of verdicts; `UNKNOWN` stands for any other verdict, and for a missing one."""
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
            matches = pc.fill_null(pc.equal(labels.text["verdict"], name), fill_value=False)
            codes[matches.to_numpy(zero_copy_only=False)] = code
    return codes
