"""x"""

from tests.bench.figures import Figures


def run(figures: Figures) -> None: ...
