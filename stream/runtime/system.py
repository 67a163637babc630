"""What a worker uses of its machine: clock, background work, object stores, garbage collection."""

import gc
from collections.abc import Callable
from typing import Final, NamedTuple

from stream.checkpoints.store import ObjectStorage, open_store
from stream.clock import SYSTEM_CLOCK, Clock
from stream.executor import ExecutorFactory, ThreadExecutor


class System(NamedTuple):
    """The defaults are the machine's own; a simulation passes others.

    open_store: opens the store at a URL; the second argument is the configuration key of the URL.
    """

    clock: Clock = SYSTEM_CLOCK
    executors: ExecutorFactory = ThreadExecutor
    open_store: Callable[[str, str], ObjectStorage] = open_store
    collect_garbage: Callable[[], object] = gc.collect


SYSTEM: Final = System()
"""The machine that this process runs on."""
