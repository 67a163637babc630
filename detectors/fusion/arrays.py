"""The arrays of an assessment's kernel: its input, output, times, scratch and settings."""

from typing import NamedTuple

from detectors.scoring.policy import PolicyOutcome
from schemas.columns import F64, I64, U64, Bools


class AssessmentInput(NamedTuple):
    """n rows of a batch: reports, labels, and unreported p-values (see `assessment`). event: uint64[n],
    the hash of the event's id. monitor: int64[n], -1 for a label. verdict: int64[n], of a label.
    p: float64[n]. values: float64[n, features], the monitor's training features. is_report,
    is_sampled: bool[n]. report_row: int64[n], the row's index among the reports."""

    event: U64
    monitor: I64
    verdict: I64
    p: F64
    values: F64
    is_report: Bools
    is_sampled: Bools
    report_row: I64


class AssessmentOutput(NamedTuple):
    """The output for n rows. keys: uint64[n, 2], of the subject. p: float64[n], of the row's event, from
    all reports so far. by_monitor: float64[n, monitors], the p-values of these reports. warm:
    bool[n], warm-up was over before the event. is_report: bool[n]. p_of_all: float64[n], of the row's event
    from the p-values of all monitors, reported or not; NaN for a label.

    About the inputs (`model_state.EventMemory`), only where the row raised an alert: contribution: float64[n,
    inputs], 1/p or the log odds of a learned model, NaN where absent. value: float64[n, inputs].
    low, high: float64[n, inputs], the expected range among labelled reports, NaN where unknown.
    order: int64[3, n], the inputs of largest contribution. counterfactual_p: float64[3, n], p with
    the first one, two, three of them at their means (of a monitor: without its report), NaN where there are
    fewer."""

    keys: U64
    p: F64
    by_monitor: F64
    policy_outcome: PolicyOutcome
    warm: Bools
    is_report: Bools
    p_of_all: F64
    contribution: F64
    value: F64
    low: F64
    high: F64
    order: I64
    counterfactual_p: F64


class RowTimes(NamedTuple):
    """Times of n rows. bounded_ms: float64[n], the event time itself for unreported p-values. stream_ms,
    set_back: see `clock.BoundedTimes`."""

    bounded_ms: F64
    stream_ms: F64
    set_back: Bools


class AssessmentScratch(NamedTuple):
    """Scratch of the kernel. p, surprised: float64[monitors], of the reports not yet
    removed for the counterfactual. inputs, contribution: float64[inputs], likewise. all_p: float64[monitors], all p-values of the
    current event."""

    p: F64
    surprised: F64
    inputs: F64
    contribution: F64
    all_p: F64


class AssessmentSettings(NamedTuple):
    """report_p: a monitor reports an event with a smaller p-value. unreported_inverse_p: the term of a
    monitor without a report in the sum of 1/p. reports_grouped: all reports on an event come
    in one batch, next to each other."""

    report_p: float
    unreported_inverse_p: float
    warm_up_events: int
    reports_grouped: bool
