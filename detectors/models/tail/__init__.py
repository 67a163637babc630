"""Tail: how improbable is a feature's value, given the entity's own history and its cohort's?

A value is scored as y = ln(value + shift), or its square root, with a normal–inverse-gamma model
whose prior is learned from the cohort (empirical Bayes): a new entity is compared with its peers
from its first event on, and one with history with itself. With n, m, S the entity's decayed count, mean and
sum of squared deviations, and prior (m₀, κ₀, a₀, b₀), the posterior predictive is Student's t
(K. Murphy, "Conjugate Bayesian analysis of the Gaussian distribution", 2007, eqs. 86–89 and 110):

    κ = κ₀ + n   μ = (κ₀m₀ + n m)/κ   a = a₀ + n/2   b = b₀ + S/2 + κ₀ n (m - m₀)²/(2κ)
    y ~ t(df = 2a, location = μ, scale² = b(κ + 1)/(aκ))

The cohort is all entities, or those with one value of a field (`detectors.cohorts`) once their
weight is `COHORT_TRUSTED`. Its moments are decayed by count: σ², the mean squared step from an
entity's own mean, times n/(n + 1); T, the variance around m₀ with weight 1/(1 + n) an event, so
that busy entities do not dominate. Then κ₀ = σ²/(T - σ²) (σ² has T for `COHORT_EVENTS_MIN` steps as
its prior, T - σ² is at least a hundredth of T), a₀ = `PRIOR_SHAPE`, b₀ = a₀σ².

A rate is gamma–Poisson. A decayed count c at a steady rate is shot noise with variance half its
mean, so that F c with F = `POISSON_FACTOR` is nearly Poisson. With cohort mean M and variance V of
c, θ ~ Gamma(α₀, β₀) has mean M and variance V - M/F. The posterior of an entity with n values that
sum to s has α = α₀ + F s, at most `SHAPE_MAX`, and the mean of the full posterior. Then F c is
negative binomial: P(C ≥ c) = I_x(F c, α), x = μ/(μ + α/F), I the regularised incomplete beta
function (W. Press et al., "Numerical Recipes", 6.4). At α = `SHAPE_MAX`, which an entity with some
history reaches, it is a finite sum (M. Abramowitz, I. Stegun, "Handbook of Mathematical Functions",
26.5.6):

    I_x(a, b) = x^a Σ_{j<b} (a)_j/j! (1 - x)^j,   b a whole number

A share (novelty) is beta–binomial: P(1) = (s q + k)/(s + n), q the cohort's share (half an
occurrence added), s = `PRIOR_EVENTS`; a 0 has p = 1, a 1 has p = P(1).

Departures from the models: the tail of t is Wallace's normal approximation (D. L. Wallace, Ann.
Math. Stat. 1959; here within 25 % of the exact tail down to 1e-4 for df ≥ 4, within a factor 2 at
1e-6). A rate's p is half of P(C ≥ c) above its mean, and below it a straight line from one half to
1 at c = 0: no value of p is shared by many events, as
calibration needs.

Learning is protected (`detectors.numeric.protection`). Values are winsorised before they are learned:
a normal value at `WINSOR_Z` deviations, a share's 1 at p/`WINSOR_P`, a rate at `RATE_WINSOR_SD`
deviations above its mean. (With more, an attacker without history raises its own rate fast. With one,
an honest entity thirty times as busy as its peers stays strange for hundreds of events.) A value is
strange when its two-sided p is below `WINSOR_P`.
An entity may learn `TOKENS_PER_HOUR` strange events an hour and a share `TOKENS_PER_EVENT` of all,
saved up to `TOKENS_MAX`; further ones are scored and not learned. So a burst of any length stays
strange, and a lasting change is not surprising after `MEMORY_EVENTS` events. A cohort, in which one
entity weighs little, learns a rate up to `COHORT_SD` of its own deviations above its mean.

An entity remembers about `MEMORY_EVENTS` events, fewer where `half_life` of its own time decays
them: enough to know its spread within a twentieth, few enough to follow an honest change of habit.

NaN values are neither scored nor learned. The output is -ln p, in [0, `SURPRISE_MAX`]. Nothing is
scored until the cohort has `COHORT_EVENTS_MIN` weight.

Code without branches runs over the lanes of a block in vector instructions; rare work (an edge to
winsorise at, a young entity's rate, an occurrence) runs lane by lane. Cost: about 0.17 µs a block,
0.5 µs for 12 features of three families; 192 bytes a block and entity, and 16 an entity.
"""

from detectors.models.tail.layout import (
    BOTH,
    COHORT_WORDS,
    HIGH,
    LOW,
    NORMAL,
    RANGE,
    RATE,
    SHARE,
    TailLayout,
    TailOutput,
    TailSpec,
    empty_output,
    tail_layout,
    words_per_entity,
)
from detectors.models.tail.scoring import score

__all__ = [
    "BOTH",
    "COHORT_WORDS",
    "HIGH",
    "LOW",
    "NORMAL",
    "RANGE",
    "RATE",
    "SHARE",
    "TailLayout",
    "TailOutput",
    "TailSpec",
    "empty_output",
    "score",
    "tail_layout",
    "words_per_entity",
]
