"""Rows in an order that carries no label.

A file's order may tell what its columns do not: one generator writes the frauds of a second before
its honest payments. Rows are taken by time, and those of one time in an order drawn by seed.

Sparkov's transaction ids tell the frauds: the honest payments' dates were permuted, their ids were
not, so that only the frauds' are in order of time. No score here or in Eddy reads the order of ids.
"""

from typing import Final

import numpy as np

from schemas.columns import I64

SEED: Final = 17


def drawn_among_equals(time_ms: I64) -> I64:
    """int64[n]: the rows by time, those of one time in random order."""
    row = np.random.Generator(np.random.PCG64(SEED)).permutation(len(time_ms))
    found: I64 = row[np.argsort(time_ms[row], kind="stable")]
    return found
