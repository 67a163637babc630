"""Several workers on one machine: starts them, starts a dead one again into its slot, stops all.

A worker does not know its siblings: they meet in the group only. Each is forked from one process
that has everything loaded (`stream.runtime.preload`), so that a successor works at once, and holds the
end of a pipe, so that it stops by itself when the supervisor is gone, however that ended. Reads no
topic and no configuration.
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

log = structlog.stdlib.get_logger(__name__)

PRELOADED_MODULES: Final = ("stream.runtime.preload",)

POLL_S: Final = 0.1
"""How often it is looked whether a worker has ended."""

BACKOFF_S: Final = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0)
"""How long a slot stays empty: after the first death not at all, since all its partitions wait."""

STABLE_S: Final = 120.0
"""A worker that lived so long dies for a new reason: back-off begins anew."""

ORPHAN_TIMEOUT_S: Final = 120.0
"""How long a worker whose supervisor is gone may take to stop cleanly."""


ProcessTarget = tuple[Callable[..., object], tuple[object, ...]]
"""What a process does: a function that can be named across processes, and its arguments."""


@dataclass(slots=True)
class _Slot:
    """A slot and the worker in it; deaths: in a row, without a steady life between them."""

    name: str
    target: ProcessTarget
    context: ForkServerContext
    process: ForkServerProcess | None = None
    started_at: float = 0.0
    failures: int = 0
    not_before: float = field(default_factory=time.monotonic)

    def start_if_due(self) -> None:
        """Start a worker if there is none, and it is time to. The first waits until everything is
        loaded."""
        if self.process is not None or time.monotonic() < self.not_before:
            return
        self.process = self.context.Process(
            target=_run_in_own_session, args=self.target, daemon=True
        )
        self.process.start()
        self.started_at = time.monotonic()
        log.info("worker started", worker=self.name, pid=self.process.pid, failures=self.failures)

    def reap(self) -> int | None:
        """The exit code of a worker that has ended since last asked, and when the next may
        start."""
        if self.process is None or (code := self.process.exitcode) is None:
            return None
        self.process.close()
        self.process = None
        now = time.monotonic()
        if now - self.started_at >= STABLE_S:
            self.failures = 0
        wait_s = BACKOFF_S[min(self.failures, len(BACKOFF_S) - 1)]
        self.failures += 1
        self.not_before = now + wait_s
        log_exit = log.warning if code else log.info
        log_exit("worker ended", worker=self.name, code=code, next_not_before_s=wait_s)
        return code


class Supervisor:
    """Keeps a worker in every slot until it is told to stop, or one ends for good."""

    def __init__(
        self, targets: dict[str, ProcessTarget], preload: Sequence[str] = PRELOADED_MODULES
    ) -> None:
        """works: of every slot's worker, by the slot's name. preload: modules to have in memory."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(preload))
        self._slots = [_Slot(name, target, context) for name, target in targets.items()]
        self._signals = 0
        self._stopping = False
        self._killed = False

    def run(self) -> int:
        """The exit code: the worst of the workers', 0 where all ended cleanly.

        The first SIGTERM or SIGINT has all workers stop cleanly, the second kills them. A worker
        that ends with a code that a start anew cannot mend (`stream.errors`) stops all others.
        """
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, self._on_signal)
        worst = 0
        while not self._stopping or any(slot.process for slot in self._slots):
            self._handle_signals()
            for slot in self._slots:
                code = slot.reap()
                # One that our SIGTERM ended had not begun yet, or it would have ended cleanly.
                stopped_by_us = self._stopping and code == -signal.SIGTERM
                if (
                    code is not None
                    and not stopped_by_us
                    and (self._stopping or code in NON_RESTARTABLE)
                ):
                    worst = max(worst, code if code >= 0 else 128 - code)
                    self._stop("a worker ended for good")
                if not self._stopping:
                    slot.start_if_due()
            time.sleep(POLL_S)
        log.info("all workers ended", code=worst)
        return worst

    def _on_signal(self, *_: object) -> None:
        """Only counted: a worker that is being started now has no process yet to be told."""
        self._signals += 1

    def _handle_signals(self) -> None:
        if self._signals >= 1:
            self._stop("stopping all workers")
        if self._signals >= 2 and not self._killed:
            self._killed = True
            self._send_signal(signal.SIGKILL, "killing all workers")

    def _stop(self, why: str) -> None:
        if not self._stopping:
            self._stopping = True
            self._send_signal(signal.SIGTERM, why)

    def _send_signal(self, number: int, why: str) -> None:
        log.info(why, workers=[slot.name for slot in self._slots if slot.process])
        for slot in self._slots:
            if slot.process is not None and slot.process.exitcode is None:
                os.kill(slot.process.pid or 0, number)


def worker_target(
    config: str, slot: str, http_port: int, log_level: str, allowed_drops: Sequence[str] = ()
) -> ProcessTarget:
    """What a supervised worker does: what its command line would."""
    dropping = [word for one in allowed_drops for word in ("--drop-state", one)]
    options = ["--slot", slot, "--http-port", str(http_port), "--log-level", log_level]
    return _run_command, ("run", config, *options, *dropping, "--supervised")


def _run_in_own_session(function: Callable[..., object], arguments: tuple[object, ...]) -> None:
    """In the forked process: in a session of its own, since the terminal's Ctrl-C is to reach it
    only through the supervisor, or it would be the second signal."""
    os.setsid()
    function(*arguments)


def _run_command(*arguments: str) -> None:
    from stream.cli import main

    sys.argv = ["eddy", *arguments]
    main()


def stop_with_supervisor() -> None:
    """In a worker: when the supervisor is gone, stop as by SIGTERM, and end at the latest then.

    Not by the kernel's signal at the parent's death: the parent is the process that forks workers,
    and that signal exists on Linux only.
    """
    supervisor = multiprocessing.parent_process()
    assert supervisor is not None, "nobody supervises this worker"

    def watch() -> None:
        wait([supervisor.sentinel])
        log.warning("the supervisor is gone: stopping")
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(ORPHAN_TIMEOUT_S)
        os._exit(1)

    Thread(target=watch, name="supervisor", daemon=True).start()
