"""Copies of the tree in which tests are recorded and mutants tested, one for each processor."""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any, Final

import orjson

from tests.mutants.covered import PACKAGES, Covered, Recorded

ROOT: Final = Path(__file__).resolve().parents[2]
COPIED: Final = (*PACKAGES, "tests", "deploy", "pyproject.toml", "Makefile", "README.md")
DATA: Final = ROOT.parent / "shared"
NOT_TESTS_OF_CODE: Final = ("tests/test_tidy.py", "tests/mutants", "tests/bench", "tests/quality")
"""Left out: what they say of the code is its form, or its speed."""
FIRST: Final = 12
"""Tests that are run first; the others are loaded only if these pass."""
REST_S: Final = 20.0
"""Seconds of further tests at most. What these do not notice survives."""
CPU_S: Final = 120
"""Processor seconds for starting and compiling, beside five times what the tests take."""


def copy_tree(folder: Path) -> Path:
    """A copy with the times of files, by which the caches of kernels go."""
    tree = folder / "tree"
    tree.mkdir(parents=True, exist_ok=True)
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tree / name, dirs_exist_ok=True)
        else:
            shutil.copy2(source, tree / name)
    if DATA.is_dir() and not (folder / "shared").exists():
        (folder / "shared").symlink_to(DATA)
    return tree


def environment(tree: Path) -> dict[str, str]:
    """Of processes in a copy."""
    return os.environ | {
        "PYTHONPYCACHEPREFIX": str(tree / ".cache" / "pycache"),
        "NUMBA_OPT": "1",  # compiling takes longer than running
    }


def record(trees: Sequence[Path], files: Sequence[str]) -> Recorded:
    """Run the tests of these files once, shared among the copies; what each reaches."""

    def run(tree: Path, files: Sequence[str]) -> dict[str, Any]:
        out = tree / ".cache" / "recording.json"
        out.parent.mkdir(exist_ok=True)
        out.unlink(missing_ok=True)
        arguments = ["-q", "-m", "not broker and not slow", "-p", "tests.mutants.recording"]
        with (tree / ".cache" / "recording.log").open("wb") as log:
            subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "pytest",
                    *arguments,
                    "--hypothesis-seed=0",
                    "--order-seed=0",
                    "--continue-on-collection-errors",
                    *files,
                ],
                cwd=tree,
                env=environment(tree) | {"EDDY_RECORDING": str(out)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                check=False,
            )
        assert out.exists(), f"no recording: {Path(log.name).read_text()}"
        part: dict[str, Any] = orjson.loads(out.read_bytes())
        assert part["tests"], f"no test was recorded: {Path(log.name).read_text()}"
        return part

    shares = [files[k :: len(trees)] for k in range(len(trees))]
    with ThreadPoolExecutor(len(trees)) as pool:
        return Recorded.of_json(pool.map(run, trees, shares))


def test_files() -> list[str]:
    """The files of tests that may be asked."""
    names = sorted(str(file.relative_to(ROOT)) for file in (ROOT / "tests").rglob("test_*.py"))
    return [name for name in names if not name.startswith(NOT_TESTS_OF_CODE)]


def digest(paths: Sequence[Path]) -> str:
    """Of the text of these files."""
    hasher = hashlib.sha256()
    for path in paths:
        hasher.update(path.read_bytes())
    return hasher.hexdigest()


def rounds(tests: Sequence[str], covered: Covered) -> list[list[str]]:
    """The most specific tests, and then as many others as time allows."""
    first, rest = list(tests[:FIRST]), list[str]()
    seconds = 0.0
    for name in tests[FIRST:]:
        seconds += covered.seconds([name])
        if seconds > REST_S:
            break
        rest.append(name)
    return [some for some in (first, rest) if some]


class Server:
    """A process that tests mutants in a copy of the tree."""

    def __init__(self, tree: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.mutants.server"],
            cwd=tree,
            env=environment(tree) | {"PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def ask(self, task: dict[str, Any]) -> dict[str, Any]:
        """Test one mutant."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(orjson.dumps(task) + b"\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the server has ended"
        answer: dict[str, Any] = orjson.loads(line)
        return answer

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()


def run_all(
    trees: Sequence[Path],
    tasks: Sequence[dict[str, Any]],
    done: Callable[[dict[str, Any], dict[str, Any]], None],
) -> None:
    """Ask servers, one in each copy, for all tasks; `done` is told each with its answer."""
    waiting, lock = list(reversed(tasks)), Lock()

    def work(tree: Path) -> None:
        server = Server(tree)
        try:
            while True:
                with lock:
                    if not waiting:
                        return
                    task = waiting.pop()
                answer = server.ask(task)
                with lock:
                    done(task, answer)
        finally:
            server.close()

    with ThreadPoolExecutor(len(trees)) as pool:
        for result in [pool.submit(work, tree) for tree in trees]:
            result.result()
