"""A figure of the quality table: its interval, its bar, the bases beside it, and when it is worse."""

from collections.abc import Iterator, Mapping
from math import isnan, log
from types import MappingProxyType
from typing import Literal, NamedTuple

from tests.quality.intervals import Draws, Estimate

ComparedRun = Literal["lower", "higher", "apart", "neither"]
"""On which side a figure is bad: below, above, or further from 1 in either direction. `neither` is
for references, which depend on no code of Eddy's."""


class Row(NamedTuple):
    """One figure: its key in out/quality.json, what it is, ours, the bar (0: none), and a remark.

    The bar is the least, the most, or a factor around 1, by `worse_when`; with whole_interval the
    whole interval must reach it. bases: the same figure of simple scores on the same rows and
    draws, by name; none may be better. batch: a batch model's, which decides nothing.
    """

    key: str
    what: str
    ours: Draws
    target: float
    remark: str
    worse_when: ComparedRun = "lower"
    whole_interval: bool = False
    bases: Mapping[str, Draws] = MappingProxyType({})
    batch: Draws | None = None

    def best_base(self) -> str | None:
        """The name of the best simple base, None without any."""
        sign = -1.0 if self.worse_when == "higher" else 1.0
        known = {name: sign * float(its.values[0]) for name, its in self.bases.items()}
        known = {name: value for name, value in known.items() if not isnan(value)}
        return max(known, key=known.__getitem__, default=None)

    def below_base(self) -> bool:
        """Whether the best simple base is better by the whole paired interval, or has a figure where
        ours is none."""
        best = self.best_base()
        if best is None:
            return False
        gain = self.ours.less(self.bases[best]).estimate()
        if isnan(gain.value):
            return True
        return gain.low > 0.0 if self.worse_when == "higher" else gain.high < 0.0

    def reached(self) -> bool:
        """Whether the bar was reached."""
        ours = self.ours.estimate()
        value = ours.low if self.whole_interval else ours.value
        if not self.target:
            return True
        if self.worse_when == "higher":
            return value <= self.target
        return (
            1.0 / self.target <= value <= self.target
            if self.worse_when == "apart"
            else value >= self.target
        )

    def target_text(self) -> str:
        """The bar in words."""
        if not self.target:
            return ""
        if self.worse_when == "higher":
            return f"at most {self.target:g}"
        return (
            f"1/{self.target:g} to {self.target:g}"
            if self.worse_when == "apart"
            else f"{self.target:,.4g}"
        )

    def figures(self) -> dict[str, float]:
        """The values and their intervals by key: ours, the best simple base's, the batch model's."""
        best = self.best_base()
        every = {
            self.key: self.ours,
            f"{self.key}_best_simple_base": None if best is None else self.bases[best],
            f"{self.key}_batch": self.batch,
        }
        return {
            f"{key}{end}": round(value, 4)
            for key, draws in every.items()
            if draws is not None
            for end, value in zip(("", "_low", "_high"), draws.estimate(), strict=True)
        }

    def worse_than(self, before: Estimate) -> bool:
        """Whether ours lies beyond the former interval on the bad side."""
        value = round(float(self.ours.values[0]), 4)
        if self.worse_when == "neither":
            return False
        if isnan(value):
            return True
        below, above = value < before.low, value > before.high
        if self.worse_when == "apart":
            return (below or above) and _from_one(value) > _from_one(before.value)
        return below if self.worse_when == "lower" else above


def estimate_text(estimate: Estimate) -> str:
    """An estimate with its interval, in words."""
    value, low, high = (f"{x:,.0f}" if abs(x) > 1000 else f"{x:.3f}" for x in estimate)
    return value if low == high else f"{value} ({low} … {high})"


def _from_one(value: float) -> float:
    return abs(log(value)) if value > 0.0 else float("inf")


def regressions(rows: list[Row], before: Mapping[str, float | None]) -> Iterator[tuple[str, bool]]:
    """A line for each figure that is worse than before (True), or that cannot be compared (False)."""
    for row in rows:
        former = [before.get(f"{row.key}{end}") for end in ("", "_low", "_high")]
        if None in former:
            yield f"{row.key}: the former figures hold no interval of it", False
            continue
        value, low, high = (float(x) for x in former if x is not None)
        if row.worse_than(Estimate(value, low, high)):
            side = {"lower": "below", "higher": "above"}.get(row.worse_when, "outside")
            yield (
                (
                    f"{row.key}: {row.ours.values[0]:.4f} is worse: {side} {low:.4f} … {high:.4f}, "
                    f"the interval of {value:.4f}"
                ),
                True,
            )


def table_lines(row: Row) -> Iterator[tuple[str, str, str, str, str]]:
    """The figure's lines of the table: ours, then each base. What, the figure with its interval,
    ours less this one, the bar, remarks."""
    yield row.what, estimate_text(row.ours.estimate()), "", row.target_text(), row.remark
    best = row.best_base()
    for name, its in row.bases.items():
        mark = "best simple base" if name == best else ""
        if name == best and row.below_base():
            mark = "BETTER THAN EDDY: the best simple base"
        yield f"  {name}", *_beside(row, its), "", mark
    if row.batch is not None:
        yield "  batch model", *_beside(row, row.batch), "", "boosted trees, refitted weekly"


def _beside(row: Row, its: Draws) -> tuple[str, str]:
    return estimate_text(its.estimate()), estimate_text(row.ours.less(its).estimate())
