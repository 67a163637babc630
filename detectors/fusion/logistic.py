"""Logistic regression learned online, an outcome at a time, over inputs that may be absent.

As River's `StandardScaler | LogisticRegression(SGD(RATE))` does it: each input is centred and scaled by
its mean and variance so far (B. P. Welford, 1962), then the weights go down the log loss's gradient
by `RATE`. Beside them, unscaled, stand marks, 0 or 1. An absent input (NaN) counts as its mean; a
scaled one is cut at `CUT`, since one value far out would throw all weights, and once `SETTLED`
values are known mean and variance learn it cut, too: else it alone would be the scale for good.
Does not know what its inputs mean.
"""

from math import isnan, sqrt
from typing import Final, NamedTuple

import numpy as np

from detectors.numeric.elementary import exp
from detectors.numeric.kernels import kernel
from schemas.columns import F64

RATE: Final = 0.02
CUT: Final = 5.0
SETTLED: Final = 30.0


class LogisticModel(NamedTuple):
    """seen, mean, square: float64[inputs], how often each was there, its mean, and its summed
    squares about it. weight: float64[inputs + marks]; intercept: float64[1]."""

    seen: F64
    mean: F64
    square: F64
    weight: F64
    intercept: F64


def empty(inputs: int, marks: int) -> LogisticModel:
    """Nothing learned: log odds 0 of everything."""
    return LogisticModel(
        np.zeros(inputs), np.zeros(inputs), np.zeros(inputs), np.zeros(inputs + marks), np.zeros(1)
    )


@kernel
def spread(line: LogisticModel, j: int) -> float:
    """An input's standard deviation so far; 0 where nothing is known."""
    return sqrt(line.square[j] / line.seen[j]) if line.square[j] > 0.0 else 0.0


@kernel
def _scaled(line: LogisticModel, j: int, x: float) -> float:
    """An input centred and scaled."""
    sd = spread(line, j)
    if isnan(x) or sd == 0.0:
        return 0.0
    return float(min(max((x - line.mean[j]) / sd, -CUT), CUT))


@kernel
def log_odds(line: LogisticModel, inputs: F64, marks: F64) -> float:
    """What the line says of one row. inputs: float64[inputs], NaN absent; marks: float64[marks]."""
    total = line.intercept[0]
    width = len(inputs)
    for j in range(width):
        total += line.weight[j] * _scaled(line, j, inputs[j])
    for j in range(len(marks)):
        total += line.weight[width + j] * marks[j]
    return float(total)


@kernel
def credit(line: LogisticModel, inputs: F64, marks: F64, out: F64) -> None:
    """Add to out, float64[inputs], how much each input of one row raises its log odds over those at
    the means, a mark's part to the input of the same index."""
    width = len(inputs)
    for j in range(width):
        out[j] += line.weight[j] * _scaled(line, j, inputs[j])
    for j in range(len(marks)):
        out[j] += line.weight[width + j] * marks[j]


@kernel
def learn(line: LogisticModel, inputs: F64, marks: F64, outcome: float) -> None:
    """Learn one row's outcome, 0 or 1."""
    width = len(inputs)
    for j in range(width):
        x = inputs[j]
        if not isnan(x):
            if line.seen[j] >= SETTLED:
                most = CUT * spread(line, j)
                x = min(max(x, line.mean[j] - most), line.mean[j] + most)
            line.seen[j] += 1.0
            off = x - line.mean[j]
            line.mean[j] += off / line.seen[j]
            line.square[j] += off * (x - line.mean[j])
    p = 1.0 / (1.0 + exp(-log_odds(line, inputs, marks)))
    step = RATE * (outcome - p)
    for j in range(width):
        line.weight[j] += step * _scaled(line, j, inputs[j])
    for j in range(len(marks)):
        line.weight[width + j] += step * marks[j]
    line.intercept[0] += step
