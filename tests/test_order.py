"""Tests run in random order, which can be repeated."""

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def order(seed: int, *options: str) -> list[str]:
    """The tests of two folders in the order of a seed."""
    folders = [
        "tests/mutants",
        "tests/schemas/test_internal_events.py",
        "tests/runtime/test_supervisor.py",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--co", "-q", f"--order-seed={seed}", *options, *folders],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [line for line in done.stdout.splitlines() if "::" in line]


def test_a_seed_is_an_order() -> None:
    """The same seed gives the same order; another one gives another; 0 keeps that of the files."""
    one, again, other, plain = (order(seed) for seed in (1, 1, 2, 0))
    assert one == again
    assert one != other != plain
    assert sorted(one) == sorted(other) == sorted(plain)
    files = [name.partition("::")[0] for name in one]
    changes = sum(a != b for a, b in pairwise(files))
    assert changes + 1 == len(set(files)), "the tests of a file stay together"
