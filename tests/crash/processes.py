"""Worker processes that start at once: forked from one that has everything loaded.

Each is a process of its own that runs the command line as it is, and may be told to kill or freeze
itself at a point (`tests.broker.dying`), or to be broken in a way (`tests.broker.sabotage`). A plain `eddy run` spends two seconds on its imports;
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

from tests.broker.dying import ALL, arm
from tests.broker.sabotage import SABOTAGES
from tests.broker.shop import PATIENCE_S, Child, Shop, WorkerProcess

PR_SET_PDEATHSIG: Final = 1  # from <linux/prctl.h>
LOOK_S: Final = 0.05

Plan = Sequence[tuple[str, int]]
"""Points of `tests.broker.dying.ALL`, each with the how many-th call that counts."""

_starting = Lock()


@cache
def warm_context() -> ForkServerContext:
    """Starts processes from one that has everything loaded."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.crash.warm"])
    return context


def _work(arguments: list[str], log_file: str, plan: Plan, broken: str) -> None:
    """In the forked process: become the command."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    log = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    for point, after in plan:
        arm(ALL[point], after)
    if broken:
        SABOTAGES[broken]()
    sys.argv = ["eddy", *arguments]
    from stream.cli import main

    main()


@dataclass
class Forked(WorkerProcess):
    """A worker process, and the slot that it runs in."""

    slot: str

    def owned(self) -> dict[tuple[str, int], bool]:
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
                case "partition given back" | "partition lost":
                    found.pop(where, None)
        return found

    def alive(self) -> bool:
        """Whether it runs, or stands still."""
        return self.process.poll() is None

    def frozen(self) -> bool:
        """Whether it stands still."""
        stat = Path(f"/proc/{self.process.pid}/stat")
        return self.alive() and stat.read_text().rpartition(")")[2].split()[0] == "T"

    def send(self, number: signal.Signals) -> None:
        """Signal it, if it is still there."""
        self.process.send_signal(number)

    def ended(self) -> int:
        """Wait for its end; its exit code, negative where a signal ended it."""
        return self.process.wait(PATIENCE_S)


def command(arguments: list[str], log_file: Path, plan: Plan = (), broken: str = "") -> Child:
    """Start the command line with these arguments; it dies with this process."""
    with _starting:
        process = warm_context().Process(
            target=_work, args=(arguments, str(log_file), list(plan), broken), daemon=True
        )
        process.start()
    return Child(process)


def start(shop: Shop, slot: str = "one", plan: Plan = (), broken: str = "") -> Forked:
    """Start a worker of the shop's group in that slot; it dies with this process."""
    log_file = shop.config.with_name(f"{shop.group}-{slot}-{time.time_ns()}.log")
    arguments = ["run", str(shop.config), "--slot", slot]
    arguments += (word for one in shop.drops for word in ("--drop-state", one))
    return Forked(command(arguments, log_file, plan, broken), log_file, slot)


@contextmanager
def forked(shop: Shop, slot: str = "one", plan: Plan = (), broken: str = "") -> Iterator[Forked]:
    """A worker; killed at the end unless it has ended by itself.

    broken: the way in which it is, one of `tests.broker.sabotage`; whole by default.
    """
    worker = start(shop, slot, plan, broken)
    try:
        yield worker
    finally:
        worker.stop(signal.SIGKILL)


def wait_for(condition: Callable[[], bool], what: str, *needed: Forked) -> None:
    """Return when the condition holds; fail when patience, or one of the workers needed, ends."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {PATIENCE_S} s for {what}"
        for worker in needed:
            assert worker.alive(), (
                f"worker {worker.slot} ended ({worker.process.poll()}) before {what}: "
                f"{worker.log_file}"
            )
        time.sleep(LOOK_S)
