"""How kernels are compiled: cached machine code is what would be compiled now."""

import subprocess
import sys
from pathlib import Path

import pytest

CALLER = """
from detectors.numeric.kernels import kernel
from called import FACTOR, inner

@kernel
def outer(x: float) -> float:
    return FACTOR * inner(x)

print(outer(1.0), sum(outer.stats.cache_hits.values()))
"""
CALLED = """
import numpy as np

from detectors.numeric.kernels import kernel

FACTOR = {factor}

@kernel
def inner(x: float) -> float:
    return {value}
"""


@pytest.mark.slow
def test_a_kernel_is_recompiled_when_its_dependencies_change(tmp_path: Path) -> None:
    """When a kernel of another module or a constant changes, even by a name only, the result
    changes; when nothing changes, nothing is compiled."""
    (tmp_path / "caller.py").write_text(CALLER)

    def answer(factor: str, value: str) -> str:
        (tmp_path / "called.py").write_text(CALLED.format(factor=factor, value=value))
        command = [sys.executable, "-B", "caller.py"]
        return subprocess.check_output(command, cwd=tmp_path, text=True).strip()

    assert answer("1.0", "x + 1.0") == "2.0 0"
    assert answer("1.0", "x + 1.0") == "2.0 1"
    assert answer("1.0", "x + 2.0") == "3.0 0"
    assert answer("np.float64(5.0)", "x + 2.0") == "15.0 0"
    assert answer("np.float64(8.0)", "x + 2.0") == "24.0 0"
    assert answer("1.0", "min(x, 3.0)") == "1.0 0"
    assert answer("1.0", "max(x, 3.0)") == "3.0 0"
    assert answer("1.0", "x + 1.0") == "2.0 1"


NAMED = """
from typing import NamedTuple

from detectors.numeric.kernels import kernel

class {name}(NamedTuple):
    x: float

@kernel
def first(pair: {name}) -> float:
    return pair.x

print(first({name}(2.0)))
"""


@pytest.mark.slow
def test_a_cache_of_a_version_that_named_a_type_otherwise_is_replaced(tmp_path: Path) -> None:
    """An upgrade in place may rename a type that the index of cached code names: it is compiled
    again."""
    for name in ("Pair", "Couple"):
        (tmp_path / "named.py").write_text(NAMED.format(name=name))
        command = [sys.executable, "-B", "-c", "import named"]
        assert subprocess.check_output(command, cwd=tmp_path, text=True).strip() == "2.0"
