"""A pytest plugin that records which lines and which kernels each test reaches, and how long it takes.

    EDDY_RECORDING=FILE python -m pytest -p tests.mutants.recording …

Lines are coverage.py's. It does not see into compiled kernels: these are recorded where Python calls
one, with every kernel that this one calls. What a shared fixture reaches counts for each test that
asks for it.
"""

import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FunctionType
from typing import Any, Final

import coverage
import orjson
import pytest
from numba.core.dispatcher import Dispatcher
from numba.extending import typeof_impl

import detectors.numeric.kernels
from tests.mutants.covered import PACKAGES, Recorded, Recording, kernel_name

ROOT: Final = Path(__file__).resolve().parents[2]


class Called:
    """A kernel that notes which test calls it; compiled code calls the kernel itself."""

    def __init__(self, kernel: Any, note: Callable[[Any], None]) -> None:
        self.kernel = kernel
        self.__module__ = kernel.__module__  # part of the cache's key, as its other names are
        self._note = note

    def __call__(self, *arguments: Any) -> Any:  # noqa: D102 - as the kernel's
        self._note(self.kernel)
        return self.kernel(*arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["kernel"], name)


@typeof_impl.register(Called)
def _type_of(value: Called, context: Any) -> Any:
    return typeof_impl(value.kernel, context)


class Recorder:
    """Follows the tests of a session."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._coverage = coverage.Coverage(
            data_file=None, source=[str(ROOT / name) for name in PACKAGES], messages=False
        )
        self._context = ""
        self._calls: dict[str, set[Any]] = defaultdict(set)
        self._fixtures: dict[str, set[str]] = {}
        self._seconds: dict[str, float] = defaultdict(float)
        self._failed: set[str] = set()
        self._kernel = detectors.numeric.kernels.kernel
        detectors.numeric.kernels.kernel = self._recorded
        self._coverage.start()

    def _recorded(self, function: Callable[..., Any]) -> Any:
        return Called(self._kernel(function), self._note)

    def _note(self, kernel: Any) -> None:
        self._calls[self._context].add(kernel)

    def _enter(self, context: str) -> None:
        self._context = context
        self._coverage.switch_context(context)

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Count what runs now to this test."""
        self._fixtures[item.nodeid] = set()
        self._enter(item.nodeid)
        yield
        self._enter("")

    @pytest.hookimpl(hookwrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any, request: Any) -> Iterator[None]:
        """Count what a shared fixture runs to it."""
        before = self._context
        if fixturedef.scope != "function":
            self._enter(f"{fixturedef.baseid}::{fixturedef.argname}[{request.param_index}]")
        yield
        self._enter(before)

    def pytest_runtest_call(self, item: pytest.Item) -> None:
        """Note the shared fixtures that the test has asked for."""
        asked: dict[str, Any] = getattr(item, "_request")._fixture_defs  # noqa: B009
        self._fixtures[item.nodeid] = {
            f"{one.baseid}::{one.argname}[{request_index(item, one.argname)}]"
            for one in asked.values()
            if one.scope != "function"
        }

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add up a test's time."""
        self._seconds[report.nodeid] += report.duration
        if report.failed or report.skipped:
            self._failed.add(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        """Write what was recorded."""
        self._coverage.stop()
        lines: dict[str, dict[str, set[int]]] = defaultdict(lambda: defaultdict(set))
        data = self._coverage.get_data()
        for file in data.measured_files():
            name = str(Path(file).relative_to(ROOT))
            for line, contexts in data.contexts_by_lineno(file).items():
                for context in contexts:
                    lines[context][name].add(line)
        kernels = {context: _reached(called) for context, called in self._calls.items()}
        recorded = Recorded(
            {
                test: Recording(
                    seconds=seconds,
                    lines=_joined([lines[c] for c in {test, *self._fixtures.get(test, ())}]),
                    kernels=sorted(
                        set[str]().union(
                            *(kernels.get(c, set()) for c in {test, *self._fixtures.get(test, ())})
                        )
                    ),
                )
                for test, seconds in self._seconds.items()
                if test not in self._failed
            },
            sorted(self._failed),
        )
        self._file.write_bytes(orjson.dumps(recorded.to_json()))


def request_index(item: pytest.Item, name: str) -> int:
    """Which parameter of a shared fixture the test has."""
    callspec = getattr(item, "callspec", None)
    return int(callspec.indices.get(name, 0)) if callspec else 0


def _joined(parts: list[dict[str, set[int]]]) -> dict[str, list[int]]:
    found: dict[str, set[int]] = defaultdict(set)
    for part in parts:
        for file, lines in part.items():
            found[file] |= lines
    return {file: sorted(lines) for file, lines in found.items()}


def _reached(called: set[Any]) -> set[str]:
    """The names of these kernels and of all that they call."""
    seen, waiting = set[Any](), list(called)
    while waiting:
        one = waiting.pop()
        if one in seen:
            continue
        seen.add(one)
        waiting += _called_by(one.py_func)
    return {kernel_name(one.py_func) for one in seen}


def _called_by(function: FunctionType) -> Iterator[Any]:
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    named = [function.__globals__.get(name) for name in _names(function.__code__)]
    for value in [*cells, *named]:
        for one in value if isinstance(value, tuple) else (value,):
            kernel = one.kernel if isinstance(one, Called) else one
            if isinstance(kernel, Dispatcher):
                yield kernel


def _names(code: Any) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if hasattr(constant, "co_names"):
            yield from _names(constant)


RECORDER: Final = Recorder(Path(os.environ["EDDY_RECORDING"]))
"""Made when this is imported: before any conftest.py, which may import kernels."""


def pytest_configure(config: pytest.Config) -> None:
    """Record this session."""
    config.pluginmanager.register(RECORDER, "eddy-recorder")
