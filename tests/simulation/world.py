"""Simulated time and simulated processes.

A process is a set of greenlets that take turns with those of other processes: one runs until it
calls `Process.step` or `Process.sleep`, and the event queue decides who is next. All chance comes
from one random generator, so that a seed is a whole run. A process that is killed never runs
again; a suspended one, with its timers, goes on when its time is over.
"""

from collections.abc import Callable
from heapq import heappop, heappush
from random import Random
from typing import Any, Final

from greenlet import getcurrent, greenlet
from xxhash import xxh3_64

SWITCH_SHARE: Final = 0.15
"""Share of the steps at which other processes may run; the others go on at once."""

STEP_S: Final = 0.002
"""Mean simulated duration of a step at which others run."""

Action = Callable[[], None]


class Killed(BaseException):
    """The process ends here, as by SIGKILL: whatever its code still does has no effect."""


class OutOfTime(AssertionError):
    """The simulated time limit passed before the run was over."""


class World:
    """The event queue, the simulated time in seconds, and the source of all chance."""

    def __init__(self, seed: int, *, keep_trace: bool = False) -> None:
        self.random = Random(seed)
        self.now = 0.0
        self.trace: list[str] | None = [] if keep_trace else None
        self.current: Process | None = None
        self._hash = xxh3_64()
        self.hub = getcurrent()
        self._queue: list[tuple[float, int, Process | None, Action]] = []
        self._scheduled = 0
        self._processes: list[Process] = []

    def after(self, delay_s: float, action: Action, process: "Process | None" = None) -> None:
        """Run the action so much later. process: whose action it is: not run once that is killed,
        and delayed while it is suspended."""
        self._scheduled += 1
        heappush(self._queue, (self.now + delay_s, self._scheduled, process, action))

    def note(self, *words: object) -> None:
        """Add a line to the trace, which identifies the run."""
        line = " ".join(map(str, words))
        self._hash.update(f"{self.now:.6f} {line}\n".encode())
        if self.trace is not None:
            self.trace.append(f"{self.now:10.6f} {line}")

    def digest(self) -> str:
        """The hash of the trace so far."""
        return self._hash.hexdigest()

    def run(self, is_done: Callable[[], bool], limit_s: float) -> None:
        """Run events until done. Raises OutOfTime, and what an action raises."""
        while not is_done():
            at, number, process, action = heappop(self._queue)
            if process is not None:
                if process.dead:
                    continue
                if process.suspended_until > at:
                    heappush(self._queue, (process.suspended_until, number, process, action))
                    continue
            self.now = at
            if at > limit_s:
                raise OutOfTime(f"not done after {limit_s} simulated seconds")
            action()

    def switch_to_hub(self) -> None:
        """Let other processes run; returns when this greenlet is switched to again."""
        self.hub.switch()

    def add(self, process: "Process") -> int:
        """Know a process; its number."""
        self._processes.append(process)
        return len(self._processes)

    def kill_all(self) -> None:
        """Kill every process, also those that are suspended. Only from the hub."""
        for process in self._processes:
            process.kill()
            process.unwind()


class Task:
    """A function that runs in a process beside others, and what it returned or raised."""

    def __init__(self, process: "Process", work: Callable[[], Any]) -> None:
        self._process = process
        self._work = work
        self._greenlet = greenlet(self._run, process.world.hub)
        self._value: Any = None
        self._error: BaseException | None = None
        self._waiting: list[Task] = []
        self._turn = 0
        self._ended = False
        process.tasks.append(self)
        self.wake()

    def _run(self) -> None:
        try:
            self._value = self._work()
        except BaseException as error:  # noqa: BLE001 - raised where the result is asked for
            self._error = error
        self._ended = True
        self._process.tasks.remove(self)
        for task in self._waiting:
            task.wake()

    def done(self) -> bool:
        """Whether it has returned or raised."""
        return self._ended

    def result(self) -> Any:
        """What it returned; raises what it raised. Waits until then."""
        self.wait(None)
        if self._error is not None:
            raise self._error
        return self._value

    def exception(self) -> BaseException | None:
        """What it raised. Waits until it has ended."""
        self.wait(None)
        return self._error

    def wait(self, timeout_s: float | None) -> bool:
        """Wait until it has ended, or for so long; whether it has ended."""
        world = self._process.world
        until = None if timeout_s is None else world.now + timeout_s
        while not self._ended and (until is None or world.now < until):
            waiting = self._process.running()
            self._waiting.append(waiting)
            waiting.sleep(None if until is None else until - world.now)
            if waiting in self._waiting:
                self._waiting.remove(waiting)
        return self._ended

    def wake(self, delay_s: float = 0.0) -> None:
        """Have it run so much later, unless something else wakes it before."""
        turn = self._turn
        self._process.world.after(delay_s, lambda: self._resume(turn), self._process)

    def _resume(self, turn: int) -> None:
        if turn == self._turn and not self._ended:
            self._turn += 1
            self._process.world.current = self._process
            self._greenlet.switch()

    def sleep(self, delay_s: float | None) -> None:
        """Let others run, for so long or until woken. Only for the task that is running."""
        if delay_s is not None:
            self.wake(delay_s)
        self._process.world.switch_to_hub()
        if self._process.dead:
            raise Killed

    def is_running(self) -> bool:
        """Whether its code is running right now."""
        return self._greenlet is getcurrent()

    def unwind(self) -> None:
        """Raise Killed in it, so that its greenlet ends. Only from the hub."""
        if self._greenlet and not self._ended:
            self._greenlet.throw(Killed)


class Process:
    """A process that may be killed or suspended at each of its steps."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = f"{name}#{world.add(self)}"
        self.tasks: list[Task] = []
        self.dead = False
        self.suspended_until = 0.0
        self.wall_offset_s = 0.0
        """What its wall clock is ahead of the world's time."""
        self.on_step: Callable[[str], None] | None = None
        """Called at each step with its kind; may kill or suspend the process."""

    def running(self) -> Task:
        """The task of the process that is running."""
        return next(task for task in self.tasks if task.is_running())

    def start(self, work: Callable[[], Any]) -> Task:
        """Run a function beside the others of the process."""
        return Task(self, work)

    def step(self, kind: str, name: str, slow: float = 1.0) -> None:
        """A call to the outside: the process may be killed or suspended here, and others may run.

        kind: source, sink, store, clock or executor. slow: factor of the simulated duration.
        """
        if self.dead:
            raise Killed
        world = self.world
        world.note(self.name, name)
        if self.on_step is not None:
            self.on_step(kind)
            if self.dead:
                raise Killed
        if world.now < self.suspended_until or slow > 1.0 or world.random.random() < SWITCH_SHARE:
            self.sleep(world.random.expovariate(1.0) * STEP_S * slow)

    def quick_step(self, kind: str) -> None:
        """The same where nobody else runs and no time passes, unless the process is suspended."""
        if self.dead:
            raise Killed
        if self.on_step is not None:
            self.on_step(kind)
            if self.dead:
                raise Killed
            if self.world.now < self.suspended_until:
                self.sleep(0.0)

    def sleep(self, delay_s: float) -> None:
        """Let others run for so long."""
        self.running().sleep(delay_s)

    def suspend(self, seconds: float) -> None:
        """Let nothing of it run for so long, timers included."""
        self.world.note(self.name, "suspended", f"{seconds:.3f}")
        self.suspended_until = self.world.now + seconds

    def kill(self) -> None:
        """End it: nothing of it runs or has an effect from here on."""
        if not self.dead:
            self.dead = True
            self.world.note(self.name, "killed")
            self.world.after(0.0, self.unwind)

    def unwind(self) -> None:
        """End its greenlets. Only from the hub."""
        for task in list(self.tasks):
            task.unwind()
        self.tasks.clear()
