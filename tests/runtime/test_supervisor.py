"""The supervisor with real processes instead of workers: restarts, and how it ends."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import orjson
import pytest

from stream.errors import (
    NON_RESTARTABLE,
    CommitOutcomeUnknown,
    Fatal,
    Fenced,
    RetentionGap,
    Retriable,
    StoreFailure,
)
from stream.runtime.supervisor import BACKOFF_S, worker_target

pytestmark = pytest.mark.slow  # each test starts processes

ROOT = Path(__file__).resolve().parents[2]
SUPERVISE = """
import json, sys
from stream.telemetry import logging
from stream.runtime.supervisor import Supervisor
logging.configure_logging("info", slot="shop")
works = {slot: (exec, (text,)) for slot, text in json.loads(sys.argv[1]).items()}
sys.exit(Supervisor(works, preload=()).run())
"""
STAYS = "import time; time.sleep(1000)"
STUBBORN = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(1000)"
ORPHAN = (
    "from stream.runtime import supervisor as s; s.ORPHAN_TIMEOUT_S = 1; s.stop_with_supervisor(); "
    "import time; time.sleep(1000)"
)


@contextmanager
def supervised(*scripts: str) -> Iterator[subprocess.Popen[str]]:
    """A supervisor of one Python script a slot, in slots shop-0, shop-1 and so on."""
    texts = {f"shop-{i}": text for i, text in enumerate(scripts)}
    process = subprocess.Popen(
        [sys.executable, "-c", SUPERVISE, json.dumps(texts)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGSTOP)  # so that it starts nobody while they are killed
        for pid in [*descendants(process.pid), process.pid]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.communicate()  # returns when nobody can write any more


def descendants(pid: int) -> list[int]:
    """The processes that a process has started, and those that these have."""
    with suppress(OSError):
        own = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        return [one for child in own for one in (child, *descendants(child))]
    return []


def next_line(process: subprocess.Popen[str], event: str) -> dict[str, object]:
    """The next log line of that event."""
    assert process.stderr is not None
    for line in process.stderr:
        said: dict[str, object] = orjson.loads(line)
        if said["event"] == event:
            return said
    raise AssertionError(event)


def is_gone(pid: object) -> bool:
    """Whether a process has ended, even if it was not waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"
    except OSError:
        return True


def wait_for(condition: Callable[[], bool]) -> None:
    """Return when the condition holds; fail after a minute."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_killed_worker_is_started_again_in_its_slot_and_the_others_stay() -> None:
    """The next process has the same slot, at first without a pause; the back-off grows."""
    with supervised(STAYS, STAYS) as process:
        first, other = next_line(process, "worker started"), next_line(process, "worker started")
        waits = []
        for failures in (1, 2, 3):
            os.kill(int(str(first["pid"])), signal.SIGKILL)
            ended = next_line(process, "worker ended")
            assert (ended["worker"], ended["code"]) == ("shop-0", -signal.SIGKILL)
            waits.append(ended["next_not_before_s"])
            first = next_line(process, "worker started")
            assert (first["worker"], first["failures"]) == ("shop-0", failures)
        assert waits == list(BACKOFF_S[:3])
        assert not is_gone(other["pid"])
        process.terminate()
        assert process.wait(60) == 0  # a worker that SIGTERM ends at once had nothing to finish
        assert is_gone(first["pid"])
        assert is_gone(other["pid"])


@pytest.mark.parametrize("code", [*sorted(NON_RESTARTABLE), 1, 6, 7])
def test_a_non_restartable_exit_code_stops_all(code: int) -> None:
    """Such a worker is not restarted, the others are stopped, and its exit code is the
    supervisor's; after any other code the worker is restarted."""
    clean = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(0)); time.sleep(1000)"
    with supervised(f"import sys, time; time.sleep(0.5); sys.exit({code})", clean) as process:
        next_line(process, "worker ended")
        if code in NON_RESTARTABLE:
            assert next_line(process, "restarting a worker would not help: stopping all")[
                "workers"
            ] == ["shop-1"]
            assert process.wait(60) == code
        else:
            assert next_line(process, "worker started")["worker"] == "shop-0"


def test_errors_have_the_exit_codes_that_the_supervisor_decides_by() -> None:
    """Errors that a restart may resolve have other exit codes than those that it cannot."""
    mended = {error.exit_code for error in (Retriable, CommitOutcomeUnknown, StoreFailure)}
    assert not mended & NON_RESTARTABLE
    assert {error.exit_code for error in (Fatal, Fenced, RetentionGap)} <= NON_RESTARTABLE


def test_the_second_signal_kills() -> None:
    """A worker that does not stop is killed by the second signal, as the exit code shows."""
    with supervised(STUBBORN) as process:
        pid = next_line(process, "worker started")["pid"]
        wait_for(lambda: "15" in ignored(pid))
        process.send_signal(signal.SIGINT)
        next_line(process, "stopping all workers")
        assert not is_gone(pid)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGKILL
        assert is_gone(pid)


def ignored(pid: object) -> set[str]:
    """The numbers of the signals that a process ignores."""
    status = Path(f"/proc/{pid}/status").read_text()
    mask = int(status.partition("SigIgn:\t")[2].partition("\n")[0], 16)
    return {str(number) for number in range(1, 65) if mask >> (number - 1) & 1}


@pytest.mark.parametrize("deaf", ["", "import signal; signal.signal(15, signal.SIG_IGN); "])
def test_a_worker_does_not_outlive_its_supervisor(deaf: str) -> None:
    """When the supervisor is killed its workers stop by themselves, if necessary by force."""
    with supervised(deaf + ORPHAN) as process:
        pid = next_line(process, "worker started")["pid"]
        time.sleep(1)
        process.kill()
        wait_for(lambda: is_gone(pid))


def test_workers_are_started_with_the_plain_command() -> None:
    """The arguments name the slot and the port, and that there is a supervisor."""
    _, arguments = worker_target(print, "shop.toml", "shop-1", 9465, "info")
    assert arguments[:3] == (print, "run", "shop.toml")
    assert arguments[3:] == (
        *("--slot", "shop-1", "--http-port", "9465", "--log-level", "info", "--supervised"),
    )
    dropping = ["ip@" + "0" * 32, "card@" + "1" * 32]
    _, arguments = worker_target(print, "shop.toml", "shop-1", 9465, "info", dropping)
    assert arguments[-5:] == (
        "--drop-state",
        dropping[0],
        "--drop-state",
        dropping[1],
        "--supervised",
    )
