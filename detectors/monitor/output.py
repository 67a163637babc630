"""The output of a monitor for one batch."""

from dataclasses import dataclass

import numpy as np

from detectors.entities import AdmittedEvents
from detectors.models.half_space_trees import TreesOutput
from detectors.models.interface import DetectorOutput
from detectors.models.tail import TailOutput
from detectors.scoring.calibration import CalibrationOutput
from detectors.scoring.explain import FeatureValues
from detectors.scoring.policy import PolicyOutcome
from schemas.columns import F64, I64, U64, Bools


@dataclass(frozen=True, slots=True)
class MonitorOutput:
    """The output for a batch with m applicable events; arrays but `index` have a row for each.

    index: int64[m], their rows in the batch. labels: the number of labels in the batch. keys:
    uint64[m, 2], their entities' hashes. p: float64[m], combined and calibrated, 1 where nothing is
    known; at most the p-value of the rule that matches. rule: int64[m], that rule's index among the
    declared ones; -1 where no rule lowered p. warm: bool[m], enough events were learned before.
    ahead: bool[m], the event's time lies in the future and did not advance stream time.
    """

    index: I64
    labels: int
    keys: U64
    admitted: AdmittedEvents
    feature_values: FeatureValues
    tail_output: TailOutput
    trees: TreesOutput | None
    calibrated: CalibrationOutput
    policy_outcome: PolicyOutcome
    p: F64
    rule: I64
    warm: Bools
    ahead: Bools


def feature_values(
    values: F64, units: F64, tail_output: TailOutput, detectors: list[DetectorOutput]
) -> FeatureValues:
    """The features' values and expectations, followed by those of the standalone detectors."""
    if not detectors:
        return FeatureValues(values, units, tail_output.centre, tail_output.spread)
    standalone = np.stack([output.value for output in detectors])
    expected = np.stack([output.expected for output in detectors])
    return FeatureValues(
        np.concatenate([values, standalone]),
        np.concatenate([units, np.ones_like(standalone)]),
        np.concatenate([tail_output.centre, expected]),
        np.concatenate([tail_output.spread, np.zeros_like(standalone)]),
    )
