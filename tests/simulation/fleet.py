"""The processes of a simulated deployment, and the faults that happen to them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from stream.config import Config, logs
from stream.errors import NON_RESTARTABLE, EddyError, Fenced
from stream.kafka.positions import Partition
from stream.pipeline.alerting import RunInfo
from stream.runtime.start import Clients, work
from stream.runtime.system import System
from stream.telemetry.collector import MetricsCollector
from stream.telemetry.health import WorkerHealth
from tests.simulation.broker import MemoryBroker
from tests.simulation.faults import NetworkFaults
from tests.simulation.schedule import Fault
from tests.simulation.shop import GROUP, START_MS
from tests.simulation.sink import MemoryAdmin, MemorySink
from tests.simulation.source import MemorySource
from tests.simulation.store import MemoryStore, Objects
from tests.simulation.system import SimulatedClock, SimulatedExecutor
from tests.simulation.world import Process, Task, World

RESTART_S: Final = 0.25
"""Mean simulated time until a process that ended is started again."""

STALE_AFTER_MS: Final = 900_000.0


class Stop:
    """Set when a worker is asked to stop."""

    def __init__(self) -> None:
        self._set = False

    def set(self) -> None:
        """Ask it to stop."""
        self._set = True

    def is_set(self) -> bool:
        """Whether it was asked to."""
        return self._set


@dataclass(slots=True, eq=False)
class Running:
    """A worker's process. config: under which it was started."""

    slot: str
    process: Process
    faults: NetworkFaults
    stop: Stop = field(default_factory=Stop)
    health: WorkerHealth = field(default_factory=WorkerHealth)
    source: MemorySource | None = None
    took_over: int = 0
    task: Task | None = None


@dataclass(slots=True, eq=False)
class Armed:
    """A fault that waits for its call. skip: calls that pass before."""

    fault: Fault
    call: str
    skip: int


@dataclass(slots=True)
class Happened:
    """What has happened to the deployment so far."""

    faults: int = 0
    restarts: int = 0
    failure: BaseException | None = None


class Fleet:
    """Workers by slot. A process that ends in a way that a restart may help is started again."""

    def __init__(
        self, world: World, broker: MemoryBroker, objects: Objects, config: Config
    ) -> None:
        self.world = world
        self.broker = broker
        self.objects = objects
        self.config = config
        self.allowed_drops: list[str] = []
        self.happened = Happened()
        self.workers: dict[str, Running] = {}
        self.started: list[Running] = []
        self._takeovers = 0
        self.armed: list[Armed] = []
        self.is_held = False
        """Whether no process is started, in whatever slot."""
        self.on_empty: Callable[[], None] | None = None
        """Called once when no process runs."""
        self.last = ""
        """The slot whose process alone is to run to the end, once there is one."""
        self.is_ending = False
        """Whether that process is asked to stop, so that it is not started again."""

    # -- starting and ending ----------------------------------------------------------------------

    def start(self, slot: str) -> None:
        """Start a process in a slot; one that is there stays, and is fenced."""
        process = Process(self.world, slot)
        running = Running(slot, process, NetworkFaults())
        process.on_step = partial(self._on_step, running)
        self.workers[slot] = running
        self.started.append(running)
        self.world.note(process.name, "started")
        running.task = process.start(partial(self._work, running))

    def _work(self, running: Running) -> None:
        error: BaseException | None = None
        try:
            self._run(running)
        except Exception as raised:  # noqa: BLE001 - judged below, as a supervisor does
            error = raised
        self._ended(running, error)

    def _run(self, running: Running) -> None:
        process, faults = running.process, running.faults
        clock = SimulatedClock(process, START_MS)
        system = System(
            clock=clock,
            executors=lambda threads, _: SimulatedExecutor(process, threads),
            open_store=lambda *_: MemoryStore(process, self.objects),
            collect_garbage=lambda: None,
        )
        run = RunInfo(self.config.mode, process.name, clock.now_text, STALE_AFTER_MS)
        sink = MemorySink(process, self.broker, GROUP, running.slot, faults)
        sink.on_open = partial(self._took_over, running)
        with MemorySource(process, self.broker, GROUP, faults) as source:
            running.source = source
            work(
                self.config,
                Clients(source, sink, MemoryAdmin(process, self.broker)),
                run,
                lambda: running.stop,
                MetricsCollector(),
                running.health,
                self.allowed_drops,
                system,
            )

    def _took_over(self, running: Running) -> None:
        self._takeovers += 1
        running.took_over = self._takeovers

    def _ended(self, running: Running, error: BaseException | None) -> None:
        process = running.process
        process.kill()
        name = "" if error is None else type(error).__name__
        self.world.note(process.name, "ended", name)
        is_current = self.workers.get(running.slot) is running
        has_ended = error is None and self.is_ending
        rivals = [one for one in self.started if one.slot == running.slot and one is not running]
        if isinstance(error, Fenced) and any(one.took_over > running.took_over for one in rivals):
            error = None
            if is_current and (alive := [one for one in rivals if not one.process.dead]):
                self.workers[running.slot] = alive[0]
                is_current = False
        restartable = isinstance(error, EddyError) and error.exit_code not in NON_RESTARTABLE
        is_bug = error is not None and not isinstance(error, EddyError)
        if is_bug or (error is not None and is_current and not restartable):
            self.happened.failure = error
        elif is_current:
            if has_ended and running.slot == self.last:
                self.is_held = True
            self._restart_later(running)

    def _restart_later(self, running: Running) -> None:
        """Start a process in the slot again, unless that is to stay empty."""
        slot = running.slot
        del self.workers[slot]
        if self._may_start(slot):
            delay_s = self.world.random.expovariate(1.0) * RESTART_S
            self.world.after(delay_s, partial(self._restart, slot))
        elif not self.workers and self.on_empty is not None:
            on_empty, self.on_empty = self.on_empty, None
            self.world.after(0.0, on_empty)

    def _may_start(self, slot: str) -> bool:
        return not self.is_held and self.last in {"", slot}

    def _restart(self, slot: str) -> None:
        if slot not in self.workers and self._may_start(slot):
            self.happened.restarts += 1
            self.start(slot)

    def kill(self, running: Running) -> None:
        """End a process at once."""
        if not running.process.dead:
            running.process.kill()
            if self.workers.get(running.slot) is running:
                self._restart_later(running)

    # -- the end ----------------------------------------------------------------------------------

    def leave_only(self, slot: str) -> None:
        """Stop all other processes, and start none again but in this slot."""
        self.last = slot
        for running in self.started:
            if self.workers.get(slot) is not running:
                running.stop.set()

    def has_all(self, slot: str) -> bool:
        """Whether the slot's process is the only one, and live on every partition."""
        others = (one for one in self.started if one is not self.workers.get(slot))
        if slot not in self.workers or not all(one.process.dead for one in others):
            return False
        running = self.workers[slot]
        still_until = max(running.faults.silent_until + 1.0, running.process.suspended_until)
        if self.world.now <= still_until or running.source is None:
            return False
        every = sum(log.partitions for log in logs(self.config))
        owned = len(running.source.next_offsets())  # as it believes, until it hears otherwise
        return owned == every and running.source.is_member() and running.health.state == "live"

    def end(self) -> None:
        """Stop the last process."""
        self.is_ending = True
        self.workers[self.last].stop.set()

    def ended_cleanly(self, slot: str) -> bool:
        """Whether the last process was stopped and has ended."""
        return self.last == slot and not self.workers and self.is_held

    # -- faults -----------------------------------------------------------------------------------

    def arm(self, fault: Fault) -> None:
        """Have a fault happen at the call that it names, or at any after half a second."""
        armed = Armed(fault, fault.call, fault.skip)
        self.armed.append(armed)
        self.world.after(0.5, partial(self._at_any_call, armed))

    @staticmethod
    def _at_any_call(armed: Armed) -> None:
        armed.call, armed.skip = "", 0

    def _on_step(self, running: Running, call: str) -> None:
        for armed in self.armed:
            if armed.fault.kind == "join" and self.is_held:
                continue  # all are about to end
            if armed.call in {"", call}:
                armed.skip -= 1
                if armed.skip < 0:
                    self._happen(running, armed)
                    return

    def _happen(self, running: Running, armed: Armed) -> None:
        self.armed.remove(armed)
        self.happened.faults += 1
        kind, amount = armed.fault.kind, armed.fault.amount
        self.world.note(running.process.name, "fault", kind)
        getattr(self, f"_{kind.replace(' ', '_')}")(running, amount)

    def _crash(self, running: Running, amount: float) -> None:
        self.kill(running)

    def _suspend(self, running: Running, amount: float) -> None:
        running.process.suspend(amount)

    def _zombie(self, running: Running, amount: float) -> None:
        running.process.suspend(max(amount, 0.5))
        self.happened.restarts += 1
        self.world.after(0.05, partial(self._take_slot, running))

    def _take_slot(self, running: Running) -> None:
        slot = running.slot
        if self.workers.get(slot) is running and self._may_start(slot):
            self.start(running.slot)

    def _silence(self, running: Running, amount: float) -> None:
        running.faults.silent_until = self.world.now + amount

    def _abort(self, running: Running, amount: float) -> None:
        running.faults.abort = ("write", "offsets", "flush")[int(amount * 3)]

    def _commit(self, running: Running, amount: float) -> None:
        running.faults.commit = "lost" if amount < 0.5 else "unanswered"

    def _slow_store(self, running: Running, amount: float) -> None:
        self.objects.slow_until = self.world.now + amount

    def _failing_store(self, running: Running, amount: float) -> None:
        self.objects.failing_until = self.world.now + amount

    def _clock_step(self, running: Running, amount: float) -> None:
        running.process.wall_offset_s += amount

    def _leave(self, running: Running, amount: float) -> None:
        running.stop.set()

    def _join(self, running: Running, amount: float) -> None:
        self.start(f"joined-{len(self.started)}")

    def _retention(self, running: Running, amount: float) -> None:
        """Delete what lies before the oldest checkpoint of each partition."""
        oldest: dict[Partition, int] = {}
        for path in self.objects.found:
            _, topic, partition, folder, *rest = path.split("/")
            if folder == "manifests":
                place = Partition(topic, int(partition))
                offset = int(rest[0].partition("-")[0])
                oldest[place] = min(offset, oldest.get(place, offset))
        for place, offset in oldest.items():
            self.broker.delete_before(place, offset)
