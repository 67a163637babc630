"""Labels whose verdict is neither fraud nor honest: left out, counted, and shown in notes and errors."""

from collections import Counter
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.columns import I64, EventBatch
from schemas.events import LABEL_TYPE
from schemas.labels import is_known_verdict

VERDICTS_MAX: Final = 1_000
"""Distinct unclear verdicts that are counted separately: a mapping may name a column of ids."""


def split_unclear(events: EventBatch) -> tuple[I64, Counter[str | None]]:
    """(rows, counts): the rows of all events except labels with an unclear verdict; and the number of
    these labels by verdict."""
    if not (events.type_code == LABEL_TYPE).any():
        return np.arange(len(events)), Counter()
    verdicts = events.text.get("verdict", pa.nulls(len(events), pa.string()))
    unclear = (events.type_code == LABEL_TYPE) & ~is_known_verdict(verdicts)
    counted = pc.value_counts(verdicts.filter(pa.array(unclear))).to_pylist()
    counts: Counter[str | None] = Counter({count["values"]: count["counts"] for count in counted})
    return np.flatnonzero(~unclear), counts


def count_verdicts(totals: Counter[str | None], added: Counter[str | None]) -> None:
    """Add counts to the totals; beyond `VERDICTS_MAX` distinct verdicts, the rest is counted together."""
    for text, count in added.items():
        totals[text if text in totals or len(totals) < VERDICTS_MAX else "…"] += count


def most_common_verdicts(verdicts: Counter[str | None]) -> str:
    """The three most common verdicts with their counts, each cut to 40 characters."""
    descriptions = (
        f"{'nothing' if text is None else repr(text[:40])} ({count:,})"
        for text, count in verdicts.most_common(3)
    )
    return ", ".join(descriptions) + (", …" if len(verdicts) > 3 else "")
