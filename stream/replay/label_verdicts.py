"""Unclear labels, whose verdict is neither fraud nor honest: they are ignored, counted, and shown in
notes and errors."""

from collections import Counter
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.columns import I64, EventBatch
from schemas.events import LABEL_TYPE
from schemas.labels import is_known_verdict

VERDICTS_MAX: Final = 1_000
"""Limit of verdicts that are counted separately, since a wrong mapping may name a column of ids."""


def split_unclear(events: EventBatch) -> tuple[I64, Counter[str | None]]:
    """The rows that are not unclear labels, and the number of unclear labels by verdict."""
    if not (events.type_code == LABEL_TYPE).any():
        return np.arange(len(events)), Counter()
    verdicts = events.text.get("verdict", pa.nulls(len(events), pa.string()))
    unclear = (events.type_code == LABEL_TYPE) & ~is_known_verdict(verdicts)
    value_counts = pc.value_counts(verdicts.filter(pa.array(unclear))).to_pylist()
    counts: Counter[str | None] = Counter(
        {entry["values"]: entry["counts"] for entry in value_counts}
    )
    return np.flatnonzero(~unclear), counts


def count_verdicts(total: Counter[str | None], added: Counter[str | None]) -> None:
    """Add counts to a total; verdicts beyond `VERDICTS_MAX` distinct ones are counted together as "…"."""
    for text, count in added.items():
        total[text if text in total or len(total) < VERDICTS_MAX else "…"] += count


def most_common_verdicts(verdicts: Counter[str | None]) -> str:
    """The three most common verdicts with their counts, each cut to 40 characters."""
    counted = (
        f"{'nothing' if text is None else repr(text[:40])} ({count:,})"
        for text, count in verdicts.most_common(3)
    )
    return ", ".join(counted) + (", …" if len(verdicts) > 3 else "")
