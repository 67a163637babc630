"""A broker of the test's own, which may be stopped, frozen and restarted; its data stays."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.conftest import BROKER, EXIT_MISSING, broker_required

BACK_AFTER_S = 3.0
"""How long a killed broker of several stays away."""


@dataclass
class OwnBroker:
    """A broker on 127.0.0.1, or several; the ports stay the same through restarts.

    settings: further broker properties, as `key=value`.
    """

    folder: Path
    settings: Sequence[str] = ()
    nodes: int = 1
    bootstrap: str = ""
    _process: subprocess.Popen[str] | None = field(default=None, repr=False)

    def start(self) -> None:
        """Start it, and wait until it accepts requests."""
        command = [sys.executable, str(BROKER), "--with-parent", "--data", str(self.folder)]
        if self.nodes > 1:
            command += ["--nodes", str(self.nodes), "--bring-back", str(BACK_AFTER_S)]
        command += [part for one in self.settings for part in ("--set", one)]
        if self.bootstrap:
            command += ["--port", self.bootstrap.rpartition(":")[2]]
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if not line.startswith("bootstrap="):
            if self._process.wait() == EXIT_MISSING and not broker_required():
                pytest.skip("Java or Maven is missing")
            pytest.fail("no broker", pytrace=False)
        self.bootstrap = line.removeprefix("bootstrap=")

    def stop(self) -> None:
        """Stop it cleanly."""
        assert self._process is not None
        self._process.terminate()
        self._process.communicate()

    def kill(self) -> None:
        """Kill the broker, without any cleanup."""
        os.kill(self._java(), signal.SIGKILL)
        assert self._process is not None
        self._process.communicate()

    def kill_second(self) -> None:
        """Kill the second of several; it restarts after `BACK_AFTER_S`."""
        os.kill(self._java(1), signal.SIGKILL)

    def freeze(self) -> None:
        """Stop answering, with connections left open."""
        os.kill(self._java(), signal.SIGSTOP)

    def thaw(self) -> None:
        """Continue."""
        os.kill(self._java(), signal.SIGCONT)

    def _java(self, number: int = 0) -> int:
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        return int(children.read_text().split()[number])


@contextmanager
def own_broker(folder: Path, settings: Sequence[str] = (), nodes: int = 1) -> Iterator[OwnBroker]:
    """Run a broker, or several, with data in that folder; stop it at the end.

    settings: further broker properties, as `key=value`.
    """
    broker = OwnBroker(folder, settings, nodes)
    broker.start()
    try:
        yield broker
    finally:
        broker.thaw()
        broker.stop()
