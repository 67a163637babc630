"""Calibration's honesty: of honest payments, do as many have p < α as α promises?

Five million made-up payments (`honest_payments`) go through a real monitor: the twelve features of
the benchmark, the default detectors, the final p. One gradual drift: within 500,000 events every
customer's ln(amount) rises by two of its own standard deviations. One abrupt: all amounts × 1.5 at
event 3,000,000. What is measured, each a rate divided by its α, so that 1 is honest:

drift: the share of p < 1e-3 in every window of 200,000 events, one starting every 20,000 from the
very first event on; those that touch the 200,000 events from the jump on are not judged, but their
excess is given. cold start: the share of p < 1e-2 among the first five events of customers that
arrive in a monitor that has seen 200,000 events; and of all customers while it is younger than
that, but past the policy's warm-up. detectors: what each says alone, after the first window.
"""

from typing import Final, NamedTuple

import msgspec
import numpy as np

from detectors.monitor import Monitor, MonitorSpec
from detectors.spec import PolicySpec
from schemas.columns import F64, I64, Bools
from tests.bench.events import FEATURES, Payments
from tests.quality.honest_payments import Shape, honest_payments

SHAPE: Final = Shape(
    events=5_000_000,
    days=90.0,
    regulars=20_000,
    newcomers=130_000,
    drift=(1_500_000, 500_000, 2.0),
    jump=(3_000_000, 1.5),
)
SEED: Final = 1
CAPACITY: Final = 200_000
WINDOW: Final = 200_000
WINDOW_STEP: Final = 20_000
ALPHAS: Final = (1e-2, 1e-3, 1e-4)
FIRST_EVENTS: Final = 5
FIELDS: Final = ("account", "device", "ip", "card", "product")
BATCH: Final = 50_000


class Judged(NamedTuple):
    """p: float64[n], the monitor's. seen: int64[n], the customer's events before each. rates:
    detector → float64[alphas], its own P(p < α)/α."""

    p: F64
    seen: I64
    rates: dict[str, F64]


class Honesty(NamedTuple):
    """drift: rate/1e-3 of each judged window. jump: of the one after the jump. newcomers: how many
    customers arrived in the warm monitor; cold_events: their first five, cold: rate/1e-2 of these;
    young: of everybody's in a young monitor. overall: float64[alphas]. rates: see `Judged`."""

    drift: F64
    jump: float
    newcomers: int
    cold_events: int
    cold: float
    young: float
    overall: F64
    rates: dict[str, F64]


def window_rates(hits: Bools, alpha: float) -> F64:
    """Share of hits in each window, divided by alpha."""
    before = np.concatenate([[0], np.cumsum(hits)])
    starts = np.arange(0, len(hits) - WINDOW + 1, WINDOW_STEP)
    rates: F64 = (before[starts + WINDOW] - before[starts]) / (WINDOW * alpha)
    return rates


def unsettled(windows: int, jump_at: int) -> Bools:
    """bool[windows]: the windows that touch the `WINDOW` events from the jump on."""
    starts = WINDOW_STEP * np.arange(windows)
    touches: Bools = (starts + WINDOW > jump_at) & (starts < jump_at + WINDOW)
    return touches


def watch(payments: Payments) -> Judged:
    """What the monitor says of the payments."""
    spec = msgspec.convert(
        {
            "name": "account",
            "entity": "account",
            "inputs": ["payments"],
            "capacity": CAPACITY,
            "features": FEATURES,
        },
        MonitorSpec,
    )
    monitor = Monitor(spec, (1, 2))
    names = [*monitor.names, "trees"]
    below, spoken = np.zeros((len(names), len(ALPHAS))), np.zeros(len(names))
    p, seen = np.empty(len(payments)), np.empty(len(payments), np.int64)
    for start in range(0, len(payments), BATCH):
        part = payments.slice(start, min(start + BATCH, len(payments)))
        watched = monitor.process(part.batch(FIELDS))
        p[start : start + BATCH] = watched.p
        seen[start : start + BATCH] = watched.admitted.seen
        if start >= WINDOW:
            own = watched.calibrated.p
            spoken += (~np.isnan(own)).sum(axis=1)
            below += np.stack([(own < alpha).sum(axis=1) for alpha in ALPHAS], axis=1)
    rates = below / spoken[:, None] / np.array(ALPHAS)
    return Judged(p, seen, dict(zip(names, rates, strict=True)))


def measure(shape: Shape = SHAPE, seed: int = SEED) -> Honesty:
    """The figures of one run over such payments."""
    payments = honest_payments(shape, seed)
    p, seen, rates = watch(payments)
    windows = window_rates(p < 1e-3, 1e-3)
    jump_at = shape.jump[0]
    customer = payments.number["account"]
    known, first = np.unique(customer, return_index=True)
    arrived = np.zeros(int(customer.max()) + 1, np.bool_)
    arrived[known] = (known >= shape.regulars) & (first >= WINDOW)
    cold = arrived[customer] & (seen < FIRST_EVENTS)
    event = np.arange(len(p))
    young = (event >= PolicySpec().warm_up_events) & (event < WINDOW) & (seen < FIRST_EVENTS)
    return Honesty(
        drift=windows[~unsettled(len(windows), jump_at)],
        jump=float((p[jump_at : jump_at + WINDOW] < 1e-3).mean() / 1e-3),
        newcomers=int(arrived.sum()),
        cold_events=int(cold.sum()),
        cold=float((p[cold] < 1e-2).mean() / 1e-2),
        young=float((p[young] < 1e-2).mean() / 1e-2),
        overall=np.array([(p < alpha).mean() / alpha for alpha in ALPHAS]),
        rates=rates,
    )
