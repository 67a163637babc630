"""Real workers in simulated time: whatever fails, they commit what the reference run does."""

import os
import subprocess
import sys
from typing import Final

import pytest

from tests.simulation.__main__ import command
from tests.simulation.bugs import BUGS
from tests.simulation.run import simulate

SEEDS: Final = 500
SEEDS_PER_TEST: Final = 25
QUICK_SEEDS: Final = 2
BUG_SEEDS: Final = 40
DIGEST: Final = "from tests.simulation.run import simulate; print(simulate({seed}).digest)"


def failures(seeds: range) -> str:
    """What is wrong with these seeds, each with the command that repeats it."""
    outcomes = [simulate(seed) for seed in seeds]
    return "\n".join(
        f"seed {one.seed}: {one.problems}: {command(one.seed)}" for one in outcomes if one.problems
    )


def test_a_few_seeds_pass() -> None:
    """Faults, restarts and rebalances change nothing of what is committed."""
    assert not (wrong := failures(range(QUICK_SEEDS))), wrong


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, SEEDS, SEEDS_PER_TEST))
def test_all_seeds_pass(first: int) -> None:
    """The same of many schedules."""
    assert not (wrong := failures(range(first, first + SEEDS_PER_TEST))), wrong


def test_a_seed_is_a_whole_run() -> None:
    """The same seed leads to the same trace; another one to another."""
    digests = [simulate(seed).digest for seed in (11, 11, 12)]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.slow
def test_a_seed_is_the_same_run_in_every_process() -> None:
    """Nothing depends on the order of a set, which each process hashes in its own way."""
    digests = {
        subprocess.run(
            [sys.executable, "-c", DIGEST.format(seed=seed)],
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for hash_seed in ("1", "2")
        for seed in (11,)
    }
    assert len(digests) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", BUGS)
def test_each_bug_is_found(name: str) -> None:
    """A worker that is broken on purpose fails within a few seeds."""
    assert any(simulate(seed, BUGS[name]).problems for seed in range(BUG_SEEDS))
