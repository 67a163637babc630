"""Scores do not change by accident: every monitor of the laws finds what it found before."""

from importlib.metadata import entry_points
from typing import Any

import orjson
import pytest

from tests.laws.golden_scores import FILE, found
from tests.laws.registry import MONITORS

GOLDEN: dict[str, Any] = orjson.loads(FILE.read_bytes())


@pytest.mark.skipif(
    bool(entry_points(group="eddy.detectors") or entry_points(group="eddy.features")),
    reason="other packages add features or detectors of their own here",
)
@pytest.mark.parametrize("name", MONITORS)
def test_a_monitor_finds_what_it_found_before(name: str) -> None:
    """Features, surprises, p-values, thresholds, incidents, over plain and hostile streams. Where
    scores are meant to change: python -m tests.laws.golden_scores."""
    for stream, sums in found(name).items():
        expected = GOLDEN[name][stream]
        assert sums.keys() == expected.keys()
        for array, values in sums.items():
            assert values == pytest.approx(expected[array], rel=1e-9, abs=1e-9), (stream, array)
