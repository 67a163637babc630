"""Learning from labels how much all monitors' reports on an event say together.

Three ways to say it stand beside each other, and each learns from every labelled report: the
harmonic mean, as it is without labels; a logistic regression over the monitors' scores and chosen
features, learned online (`logistic`); and boosted trees over the same inputs, fitted anew on the
labelled reports that are remembered (`boosting`) when a day of stream time begins and enough of them
are new. What a way would have said when the event came is kept until its label comes, and the log
loss then tells how well it did (A. P. Dawid, "The prequential approach", JRSS A 1984). Whoever had
the least speaks; until it judged `KNOWN_MIN` frauds and as many honest ones, the harmonic mean does.

Inputs. A monitor speaks only where it was surprised (p < limit): its score -log10 p, cut at
`SCORE_MAX`, and its features. Otherwise all of its inputs are absent, though they may be known, as
in the sample or in a replay: what is learned from must look like what will be judged. Which reports
are remembered is decided by what the models see, so none needs a weight to learn from them.

p-values. What a way says, log odds v, becomes the share of honest events of which as much was said:

    p = (Σ w [v' > v] + 1/(1 + e^v))/(Σ w + 1)          w = 1, of a sampled event `SAMPLE`

over the honest labels, each with what was said of its event when it came; a unit of log odds beyond
them makes an honest event e times rarer. Events on which all are silent stand behind those, in the
order of their harmonic mean. All sums halve each `HALF_LIFE_DAYS`. Where only frauds are ever
labelled nothing is known of honest events, and the harmonic mean goes on speaking.

Memory: with the assessment's remembered events, 8 bytes for each input and about 50 more. Of the
labelled frauds an event may push out only the oldest in a set of which they hold half. A later
label replaces an earlier one in what trees are fitted on and in the sums; the regression learns it
as one more outcome.
"""

from math import isnan, log10
from typing import Final, NamedTuple

import numpy as np

from detectors import boosting, logistic
from detectors.boosting import Trees
from detectors.combination import P_MIN
from detectors.decay import DAY_MS
from detectors.elementary import ln, power_of_e
from detectors.kernels import kernel
from detectors.logistic import Line
from detectors.state import Arrays, load, prefixed, saved, under
from schemas.columns import F64, I64, U64

HARMONIC, LOGISTIC, BOOSTED = WAYS_TO_SPEAK = range(3)
UNKNOWN, HONEST, FRAUD = -1.0, 0.0, 1.0

SAMPLE: Final = 1000
"""One event in so many is reported whatever its p-value."""
SCORE_MAX: Final = 20.0
KNOWN_MIN: Final = 50.0
"""Frauds, and honest ones, that a way must have judged before it may speak."""
FIT_MIN: Final = 50
"""Frauds, and honest ones, that trees are fitted on at least."""
FIT_ANEW: Final = 0.05
"""Labels since the last fit, as a share of those remembered, that are worth a new one. A fit each day
would be most of what a long replay costs."""
HALF_LIFE_DAYS: Final = 30.0
ODDS_MAX: Final = 12.0
BINS: Final = 384
"""Of log odds from -`ODDS_MAX` to `ODDS_MAX`."""

LABELS, UNMATCHED, CHANGED = range(3)
DUE_MS, DAY, FITTED_AT, SPEAKER = range(4)


class Memory(NamedTuple):
    """Of each remembered event, in its slot. event: uint64[events], the hash of its id, 0 free.
    inputs: float64[events, inputs], the monitors' scores first, NaN absent; spoke:
    float64[events, monitors], 1 where the monitor was surprised. said: float64[events, 3], log odds
    by way, NaN where it could not yet. verdict: float64[events], `UNKNOWN`, `HONEST`, `FRAUD`."""

    event: U64
    inputs: F64
    spoke: F64
    said: F64
    verdict: F64


class Sums(NamedTuple):
    """honest: float64[3, BINS], by way, the honest reports by what was said of them. share:
    float64[3, BINS + 2], as of the day's beginning: for each bin's edge the share of honest events
    above, and last that of one event. silent: float64[3], honest events on which all were silent.
    excess, judged, frauds: float64[3], the log loss beyond the harmonic mean's, over so many
    labels, so many of them frauds. counts: int64[3], labels taken, of no event that is remembered,
    and such as replaced another. clock: int64[4], when the next day begins, the day, the labels at
    the last fit, 0 none yet, and who speaks."""

    honest: F64
    share: F64
    silent: F64
    excess: F64
    judged: F64
    frauds: F64
    counts: I64
    clock: I64


class Learner(NamedTuple):
    """All that is learned. owner: int64[inputs], the monitor that an input is of. one: float64[1]
    and none: float64[0], to work in."""

    memory: Memory
    sums: Sums
    harmonic: Line
    line: Line
    trees: Trees
    owner: I64
    one: F64
    none: F64


def learner(events: int, monitors: int, owners: list[int]) -> Learner:
    """Nothing learned yet. events: slots, 0 where nothing is to be learned; owners: of the features
    chosen, the monitor of each."""
    width = monitors + len(owners)
    return Learner(
        Memory(
            event=np.zeros(events, np.uint64),
            inputs=np.full((events, width), np.nan),
            spoke=np.zeros((events, monitors)),
            said=np.full((events, 3), np.nan),
            verdict=np.full(events, UNKNOWN),
        ),
        Sums(
            honest=np.zeros((3, BINS)),
            share=np.zeros((3, BINS + 2)),
            silent=np.zeros(3),
            excess=np.zeros(3),
            judged=np.zeros(3),
            frauds=np.zeros(3),
            counts=np.zeros(3, np.int64),
            clock=np.zeros(4, np.int64),
        ),
        harmonic=logistic.empty(1, 0),
        line=logistic.empty(width, monitors),
        trees=boosting.empty(),
        owner=np.array([*range(monitors), *owners], np.int64),
        one=np.zeros(1),
        none=np.zeros(0),
    )


def _parts(of: Learner) -> dict[str, NamedTuple]:
    return {
        "memory": of.memory,
        "sums": of.sums,
        "harmonic": of.harmonic,
        "line": of.line,
        "trees": of.trees,
    }


def save(of: Learner) -> Arrays:
    """The whole state as arrays by name."""
    return prefixed({name: saved(part) for name, part in _parts(of).items()})


def restore(of: Learner, state: Arrays) -> None:
    """Replace the whole state by one saved under the same configuration."""
    for name, part in _parts(of).items():
        load(part, under(name, state))


def refit(of: Learner, time_ms: int) -> None:
    """Begin the day of that time: forget by a day's measure, fit the trees, choose who speaks."""
    sums, memory = of.sums, of.memory
    day = time_ms // DAY_MS
    if sums.clock[DUE_MS] > 0:
        keep = 0.5 ** ((day - int(sums.clock[DAY])) / HALF_LIFE_DAYS)
        for faded in (sums.honest, sums.silent, sums.excess, sums.judged, sums.frauds):
            np.multiply(faded, keep, out=faded)
    sums.clock[DAY] = day
    sums.clock[DUE_MS] = (day + 1) * DAY_MS
    taken = int(sums.counts[LABELS] + sums.counts[CHANGED])
    rows = np.flatnonzero(memory.verdict != UNKNOWN)
    outcome = memory.verdict[rows]
    frauds = int(np.count_nonzero(outcome == FRAUD))
    changed = taken - sums.clock[FITTED_AT] >= FIT_ANEW * len(rows)
    if changed and min(frauds, len(rows) - frauds) >= FIT_MIN:
        boosting.fit(of.trees, memory.inputs[rows], outcome)
        sums.clock[FITTED_AT] = taken
    sums.clock[SPEAKER] = _best(sums)
    _share(sums)


def _best(sums: Sums) -> int:
    """The way with the least log loss a label."""
    best, least = HARMONIC, 0.0
    for way in (LOGISTIC, BOOSTED):
        honest = sums.judged[way] - sums.frauds[way]
        enough = min(sums.frauds[way], honest) >= KNOWN_MIN and sums.silent[way] > 0.0
        if enough:
            mean = float(sums.excess[way] / sums.judged[way])
            if mean < least:
                best, least = way, mean
    return best


def _share(sums: Sums) -> None:
    """The shares of honest events above each bin's edge."""
    for way in (LOGISTIC, BOOSTED):
        above = np.zeros(BINS + 1)
        above[:BINS] = np.cumsum(sums.honest[way][::-1])[::-1]
        total = above[0] + sums.silent[way] + 1.0
        sums.share[way, : BINS + 1] = above / total
        sums.share[way, BINS + 1] = 1.0 / total


@kernel
def score_of(p: float) -> float:
    """A p-value as an input."""
    return min(-log10(max(p, P_MIN)), SCORE_MAX)


@kernel
def speaker(of: Learner) -> int:
    """The way that speaks."""
    return int(of.sums.clock[SPEAKER]) if len(of.memory.event) else HARMONIC


@kernel
def forget(of: Learner, slot: int, event: np.uint64) -> None:
    """The slot is another event's now."""
    memory = of.memory
    if len(memory.event) == 0:
        return
    memory.event[slot] = event
    memory.inputs[slot] = np.nan
    memory.spoke[slot] = 0.0
    memory.said[slot] = np.nan
    memory.verdict[slot] = UNKNOWN


@kernel
def hear(of: Learner, slot: int, monitor: int, p: float, limit: float, values: F64) -> None:
    """Take a monitor's report on the slot's event. values: float64[features], the monitor's own
    known, NaN elsewhere."""
    memory = of.memory
    if len(memory.event) == 0 or p >= limit:
        return
    monitors = memory.spoke.shape[1]
    memory.spoke[slot, monitor] = 1.0
    memory.inputs[slot, monitor] = score_of(p)
    for j in range(len(values)):
        if of.owner[monitors + j] == monitor:
            memory.inputs[slot, monitors + j] = values[j]


@kernel
def say(of: Learner, slot: int, harmonic: float) -> None:
    """Keep what each way says of the slot's event. harmonic: the p-value of its reports."""
    memory = of.memory
    if len(memory.event) == 0:
        return
    of.one[0] = score_of(harmonic)
    memory.said[slot, HARMONIC] = logistic.log_odds(of.harmonic, of.one, of.none)
    memory.said[slot, LOGISTIC] = _odds(of, LOGISTIC, memory.inputs[slot], memory.spoke[slot])
    if of.sums.clock[FITTED_AT] > 0:
        memory.said[slot, BOOSTED] = _odds(of, BOOSTED, memory.inputs[slot], memory.spoke[slot])


@kernel
def _odds(of: Learner, way: int, inputs: F64, spoke: F64) -> float:
    """Log odds of fraud, by one of the ways that learn."""
    if way == LOGISTIC:
        return logistic.log_odds(of.line, inputs, spoke)
    return boosting.log_odds(of.trees, inputs)


@kernel
def learned_p(of: Learner, inputs: F64, spoke: F64, harmonic: float) -> float:
    """The p-value of an event by who speaks; inputs and spoke as in `Memory`."""
    way = speaker(of)
    if way == HARMONIC:
        return harmonic
    share = of.sums.share[way]
    if spoke.sum() == 0.0:
        return float(share[0] + (1.0 - share[0]) * harmonic)
    v = _odds(of, way, inputs, spoke)
    b, part = _bin(v)
    above = share[b] + part * (share[b + 1] - share[b])
    return float(above + share[BINS + 1] / (1.0 + power_of_e(v)))


@kernel
def _bin(v: float) -> tuple[int, float]:
    """(The bin of log odds, how far into it)."""
    at = (min(max(v, -ODDS_MAX), ODDS_MAX) + ODDS_MAX) * (BINS / (2.0 * ODDS_MAX))
    b = min(int(at), BINS - 1)
    return b, at - b


@kernel
def _loss(odds: float, fraud: bool) -> float:
    """The log loss of what was said."""
    v = -odds if fraud else odds
    return max(v, 0.0) + ln(1.0 + power_of_e(-abs(v)))


@kernel
def teach(of: Learner, slot: int, verdict: float, harmonic: float) -> None:
    """Learn a label of the slot's event; slot -1: none such is remembered. harmonic: the p-value of
    its reports."""
    counts = of.sums.counts
    if slot < 0:
        counts[UNMATCHED] += 1
        return
    memory = of.memory
    before = memory.verdict[slot]
    if before == verdict:
        return
    memory.verdict[slot] = verdict
    counts[LABELS if before == UNKNOWN else CHANGED] += 1
    if before == UNKNOWN:
        _judge(of, slot, verdict == FRAUD)
    if verdict == HONEST:
        _count_honest(of, slot, 1.0)
    elif before == HONEST:
        _count_honest(of, slot, -1.0)
    logistic.learn(of.line, memory.inputs[slot], memory.spoke[slot], verdict)
    of.one[0] = score_of(harmonic)
    logistic.learn(of.harmonic, of.one, of.none, verdict)


@kernel
def _judge(of: Learner, slot: int, fraud: bool) -> None:
    """How well each way would have said it."""
    said = of.memory.said[slot]
    sums = of.sums
    for way in range(LOGISTIC, BOOSTED + 1):
        if not isnan(said[way]):
            sums.excess[way] += _loss(said[way], fraud) - _loss(said[HARMONIC], fraud)
            sums.judged[way] += 1.0
            sums.frauds[way] += 1.0 if fraud else 0.0


@kernel
def _count_honest(of: Learner, slot: int, more: float) -> None:
    """Count an honest event by what each way said of it, or take it back."""
    said = of.memory.said[slot]
    silent = of.memory.spoke[slot].sum() == 0.0
    for way in range(LOGISTIC, BOOSTED + 1):
        if isnan(said[way]):
            continue
        if silent:
            of.sums.silent[way] = max(of.sums.silent[way] + more * SAMPLE, 0.0)
        else:
            b, _ = _bin(said[way])
            of.sums.honest[way, b] = max(of.sums.honest[way, b] + more, 0.0)
