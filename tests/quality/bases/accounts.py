"""Simple bases on logins and sign-ups.

There is no early part. Logins: failures of an address, which is what sshd's own guards count.
Sign-ups: how often, and how lately, the address was seen before.
"""

from collections.abc import Sequence

import numpy as np

from schemas.columns import F64, I64, Bools
from tests.quality.bases.evidence import accumulated
from tests.quality.bases.histories import gaps, window_sums
from tests.quality.intervals import DAY_MS


def login_bases(address: I64, time_ms: I64, failure: Bools) -> dict[str, F64]:
    """Of each login or attempt, itself counted. address: numbers from 0."""
    failed = failure.astype(np.float64)
    addresses = int(address.max(initial=-1)) + 1
    every, row, accepted = np.zeros((3, addresses))
    so_far, in_a_row, none_accepted = np.zeros((3, len(address)))
    for i, own in enumerate(address.tolist()):
        every[own] += failed[i]
        row[own] = row[own] + 1.0 if failure[i] else 0.0
        accepted[own] += 1.0 - failed[i]
        so_far[i], in_a_row[i] = every[own], row[own]
        none_accepted[i] = every[own] if accepted[own] == 0.0 else 0.0
    return {
        "failures in a row": in_a_row,
        "failures so far": so_far,
        "failures so far, none accepted": none_accepted,
        "failures of a day": failed + window_sums(failed, address, time_ms, DAY_MS)[1],
    }


def signup_bases(address: Sequence[str], time_ms: I64) -> dict[str, F64]:
    """Of each registration."""
    _, number = np.unique(np.array(address), return_inverse=True)
    number = number.astype(np.int64)
    network = np.unique([one.rpartition(".")[0] for one in address], return_inverse=True)[1]
    ones = np.ones(len(address))
    forever = int(time_ms[-1] - time_ms[0]) + 1 if len(address) else 1
    before = window_sums(ones, number, time_ms, forever)[0]
    month = window_sums(ones, number, time_ms, 30 * DAY_MS)[0]
    of_network = window_sums(ones, network.astype(np.int64), time_ms, forever)[0]
    gap = np.nan_to_num(gaps(number, time_ms), nan=float(forever))
    # −log10 of the share of registrations so far that came from the address
    v = -np.log10((before + 1.0) / (np.arange(len(address)) + 1.0))
    everyone = np.zeros(len(address), np.int64)
    threshold = float(np.quantile(v, 0.9)) if len(v) else 0.0
    return {
        "few registrations of the address before": -before,
        "few registrations of the address in 30 days": -month,
        "few registrations of its network before": -of_network,
        "time since the address's registration before": gap,
        "rarity of the address, evidence over all": accumulated(
            v, everyone, time_ms / DAY_MS, 1.0 / 24.0, threshold
        ),
    }
