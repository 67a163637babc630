"""Runs several workers on one machine: restarts one that crashes in the same slot, and stops all.

Workers share only the consumer group. Each is forked from a
process that has loaded every module and compiled kernel (`stream.runtime.preload`), so that a
restarted worker starts at once. It also holds the end of a pipe, so that it stops when the
supervisor is gone, however that ended. The supervisor itself reads no topic and no configuration.
"""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerContext, ForkServerProcess
from threading import Thread
from typing import Final

import structlog

from stream.errors import NON_RESTARTABLE

logger = structlog.stdlib.get_logger(__name__)

PRELOADED_MODULES: Final = ("stream.runtime.preload",)

POLL_S: Final = 0.1
"""How often to check whether a worker has ended."""

BACKOFF_S: Final = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0)
"""Pause before a restart, by the number of consecutive failures. The first restart is immediate, since
no other worker processes the partitions of the slot meanwhile."""

STABLE_S: Final = 120.0
"""A run at least this long resets the count of consecutive failures."""

ORPHAN_TIMEOUT_S: Final = 120.0
"""How long a worker whose supervisor is gone may take to stop cleanly."""


ProcessTarget = tuple[Callable[..., object], tuple[object, ...]]
"""What a process runs: a function that can be pickled, and its arguments."""


@dataclass(slots=True)
class _Slot:
    """A slot and the worker in it. failures: consecutive exits without a run of STABLE_S between them."""

    name: str
    target: ProcessTarget
    context: ForkServerContext
    process: ForkServerProcess | None = None
    started_at: float = 0.0
    failures: int = 0
    not_before: float = field(default_factory=time.monotonic)

    def start_if_due(self) -> None:
        """Start a worker if the slot is empty and its back-off is over."""
        if self.process is not None or time.monotonic() < self.not_before:
            return
        self.process = self.context.Process(
            target=_run_in_own_session, args=self.target, daemon=True
        )
        self.process.start()
        self.started_at = time.monotonic()
        logger.info(
            "worker started", worker=self.name, pid=self.process.pid, failures=self.failures
        )

    def reap(self) -> int | None:
        """Empty the slot if its worker has ended, and return the exit code; else return None."""
        if self.process is None or (code := self.process.exitcode) is None:
            return None
        self.process.close()
        self.process = None
        now = time.monotonic()
        if now - self.started_at >= STABLE_S:
            self.failures = 0
        backoff_s = BACKOFF_S[min(self.failures, len(BACKOFF_S) - 1)]
        self.failures += 1
        self.not_before = now + backoff_s
        log_exit = logger.warning if code else logger.info
        log_exit("worker ended", worker=self.name, code=code, next_not_before_s=backoff_s)
        return code


class Supervisor:
    """Keeps a worker running in every slot, until it is stopped or a restart would not help."""

    def __init__(
        self, targets: dict[str, ProcessTarget], preload: Sequence[str] = PRELOADED_MODULES
    ) -> None:
        """targets: what to run, by slot. preload: modules to load before the first fork."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(preload))
        self._slots = [_Slot(name, target, context) for name, target in targets.items()]
        self._signals = 0
        self._stopping = False
        self._killed = False

    def run(self) -> int:
        """Return the highest exit code of the workers that ended for good; 0 if all ended cleanly.

        The first SIGTERM or SIGINT stops all workers cleanly, the second kills them. A worker whose
        exit code says that a restart will not help (`stream.errors`) stops all others.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        highest = 0
        while not self._stopping or any(slot.process for slot in self._slots):
            self._handle_signals()
            for slot in self._slots:
                code = slot.reap()
                # A worker that SIGTERM kills had not installed its handler yet: a clean stop.
                stopped_by_us = self._stopping and code == -signal.SIGTERM
                if (
                    code is not None
                    and not stopped_by_us
                    and (self._stopping or code in NON_RESTARTABLE)
                ):
                    highest = max(highest, code if code >= 0 else 128 - code)
                    self._stop("restarting a worker would not help: stopping all")
                if not self._stopping:
                    slot.start_if_due()
            time.sleep(POLL_S)
        logger.info("all workers ended", code=highest)
        return highest

    def _on_signal(self, *_: object) -> None:
        """Count the signal; `run` handles it, when no worker is half started."""
        self._signals += 1

    def _handle_signals(self) -> None:
        if self._signals >= 1:
            self._stop("stopping all workers")
        if self._signals >= 2 and not self._killed:
            self._killed = True
            self._send_signal(signal.SIGKILL, "killing all workers")

    def _stop(self, reason: str) -> None:
        if not self._stopping:
            self._stopping = True
            self._send_signal(signal.SIGTERM, reason)

    def _send_signal(self, number: int, reason: str) -> None:
        logger.info(reason, workers=[slot.name for slot in self._slots if slot.process])
        for slot in self._slots:
            if slot.process is not None and slot.process.exitcode is None:
                os.kill(slot.process.pid or 0, number)


def worker_target(
    command: Callable[[], object],
    config: str,
    slot: str,
    http_port: int,
    log_level: str,
    allowed_drops: Sequence[str] = (),
) -> ProcessTarget:
    """What a supervised worker runs: the command line of a single worker.

    command: the program's entry point. allowed_drops: arguments of --drop-state.
    """
    drops = [word for drop in allowed_drops for word in ("--drop-state", drop)]
    options = ["--slot", slot, "--http-port", str(http_port), "--log-level", log_level]
    return _run_command, (command, "run", config, *options, *drops, "--supervised")


def _run_in_own_session(function: Callable[..., object], arguments: tuple[object, ...]) -> None:
    """Run in a new session, so that Ctrl-C in the terminal reaches a worker only through the supervisor.
    Otherwise it would get two signals, and the second ends a worker at once."""
    os.setsid()
    function(*arguments)


def _run_command(command: Callable[[], object], *arguments: str) -> None:
    sys.argv = ["eddy", *arguments]
    command()


def stop_with_supervisor() -> None:
    """In a worker: stop as by SIGTERM when the supervisor is gone, and exit if that takes too long.

    PR_SET_PDEATHSIG of Linux cannot be used: the parent of a worker is the fork server, not the
    supervisor.
    """
    supervisor = multiprocessing.parent_process()
    assert supervisor is not None, "this process has no supervisor"

    def watch() -> None:
        wait([supervisor.sentinel])
        logger.warning("the supervisor is gone: stopping")
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(ORPHAN_TIMEOUT_S)
        os._exit(1)

    Thread(target=watch, name="supervisor", daemon=True).start()
