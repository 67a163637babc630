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
events (measured: see `detectors.numeric.protection`). The cohort, in which one entity weighs little, learns
a rate up to `COHORT_SD` of its own deviations above its mean.

An entity remembers about `MEMORY_EVENTS` events, fewer where `half_life` of its own time decays
them: enough to know its spread within a twentieth, few enough to follow an honest change of habit.

Values NaN are neither judged nor learned. What is said is -ln p, in [0, `SURPRISE_MAX`]. Until the
cohort has `COHORT_EVENTS_MIN` weight nothing is judged.

The features of a family stand side by side, `LANES` to a block, and a block is judged and learned
at once: code without branches, in vector instructions. What is rare (an edge to winsorise at, a
young entity's rate, a trial that occurred) takes its turn lane by lane. Cost: about 0.17 µs a
block, 0.5 µs for 12 features of three families; 192 bytes a block and entity, and 16 an entity.
"""

from math import exp, isnan, lgamma, log, log1p, sqrt
from typing import Final, NamedTuple

import numpy as np

from detectors.entities import AdmittedEvents
from detectors.models.gaussian import surprise_of_normal
from detectors.numeric.combination import P_MIN
from detectors.numeric.decay import LN2
from detectors.numeric.elementary import ln
from detectors.numeric.kernels import kernel
from detectors.numeric.prefetch import prefetch_words
from detectors.numeric.protection import (
    MODEL_WRONG_SHARE,
    TOKENS_MAX,
    TOKENS_PER_EVENT,
    TOKENS_PER_HOUR,
    earn_tokens,
    update_share,
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

LANES: Final = 8
"""Features of one family that are judged at once, in the lanes of the processor's vectors."""
MEAN_WEIGHT, MEAN, TOTAL_VARIANCE, WITHIN_WEIGHT, WITHIN_VARIANCE, STRANGE = (
    LANES * word for word in range(6)
)
COHORT_WORDS: Final = 6 * LANES
LAST_MS, TOKENS = range(2)
WORDS_ENTITY: Final = 2
COUNT, MEAN_OWN, SQUARES = (LANES * word for word in range(3))
WORDS_BLOCK: Final = 3 * LANES
VALUE, SURPRISE, CENTRE, SPREAD, SCALED, LEARNED, ODD, SCALE, FREEDOM, PART, SQUARE = (
    LANES * word for word in range(11)
)
WORK: Final = 11 * LANES
"""What `judge` works in, of each block. VALUE: y, NaN where there is none. SURPRISE … PLACE: see
`TailOutput`. LEARNED: y winsorised. ODD: 1 where it was strange. SCALE, FREEDOM: of t; of a rate, x and
α. PART: an event's weight for the cohort, 0 where it is not learned; SQUARE: its squared step from
the entity's own mean, -1 where that had no event."""


class TailOutput(NamedTuple):
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
    scaled: F64
    ordinary: Bools


def empty_output(features: int, n: int) -> TailOutput:
    """Room for what the tails will say of n events."""
    surprise, centre, spread, scaled = (np.full((n, features), np.nan).T for _ in range(4))
    return TailOutput(surprise, centre, spread, scaled, np.ones(n, np.bool_))


class TailLayout(NamedTuple):
    """How each feature is judged, one element a feature. family, side: int64, the constants above;
    shift: of the logarithm; root: y is the square root instead; low, high: of a range. seat: int64,
    its block times WORK and its lane, -1 of a range, which has none. blocks: int64[blocks], the
    family of each; sides: int64[blocks, LANES]. What the kernel works in: work: float64[blocks ·
    WORK], prior: float64[COHORT_WORDS]."""

    family: I64
    shift: F64
    root: Bools
    low: F64
    high: F64
    seat: I64
    blocks: I64
    sides: I64
    work: F64
    prior: F64


def tail_layout(
    families: list[int],
    sides: list[int],
    shift: list[float],
    root: list[bool],
    low: list[float],
    high: list[float],
) -> TailLayout:
    """The features, one element of each list a feature, with those of a family side by side."""
    seat = np.full(len(families), -1, np.int64)
    blocks: list[int] = []
    by_lane: list[int] = []
    for family in (NORMAL, RATE, SHARE):
        mine = [j for j, one in enumerate(families) if one == family]
        for k, j in enumerate(mine):
            seat[j] = WORK * (len(blocks) + k // LANES) + k % LANES
        mine_blocks = -(-len(mine) // LANES)
        by_lane += [sides[j] for j in mine] + [HIGH] * (LANES * mine_blocks - len(mine))
        blocks += [family] * mine_blocks
    return TailLayout(
        family=np.array(families, np.int64),
        shift=np.array(shift, np.float64),
        root=np.array(root, np.bool_),
        low=np.array(low, np.float64),
        high=np.array(high, np.float64),
        seat=seat,
        blocks=np.array(blocks, np.int64),
        sides=np.array(by_lane, np.int64).reshape(-1, LANES),
        work=np.full(WORK * len(blocks), np.nan),
        prior=np.zeros(COHORT_WORDS),
    )


def words(shape: TailLayout) -> int:
    """Words that the tails of these features own in an entity's row."""
    return WORDS_ENTITY + WORDS_BLOCK * len(shape.blocks)


class TailSpec(DetectorSpec, frozen=True, kw_only=True, tag="tail"):
    """Each feature's value against the entity's own history, with a prior from its cohort."""

    half_life: Duration = "30d"
    """Half-life of the entity's history, in the time of its events. One that is much shorter than
    the gaps between events leaves no history: the entity is compared with its peers alone, as
    sessions and sign-ups need."""


@kernel
def normal_of_t(t_squared: float, df: float) -> float:
    """The standard normal deviate that has (nearly) the tail probability of t ≥ 0."""
    return (8.0 * df + 1.0) / (8.0 * df + 3.0) * sqrt(df * ln(1.0 + t_squared / df))


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
def score(
    words: F64,
    at: int,
    events: AdmittedEvents,
    values: F64,
    shape: TailLayout,
    half_life_ms: float,
    cohort: F64,
    peers: I64,
    out: TailOutput,
) -> None:
    """Judge, then learn, each event in order.

    values: float64[features, n], natural units. cohort: float64[cohorts, blocks, COHORT_WORDS],
    everybody's first. peers: int64[n], each event's cohort.
    """
    blocks = len(shape.blocks)
    work = shape.work
    for i in range(len(events.row)):
        if i + 1 < len(events.row):
            prefetch_words(words, events.row[i + 1], at, WORDS_ENTITY + WORDS_BLOCK * blocks)
        r = events.row[i]
        learn = events.learn[i]
        if events.fresh[i]:
            words[r, at : at + WORDS_ENTITY + WORDS_BLOCK * blocks] = 0.0
            words[r, at + LAST_MS] = events.time_ms[i]
            words[r, at + TOKENS] = TOKENS_MAX
        keep = _pass_time(words, r, at, events.time_ms[i], half_life_ms, learn)
        _read(values, i, shape, out)
        strange = False
        for b in range(blocks):
            start = at + WORDS_ENTITY + WORDS_BLOCK * b
            mine = words[r, start : start + WORDS_BLOCK]
            here = work[WORK * b : WORK * (b + 1)]
            prior = cohort[0, b]
            if peers[i] > 0:
                _trusted(prior, cohort[peers[i], b], shape.prior)
                prior = shape.prior
            if learn:
                _decay(mine, keep)
            if shape.blocks[b] == NORMAL:
                strange |= _judge_normals(mine, prior, shape.sides[b], here)
            elif shape.blocks[b] == RATE:
                strange |= _judge_rates(mine, prior, here)
            else:
                strange |= _judge_shares(mine, prior, here)
            _follow_strange(cohort[0, b], here, learn)
        if strange:
            strange = _is_strange(work, -1.0)
        paid = strange and learn and words[r, at + TOKENS] >= 1.0
        if paid:
            words[r, at + TOKENS] -= 1.0
        out.ordinary[i] = paid or not strange or not _is_strange(work, VERY_STRANGE_SURPRISE)
        _say(shape, i, out)
        if not learn:
            continue
        for b in range(blocks):
            start = at + WORDS_ENTITY + WORDS_BLOCK * b
            mine = words[r, start : start + WORDS_BLOCK]
            here = work[WORK * b : WORK * (b + 1)]
            if shape.blocks[b] == NORMAL:
                _learn_normals(mine, here, paid)
            else:
                _learn_sums(mine, here, paid)
            _teach(shape.blocks[b], cohort[0, b], here)
            if peers[i] > 0:
                _teach(shape.blocks[b], cohort[peers[i], b], here)


@kernel
def _pass_time(
    words: F64, r: int, at: int, time_ms: float, half_life_ms: float, learn: bool
) -> float:
    """What the time since the entity's last event leaves of its counts; tokens come with time."""
    since_ms = time_ms - words[r, at + LAST_MS]
    if learn:
        words[r, at + LAST_MS] = time_ms
        words[r, at + TOKENS] = earn_tokens(
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
def _read(values: F64, i: int, shape: TailLayout, out: TailOutput) -> None:
    """The event's values to where they are judged; a range is placed at once."""
    for j in range(values.shape[0]):
        value = values[j, i]
        if shape.family[j] == RANGE:
            span = shape.high[j] - shape.low[j]
            scaled = min(max((value - shape.low[j]) / span, 0.0), 1.0)
            out.scaled[j, i] = scaled if not isnan(value) else np.nan
            continue
        if shape.family[j] == NORMAL:
            value += shape.shift[j]
            value = sqrt(value) if shape.root[j] else log(value)
        elif shape.family[j] == RATE and not isnan(value):
            value = max(value - shape.shift[j], 0.0)
        shape.work[shape.seat[j] + VALUE] = value


@kernel
def _say(shape: TailLayout, i: int, out: TailOutput) -> None:
    for j in range(len(shape.family)):
        seat = shape.seat[j]
        if seat >= 0:
            out.surprise[j, i] = shape.work[seat + SURPRISE]
            out.centre[j, i] = shape.work[seat + CENTRE]
            out.spread[j, i] = shape.work[seat + SPREAD]
            out.scaled[j, i] = shape.work[seat + SCALED]


@kernel
def _trusted(everybody: F64, own: F64, prior: F64) -> None:
    """A cohort's words where it is believed, else everybody's."""
    for word in range(0, COHORT_WORDS, LANES):
        for k in range(LANES):
            believed = own[MEAN_WEIGHT + k] >= COHORT_TRUSTED
            prior[word + k] = own[word + k] if believed else everybody[word + k]


@kernel
def _decay(mine: F64, keep: float) -> None:
    for k in range(LANES):
        mine[COUNT + k] *= keep
        mine[SQUARES + k] *= keep


@kernel
def _judge_normals(mine: F64, prior: F64, sides: I64, work: F64) -> bool:
    """Judge each lane's y; winsorise it for learning. Whether one is strange."""
    for k in range(LANES):
        y = work[VALUE + k] if prior[MEAN_WEIGHT + k] >= COHORT_EVENTS_MIN else np.nan
        n = mine[COUNT + k]
        m0 = prior[MEAN + k]
        total = max(prior[TOTAL_VARIANCE + k], VARIANCE_MIN)
        steps = prior[WITHIN_WEIGHT + k]
        within = steps * prior[WITHIN_VARIANCE + k] + COHORT_EVENTS_MIN * total
        within = max(within / (steps + COHORT_EVENTS_MIN), VARIANCE_MIN)
        k0 = within / max(total - within, 0.01 * total)
        part = 1.0 / (k0 + n)
        off = mine[MEAN_OWN + k] - m0
        mu = m0 + n * part * off
        b = PRIOR_SHAPE * within + 0.5 * max(mine[SQUARES + k], n * VARIANCE_MIN)
        b += 0.5 * k0 * n * part * off * off
        df = 2.0 * PRIOR_SHAPE + n
        per_df = 1.0 / df
        variance = b * (1.0 + part) * 2.0 * per_df  # (κ + 1)/κ = 1 + 1/κ
        away = y - mu
        scale = sqrt(variance)
        z = normal_of_t(away * away / variance, df)
        from_peers = y - m0
        said = not isnan(y)
        work[SURPRISE + k] = z if away >= 0.0 else -z
        work[CENTRE + k] = mu if said else np.nan
        # Cornish-Fisher's expansion of the quantile of t.
        spread = scale * (EXPECTED_Z + (3.73 + 5.7 * per_df) * per_df)
        work[SPREAD + k] = spread if said else np.nan
        work[SCALED + k] = 0.5 + 0.5 * from_peers / sqrt(18.0 * total + from_peers * from_peers)
        work[LEARNED + k] = work[VALUE + k]
        work[ODD + k] = 0.0
        work[SCALE + k] = scale
        work[FREEDOM + k] = df
    strange = False
    for k in range(LANES):
        if isnan(work[CENTRE + k]):
            work[SURPRISE + k] = np.nan
            continue
        z = work[SURPRISE + k]
        work[SURPRISE + k] = _surprise(z, sides[k])
        if abs(z) > WINSOR_Z:
            edge = t_of_normal(WINSOR_Z, work[FREEDOM + k]) * work[SCALE + k]
            work[LEARNED + k] = work[CENTRE + k] + (edge if z >= 0.0 else -edge)
            if abs(z) > STRANGE_Z:
                work[ODD + k] = 1.0
                strange = True
    return strange


@kernel
def _judge_rates(mine: F64, prior: F64, work: F64) -> bool:
    """Judge each lane's decayed count; winsorise it for learning. Whether one is strange."""
    for k in range(LANES):
        count = work[VALUE + k] if prior[MEAN_WEIGHT + k] >= COHORT_EVENTS_MIN else np.nan
        peer_mean = max(prior[MEAN + k], RATE_MIN)
        over = max(prior[TOTAL_VARIANCE + k] - peer_mean / PACE, 0.01 * peer_mean * peer_mean)
        shape = peer_mean * peer_mean / over
        seen = PACE * mine[SQUARES + k]
        mean = (shape + seen) / (shape / peer_mean + PACE * mine[COUNT + k])
        shape = min(shape + seen, SHAPE_MAX)
        x = mean / (mean + shape / PACE)
        below = count <= mean
        a = PACE * count
        tail = ln(1.0 - 0.5 * count / mean if below else _sum_of_count(x, a))
        far = a * ln(x) + tail
        surprise = -tail if below else LN_2 - min(far, 0.0)
        deviation = sqrt(mean / PACE + mean * mean / shape)
        said = not isnan(count)
        work[SURPRISE + k] = min(surprise, SURPRISE_MAX) if said else np.nan
        work[ODD + k] = 1.0 if said and surprise > LN_2 + STRANGE_SURPRISE else 0.0
        work[CENTRE + k] = mean if said else np.nan
        work[SPREAD + k] = EXPECTED_SD * deviation if said else np.nan
        work[SCALED + k] = count / (count + peer_mean + 0.5)
        most = mean + RATE_WINSOR_SD * deviation if said else work[VALUE + k]
        work[LEARNED + k] = min(work[VALUE + k], most)
        work[SCALE + k] = x
        work[FREEDOM + k] = shape
    strange = False
    for k in range(LANES):
        if work[FREEDOM + k] < SHAPE_MAX and work[VALUE + k] > work[CENTRE + k]:
            a = PACE * work[VALUE + k]
            surprise = LN_2 + max(surprise_of_count(work[SCALE + k], a, work[FREEDOM + k]), 0.0)
            work[SURPRISE + k] = min(surprise, SURPRISE_MAX)
            work[ODD + k] = 1.0 if surprise > LN_2 + STRANGE_SURPRISE else 0.0
        strange |= work[ODD + k] > 0.0
    return strange


@kernel
def _judge_shares(mine: F64, prior: F64, work: F64) -> bool:
    """Judge each lane's trial; winsorise it for learning. Whether one is strange."""
    strange = False
    for k in range(LANES):
        value = work[VALUE + k]
        work[SCALED + k] = value
        work[LEARNED + k] = value
        work[ODD + k] = 0.0
        work[SURPRISE + k] = np.nan
        work[CENTRE + k] = np.nan
        work[SPREAD + k] = np.nan
        weight = prior[MEAN_WEIGHT + k]
        if isnan(value) or weight < COHORT_EVENTS_MIN:
            continue
        # Half an occurrence more: what a cohort has never seen is rare, not impossible.
        rate = (prior[MEAN + k] * weight + 0.5) / (weight + 1.0)
        expected = PRIOR_EVENTS * rate + mine[SQUARES + k]
        expected /= PRIOR_EVENTS + mine[COUNT + k]
        work[SURPRISE + k] = -log(expected) if value > 0.0 else 0.0
        work[CENTRE + k] = expected
        work[SPREAD + k] = 0.0
        work[LEARNED + k] = min(value, expected / WINSOR_P)
        if value > 0.0 and expected < WINSOR_P:
            work[ODD + k] = 1.0
            strange = True
    return strange


@kernel
def _follow_strange(everybody: F64, work: F64, learn: bool) -> None:
    """How much is strange of late; where it is much the model is wrong, and nothing is."""
    for k in range(LANES):
        before = everybody[STRANGE + k]
        after = update_share(before, work[ODD + k] > 0.0)
        share = after if learn and not isnan(work[VALUE + k]) else before
        everybody[STRANGE + k] = share
        work[ODD + k] = work[ODD + k] if share < MODEL_WRONG_SHARE else 0.0


@kernel
def _is_strange(work: F64, surprise: float) -> bool:
    """Whether any lane is, and of more than this surprise."""
    for start in range(0, len(work), WORK):
        for k in range(LANES):
            if work[start + ODD + k] > 0.0 and work[start + SURPRISE + k] > surprise:
                return True
    return False


@kernel
def _sum_of_count(x: float, a: float) -> float:
    """Σ_{j<SHAPE_MAX} (a)_j/j! (1 - x)^j."""
    total = 1.0
    for j in range(SHAPE_MAX - 1, 0, -1):
        total = 1.0 + (a + (j - 1.0)) * (1.0 - x) * (1.0 / j) * total
    return total


@kernel
def surprise_of_count(x: float, a: float, shape: float) -> float:
    """-ln I_x(a, shape); a, shape > 0."""
    if shape < SHAPE_MAX:
        return -log(max(incomplete_beta(x, a, shape), P_MIN))
    return -(a * ln(x) + ln(_sum_of_count(x, a)))


@kernel
def _learn_normals(mine: F64, work: F64, paid: bool) -> None:
    """One more value of the entity in each lane (B. P. Welford, 1962)."""
    for k in range(LANES):
        y = work[LEARNED + k]
        learned = not isnan(y) and (paid or work[ODD + k] == 0.0)
        n = mine[COUNT + k]
        part = 1.0 / (n + 1.0)
        keep = min(1.0, MEMORY_EVENTS * part)
        gain = y - mine[MEAN_OWN + k]
        square = gain * gain * n * part
        mine[COUNT + k] = keep * (n + 1.0) if learned else n
        mine[MEAN_OWN + k] += gain * part if learned else 0.0
        mine[SQUARES + k] = keep * (mine[SQUARES + k] + square) if learned else mine[SQUARES + k]
        work[PART + k] = part if learned else 0.0
        work[SQUARE + k] = square if n > 0.5 else -1.0


@kernel
def _learn_sums(mine: F64, work: F64, paid: bool) -> None:
    """One more count, or trial, of the entity in each lane; SQUARES holds their sum."""
    for k in range(LANES):
        value = work[LEARNED + k]
        learned = not isnan(value) and (paid or work[ODD + k] == 0.0)
        n = mine[COUNT + k]
        part = 1.0 / (n + 1.0)
        keep = min(1.0, MEMORY_EVENTS * part)
        mine[COUNT + k] = keep * (n + 1.0) if learned else n
        mine[SQUARES + k] = keep * (mine[SQUARES + k] + value) if learned else mine[SQUARES + k]
        work[PART + k] = part if learned else 0.0


@kernel
def _teach(family: int, cohort: F64, work: F64) -> None:
    """Teach a cohort what was learned: its mean and variance, decayed by count."""
    if family == NORMAL:
        for k in range(LANES):
            taught = work[PART + k] > 0.0 and work[SQUARE + k] >= 0.0
            before = cohort[WITHIN_VARIANCE + k]
            steps = min(cohort[WITHIN_WEIGHT + k] + 1.0, COHORT_MEMORY)
            cohort[WITHIN_VARIANCE + k] += (work[SQUARE + k] - before) / steps if taught else 0.0
            cohort[WITHIN_WEIGHT + k] = steps if taught else cohort[WITHIN_WEIGHT + k]
    elif family == RATE:
        for k in range(LANES):
            deviation = sqrt(max(cohort[TOTAL_VARIANCE + k], cohort[MEAN + k]))
            most = cohort[MEAN + k] + COHORT_SD * deviation + 1.0
            work[LEARNED + k] = min(work[VALUE + k], most)
    for k in range(LANES):
        taught = work[PART + k] > 0.0
        weight = min(cohort[MEAN_WEIGHT + k] + work[PART + k], COHORT_MEMORY)
        share = work[PART + k] / weight
        off = work[LEARNED + k] - cohort[MEAN + k]
        variance = (1.0 - share) * (cohort[TOTAL_VARIANCE + k] + share * off * off)
        cohort[MEAN_WEIGHT + k] = weight if taught else cohort[MEAN_WEIGHT + k]
        cohort[MEAN + k] += share * off if taught else 0.0
        cohort[TOTAL_VARIANCE + k] = variance if taught else cohort[TOTAL_VARIANCE + k]
