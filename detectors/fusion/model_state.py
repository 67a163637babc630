"""The arrays of learning from labels: remembered events, sums and models, and which model is active.

See `label_learning` for the models and formulas.
"""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detectors.fusion import boosting, logistic
from detectors.fusion.boosting import BoostedTrees
from detectors.fusion.logistic import LogisticModel
from detectors.numeric.kernels import kernel
from detectors.state import (
    Arrays,
    add_prefix,
    rename_arrays,
    select_prefix,
    state_arrays,
)
from detectors.state import (
    load as load_arrays,
)
from schemas.columns import F64, I64, U8, U64
from schemas.labels import UNKNOWN

HARMONIC, LOGISTIC, BOOSTED = range(3)
"""The models; the last two learn."""

SAMPLE: Final = 1000
"""One event in `SAMPLE` is reported whatever its p-value."""
EVALUATED_MIN: Final = 50.0
"""Frauds, and honest events, that a model must have been evaluated on before it may be active."""
BINS: Final = 384
"""Bins of log odds from -`ODDS_MAX` to `ODDS_MAX`."""
ODDS_MAX: Final = 12.0

LABELS, UNMATCHED, CHANGED, REMEMBERED = range(4)
NEXT_DAY_MS, DAY, LABELS_AT_FIT, ACTIVE_MODEL = range(4)
SURPRISED, NOT_SURPRISED = range(2)
NOT_COUNTED: Final = -1

SAVED_NAMES: Final = {
    "surprised": "reported",
    "surprised_share": "reported_share",
    "status": "clock",
}
"""Names of arrays in a checkpoint, where they differ from the fields'."""


class EventMemory(NamedTuple):
    """The remembered events, by slot.

    - event: uint64[events], the hash of the id; 0 is a free slot.
    - arrival: int64[events], the number of events remembered up to this one.
    - day: int64[events], the day of the event.
    - inputs: float64[events, inputs], the monitors' scores, then the features; NaN is absent.
    - surprised: float64[events, monitors], 1 where the monitor was surprised (p < report_p).
    - log_odds, max_log_odds: float64[events, 3], by model, the last and the highest; NaN is not
      computed.
    - counted_bin: int16[events, 3], the bin that counts the event as honest, or `NOT_COUNTED`.
    - verdict: int8[events].
    - times_learned: uint8[events], labels of the event that the regression learned.
    - labelled_day: int64[events], the day of the first label.
    - excess_log_odds: float64[events, 2], by learned model, the log odds minus the harmonic mean's
      at the first label; NaN is not computed.
    """

    event: U64
    arrival: I64
    day: I64
    inputs: F64
    surprised: F64
    log_odds: F64
    max_log_odds: F64
    counted_bin: NDArray[np.int16]
    verdict: NDArray[np.int8]
    times_learned: U8
    labelled_day: I64
    excess_log_odds: F64


class LearnerSums(NamedTuple):
    """Decayed sums, and counts.

    - honest_bins: float64[3, BINS], by model, the honest surprising events by highest log odds.
    - not_fraud: float64[2], events not known to be fraud, `SURPRISED` and `NOT_SURPRISED`.
    - tail_share: float64[3, BINS + 1], by model, at the beginning of the day: the share of honest
      events in each bin or above; the last entry is the share of one event.
    - surprised_share: float64[1], the share of `SURPRISED` in not_fraud.
    - excess_loss: float64[3], by model, the log loss minus the harmonic mean's.
    - evaluated, frauds: float64[3], the labels in that sum, and the frauds among them.
    - counts: int64[4], first labels (LABELS), labels without a remembered event (UNMATCHED),
      corrections (CHANGED), and all events ever remembered (REMEMBERED).
    - status: int64[4], the time at which the next day begins (NEXT_DAY_MS), the day (DAY), the labels
      at the last fit, 0 before the first (LABELS_AT_FIT), and the active model (ACTIVE_MODEL).
    """

    honest_bins: F64
    not_fraud: F64
    tail_share: F64
    surprised_share: F64
    excess_loss: F64
    evaluated: F64
    frauds: F64
    counts: I64
    status: I64


class LearnerState(NamedTuple):
    """All arrays of learning. input_monitor: int64[inputs], the monitor of each input. Scratch:
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
    """A state that has learned nothing. events: slots, 0 where nothing is learned; owners: the monitor of
    each feature."""
    width = monitors + len(owners)
    return LearnerState(
        EventMemory(
            event=np.zeros(events, np.uint64),
            arrival=np.zeros(events, np.int64),
            day=np.zeros(events, np.int64),
            inputs=np.full((events, width), np.nan),
            surprised=np.zeros((events, monitors)),
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
            surprised_share=np.ones(1),
            excess_loss=np.zeros(3),
            evaluated=np.zeros(3),
            frauds=np.zeros(3),
            counts=np.zeros(4, np.int64),
            status=np.zeros(4, np.int64),
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
    arrays = {name: state_arrays(part) for name, part in _parts(learner).items()}
    return add_prefix({name: rename_arrays(part, SAVED_NAMES) for name, part in arrays.items()})


def load(learner: LearnerState, state: Arrays) -> None:
    """Replace the whole state by one saved under the same configuration."""
    for name, part in _parts(learner).items():
        saved = select_prefix(name, state)
        load_arrays(part, rename_arrays(saved, {old: new for new, old in SAVED_NAMES.items()}))


def learning_status(learner: LearnerState) -> dict[str, int]:
    """Whether a learned model is active (1 or 0), and the recent frauds and honest events on which the
    learned models were evaluated; a model needs `EVALUATED_MIN` of each to be active."""
    models = (LOGISTIC, BOOSTED)
    return {
        "learning_active": int(learner.sums.status[ACTIVE_MODEL] != HARMONIC),
        "learning_frauds": int(max(learner.sums.frauds[model] for model in models)),
        "learning_honest": int(max(learner.sums.honest_bins[model].sum() for model in models)),
    }


@kernel
def active_model(learner: LearnerState) -> int:
    """The model that gives the p-values."""
    return int(learner.sums.status[ACTIVE_MODEL]) if len(learner.memory.event) else HARMONIC
