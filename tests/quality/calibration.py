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

Each figure is the mean over eight seeds, and its interval is by seed.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Final, NamedTuple

import msgspec
import numpy as np

from detectors.monitor import Monitor, MonitorSpec
from detectors.spec import PolicySpec
from schemas.columns import F64, I64, Bools
from tests.bench.events import FEATURES, Payments
from tests.quality.figures import Row
from tests.quality.honest_payments import Shape, honest_payments
from tests.quality.intervals import by_seed

SHAPE: Final = Shape(
    events=5_000_000,
    days=90.0,
    regulars=20_000,
    newcomers=130_000,
    drift=(1_500_000, 500_000, 2.0),
    jump=(3_000_000, 1.5),
)
SEEDS: Final = (1, 2, 3, 4, 5, 6, 7, 8)
CAPACITY: Final = 200_000
ALPHAS: Final = (1e-2, 1e-3, 1e-4)
FIRST_EVENTS: Final = 5
FIELDS: Final = ("account", "device", "ip", "card", "product")
BATCH: Final = 50_000


class Sizes(NamedTuple):
    """How much is measured. shape: the payments of each seed; window, step: events in a window, and
    from one window's start to the next."""

    shape: Shape = SHAPE
    seeds: Sequence[int] = SEEDS
    window: int = 200_000
    step: int = 20_000


FULL: Final = Sizes()


class ScoredPayments(NamedTuple):
    """p: float64[n], the monitor's. seen: int64[n], the customer's events before each. rates:
    detector → float64[alphas], its own P(p < α)/α."""

    p: F64
    earlier_events: I64
    rates: dict[str, F64]


class SeedFigures(NamedTuple):
    """drift: rate/1e-3 of each judged window. jump: of the one after the jump. newcomers: how many
    customers arrived in the warm monitor; cold_events: their first five, cold: rate/1e-2 of these;
    young: of everybody's in a young monitor. overall: float64[alphas]. rates: see `ScoredPayments`."""

    drift: F64
    jump: float
    newcomers: int
    cold_events: int
    cold: float
    young: float
    overall: F64
    rates: dict[str, F64]


def window_rates(hits: Bools, alpha: float, sizes: Sizes = FULL) -> F64:
    """Share of hits in each window, divided by alpha."""
    before = np.concatenate([[0], np.cumsum(hits)])
    starts = np.arange(0, len(hits) - sizes.window + 1, sizes.step)
    rates: F64 = (before[starts + sizes.window] - before[starts]) / (sizes.window * alpha)
    return rates


def touches_jump(windows: int, jump_at: int, sizes: Sizes = FULL) -> Bools:
    """bool[windows]: the windows that touch the first window of events from the jump on."""
    starts = sizes.step * np.arange(windows)
    touches: Bools = (starts + sizes.window > jump_at) & (starts < jump_at + sizes.window)
    return touches


def run_monitor(payments: Payments, window: int) -> ScoredPayments:
    """What the monitor says of the payments. window: a detector alone counts after so many events."""
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
    below, reports = np.zeros((len(names), len(ALPHAS))), np.zeros(len(names))
    p, seen = np.empty(len(payments)), np.empty(len(payments), np.int64)
    for start in range(0, len(payments), BATCH):
        part = payments.slice(start, min(start + BATCH, len(payments)))
        watched = monitor.process(part.batch(FIELDS))
        p[start : start + BATCH] = watched.p
        seen[start : start + BATCH] = watched.admitted.earlier_events
        if start >= window:
            own = watched.calibrated.p
            reports += (~np.isnan(own)).sum(axis=1)
            below += np.stack([(own < alpha).sum(axis=1) for alpha in ALPHAS], axis=1)
    rates = below / reports[:, None] / np.array(ALPHAS)
    return ScoredPayments(p, seen, dict(zip(names, rates, strict=True)))


def measures(sizes: Sizes = FULL) -> list[SeedFigures]:
    """The figures of each seed, in as many processes as there are cores."""
    workers = min(os.cpu_count() or 1, len(sizes.seeds))
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        return list(pool.map(measure, [sizes] * len(sizes.seeds), sizes.seeds))


def measure(sizes: Sizes, seed: int) -> SeedFigures:
    """The figures of one run over such payments."""
    shape, window = sizes.shape, sizes.window
    payments = honest_payments(shape, seed)
    p, seen, rates = run_monitor(payments, window)
    windows = window_rates(p < 1e-3, 1e-3, sizes)
    jump_at = shape.jump[0]
    customer = payments.number["account"]
    known, first = np.unique(customer, return_index=True)
    arrived = np.zeros(int(customer.max()) + 1, np.bool_)
    arrived[known] = (known >= shape.regulars) & (first >= window)
    cold = arrived[customer] & (seen < FIRST_EVENTS)
    event = np.arange(len(p))
    young = (event >= PolicySpec().warm_up_events) & (event < window) & (seen < FIRST_EVENTS)
    return SeedFigures(
        drift=windows[~touches_jump(len(windows), jump_at, sizes)],
        jump=float((p[jump_at : jump_at + window] < 1e-3).mean() / 1e-3),
        newcomers=int(arrived.sum()),
        cold_events=int(cold.sum()),
        cold=float((p[cold] < 1e-2).mean() / 1e-2),
        young=float((p[young] < 1e-2).mean() / 1e-2),
        overall=np.array([(p < alpha).mean() / alpha for alpha in ALPHAS]),
        rates=rates,
    )


def calibration_rows(sizes: Sizes = FULL) -> list[Row]:
    """Of made-up honest payments, how many have p < α, divided by α."""
    found = measures(sizes)
    drift = np.concatenate([one.drift for one in found])
    windows = f"over {len(drift)} windows: {drift.min():.2f} to {drift.max():.2f}"
    worst = [float(max(one.drift.max(), 1.0 / max(one.drift.min(), 1e-9))) for one in found]
    excess = [(one.jump - 1.0) * 1e-3 * sizes.window for one in found]
    late = f"in the {sizes.window:,} events from x 1.5 on"
    of = f"first five events of {min(one.newcomers for one in found):,} newcomers or more"
    young = "first five events of all, in a young monitor"
    events = [float(one.cold_events) for one in found]
    rows = [
        Row(
            "calibration_drift_worst_ratio",
            "p < 1e-3, worst window",
            by_seed(worst),
            2.0,
            windows,
            "higher",
        ),
        Row(
            "calibration_abrupt_excess",
            "p < 1e-3 too many after the jump",
            by_seed(excess),
            0.0,
            late,
            "higher",
        ),
        Row(
            "calibration_cold_start_ratio",
            "p < 1e-2, newcomers",
            by_seed([one.cold for one in found]),
            2.0,
            of,
            "apart",
        ),
        Row(
            "calibration_cold_start_events",
            "newcomers' events",
            by_seed(events),
            500_000,
            "of each seed",
        ),
        Row(
            "calibration_young_ratio",
            "p < 1e-2, all are new",
            by_seed([one.young for one in found]),
            0.0,
            young,
            "apart",
        ),
    ]
    for k, alpha in enumerate(ALPHAS):
        rows += _of_alpha(found, k, f"{alpha:.0e}".replace("-0", "-"))
    return rows


def _of_alpha(found: list[SeedFigures], k: int, alpha: str) -> list[Row]:
    """The rows of one α over all events. k: its place in `ALPHAS`."""
    key = f"calibration_{alpha.replace('-', '')}"
    overall = by_seed([float(one.overall[k]) for one in found])
    most = by_seed([max(float(rates[k]) for rates in one.rates.values()) for one in found])
    mean = {name: float(np.mean([one.rates[name][k] for one in found])) for name in found[0].rates}
    largest, least = max(mean, key=mean.__getitem__), min(mean, key=mean.__getitem__)
    who = f"{largest}; least: {least}, {mean[least]:.2f}"
    what = f"p < {alpha}, a detector alone, most"
    return [
        Row(f"{key}_ratio", f"p < {alpha}, all events", overall, 0.0, "", "apart"),
        Row(f"{key}_detector_ratio", what, most, 0.0, who, "higher"),
    ]
