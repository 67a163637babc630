"""The same cases on the in-memory broker and on a real one: what workers rely on is true of both.

What the in-memory broker cannot do is a strict xfail with its reason.
"""

from collections.abc import Callable
from typing import Any

import pytest

from tests.simulation.clusters import Cluster, KafkaCluster, in_memory
from tests.simulation.contract import CASES, NOT_IN_MEMORY


def marked(case: Callable[[Cluster], None]) -> Any:
    """The case as a parameter of the in-memory test."""
    reason = NOT_IN_MEMORY.get(case)
    marks = [pytest.mark.xfail(strict=True, reason=reason)] if reason else []
    return pytest.param(case, id=case.__name__, marks=marks)


@pytest.mark.parametrize("case", [marked(case) for case in CASES])
def test_in_memory(case: Callable[[Cluster], None]) -> None:
    """The in-memory broker behaves as the case says, however its steps are interleaved."""
    for seed in range(10):
        in_memory(case, seed)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_on_a_real_broker(case: Callable[[Cluster], None], broker: str) -> None:
    """A real broker behaves the same."""
    case(KafkaCluster(broker))
