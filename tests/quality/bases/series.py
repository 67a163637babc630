"""Simple bases on metrics: how far a value lies from what its series usually does.

All are causal and know one series: an array of values at equal steps, oldest first. The first
`WARM_UP` values score 0.

Web services: half-lives, days and θ were chosen on the second half of the train parts, with what
precedes it for fitting. Mean average precision there, of 32 series: window of 1,000 values .252, EW z
.338 (half-lives of 30 and 300 values .280), same minute of five days .417 (of three .393), the mean
of the two .391, with evidence .487 (θ the .99 quantile .461, the .999 quantile .476).

NAB has no early part. Its windowed Gaussian is NAB's own detector; the others have the settings of
web services in time, a day for a day, and report a value once an incident, a day being the shortest
gap after which an operator looks again.
"""

from bisect import insort
from math import erfc, sqrt
from typing import Final

import numpy as np

from detectors.numeric.kernels import kernel
from schemas.columns import F64
from tests.quality.bases.evidence import accumulated

WARM_UP: Final = 30
MINUTES_A_DAY: Final = 1_440
WINDOW_VALUES: Final = 6_400
WINDOW_STEP: Final = 100


def web_service_bases(values: F64, early: int) -> dict[str, F64]:
    """Of one series at steps of a minute. early: how many values θ is fitted on."""
    smooth = ew_z(values, 10.0, float(MINUTES_A_DAY))
    daily = same_time_of_day(values, MINUTES_A_DAY, days=5, half_life=10_000.0)
    both = np.sqrt(smooth * daily)
    return {
        "z in a window of 1,000 values": window_z(values, 1_000),
        "EW z": smooth,
        "deviation from the same minute of 5 days": daily,
        "geometric mean of these two": both,
        "the same, evidence v + min(S, 2v)": evidence(both, early),
    }


def evidence(score: F64, early: int) -> F64:
    """v + min(S, 2v) of v = log10(1 + score), S halving in 10 values, θ the .995 quantile of v among
    the first `early` values."""
    v = np.log10(1.0 + score)
    threshold = float(np.quantile(v[:early], 0.995)) if early else 0.0
    one, time = np.zeros(len(v), np.int64), np.arange(len(v), dtype=np.float64)
    return accumulated(v, one, time, 10.0, threshold)


def nab_bases(values: F64, steps_a_day: int, early: int) -> dict[str, F64]:
    """Of one file; early: how many values θ is fitted on."""
    smooth = ew_z(values, 10.0, float(steps_a_day))
    from_median = median_deviation(values)
    return {
        "windowed Gaussian": windowed_gaussian(values),
        "EW z, once an incident": first_and_stronger(smooth, steps_a_day),
        "deviation from the median, once an incident": first_and_stronger(from_median, steps_a_day),
        "the same, evidence v + min(S, 2v)": first_and_stronger(
            evidence(from_median, early), steps_a_day
        ),
    }


def window_z(values: F64, width: int) -> F64:
    """|z| by mean and standard deviation of the last `width` values."""
    z = np.zeros(len(values))
    sums, squares = (np.concatenate([[0.0], np.cumsum(x)]) for x in (values, values**2))
    at = np.arange(len(values))
    first = np.maximum(at - width, 0)
    n = np.maximum(at - first, 1)
    mean = (sums[at] - sums[first]) / n
    variance = np.maximum((squares[at] - squares[first]) / n - mean**2, 0.0)
    np.divide(np.abs(values - mean), np.sqrt(variance), out=z, where=variance > 0.0)
    z[:WARM_UP] = 0.0
    return z


def ew_z(values: F64, level_half_life: float, spread_half_life: float) -> F64:
    """|x - m| / s, the level m and the mean square s² of the deviations exponentially weighted, each
    with its half-life in values."""
    z = np.zeros(len(values))
    gain = 1.0 - 0.5 ** (1.0 / level_half_life), 1.0 - 0.5 ** (1.0 / spread_half_life)
    _ew_z(values, gain, z)
    return z


@kernel
def _ew_z(values: F64, gain: tuple[float, float], z: F64) -> None:
    level, square = values[0] if len(values) else 0.0, 0.0
    for i in range(len(values)):
        off = values[i] - level
        if i >= WARM_UP:
            z[i] = abs(off) / max(np.sqrt(square), 1e-9)
        square += max(gain[1], 1.0 / (i + 1.0)) * (off * off - square)
        level += max(gain[0], 1.0 / (i + 2.0)) * off


def same_time_of_day(values: F64, steps_a_day: int, days: int, half_life: float) -> F64:
    """e / m: e the distance from the median of the values at this time on the last days, as many as
    are there; m the exponentially weighted mean of e. 0 on the first day."""
    score = np.zeros(len(values))
    gain = 1.0 - 0.5 ** (1.0 / half_life)
    _same_time_of_day(values, (steps_a_day, days), gain, np.zeros(days), score)
    return score


@kernel
def _same_time_of_day(
    values: F64, shape: tuple[int, int], gain: float, before: F64, score: F64
) -> None:
    steps_a_day, days = shape
    usual = 0.0
    for i in range(steps_a_day, len(values)):
        known = min(days, i // steps_a_day)
        for day in range(known):
            # insertion sort of the few values
            one, at = values[i - (day + 1) * steps_a_day], day
            while at > 0 and before[at - 1] > one:
                before[at] = before[at - 1]
                at -= 1
            before[at] = one
        median = 0.5 * (before[(known - 1) // 2] + before[known // 2])
        off, passed = abs(values[i] - median), i - steps_a_day
        if passed >= WARM_UP:
            score[i] = off / max(usual, 1e-9)
        usual += max(gain, 1.0 / (passed + 1.0)) * (off - usual)


def median_deviation(values: F64) -> F64:
    """|x - median| / (98 % quantile - 2 % quantile) of all values before."""
    score = np.zeros(len(values))
    before: list[float] = []
    for i, value in enumerate(values.tolist()):
        if i >= WARM_UP:
            low, median, high = (before[int(share * (i - 1))] for share in (0.02, 0.5, 0.98))
            score[i] = abs(value - median) / max(high - low, 1e-9)
        insort(before, value)
    return score


def first_and_stronger(score: F64, gap: int) -> F64:
    """The scores that exceed all of the `gap` before them, 0 elsewhere: at any threshold, the first
    alert of an incident and each stronger one."""
    kept = np.zeros(len(score))
    _first_and_stronger(score, gap, kept)
    return kept


@kernel
def _first_and_stronger(score: F64, gap: int, kept: F64) -> None:
    largest = -1
    for i in range(len(score)):
        if largest < i - gap:
            largest = max(i - gap, 0)
            for j in range(largest, i):
                if score[j] > score[largest]:
                    largest = j
        if i == 0 or score[i] > score[largest]:
            kept[i] = score[i]
            largest = i


def windowed_gaussian(values: F64) -> F64:
    """1 less the tail probability of each value under the normal distribution of the window: NAB's
    (6,400 values, moved by 100)."""
    scores = np.zeros(len(values))
    first = end = 0  # of the window
    mean, spread = 0.0, 1.0
    for i, value in enumerate(values.tolist()):
        if end:
            scores[i] = 1.0 - 0.5 * erfc(abs(value - mean) / spread / sqrt(2.0))
        if end - first == WINDOW_VALUES:
            if i + 1 - end < WINDOW_STEP:
                continue
            first += WINDOW_STEP
        end = i + 1
        mean, spread = float(values[first:end].mean()), float(values[first:end].std()) or 1e-6
    return scores
