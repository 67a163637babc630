"""Processes of the bench: modules of this tree, each run as `python -m` runs it.

Smoke tests fork them instead from a process that has everything loaded, since they measure nothing
and a start takes seconds.
"""

import ctypes
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, Protocol

from tests.crash.processes import PR_SET_PDEATHSIG, preloaded_context

ROOT: Final = Path(__file__).resolve().parents[2]


class Process(Protocol):
    """A process that was started, as `subprocess` has it."""

    @property
    def pid(self) -> int:
        """Its number."""

    def poll(self) -> int | None:
        """Its exit code, None while it runs."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; its exit code."""

    def terminate(self) -> None:
        """SIGTERM."""

    def kill(self) -> None:
        """SIGKILL."""


Launch = Callable[[str, Sequence[str], Path, bool, Path], Process]
"""Module, arguments, file for its output, whether its errors go there too, and the tree whose module
it is."""


class ProcessFailedError(Exception):
    """A process ended with another exit code than 0."""


def python_of(tree: Path) -> str:
    """The interpreter of a tree's own environment; this one where it has none."""
    own = tree / ".venv" / "bin" / "python"
    return str(own) if own.exists() else sys.executable


def spawn_module(
    module: str, arguments: Sequence[str], out: Path, with_stderr: bool, tree: Path
) -> Process:
    """A new interpreter."""
    with out.open("wb") as stdout:
        return subprocess.Popen(
            [python_of(tree), "-m", module, *arguments],
            cwd=tree,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.STDOUT if with_stderr else None,
        )


class ForkedProcess:
    """A forked process, with the methods of `Process`."""

    def __init__(self, process: BaseProcess) -> None:
        self._process = process
        assert process.pid is not None
        self.pid = process.pid

    def poll(self) -> int | None:
        """Its exit code, negative where a signal ended it."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; its exit code."""
        self._process.join(timeout)
        assert self._process.exitcode is not None, f"waited {timeout} s for process {self.pid}"
        return self._process.exitcode

    def terminate(self) -> None:
        """SIGTERM, if it still runs."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL, if it still runs."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)


def fork_module(
    module: str, arguments: Sequence[str], out: Path, with_stderr: bool, tree: Path
) -> Process:
    """A fork of a process in which Eddy is loaded and its kernels are compiled: of this tree."""
    assert tree == ROOT, tree
    out.write_bytes(b"")
    own = module, list(arguments), str(out), with_stderr
    process = preloaded_context().Process(target=_run_module, args=own)
    process.start()
    return ForkedProcess(process)


def _run_module(module: str, arguments: list[str], out: str, with_stderr: bool) -> None:
    """In the forked process: run the module as the interpreter would."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.chdir(ROOT)
    file = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number in (1, 2) if with_stderr else (1,):
        os.dup2(file, number)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


launch: Launch = spawn_module
"""How every process of the bench is started, but those that are there to measure a start."""


def start_module(module: str, arguments: Sequence[str], log: Path, tree: Path = ROOT) -> Process:
    """A process that writes its output and its errors to a file."""
    return launch(module, arguments, log, True, tree)


def output_of(module: str, arguments: Sequence[str], patience_s: float) -> bytes:
    """Run a process to its end; its output. Its errors go to the terminal."""
    with TemporaryDirectory(prefix="eddy-bench-") as folder:
        out = Path(folder) / "out"
        process = launch(module, arguments, out, False, ROOT)
        try:
            code = process.wait(patience_s)
        finally:
            process.kill()
        if code:
            raise ProcessFailedError(f"python -m {module} {' '.join(arguments)}: exit code {code}")
        return out.read_bytes()
