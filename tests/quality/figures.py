"""A figure of the quality table: its interval, its bar, what others reach, and when it is worse."""

from collections.abc import Iterator, Mapping
from math import isnan, log
from typing import Literal, NamedTuple

from tests.quality.intervals import Estimate

ComparedRun = Literal["lower", "higher", "apart", "neither"]
"""On which side a figure is bad: below, above, or further from 1 in either direction. `neither` is
for references, which depend on no code of Eddy's."""


class Row(NamedTuple):
    """One figure: its key in out/quality.json, what it is, ours, the bar (0: none), and a remark,
    such as what others reach. The bar is the least, the most, or a factor around 1, by `bad`.
    surely: the whole interval must reach the bar."""

    key: str
    what: str
    ours: Estimate
    target: float
    remark: str
    worse_when: ComparedRun = "lower"
    whole_interval: bool = False

    def reached(self) -> bool:
        """Whether the bar was reached."""
        value = self.ours.low if self.whole_interval else self.ours.value
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

    def value_text(self) -> str:
        """Ours with its interval."""
        value, low, high = (f"{x:,.0f}" if abs(x) > 1000 else f"{x:.3f}" for x in self.ours)
        return value if low == high else f"{value} ({low} … {high})"

    def figures(self) -> dict[str, float]:
        """The value and its interval by their keys."""
        names = self.key, f"{self.key}_low", f"{self.key}_high"
        return {name: round(float(x), 4) for name, x in zip(names, self.ours, strict=True)}

    def worse_than(self, before: Estimate) -> bool:
        """Whether ours lies beyond the former interval on the bad side."""
        value = round(float(self.ours.value), 4)
        if self.worse_when == "neither":
            return False
        if isnan(value):
            return True
        below, above = value < before.low, value > before.high
        if self.worse_when == "apart":
            return (below or above) and _from_one(value) > _from_one(before.value)
        return below if self.worse_when == "lower" else above


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
                    f"{row.key}: {row.ours.value:.4f} is worse: {side} {low:.4f} … {high:.4f}, "
                    f"the interval of {value:.4f}"
                ),
                True,
            )
