"""Worker processes that start at once: forked from one that has everything loaded.

Each is a process of its own that runs the command line as it is, and may be told to kill or freeze
itself at a point (`tests.broker.crash_points`), or to be broken in a way (`tests.broker.bugs`). A plain `eddy run` spends two seconds on its imports;
hundreds of restarts cannot.
"""

import ctypes
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from multiprocessing.context import ForkServerContext
from pathlib import Path
from threading import Lock
from typing import Final

from tests.broker.bugs import BUGS
from tests.broker.crash_points import ALL_POINTS, arm
from tests.broker.shop import WAIT_MAX_S, Child, Shop, WorkerProcess

PR_SET_PDEATHSIG: Final = 1  # from <linux/prctl.h>
POLL_S: Final = 0.05

Plan = Sequence[tuple[str, int]]
"""Points of `tests.broker.crash_points.ALL_POINTS_POINTS`, each with the how many-th call that counts."""

_starting = Lock()


@cache
def preloaded_context() -> ForkServerContext:
    """Starts processes from one that has everything loaded."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.crash.preload"])
    return context


def _run_command(arguments: list[str], log_file: str, plan: Plan, bug: str) -> None:
    """In the forked process: become the command."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    log = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    for point, after in plan:
        arm(ALL_POINTS[point], after)
    if bug:
        BUGS[bug]()
    sys.argv = ["eddy", *arguments]
    from stream.cli import main

    main()


@dataclass
class ForkedWorker(WorkerProcess):
    """A worker process, and the slot that it runs in."""

    slot: str

    def owned_partitions(self) -> dict[tuple[str, int], bool]:
        """The partitions that it has now, each with whether it is live there."""
        found: dict[tuple[str, int], bool] = {}
        for line in self.log():
            if "partition" not in line:
                continue
            where = (line["topic"], line["partition"])
            match line["event"]:
                case "partition taken":
                    found[where] = line["next_offset"] >= line["live_from"]
                case "re-learned":
                    found[where] = True
                case "partition revoked" | "partition lost":
                    found.pop(where, None)
        return found

    def is_alive(self) -> bool:
        """Whether it runs, or stands still."""
        return self.process.poll() is None

    def is_frozen(self) -> bool:
        """Whether it stands still."""
        stat = Path(f"/proc/{self.process.pid}/stat")
        return self.is_alive() and stat.read_text().rpartition(")")[2].split()[0] == "T"

    def send_signal(self, number: signal.Signals) -> None:
        """Signal it, if it is still there."""
        self.process.send_signal(number)

    def wait_for_exit(self) -> int:
        """Wait for its end; its exit code, negative where a signal ended it."""
        return self.process.wait(WAIT_MAX_S)


def fork_command(arguments: list[str], log_file: Path, plan: Plan = (), bug: str = "") -> Child:
    """Start the command line with these arguments; it dies with this process."""
    with _starting:
        process = preloaded_context().Process(
            target=_run_command, args=(arguments, str(log_file), list(plan), bug), daemon=True
        )
        process.start()
    return Child(process)


def start_worker(shop: Shop, slot: str = "one", plan: Plan = (), bug: str = "") -> ForkedWorker:
    """Start a worker of the shop's group in that slot; it dies with this process."""
    log_file = shop.config.with_name(f"{shop.group}-{slot}-{time.time_ns()}.log")
    arguments = ["run", str(shop.config), "--slot", slot]
    arguments += (word for one in shop.drops for word in ("--drop-state", one))
    return ForkedWorker(fork_command(arguments, log_file, plan, bug), log_file, slot)


@contextmanager
def running_worker(
    shop: Shop, slot: str = "one", plan: Plan = (), bug: str = ""
) -> Iterator[ForkedWorker]:
    """A worker; killed at the end unless it has ended by itself.

    broken: the way in which it is, one of `tests.broker.bugs`; whole by default.
    """
    worker = start_worker(shop, slot, plan, bug)
    try:
        yield worker
    finally:
        worker.stop(signal.SIGKILL)


def wait_for(condition: Callable[[], bool], what: str, *required: ForkedWorker) -> None:
    """Return when the condition holds; fail when patience, or one of the workers needed, ends."""
    deadline = time.monotonic() + WAIT_MAX_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {WAIT_MAX_S} s for {what}"
        for worker in required:
            assert worker.is_alive(), (
                f"worker {worker.slot} ended ({worker.process.poll()}) before {what}: "
                f"{worker.log_file}"
            )
        time.sleep(POLL_S)
