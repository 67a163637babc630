"""Where time goes: wall and processor time of a stretch of code, of another process, and of single
methods of objects that know nothing of it.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from schemas.columns import F64

TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


@dataclass
class TimeSpent:
    """How many events took how long, and how much processor time of all threads."""

    events: int
    wall_s: float
    cpu_s: float

    @property
    def per_s(self) -> float:
        """Events a second."""
        return self.events / self.wall_s

    @property
    def cpu_s_per_million(self) -> float:
        """Processor seconds for a million events."""
        return self.cpu_s / self.events * 1e6


def time_spent(events: int, run: Callable[[], object]) -> TimeSpent:
    """What a call took in this process."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return TimeSpent(events, time.perf_counter() - wall, time.process_time() - cpu)


def cpu_s(pid: int) -> float:
    """Processor seconds of another process so far, user and system, all threads."""
    numbers = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(numbers[11]) + int(numbers[12])) / TICKS_PER_S


def rss_bytes() -> int:
    """Resident memory of this process now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES


@dataclass
class Stopwatch:
    """Wall seconds, and this thread's processor seconds, by name of what is timed.

    What is timed inside of something else counts only as its own.
    """

    seconds: dict[str, F64] = field(default_factory=dict)
    _inner: list[F64] = field(default_factory=lambda: [np.zeros(2)])

    @contextmanager
    def timing(self, name: str) -> Iterator[None]:
        """Count the time of the block to that name, less what is timed inside."""
        self._inner.append(np.zeros(2))
        started = _now_s()
        try:
            yield
        finally:
            whole = _now_s() - started
            own = whole - self._inner.pop()
            self._inner[-1] += whole
            self.seconds[name] = self.seconds.get(name, 0.0) + own

    @contextmanager
    def watching(self, places: list[tuple[Any, str, str]]) -> Iterator[None]:
        """Time calls: (object, class or module; attribute; name)."""
        before = [(owner, name, vars(owner).get(name)) for owner, name, _ in places]
        for owner, name, label in places:
            setattr(owner, name, self._timed(getattr(owner, name), label))
        try:
            yield
        finally:
            for owner, name, original in before:
                if original is None:
                    delattr(owner, name)
                else:
                    setattr(owner, name, original)

    def _timed(self, call: Callable[..., Any], label: str) -> Callable[..., Any]:
        def timed(*arguments: Any, **named: Any) -> Any:
            with self.timing(label):
                return call(*arguments, **named)

        return timed


def _now_s() -> F64:
    """Wall clock and this thread's processor time."""
    return np.array([time.perf_counter(), time.thread_time()])
