"""The points at which a process that runs the command line kills itself, by SIGKILL.

`arm` wraps functions of the worker, which then runs as it is: no option of the worker's own leads
here. The n-th call that counts dies, counted from 1. At some points a worker does not die but
freezes, by SIGSTOP, until somebody lets it go on.
"""

import os
import signal
import time
from collections.abc import Callable
from threading import Thread
from typing import Any, NamedTuple, NoReturn

from detectors import learning
from detectors.monitor import LABEL
from schemas.columns import EventBatch
from stream.checkpoints import loading
from stream.checkpoints.manifest import offset_of
from stream.checkpoints.store import Folder
from stream.config import ASSESS
from stream.kafka.positions import Partition
from stream.kafka.writing import Sink
from stream.stages.assess import Assess
from stream.stages.watch import Watch
from stream.worker import Holding, Worker


def die(*_: object) -> NoReturn:
    """End at once, with nothing tidied up."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def half_a_block(folder: Folder, digest: str, packed: bytes) -> NoReturn:
    """Write half of a block under its name: as a store would that does not write at once."""
    folder._put(f"blocks/{digest}", packed[: len(packed) // 2])
    die()


def freeze(*_: object) -> None:
    """Stand still, timers and all, until SIGCONT."""
    os.kill(os.getpid(), signal.SIGSTOP)


def deliver_and_die(sink: Sink, *_: object) -> NoReturn:
    """See that brokers have what was written, and end."""
    sink._producer.flush(10)
    die()


def soon(after_s: float) -> Callable[..., None]:
    """Die so much later, in the middle of what is called."""

    def begin(*_: object) -> None:
        def wait() -> None:
            time.sleep(after_s)
            die()

        Thread(target=wait, daemon=True).start()

    return begin


class Point(NamedTuple):
    """A function, by its owner and name, and what the call that counts does before it.

    counts: asked with a call's arguments whether it counts; where `before` is None, the call does
    what it always does, and then dies.
    """

    owner: Any
    name: str
    before: Callable[..., None] | None
    counts: Callable[..., bool] = lambda *_: True


def is_re_learning(holding: Holding, *_: object) -> bool:
    """Whether what comes next is not published."""
    return holding.left() > 0


def is_live(worker: Worker, where: Partition, holding: Holding, *_: object) -> bool:
    """Whether what comes next is published."""
    return holding.left() == 0


def is_sent_by_route(worker: Worker, where: Partition, *_: object) -> bool:
    """Whether what comes next was sent over a monitor's internal log."""
    log = worker._logs[where.topic]
    return log.internal and log.name != ASSESS


def is_sent_by_watch(worker: Worker, where: Partition, *_: object) -> bool:
    """Whether what comes next are reports."""
    return worker._logs[where.topic].name == ASSESS


def has_labels(stage: object, batch: EventBatch) -> bool:
    """Whether there is something to learn from."""
    return bool((batch.type_code == LABEL).any())


def has_positions(sink: Sink, records: object, positions: object, *_: object) -> bool:
    """Whether a transaction commits anything."""
    return bool(positions)


def is_far_from_a_checkpoint(worker: Worker, published: int = 1) -> bool:
    """Whether a restart would load a checkpoint that has learned, and re-learn 300 records.

    published: how many there are that have learned.
    """
    return any(
        holding.kept.ready is None
        and sum(offset_of(name) > 0 for name in holding.kept.published) >= published
        and holding.kept.offset() <= (holding.committed or 0) - 300
        for holding in worker._holdings.values()
    )


def is_far_from_a_second_checkpoint(worker: Worker) -> bool:
    """The same, with another one before it."""
    return is_far_from_a_checkpoint(worker, 2)


def leaves_soon(worker: Worker, partitions: object, within_s: float | None = None) -> bool:
    """Whether checkpoints are taken for a revocation, not for a clean stop."""
    return within_s is not None


POINTS = {
    "in a block": Point(Folder, "put_block", half_a_block),
    "before the manifest": Point(Folder, "put_manifest", die),
    "behind the manifest": Point(Folder, "put_manifest", None),
    "before collecting": Point(Folder, "collect", die),
    "while collecting": Point(Folder, "_delete", die),
    "while loading": Point(loading, "_fill", die),
    "while re-learning": Point(Holding, "take", None, is_re_learning),
}
"""What a test may name. "before the manifest" all blocks are written and none is referred to;
"behind the manifest" no offset names it yet."""

WORKING = {
    "after consume": Point(Worker, "_process", die, is_live),
    "mid-batch": Point(Watch, "process", die),
    "after begin": Point(Sink, "_begin", None),
    "after produce": Point(Sink, "_add_offsets", deliver_and_die),
    "after offsets": Point(Sink, "_add_offsets", None),
    "after delivery": Point(Sink, "_deliver", None),
    "commit begun": Point(Sink, "_commit", soon(0.0)),
    "in the commit": Point(Sink, "_commit", soon(0.001)),
    "late in the commit": Point(Sink, "_commit", soon(0.003)),
    "between route and watch": Point(Worker, "_process", die, is_sent_by_route),
    "between watch and assess": Point(Worker, "_process", die, is_sent_by_watch),
    "after commit": Point(Sink, "transact", None, has_positions),
    "far from a checkpoint": Point(Worker, "_commit_once", None, is_far_from_a_checkpoint),
    "far from a second checkpoint": Point(
        Worker, "_commit_once", None, is_far_from_a_second_checkpoint
    ),
    "at on_revoke": Point(Worker, "on_revoke", die),
    "in on_revoke": Point(Worker, "_take_checkpoints_now", die, leaves_soon),
    "late in on_revoke": Point(Worker, "_take_checkpoints_now", None, leaves_soon),
    "at on_lost": Point(Worker, "on_lost", die),
    "after on_lost": Point(Worker, "on_lost", None),
}
"""While a worker reads, publishes and gives partitions away."""

LEARNING = {
    "at labels": Point(Assess, "process", die, has_labels),
    "behind labels": Point(Assess, "process", None, has_labels),
    "between days of learning": Point(learning, "refit", None),
}
"""While assess learns from labels."""

FREEZING = {
    "frozen while taking": Point(Worker, "_taken", freeze),
    "frozen between batches": Point(Worker, "_process", freeze, is_live),
    "frozen in a transaction": Point(Sink, "_commit", freeze),
    "frozen while re-learning": Point(Holding, "take", freeze, is_re_learning),
}
"""Where a worker stands still instead: its connections stay, and nobody hears of it."""

ALL = POINTS | WORKING | LEARNING | FREEZING


def arm(point: Point, left: int) -> None:
    """Have the call that comes after so many - 1 others be the last that this process makes."""
    whole = getattr(point.owner, point.name)

    def dying(*arguments: Any) -> Any:
        nonlocal left
        counts = point.counts(*arguments)
        left -= counts
        its_turn = counts and left == 0
        if its_turn and point.before is not None:
            point.before(*arguments)
        found = whole(*arguments)
        if its_turn and point.before is None:
            die()
        return found

    setattr(point.owner, point.name, dying)
