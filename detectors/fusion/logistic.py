"""Logistic regression learned online, one outcome at a time, over inputs that may be absent.

As in River's `StandardScaler | LogisticRegression(SGD(LEARNING_RATE))`: each input is centred and
scaled by its mean and variance so far (B. P. Welford, 1962), then the weights follow the gradient of
the log loss with `LEARNING_RATE`. Flags, 0 or 1, are unscaled inputs. An absent input (NaN) counts as
its mean. A scaled input is clipped at `CLIP`, since one outlier would distort all weights, and once
`SETTLED` values are known the mean and variance learn the clipped value, too: an outlier would
otherwise set the scale for good.
"""

from math import isnan, sqrt
from typing import Final, NamedTuple

import numpy as np

from detectors.numeric.elementary import exp
from detectors.numeric.kernels import kernel
from schemas.columns import F64

LEARNING_RATE: Final = 0.02
CLIP: Final = 5.0
SETTLED: Final = 30.0


class LogisticModel(NamedTuple):
    """seen, mean, square: float64[inputs], the number of values, their mean, and the sum of squared
    deviations. weight: float64[inputs + flags]. intercept: float64[1]."""

    seen: F64
    mean: F64
    square: F64
    weight: F64
    intercept: F64


def empty(inputs: int, flags: int) -> LogisticModel:
    """A model that has learned nothing: log odds 0."""
    return LogisticModel(
        np.zeros(inputs), np.zeros(inputs), np.zeros(inputs), np.zeros(inputs + flags), np.zeros(1)
    )


@kernel
def spread(model: LogisticModel, j: int) -> float:
    """An input's standard deviation so far; 0 where nothing is known."""
    return sqrt(model.square[j] / model.seen[j]) if model.square[j] > 0.0 else 0.0


@kernel
def _scaled(model: LogisticModel, j: int, x: float) -> float:
    """An input centred and scaled."""
    sd = spread(model, j)
    if isnan(x) or sd == 0.0:
        return 0.0
    return float(min(max((x - model.mean[j]) / sd, -CLIP), CLIP))


@kernel
def log_odds(model: LogisticModel, inputs: F64, flags: F64) -> float:
    """The log odds of one row. inputs: float64[inputs], NaN absent; flags: float64[flags]."""
    total = model.intercept[0]
    width = len(inputs)
    for j in range(width):
        total += model.weight[j] * _scaled(model, j, inputs[j])
    for j in range(len(flags)):
        total += model.weight[width + j] * flags[j]
    return float(total)


@kernel
def credit(model: LogisticModel, inputs: F64, flags: F64, out: F64) -> None:
    """Add to `out`, float64[inputs], by how much each input of one row raises the log odds over those at
    the means; the part of a flag goes to the input of the same index."""
    width = len(inputs)
    for j in range(width):
        out[j] += model.weight[j] * _scaled(model, j, inputs[j])
    for j in range(len(flags)):
        out[j] += model.weight[width + j] * flags[j]


@kernel
def learn(model: LogisticModel, inputs: F64, flags: F64, outcome: float) -> None:
    """Learn the outcome of one row, 0 or 1."""
    width = len(inputs)
    for j in range(width):
        x = inputs[j]
        if not isnan(x):
            if model.seen[j] >= SETTLED:
                limit = CLIP * spread(model, j)
                x = min(max(x, model.mean[j] - limit), model.mean[j] + limit)
            model.seen[j] += 1.0
            offset = x - model.mean[j]
            model.mean[j] += offset / model.seen[j]
            model.square[j] += offset * (x - model.mean[j])
    p = 1.0 / (1.0 + exp(-log_odds(model, inputs, flags)))
    step = LEARNING_RATE * (outcome - p)
    for j in range(width):
        model.weight[j] += step * _scaled(model, j, inputs[j])
    for j in range(len(flags)):
        model.weight[width + j] += step * flags[j]
    model.intercept[0] += step
