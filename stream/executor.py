"""Background work: tasks that run beside the worker's loop.

The executor is injected: in production tasks run in threads, in a simulation a scheduler decides
when each one runs.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Task(Protocol[T_co]):
    """A call that was handed to an executor."""

    def done(self) -> bool:
        """Whether the call has returned or raised."""

    def result(self) -> T_co:
        """Wait for the call, and return or raise what it did."""

    def exception(self) -> BaseException | None:
        """Wait for the call, and return what it raised; None where it returned."""


class Executor(Protocol):
    """Runs calls in the background, in the order of submission as far as it has threads."""

    def submit(self, function: Callable[..., T], *arguments: Any) -> Task[T]:
        """Have the function called, and return at once."""

    def wait(self, task: Task[Any], timeout_s: float) -> bool:
        """Wait until the task is done, or the time is over; whether it is done."""

    def shutdown(self, *, cancel: bool = False) -> None:
        """Wait for every task. cancel: drop those that have not started."""


ExecutorFactory = Callable[[int, str], Executor]
"""Makes an executor of so many threads, with that name."""


class ThreadExecutor:
    """Runs calls in a pool of threads."""

    def __init__(self, threads: int, name: str) -> None:
        self._pool = ThreadPoolExecutor(threads, name)

    def submit(self, function: Callable[..., T], *arguments: Any) -> Task[T]:
        """Call the function in a thread of the pool."""
        return self._pool.submit(function, *arguments)

    def wait(self, task: Task[Any], timeout_s: float) -> bool:
        """Block this thread until the task is done, or the time is over."""
        assert isinstance(task, Future), "a task of another executor"
        return bool(wait([task], timeout_s).done)

    def shutdown(self, *, cancel: bool = False) -> None:
        """Wait for the tasks, and end the threads."""
        self._pool.shutdown(cancel_futures=cancel)
