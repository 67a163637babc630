"""Several workers on one machine: starts them, starts a dead one again into its slot, stops all.

A worker does not know its siblings: they meet in the group only. Each holds the end of a pipe, its
standard input, so that it stops by itself when the supervisor is gone, however that ended. Reads no
topic and no configuration.
"""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from threading import Thread
from typing import Final

import structlog

from stream.errors import NOT_MENDED

log = structlog.stdlib.get_logger(__name__)

LOOK_S: Final = 0.1
"""How often it is looked whether a worker has ended."""

BACK_OFF_S: Final = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0)
"""How long a slot stays empty: after the first death not at all, since all its partitions wait."""

STEADY_S: Final = 120.0
"""A worker that lived so long dies for a new reason: back-off begins anew."""

ORPHAN_S: Final = 120.0
"""How long a worker whose supervisor is gone may take to stop cleanly."""


@dataclass(slots=True)
class _Slot:
    """A slot and the worker in it; deaths: in a row, without a steady life between them."""

    name: str
    command: list[str]
    process: subprocess.Popen[bytes] | None = None
    begun_at: float = 0.0
    deaths: int = 0
    start_at: float = field(default_factory=time.monotonic)

    def fill(self) -> None:
        """Start a worker if there is none, and it is time to.

        In a session of its own: the terminal's Ctrl-C is to reach it only through the supervisor,
        or it would be the second signal.
        """
        if self.process is not None or time.monotonic() < self.start_at:
            return
        self.process = subprocess.Popen(  # noqa: S603  # ourselves, with arguments of our making
            self.command, stdin=subprocess.PIPE, start_new_session=True
        )
        self.begun_at = time.monotonic()
        log.info("worker started", worker=self.name, pid=self.process.pid, deaths=self.deaths)

    def buried(self) -> int | None:
        """The exit code of a worker that has ended since last asked, and when the next may
        start."""
        if self.process is None or (code := self.process.poll()) is None:
            return None
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process = None
        now = time.monotonic()
        if now - self.begun_at >= STEADY_S:
            self.deaths = 0
        wait_s = BACK_OFF_S[min(self.deaths, len(BACK_OFF_S) - 1)]
        self.deaths += 1
        self.start_at = now + wait_s
        say = log.warning if code else log.info
        say("worker ended", worker=self.name, code=code, next_not_before_s=wait_s)
        return code


class Supervisor:
    """Keeps a worker in every slot until it is told to stop, or one ends for good."""

    def __init__(self, commands: dict[str, list[str]]) -> None:
        """commands: the command line of every slot's worker, by the slot's name."""
        self._slots = [_Slot(name, command) for name, command in commands.items()]
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
            self._obey()
            for slot in self._slots:
                code = slot.buried()
                # One that our SIGTERM ended had not begun yet, or it would have ended cleanly.
                told = self._stopping and code == -signal.SIGTERM
                if code is not None and not told and (self._stopping or code in NOT_MENDED):
                    worst = max(worst, code if code >= 0 else 128 - code)
                    self._stop("a worker ended for good")
                if not self._stopping:
                    slot.fill()
            time.sleep(LOOK_S)
        log.info("all workers ended", code=worst)
        return worst

    def _on_signal(self, *_: object) -> None:
        """Only counted: a worker that is being started now has no process yet to be told."""
        self._signals += 1

    def _obey(self) -> None:
        if self._signals >= 1:
            self._stop("stopping all workers")
        if self._signals >= 2 and not self._killed:
            self._killed = True
            self._tell(signal.SIGKILL, "killing all workers")

    def _stop(self, why: str) -> None:
        if not self._stopping:
            self._stopping = True
            self._tell(signal.SIGTERM, why)

    def _tell(self, number: int, why: str) -> None:
        log.info(why, workers=[slot.name for slot in self._slots if slot.process])
        for slot in self._slots:
            if slot.process is not None:
                slot.process.send_signal(number)


def worker_command(config: str, slot: str, http_port: int, log_level: str) -> list[str]:
    """The command line of a supervised worker."""
    options = ["--slot", slot, "--http-port", str(http_port), "--log-level", log_level]
    return [sys.executable, "-m", "stream.cli", "run", config, *options, "--supervised"]


def stop_with_supervisor() -> None:
    """In a worker: when the supervisor is gone, stop as by SIGTERM, and end at the latest then.

    A pipe, and not the kernel's signal at the parent's death: that one comes when the thread ends
    that started us, exists on Linux only, and cannot be missed only by asking who the parent is.
    """

    def wait() -> None:
        while os.read(sys.stdin.fileno(), 1):
            pass
        log.warning("the supervisor is gone: stopping")
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(ORPHAN_S)
        os._exit(1)

    Thread(target=wait, name="supervisor", daemon=True).start()
