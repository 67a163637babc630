"""A figure of the quality table: what it is, what it should be, and what others reach."""

from typing import NamedTuple


class Row(NamedTuple):
    """One figure: its key in out/quality.json, what it is, ours, the bar (0: none), and a remark,
    such as what others reach. factor: it is to lie within that factor of 1, not above the bar;
    most: it is to lie at the bar or below."""

    key: str
    what: str
    ours: float
    bar: float
    remark: str
    factor: bool = False
    most: bool = False

    def reached(self) -> bool:
        """Whether the bar was reached."""
        if not self.bar:
            return True
        if self.most:
            return self.ours <= self.bar
        return 1.0 / self.bar <= self.ours <= self.bar if self.factor else self.ours >= self.bar

    def asked(self) -> str:
        """The bar in words."""
        if not self.bar:
            return ""
        if self.most:
            return f"at most {self.bar:g}"
        return f"1/{self.bar:g} to {self.bar:g}" if self.factor else f"{self.bar:,.4g}"
