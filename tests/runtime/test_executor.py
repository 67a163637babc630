"""The executor of background work: tasks in threads."""

from concurrent.futures import CancelledError
from contextlib import suppress
from threading import Event

import pytest

from stream.errors import StoreFailure
from stream.executor import Task, ThreadExecutor


def fail() -> None:
    """Raise an error."""
    raise StoreFailure("full")


def test_a_task_returns_or_raises_what_its_function_does() -> None:
    """The caller of `result` gets it, however long after."""
    executor = ThreadExecutor(2, "test")
    returned, raised = executor.submit(divmod, 7, 2), executor.submit(fail)
    executor.shutdown()
    assert (returned.done(), returned.result(), returned.exception()) == (True, (3, 1), None)
    assert isinstance(raised.exception(), StoreFailure)
    with pytest.raises(StoreFailure, match="full"):
        raised.result()


def test_waiting_ends_with_the_task_or_the_time() -> None:
    """Whether the task is done is the answer."""
    executor, released = ThreadExecutor(1, "test"), Event()
    task = executor.submit(released.wait)
    assert not executor.wait(task, 0.0)
    released.set()
    assert executor.wait(task, 60.0)
    executor.shutdown()


def test_a_cancelling_shutdown_drops_tasks_that_have_not_started() -> None:
    """The running one is still waited for."""
    executor, queued = ThreadExecutor(1, "test"), Event()
    tasks: list[Task[None]] = []
    calls: list[str] = []

    def run() -> None:
        queued.wait()
        with suppress(CancelledError):
            tasks[0].result()  # waits until the shutdown cancels it
        calls.append("running")

    executor.submit(run)
    tasks.append(executor.submit(calls.append, "queued"))
    queued.set()
    executor.shutdown(cancel=True)
    assert calls == ["running"]
