"""The machine of a simulated process: its clocks and its background work."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, TypeVar, cast

from stream.executor import Task as ExecutorTask
from tests.simulation.world import Process, Task

T = TypeVar("T")

MONOTONIC_START_S: Final = 1_000.0
"""What a monotonic clock shows at simulated time 0."""


class SimulatedClock:
    """The clocks of a process: the monotonic one shows simulated time, the wall clock may be wrong.

    wall_ms: the right wall clock at simulated time 0.
    """

    def __init__(self, process: Process, wall_ms: int) -> None:
        self._process = process
        self._wall_ms = wall_ms

    def monotonic(self) -> float:
        """Seconds since some fixed time; never goes back."""
        self._process.quick_step("clock")
        return MONOTONIC_START_S + self._process.world.now

    def now_text(self) -> str:
        """The wall clock, ISO 8601 in UTC with milliseconds."""
        self._process.quick_step("clock")
        seconds = self._process.world.now + self._process.wall_offset_s
        moment = datetime.fromtimestamp(self._wall_ms / 1000 + seconds, UTC)
        return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class FinishedTask:
    """A call that was made at submission."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._value: Any = None
        self._error: Exception | None = None
        try:
            self._value = call()
        except Exception as error:  # noqa: BLE001 - raised where the result is asked for
            self._error = error

    def done(self) -> bool:
        """Whether the call has returned or raised: always."""
        return True

    def result(self) -> Any:
        """Return or raise what the call did."""
        if self._error is not None:
            raise self._error
        return self._value

    def exception(self) -> Exception | None:
        """What the call raised."""
        return self._error


class SimulatedExecutor:
    """Background work of a process.

    An executor of one thread runs its calls one after the other, interleaved with the process's
    main loop. An executor of several threads makes each call at submission: its order among others
    is not defined, and the steps of the call let other processes run.
    """

    def __init__(self, process: Process, threads: int) -> None:
        self._process = process
        self._is_serial = threads == 1
        self._last: Task | None = None
        self._cancelled = False

    def submit(self, function: Callable[..., T], *arguments: Any) -> ExecutorTask[T]:
        """Have the function called, and return at once."""
        self._process.step("executor", "submit")
        if not self._is_serial:
            return cast("ExecutorTask[T]", FinishedTask(lambda: function(*arguments)))
        previous = self._last

        def run() -> T | None:
            if previous is not None:
                previous.wait(None)
            if self._cancelled:
                return None
            self._process.step("executor", "run")
            return function(*arguments)

        self._last = self._process.start(run)
        return cast("ExecutorTask[T]", self._last)

    def wait(self, task: ExecutorTask[Any], timeout_s: float) -> bool:
        """Wait until the task is done, or the time is over; whether it is done."""
        self._process.step("executor", "wait")
        return task.wait(timeout_s) if isinstance(task, Task) else task.done()

    def shutdown(self, *, cancel: bool = False) -> None:
        """Wait for every task. cancel: drop those that have not started."""
        self._process.step("executor", "shutdown")
        self._cancelled = cancel
        if self._last is not None:
            self._last.wait(None)
