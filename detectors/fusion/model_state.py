"""The state of learning from labels: the fusion models, and which of them is active.

See `learning` for the models and formulas. Memory: for each remembered event 8 bytes an input, 8 a
monitor, and 104 more.
"""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detectors.fusion import boosting, logistic
from detectors.fusion.boosting import BoostedTrees
from detectors.fusion.logistic import LogisticModel
from detectors.numeric.kernels import kernel
from detectors.state import Arrays, add_prefix, load, select_prefix, state_arrays
from schemas.columns import F64, I64, U8, U64
from schemas.labels import UNKNOWN

HARMONIC, LOGISTIC, BOOSTED = range(3)
"""The models; the last two learn."""

SAMPLE: Final = 1000
"""One event in so many is reported whatever its p-value."""
EVALUATED_MIN: Final = 50.0
"""Frauds, and honest events, that a model must have been evaluated on before it may be active."""
BINS: Final = 384
"""Of log odds from -`ODDS_MAX` to `ODDS_MAX`."""
ODDS_MAX: Final = 12.0

LABELS, UNMATCHED, CHANGED, REMEMBERED = range(4)
DUE_MS, DAY, FITTED_AT, ACTIVE_MODEL = range(4)
REPORTED, SILENT = range(2)
NOT_COUNTED: Final = -1


class EventMemory(NamedTuple):
    """The remembered events, by slot. event: uint64[events], the hash of the id, 0 free. arrival:
    int64[events], their order of arrival. day: int64[events], the event's own. inputs:
    float64[events, inputs], the monitors' scores first, NaN absent. reported: float64[events,
    monitors], 1 where the monitor was surprised. log_odds, max_log_odds: float64[events, 3], by
    model, the last and the highest, NaN where not computed. counted_bin: int16[events, 3], the bin
    in which the event counts as honest, `NOT_COUNTED` if none. verdict: int8[events].
    times_learned: uint8[events], labels that the regression learned. labelled_day: int64[events],
    the day of the first label. excess_log_odds: float64[events, 2], by learned model, the log odds
    minus the harmonic mean's at the first label, NaN where not computed."""

    event: U64
    arrival: I64
    day: I64
    inputs: F64
    reported: F64
    log_odds: F64
    max_log_odds: F64
    counted_bin: NDArray[np.int16]
    verdict: NDArray[np.int8]
    times_learned: U8
    labelled_day: I64
    excess_log_odds: F64


class LearnerSums(NamedTuple):
    """Decayed sums. honest_bins: float64[3, BINS], by model, the honest reported events by their
    highest log odds. not_fraud: float64[2], events not known to be fraud, `REPORTED` and `SILENT`.
    tail_share: float64[3, BINS + 1], as of the beginning of the day: the share of honest events in
    each bin or above, and last that of one event. reported_share: float64[1], of all events.
    excess_loss, evaluated, frauds: float64[3], the log loss minus the harmonic mean's, the labels
    that it is a sum over, and the frauds among them. counts: int64[4], labels taken, labels of no
    remembered event, corrections, events ever remembered. clock: int64[4], when the next day begins,
    the day, the labels at the last fit (0: none yet), and the active model."""

    honest_bins: F64
    not_fraud: F64
    tail_share: F64
    reported_share: F64
    excess_loss: F64
    evaluated: F64
    frauds: F64
    counts: I64
    clock: I64


class LearnerState(NamedTuple):
    """The whole state of learning. input_monitor: int64[inputs], the monitor of each input. Scratch:
    one_input: float64[1], no_flags: float64[0]."""

    memory: EventMemory
    sums: LearnerSums
    harmonic_model: LogisticModel
    logistic_model: LogisticModel
    boosted_trees: BoostedTrees
    input_monitor: I64
    one_input: F64
    no_flags: F64


def new_learner(events: int, monitors: int, owners: list[int]) -> LearnerState:
    """A learner that knows nothing. events: slots, 0 where nothing is learned; owners: the monitor of
    each feature."""
    width = monitors + len(owners)
    return LearnerState(
        EventMemory(
            event=np.zeros(events, np.uint64),
            arrival=np.zeros(events, np.int64),
            day=np.zeros(events, np.int64),
            inputs=np.full((events, width), np.nan),
            reported=np.zeros((events, monitors)),
            log_odds=np.full((events, 3), np.nan),
            max_log_odds=np.full((events, 3), np.nan),
            counted_bin=np.full((events, 3), NOT_COUNTED, np.int16),
            verdict=np.full(events, UNKNOWN, np.int8),
            times_learned=np.zeros(events, np.uint8),
            labelled_day=np.zeros(events, np.int64),
            excess_log_odds=np.full((events, 2), np.nan),
        ),
        LearnerSums(
            honest_bins=np.zeros((3, BINS)),
            not_fraud=np.zeros(2),
            tail_share=np.zeros((3, BINS + 1)),
            reported_share=np.ones(1),
            excess_loss=np.zeros(3),
            evaluated=np.zeros(3),
            frauds=np.zeros(3),
            counts=np.zeros(4, np.int64),
            clock=np.zeros(4, np.int64),
        ),
        harmonic_model=logistic.empty(1, 0),
        logistic_model=logistic.empty(width, monitors),
        boosted_trees=boosting.empty(),
        input_monitor=np.array([*range(monitors), *owners], np.int64),
        one_input=np.zeros(1),
        no_flags=np.zeros(0),
    )


def _parts(learner: LearnerState) -> dict[str, NamedTuple]:
    return {
        "memory": learner.memory,
        "sums": learner.sums,
        "harmonic": learner.harmonic_model,
        "logistic": learner.logistic_model,
        "trees": learner.boosted_trees,
    }


def save(learner: LearnerState) -> Arrays:
    """The whole state as arrays by name."""
    return add_prefix({name: state_arrays(part) for name, part in _parts(learner).items()})


def restore(learner: LearnerState, state: Arrays) -> None:
    """Replace the whole state by one saved under the same configuration."""
    for name, part in _parts(learner).items():
        load(part, select_prefix(name, state))


def learning_status(learner: LearnerState) -> dict[str, int]:
    """Whether a learned model is active, 1 or 0, and the recent evidence for it: frauds and honest events
    that the learned models evaluated; `EVALUATED_MIN` of each are needed."""
    models = (LOGISTIC, BOOSTED)
    return {
        "learning_active": int(learner.sums.clock[ACTIVE_MODEL] != HARMONIC),
        "learning_frauds": int(max(learner.sums.frauds[model] for model in models)),
        "learning_honest": int(max(learner.sums.honest_bins[model].sum() for model in models)),
    }


@kernel
def active_model(learner: LearnerState) -> int:
    """The model whose p-values count."""
    return int(learner.sums.clock[ACTIVE_MODEL]) if len(learner.memory.event) else HARMONIC
