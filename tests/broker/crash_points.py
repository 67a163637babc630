"""Points at which a process that runs the command line kills itself, by SIGKILL.

`arm` wraps functions of the worker; no option of the worker leads here. The n-th matching call
dies, counted from 1. At some points the worker freezes instead, by SIGSTOP, until it gets SIGCONT.
"""

import os
import signal
import time
from collections.abc import Callable
from threading import Thread
from typing import Any, NamedTuple, NoReturn

from detectors.fusion import assessment
from schemas.columns import EventBatch
from schemas.events import LABEL_TYPE
from stream.checkpoints import loading
from stream.checkpoints.manifest import offset_of
from stream.checkpoints.store import Folder
from stream.config.stage_graph import nodes
from stream.config.topology import Log
from stream.kafka.positions import Partition
from stream.kafka.sink import KafkaSink
from stream.pipeline.stages.assess import Assess
from stream.pipeline.stages.watch import Watch
from stream.runtime.assignment import AssignedPartition, Assignment
from stream.runtime.worker import Worker


def die(*_: object) -> NoReturn:
    """End at once, without any cleanup."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def write_half_a_block(folder: Folder, digest: str, packed: bytes) -> NoReturn:
    """Write half of a block under its name, like a store whose writes are not atomic."""
    folder._put(f"blocks/{digest}", packed[: len(packed) // 2])
    die()


def freeze(*_: object) -> None:
    """Stop the whole process, timers included, until SIGCONT."""
    os.kill(os.getpid(), signal.SIGSTOP)


def deliver_and_die(sink: KafkaSink, *_: object) -> NoReturn:
    """Wait until brokers have the records, then die."""
    sink._producer.flush(10)
    die()


def die_after(after_s: float) -> Callable[..., None]:
    """Die after so many seconds, in the middle of the call."""

    def begin(*_: object) -> None:
        def wait() -> None:
            time.sleep(after_s)
            die()

        Thread(target=wait, daemon=True).start()

    return begin


class CrashPoint(NamedTuple):
    """A function, by owner and name, at whose call the process dies.

    counts: whether a call with these arguments matches. before: what to do before the call; where
    it is None, the call is made, and then the process dies.
    """

    owner: Any
    name: str
    before: Callable[..., None] | None
    counts: Callable[..., bool] = lambda *_: True


def is_re_learning(assigned: AssignedPartition, *_: object) -> bool:
    """Whether the next output is not published."""
    return assigned.offsets_left() > 0


def is_live(worker: Worker, where: Partition, assigned: AssignedPartition, *_: object) -> bool:
    """Whether the next output is published."""
    return assigned.offsets_left() == 0


def is_sent_by_route(worker: Worker, where: Partition, *_: object) -> bool:
    """Whether the records come from a monitor's internal topic."""
    log = worker._assignment.logs[where.topic]
    return log.internal and not combines(worker, log)


def is_sent_by_watch(worker: Worker, where: Partition, *_: object) -> bool:
    """Whether the records are reports."""
    log = worker._assignment.logs[where.topic]
    return log.internal and combines(worker, log)


def combines(worker: Worker, log: Log) -> bool:
    """Whether the stage that reads an internal topic combines reports."""
    return any(node.combines_reports for node in nodes(worker._config) if node.name == log.name)


def has_labels(stage: object, batch: EventBatch) -> bool:
    """Whether the batch has labels."""
    return bool((batch.type_code == LABEL_TYPE).any())


def has_positions(sink: KafkaSink, records: object, positions: object, *_: object) -> bool:
    """Whether a transaction commits anything."""
    return bool(positions)


def is_far_from_a_checkpoint(worker: Worker, published: int = 1) -> bool:
    """Whether a restart would load a checkpoint with learned state, and re-learn 300 records.

    published: how many such checkpoints there are.
    """
    return any(
        assigned.checkpoints.unpublished is None
        and sum(offset_of(name) > 0 for name in assigned.checkpoints.published) >= published
        and assigned.checkpoints.offset() <= (assigned.committed or 0) - 300
        for assigned in worker._assignment.partitions.values()
    )


def is_far_from_a_second_checkpoint(worker: Worker) -> bool:
    """The same, with an earlier checkpoint before it."""
    return is_far_from_a_checkpoint(worker, 2)


def is_revocation(worker: Worker, partitions: object, within_s: float | None = None) -> bool:
    """Whether checkpoints are written for a revocation, not for a clean stop."""
    return within_s is not None


POINTS = {
    "in a block": CrashPoint(Folder, "put_block", write_half_a_block),
    "before the manifest": CrashPoint(Folder, "put_manifest", die),
    "after the manifest": CrashPoint(Folder, "put_manifest", None),
    "before collecting": CrashPoint(Folder, "collect", die),
    "while collecting": CrashPoint(Folder, "_delete", die),
    "while loading": CrashPoint(loading, "_fill", die),
    "while re-learning": CrashPoint(AssignedPartition, "process", None, is_re_learning),
}
"""What a test may name. "before the manifest" all blocks are written and none is referred to;
"after the manifest" no offset names it yet."""

PROCESSING = {
    "after consume": CrashPoint(Worker, "_process", die, is_live),
    "mid-batch": CrashPoint(Watch, "process", die),
    "after begin": CrashPoint(KafkaSink, "_begin", None),
    "after produce": CrashPoint(KafkaSink, "_add_offsets", deliver_and_die),
    "after offsets": CrashPoint(KafkaSink, "_add_offsets", None),
    "after delivery": CrashPoint(KafkaSink, "_deliver", None),
    "commit begun": CrashPoint(KafkaSink, "_commit", die_after(0.0)),
    "in the commit": CrashPoint(KafkaSink, "_commit", die_after(0.001)),
    "late in the commit": CrashPoint(KafkaSink, "_commit", die_after(0.003)),
    "between route and watch": CrashPoint(Worker, "_process", die, is_sent_by_route),
    "between watch and assess": CrashPoint(Worker, "_process", die, is_sent_by_watch),
    "after commit": CrashPoint(KafkaSink, "transact", None, has_positions),
    "far from a checkpoint": CrashPoint(Worker, "_commit_once", None, is_far_from_a_checkpoint),
    "far from a second checkpoint": CrashPoint(
        Worker, "_commit_once", None, is_far_from_a_second_checkpoint
    ),
    "at on_revoke": CrashPoint(Worker, "on_revoke", die),
    "in on_revoke": CrashPoint(Worker, "_write_checkpoints", die, is_revocation),
    "late in on_revoke": CrashPoint(Worker, "_write_checkpoints", None, is_revocation),
    "at on_lost": CrashPoint(Worker, "on_lost", die),
    "after on_lost": CrashPoint(Worker, "on_lost", None),
}
"""While a worker reads, publishes and gives partitions away."""

LEARNING = {
    "at labels": CrashPoint(Assess, "process", die, has_labels),
    "after labels": CrashPoint(Assess, "process", None, has_labels),
    "between days of learning": CrashPoint(assessment, "refit", None),
}
"""While assess learns from labels."""

FREEZING = {
    "frozen while taking": CrashPoint(Assignment, "_assigned", freeze),
    "frozen between batches": CrashPoint(Worker, "_process", freeze, is_live),
    "frozen in a transaction": CrashPoint(KafkaSink, "_commit", freeze),
    "frozen while re-learning": CrashPoint(AssignedPartition, "process", freeze, is_re_learning),
}
"""Where a worker stands still instead: its connections stay, and nobody hears of it."""

ALL_POINTS = POINTS | PROCESSING | LEARNING | FREEZING


def arm(point: CrashPoint, left: int) -> None:
    """Make the `left`-th matching call the last one of this process."""
    original = getattr(point.owner, point.name)

    def wrapper(*arguments: Any) -> Any:
        nonlocal left
        counts = point.counts(*arguments)
        left -= counts
        is_due = counts and left == 0
        if is_due and point.before is not None:
            point.before(*arguments)
        found = original(*arguments)
        if is_due and point.before is None:
            die()
        return found

    setattr(point.owner, point.name, wrapper)
