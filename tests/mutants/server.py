"""Runs tests on mutants, one after the other, in a copy of the tree: `python -m tests.mutants.server`.

Reads one JSON object a line: a file, its changed source, and lists of tests; answers with a line.
Each mutant is tested in a process forked from this one, which has loaded the large libraries but
nothing of Eddy. Kernels that the change reaches are compiled anew, since the cache's key holds the
code (`detectors.numeric.kernels`), and are not cached; all others come from the copy's cache.
"""

import importlib
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import numba
import orjson
import pytest
from numba.core import caching

LIBRARIES: Final = (
    "confluent_kafka.admin",
    "duckdb",
    "obstore.store",
    "pyarrow.compute",
    "pyarrow.csv",
    "pyarrow.dataset",
    "pyarrow.parquet",
    "river.anomaly",
    "river.stats",
    "rich.table",
    "structlog",
    "typer.testing",
    "zstandard",
)
BROKEN: Final = 70
NOTICED: Final = (
    pytest.ExitCode.TESTS_FAILED,
    pytest.ExitCode.INTERRUPTED,
    pytest.ExitCode.USAGE_ERROR,
)
"""A test failed; a file of tests cannot be imported; a test of that name is no more."""
IDLE_S: Final = 120.0
"""A process that has used no processor for so long is stuck."""
ARGUMENTS: Final = (
    "-x",
    "-q",
    "--no-header",
    "--hypothesis-seed=0",
    "--order-seed=0",
    "-p",
    "no:xdist",
)


class FirstFailure:
    """Writes the name of the first test, or file, that fails."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test."""
        self._note(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A file."""
        self._note(report)

    def _note(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if report.failed and not self._file.exists():
            self._file.write_text(report.nodeid)


@contextmanager
def changed(file: Path, source: str) -> Iterator[None]:
    """The file with that text; as it was at the end, its times too, by which caches go."""
    before, stat = file.read_text(), file.stat()
    file.write_text(source)
    try:
        yield
    finally:
        file.write_text(before)
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def tested(tests: list[str], cpu_s: int, log: Path) -> str:
    """Run the tests in a fork; what failed, empty where nothing did.

    cpu_s: processor seconds after which a test is said to hang.
    """
    failure = log.with_name("failure.txt")
    failure.unlink(missing_ok=True)
    if (child := os.fork()) == 0:
        code = BROKEN
        try:
            code = _child(tests, cpu_s, log, failure)
        except BaseException:  # noqa: BLE001 - the parent says so
            traceback.print_exc()
        finally:
            os._exit(code)
    status = _ended(child)
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # what it has started
    code = os.waitstatus_to_exitcode(status) if status is not None else -9
    if code == 0:
        return ""
    if code < 0:
        return f"signal {-code} (a hang or a crash)"
    if code not in NOTICED:
        raise RuntimeError(f"the tests could not be run, exit code {code}: {log.read_text()}")
    return failure.read_text() if failure.exists() else f"exit code {code}"


def _child(tests: list[str], cpu_s: int, log: Path, failure: Path) -> int:
    os.setsid()
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for number in (1, 2):
        os.dup2(file, number)
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    caching.Cache.save_overload = lambda *_: None  # type: ignore[method-assign]
    folder = log.with_name("tests")
    return int(pytest.main([*ARGUMENTS, f"--basetemp={folder}", *tests], [FirstFailure(failure)]))


def _ended(child: int) -> int | None:
    """Wait for its end; None where it had to be killed since it did nothing any more."""
    used, since = -1, time.monotonic()
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status
        numbers = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
        now = int(numbers[11]) + int(numbers[12]) + int(numbers[13]) + int(numbers[14])
        if now != used:
            used, since = now, time.monotonic()
        if time.monotonic() - since > IDLE_S:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None
        time.sleep(0.05)


def main() -> None:
    """Answer until the input ends."""
    for name in LIBRARIES:
        importlib.import_module(name)
    numba.njit(lambda x: x + 1.0)(1.0)
    log = Path(".cache/mutants/log.txt").resolve()
    log.parent.mkdir(parents=True, exist_ok=True)
    for line in sys.stdin:
        task: dict[str, Any] = orjson.loads(line)
        began, failed = time.monotonic(), ""
        with changed(Path(task["file"]), task["source"]):
            for tests in task["rounds"]:
                failed = failed or tested(tests, task["cpu_s"], log)
        answer = {"failed": failed, "seconds": time.monotonic() - began}
        print(orjson.dumps(answer).decode(), flush=True)


if __name__ == "__main__":
    main()
