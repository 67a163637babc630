"""Simple bases on points of a few numbers, fitted on the early part without labels.

There is no part to choose on: these are the ones that a textbook names first, and evidence with the
settings for payments, halving in 600 rows.
"""

import numpy as np
from numpy.typing import NDArray

from schemas.columns import F64, Bools
from tests.quality.bases.evidence import accumulated


def point_bases(features: NDArray[np.floating], early: Bools) -> dict[str, F64]:
    """features: float[n, features]."""
    columns = features.astype(np.float64).T
    tails = np.stack([two_sided_tail(column, early) for column in columns])
    rarest = tails.max(axis=0)
    threshold = float(np.quantile(rarest[early], 0.9)) if early.any() else 0.0
    one, row = np.zeros(len(rarest), np.int64), np.arange(len(rarest), dtype=np.float64)
    return {
        "largest |z| of a feature": np.abs(np.stack([_z(x, early) for x in columns])).max(axis=0),
        "Mahalanobis distance": mahalanobis(columns, early),
        "rarest feature, by its empirical tail": rarest,
        "the same, evidence v + min(S, 2v)": accumulated(rarest, one, row, 600.0, threshold),
        # Z. Li et al., "ECOD: unsupervised outlier detection using empirical cumulative
        # distribution functions", IEEE TKDE 2022
        "sum of the features' empirical tails (ECOD)": tails.sum(axis=0),
    }


def two_sided_tail(values: F64, early: Bools) -> F64:
    """−log10 of the smaller of the two shares of the early part that are at least as large, or as
    small; beyond all of them, values are ordered by their distance to the nearest."""
    known = np.sort(values[early])
    n = len(known)
    no_larger = np.searchsorted(known, values, side="right")
    no_smaller = n - np.searchsorted(known, values, side="left")
    share = (np.minimum(no_larger, no_smaller) + 1.0) / (n + 1.0)
    width = max(float(known[-1] - known[0]), 1e-9)
    beyond = np.maximum(np.maximum(values - known[-1], known[0] - values), 0.0) / width
    found: F64 = -np.log10(share) + np.log10(1.0 + beyond)
    return found


def mahalanobis(columns: F64, early: Bools) -> F64:
    """Distance from the early part's mean in units of its covariance (P. C. Mahalanobis, 1936)."""
    known = columns[:, early]
    off = columns - known.mean(axis=1)[:, None]
    inverse = np.linalg.pinv(np.atleast_2d(np.cov(known)))
    found: F64 = np.sqrt(np.einsum("in,ij,jn->n", off, inverse, off))
    return found


def _z(values: F64, early: Bools) -> F64:
    known = values[early]
    found: F64 = (values - known.mean()) / max(float(known.std()), 1e-9)
    return found
