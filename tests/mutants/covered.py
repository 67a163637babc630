"""Which tests reach which code, as a recorded session says."""

from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

PACKAGES: Final = ("schemas", "detectors", "stream")


class Recording(NamedTuple):
    """What a test reaches: lines by file, and kernels by name; and the seconds it takes."""

    seconds: float
    lines: dict[str, list[int]]
    kernels: list[str]


class Recorded(NamedTuple):
    """The tests that passed, and the names of those that did not."""

    tests: dict[str, Recording]
    unusable: list[str]

    def to_json(self) -> dict[str, Any]:
        """As it is written."""
        return {
            "tests": {name: one._asdict() for name, one in self.tests.items()},
            "unusable": self.unusable,
        }

    @classmethod
    def of_json(cls, parts: Iterable[dict[str, Any]]) -> "Recorded":
        """As it was written, by one or several processes."""
        tests: dict[str, Recording] = {}
        unusable: list[str] = []
        for part in parts:
            tests |= {name: Recording(**one) for name, one in part["tests"].items()}
            unusable += part["unusable"]
        return cls(tests, unusable)


def kernel_name(function: Callable[..., Any]) -> str:
    """A kernel's name in a recording."""
    return f"{function.__module__}.{function.__qualname__}"


class Covered:
    """Finds the tests that reach a line or a kernel, the most specific first: those that reach the
    fewest lines in all."""

    def __init__(self, recorded: Recorded) -> None:
        self._tests = recorded.tests
        self._by_line: dict[tuple[str, int], list[str]] = {}
        self._by_kernel: dict[str, list[str]] = {}
        for name, test in sorted(recorded.tests.items(), key=lambda item: _breadth(item[1])):
            for file, lines in test.lines.items():
                for line in lines:
                    self._by_line.setdefault((file, line), []).append(name)
            for kernel in test.kernels:
                self._by_kernel.setdefault(kernel, []).append(name)

    def of_lines(self, file: str, first: int, last: int) -> list[str]:
        """The tests that reach one of these lines."""
        found: dict[str, None] = {}
        for line in range(first, last + 1):
            found |= dict.fromkeys(self._by_line.get((file, line), ()))
        return sorted(found, key=lambda name: _breadth(self._tests[name]))

    def of_kernel(self, file: str, function: str) -> list[str]:
        """The tests that reach a kernel."""
        module = file.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
        return self._by_kernel.get(f"{module}.{function}", [])

    def seconds(self, tests: Iterable[str]) -> float:
        """How long these tests take."""
        return sum(self._tests[name].seconds for name in tests)


def _breadth(test: Recording) -> tuple[int, float]:
    """Lines and kernels that a test reaches, and its time."""
    return sum(map(len, test.lines.values())) + 20 * len(test.kernels), test.seconds
