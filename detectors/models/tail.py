"""Tail: how improbable is a value under the entity's own history, given what its peers do?

A value is judged as y = ln(value + shift), or its square root, with a normal–inverse-gamma model
whose prior is learned from the cohort (empirical Bayes), so that a new entity is judged from its
first event by its peers and a known one by itself. With n, m, S the entity's decayed count, mean
and sum of squared deviations, and prior (m₀, κ₀, a₀, b₀), the posterior predictive is Student's t
(K. Murphy, "Conjugate Bayesian analysis of the Gaussian distribution", 2007, eqs. 86–89 and 110):

    κ = κ₀ + n   μ = (κ₀m₀ + n m)/κ   a = a₀ + n/2   b = b₀ + S/2 + κ₀ n (m - m₀)²/(2κ)
    y ~ t(df = 2a, location = μ, scale² = b(κ + 1)/(aκ))

The cohort is everybody, or those who have one value of a field (`detectors.cohorts`) once their
weight is `COHORT_TRUSTED`. Its moments are decayed by count: σ², the mean squared step from an
entity's own mean, times n/(n + 1); T, the variance around m₀ with weight 1/(1 + n) an event, so
that busy entities do not speak for all. Then κ₀ = σ²/(T - σ²) (σ² has T for `COHORT_EVENTS_MIN`
steps as its prior, T - σ² is at least a hundredth of T), a₀ = `PRIOR_SHAPE`, b₀ = a₀σ².

A rate is gamma–Poisson. A decayed count c at a steady rate is shot noise with variance half its
mean, so `PACE` c is nearly Poisson. With cohort mean M and variance V of c, θ ~ Gamma(α₀, β₀) has
mean M and variance V - M/PACE; an entity with n values that sum to s has α = α₀ + PACE s, at most
`SHAPE_MAX` (no rate is known better than that: it changes with the hour), and the same mean as
its posterior, so that PACE c is negative binomial: P(C ≥ c) = I_x(PACE c, α), x = μ/(μ + α/PACE),
I the regularised incomplete beta function (W. Press et al., "Numerical Recipes", 6.4). At
α = `SHAPE_MAX`, where an entity with some history is, it is a finite sum (M. Abramowitz, I. Stegun,
"Handbook of Mathematical Functions", 26.5.6):

    I_x(a, b) = x^a Σ_{j<b} (a)_j/j! (1 - x)^j,   b a whole number

A share (novelty) is beta–binomial: P(1) = (s q + k)/(s + n), q the cohort's share (half an
occurrence added), s = `PRIOR_EVENTS`; a 0 has p = 1, a 1 has p = P(1).

Departures: the tail of t is taken by Wallace's normal approximation (D. L. Wallace, Ann. Math.
Stat. 1959; here within 25 % of the exact tail down to 1e-4 for df ≥ 4, within a factor 2 at 1e-6).
A rate's p is half of P(C ≥ c) above its mean and a straight line from one half to 1 at c = 0 below
it, without a crowd at any p, since calibration follows. Learning is protected. A value more than
`WINSOR_Z` deviations away is learned as one that is just so far, and is strange when its two-sided
p is below `WINSOR_P`; a share's 1 is learned as p/`WINSOR_P`; a rate at most as `RATE_WINSOR_SD`
deviations above its mean: not more, since an attacker's first events are all there is of it, and
each adds to the count; not fewer, since with one deviation an honest entity thirty times as busy as
its peers is strange for hundreds of events. An entity may learn `TOKENS_PER_HOUR` strange events an
hour and a share `TOKENS_PER_EVENT` of all, saved up to `TOKENS_MAX`; more are judged, not learned.
So a burst however long stays strange, and a change that lasts is ordinary within `MEMORY_EVENTS`
events (measured: see `detectors.protection`). The cohort, in which one entity weighs little, learns
a rate up to `COHORT_SD` of its own deviations above its mean.

An entity remembers about `MEMORY_EVENTS` events, fewer where `half_life` of its own time decays
them: enough to know its spread within a twentieth, few enough to follow an honest change of habit.

Values NaN are neither judged nor learned. What is said is -ln p, in [0, `SURPRISE_MAX`]. Until the
cohort has `COHORT_EVENTS_MIN` weight nothing is judged. Cost: about 70 ns a feature; 24 bytes a
feature and entity, and 16 more an entity.
"""

from math import exp, isnan, lgamma, log, log1p, sqrt
from typing import Final, NamedTuple

import numpy as np

from detectors.combination import P_MIN
from detectors.decay import LN2
from detectors.entities import Admitted
from detectors.kernels import kernel
from detectors.models.gaussian import surprise_of_normal
from detectors.protection import (
    TOKENS_MAX,
    TOKENS_PER_EVENT,
    TOKENS_PER_HOUR,
    WRONG_SHARE,
    earned,
    followed,
)
from detectors.spec import DetectorSpec, Duration
from schemas.columns import F64, I64, Bools

NORMAL, SHARE, RANGE, RATE = range(4)
HIGH, LOW, BOTH = range(3)

PRIOR_SHAPE: Final = 15.0
PRIOR_EVENTS: Final = 5.0
COHORT_EVENTS_MIN: Final = 20.0
COHORT_TRUSTED: Final = 200.0
"""Weight, nearly entities, from which on a cohort is believed; before, everybody is."""
COHORT_SD: Final = 5.0
MEMORY_EVENTS: Final = 200.0
VARIANCE_MIN: Final = 1e-3
"""Of ln(value): steps of 3 % are no risk, however regular an entity is."""
COHORT_MEMORY: Final = 20_000.0
PACE: Final = 2.0
SHAPE_MAX: Final = 10
RATE_MIN: Final = 1e-4
SURPRISE_MAX: Final = -log(P_MIN)
LN_2: Final = log(2.0)
WINSOR_P: Final = 0.01
STRANGE_SURPRISE: Final = -log(WINSOR_P)
VERY_STRANGE_SURPRISE: Final = -log(1e-3)
STRANGE_Z: Final = 2.5758293035489004  # normal quantile of 1 - WINSOR_P/2
WINSOR_Z: Final = 2.0
RATE_WINSOR_SD: Final = 2.0
EXPECTED_SHARE: Final = 0.98
EXPECTED_SD: Final = 3.0  # of a rate, which is skewed
EXPECTED_Z: Final = 2.3263478740408408  # normal quantile of (1 + EXPECTED_SHARE)/2

MEAN_WEIGHT, MEAN, TOTAL_VARIANCE, WITHIN_WEIGHT, WITHIN_VARIANCE, STRANGE = range(6)
COHORT_WORDS: Final = 6
LAST_MS, TOKENS = range(2)
WORDS_ENTITY: Final = 2
COUNT, MEAN_OWN, SQUARES = range(3)
WORDS_FEATURE: Final = 3


class Judged(NamedTuple):
    """What the tails say; all float64[features, n], NaN where a feature says nothing.

    surprise: -ln of the raw p-value. centre, spread: the predictive's location and half the width
    of its central `EXPECTED_SHARE`, in y; of a rate, its mean and `EXPECTED_SD` deviations; of a
    share, itself and 0. place: the value's place in [0, 1] among its cohort, for the trees.
    ordinary: bool[n], False where a feature was very strange (`VERY_STRANGE_SURPRISE`) and there
    was no token left for it.
    """

    surprise: F64
    centre: F64
    spread: F64
    place: F64
    ordinary: Bools


def nothing_said(features: int, n: int) -> Judged:
    """Room for what the tails will say of n events."""
    surprise, centre, spread, place = (np.full((features, n), np.nan) for _ in range(4))
    return Judged(surprise, centre, spread, place, np.ones(n, np.bool_))


class Shape(NamedTuple):
    """How each feature is judged, one element a feature. family, side: int64, the constants above;
    shift: of the logarithm; root: y is the
    square root instead; low, high: of a range."""

    family: I64
    side: I64
    shift: F64
    root: Bools
    low: F64
    high: F64


class TailSpec(DetectorSpec, frozen=True, kw_only=True, tag="tail"):
    """Each feature's value under the entity's own history, with a prior from its cohort.

    half_life: of what an entity remembers, in its own time.
    """

    half_life: Duration = "30d"


def words(features: int) -> int:
    """Words that the tails of so many features own in an entity's row."""
    return WORDS_ENTITY + WORDS_FEATURE * features


@kernel
def normal_of_t(t_squared: float, df: float) -> float:
    """The standard normal deviate that has (nearly) the tail probability of t ≥ 0."""
    return (8.0 * df + 1.0) / (8.0 * df + 3.0) * sqrt(df * log(1.0 + t_squared / df))


@kernel
def t_of_normal(z: float, df: float) -> float:
    """The inverse of `normal_of_t`."""
    c = z * (8.0 * df + 3.0) / (8.0 * df + 1.0)
    return sqrt(df * (exp(min(c * c / df, 700.0)) - 1.0))


@kernel
def _surprise(z: float, side: int) -> float:
    if side == BOTH:
        v = surprise_of_normal(abs(z)) - LN_2
    else:
        v = surprise_of_normal(z if side == HIGH else -z)
    return min(max(v, 0.0), SURPRISE_MAX)


@kernel
def judge(
    words: F64,
    at: int,
    events: Admitted,
    values: F64,
    shape: Shape,
    half_life_ms: float,
    cohort: F64,
    peers: I64,
    out: Judged,
) -> None:
    """Judge, then learn, each event in order.

    values: float64[features, n], natural units. cohort: float64[cohorts · features, COHORT_WORDS],
    everybody's first. peers: int64[n], each event's cohort.
    """
    features = values.shape[0]
    for i in range(len(events.row)):
        r = events.row[i]
        learn = events.learn[i]
        if events.fresh[i]:
            words[r, at : at + WORDS_ENTITY + WORDS_FEATURE * features] = 0.0
            words[r, at + LAST_MS] = events.time_ms[i]
            words[r, at + TOKENS] = TOKENS_MAX
        keep = _pass_time(words, r, at, events.time_ms[i], half_life_ms, learn)
        paid = False
        for j in range(features):
            mine = at + WORDS_ENTITY + WORDS_FEATURE * j
            if learn:
                words[r, mine + COUNT] *= keep
                words[r, mine + SQUARES] *= keep
            value = values[j, i]
            if isnan(value):
                continue
            family = shape.family[j]
            if family == RANGE:
                span = shape.high[j] - shape.low[j]
                out.place[j, i] = min(max((value - shape.low[j]) / span, 0.0), 1.0)
                continue
            own = peers[i] * features + j
            k = own if cohort[own, MEAN_WEIGHT] >= COHORT_TRUSTED else j
            if family == SHARE:
                learned, strange = _share(words, r, mine, cohort, k, value, i, j, out)
            elif family == RATE:
                value = max(value - shape.shift[j], 0.0)
                learned, strange = _rate(words, r, mine, cohort, k, value, i, j, out)
            else:
                value += shape.shift[j]
                value = sqrt(value) if shape.root[j] else log(value)
                side = shape.side[j]
                learned, strange = _normal(words, r, mine, cohort, k, value, side, i, j, out)
            if learn:
                cohort[j, STRANGE] = followed(cohort[j, STRANGE], strange)
            strange = strange and cohort[j, STRANGE] < WRONG_SHARE
            if learn and strange and not paid and words[r, at + TOKENS] >= 1.0:
                words[r, at + TOKENS] -= 1.0
                paid = True
            if strange and not paid and out.surprise[j, i] > VERY_STRANGE_SURPRISE:
                out.ordinary[i] = False
            if not learn or (strange and not paid):
                continue
            if family == NORMAL:
                _learn_normal(words, r, mine, cohort, j, own, learned)
            else:
                _learn_sum(words, r, mine, cohort, j, own, learned, value, family == RATE)


@kernel
def _pass_time(
    words: F64, r: int, at: int, time_ms: float, half_life_ms: float, learn: bool
) -> float:
    """What the time since the entity's last event leaves of its counts; tokens come with time."""
    since_ms = time_ms - words[r, at + LAST_MS]
    if learn:
        words[r, at + LAST_MS] = time_ms
        words[r, at + TOKENS] = earned(
            words[r, at + TOKENS], since_ms, TOKENS_PER_EVENT, TOKENS_PER_HOUR, TOKENS_MAX
        )
    return exp(-LN2 * since_ms / half_life_ms) if since_ms > 0.0 else 1.0


@kernel
def incomplete_beta(x: float, a: float, b: float) -> float:
    """I_x(a, b), by Lentz's continued fraction on the side where it converges; a, b > 0."""
    if x <= 0.0 or x >= 1.0:
        return 0.0 if x <= 0.0 else 1.0
    if x > (a + 1.0) / (a + b + 2.0):
        return 1.0 - _beta_fraction(1.0 - x, b, a)
    return _beta_fraction(x, a, b)


@kernel
def _beta_fraction(x: float, a: float, b: float) -> float:
    """I_x(a, b) for x up to about its mean; beyond it the fraction converges slowly."""
    front = exp(lgamma(a + b) - lgamma(a) - lgamma(b) + a * log(x) + b * log1p(-x)) / a
    c = 1.0
    d = 1.0 / (1.0 - (a + b) * x / (a + 1.0))
    fraction = d
    for m in range(1, 200):
        even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m))
        d = 1.0 / (1.0 + even * d)
        c = 1.0 + even / c
        fraction *= d * c
        odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0))
        d = 1.0 / (1.0 + odd * d)
        c = 1.0 + odd / c
        fraction *= d * c
        if abs(d * c - 1.0) < 1e-8:
            break
    return front * fraction


@kernel
def _normal(
    words: F64,
    r: int,
    mine: int,
    cohort: F64,
    k: int,
    y: float,
    side: int,
    i: int,
    j: int,
    out: Judged,
) -> tuple[float, bool]:
    """Judge y; return it winsorised, and whether it was strange."""
    if cohort[k, MEAN_WEIGHT] < COHORT_EVENTS_MIN:
        return y, False
    n = words[r, mine + COUNT]
    m0 = cohort[k, MEAN]
    total = max(cohort[k, TOTAL_VARIANCE], VARIANCE_MIN)
    steps = cohort[k, WITHIN_WEIGHT]
    within = steps * cohort[k, WITHIN_VARIANCE] + COHORT_EVENTS_MIN * total
    within = max(within / (steps + COHORT_EVENTS_MIN), VARIANCE_MIN)
    k0 = within / max(total - within, 0.01 * total)
    part = 1.0 / (k0 + n)
    off = words[r, mine + MEAN_OWN] - m0
    mu = m0 + n * part * off
    shape = PRIOR_SHAPE + 0.5 * n
    b = PRIOR_SHAPE * within + 0.5 * max(words[r, mine + SQUARES], n * VARIANCE_MIN)
    b += 0.5 * k0 * n * part * off * off
    df = 2.0 * shape
    per_df = 1.0 / df
    variance = b * (1.0 + part) * 2.0 * per_df  # (κ + 1)/κ = 1 + 1/κ
    away = y - mu
    scale = sqrt(variance)
    z = normal_of_t(away * away / variance, df)
    out.surprise[j, i] = _surprise(z if away >= 0.0 else -z, side)
    out.centre[j, i] = mu
    # Cornish-Fisher's expansion of the quantile of t.
    out.spread[j, i] = scale * (EXPECTED_Z + (3.73 + 5.7 * per_df) * per_df)
    out.place[j, i] = 0.5 + 0.5 * (y - m0) / sqrt(18.0 * total + (y - m0) * (y - m0))
    if z <= WINSOR_Z:
        return y, False
    edge = t_of_normal(WINSOR_Z, df) * scale
    return (mu + edge if away >= 0.0 else mu - edge), z > STRANGE_Z


@kernel
def _rate(
    words: F64, r: int, mine: int, cohort: F64, k: int, count: float, i: int, j: int, out: Judged
) -> tuple[float, bool]:
    """Judge a decayed count; return it winsorised, and whether it was strange."""
    if cohort[k, MEAN_WEIGHT] < COHORT_EVENTS_MIN:
        return count, False
    peer_mean = max(cohort[k, MEAN], RATE_MIN)
    over = max(cohort[k, TOTAL_VARIANCE] - peer_mean / PACE, 0.01 * peer_mean * peer_mean)
    shape = peer_mean * peer_mean / over
    seen = PACE * words[r, mine + SQUARES]
    mean = (shape + seen) / (shape / peer_mean + PACE * words[r, mine + COUNT])
    shape = min(shape + seen, SHAPE_MAX)
    if count <= mean:
        surprise = -log(1.0 - 0.5 * count / mean)
    else:
        x = mean / (mean + shape / PACE)
        surprise = LN_2 + max(surprise_of_count(x, PACE * count, shape), 0.0)
    deviation = sqrt(mean / PACE + mean * mean / shape)
    out.surprise[j, i] = min(surprise, SURPRISE_MAX)
    out.centre[j, i] = mean
    out.spread[j, i] = EXPECTED_SD * deviation
    out.place[j, i] = count / (count + peer_mean + 0.5)
    return min(count, mean + RATE_WINSOR_SD * deviation), surprise > LN_2 + STRANGE_SURPRISE


@kernel
def surprise_of_count(x: float, a: float, shape: float) -> float:
    """-ln I_x(a, shape); a, shape > 0."""
    if shape < SHAPE_MAX:
        return -log(max(incomplete_beta(x, a, shape), P_MIN))
    term = 1.0
    total = 1.0
    for j in range(1, SHAPE_MAX):
        term *= (a + (j - 1.0)) * (1.0 - x) / j
        total += term
    return -(a * log(x) + log(total))


@kernel
def _share(
    words: F64, r: int, mine: int, cohort: F64, k: int, value: float, i: int, j: int, out: Judged
) -> tuple[float, bool]:
    """Judge one trial; return what is learned of it, and whether it was strange."""
    out.place[j, i] = value
    if cohort[k, MEAN_WEIGHT] < COHORT_EVENTS_MIN:
        return value, False
    # Half an occurrence more: what a cohort has never seen is rare, not impossible.
    rate = (cohort[k, MEAN] * cohort[k, MEAN_WEIGHT] + 0.5) / (cohort[k, MEAN_WEIGHT] + 1.0)
    expected = (PRIOR_EVENTS * rate + words[r, mine + SQUARES]) / (
        PRIOR_EVENTS + words[r, mine + COUNT]
    )
    out.surprise[j, i] = -log(expected) if value > 0.0 else 0.0
    out.centre[j, i] = expected
    out.spread[j, i] = 0.0
    return min(value, expected / WINSOR_P), value > 0.0 and expected < WINSOR_P


@kernel
def _learn_normal(words: F64, r: int, mine: int, cohort: F64, j: int, own: int, y: float) -> None:
    """One more value of the entity (B. P. Welford, 1962), of everybody and of its cohort."""
    n = words[r, mine + COUNT]
    part = 1.0 / (n + 1.0)
    gain = y - words[r, mine + MEAN_OWN]
    square = gain * gain * n * part
    _teach_normal(cohort, j, n, square, part, y)
    if own != j:
        _teach_normal(cohort, own, n, square, part, y)
    keep = min(1.0, MEMORY_EVENTS * part)
    words[r, mine + COUNT] = keep * (n + 1.0)
    words[r, mine + MEAN_OWN] += gain * part
    words[r, mine + SQUARES] = keep * (words[r, mine + SQUARES] + square)


@kernel
def _teach_normal(cohort: F64, k: int, n: float, square: float, weight: float, y: float) -> None:
    """Teach a cohort a value of an entity that had n before."""
    if n > 0.5:
        steps = min(cohort[k, WITHIN_WEIGHT] + 1.0, COHORT_MEMORY)
        cohort[k, WITHIN_WEIGHT] = steps
        cohort[k, WITHIN_VARIANCE] += (square - cohort[k, WITHIN_VARIANCE]) / steps
    _teach(cohort, k, weight, y)


@kernel
def _learn_sum(
    words: F64,
    r: int,
    mine: int,
    cohort: F64,
    j: int,
    own: int,
    learned: float,
    value: float,
    is_rate: bool,
) -> None:
    """One more count, or trial, of the entity, of everybody and of its cohort; SQUARES holds their
    sum."""
    n = words[r, mine + COUNT]
    part = 1.0 / (n + 1.0)
    _teach_sum(cohort, j, part, learned, value, is_rate)
    if own != j:
        _teach_sum(cohort, own, part, learned, value, is_rate)
    keep = min(1.0, MEMORY_EVENTS * part)
    words[r, mine + COUNT] = keep * (n + 1.0)
    words[r, mine + SQUARES] = keep * (words[r, mine + SQUARES] + learned)


@kernel
def _teach_sum(
    cohort: F64, k: int, weight: float, learned: float, value: float, is_rate: bool
) -> None:
    """Teach a cohort a count, or a trial."""
    if is_rate:
        deviation = sqrt(max(cohort[k, TOTAL_VARIANCE], cohort[k, MEAN]))
        learned = min(value, cohort[k, MEAN] + COHORT_SD * deviation + 1.0)
    _teach(cohort, k, weight, learned)


@kernel
def _teach(cohort: F64, k: int, weight: float, value: float) -> None:
    """The cohort's mean and variance, decayed by count, with one more value."""
    cohort[k, MEAN_WEIGHT] = min(cohort[k, MEAN_WEIGHT] + weight, COHORT_MEMORY)
    share = weight / cohort[k, MEAN_WEIGHT]
    off = value - cohort[k, MEAN]
    cohort[k, MEAN] += share * off
    cohort[k, TOTAL_VARIANCE] = (1.0 - share) * (cohort[k, TOTAL_VARIANCE] + share * off * off)
