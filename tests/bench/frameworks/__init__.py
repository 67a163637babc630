"""Other frameworks doing less than Eddy: a z-score of the amount per account, state recovered.

Each is a script of its own that runs in an environment of its own, `.tools/bench-env`, made from
`requirements.lock` here. Written as their documentation shows it.
"""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import orjson

from tests.bench.timing import TimeSpent

HERE: Final = Path(__file__).resolve().parent
ENVIRONMENT: Final = HERE.parents[2] / ".tools" / "bench-env"
WAIT_MAX_S: Final = 300


class NotAvailableError(Exception):
    """A framework cannot be installed or does not run here; the message says why."""


def install() -> None:
    """Make the environment, unless it is as the lock says already."""
    lock, stamp = HERE / "requirements.lock", ENVIRONMENT / "requirements.lock"
    if stamp.is_file() and stamp.read_bytes() == lock.read_bytes():
        return
    uv = shutil.which("uv") or str(ENVIRONMENT.parent / "uv" / "bin" / "uv")
    python = str(ENVIRONMENT / "bin" / "python")
    _run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(ENVIRONMENT)])
    _run([uv, "pip", "sync", "--quiet", "--python", python, str(lock)])
    shutil.copy(lock, stamp)


def measure(
    script: str, bootstrap: str, topic: str, out: str, events: int, folder: Path
) -> TimeSpent:
    """What a framework's script took for the topic, from its first record to its last."""
    python = str(ENVIRONMENT / "bin" / "python")
    said = _run([python, str(HERE / script), bootstrap, topic, out, str(events), str(folder)])
    return TimeSpent(**orjson.loads(said.splitlines()[-1]))


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=WAIT_MAX_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotAvailableError(str(error)) from error
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise NotAvailableError(f"{Path(command[0]).name} {Path(command[1]).name}: {last}")
    return done.stdout
