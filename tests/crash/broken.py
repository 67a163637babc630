"""Workers whose guarantee is broken on purpose, and what the oracle says of them.

Each story is told twice, by a worker as it is and by a broken one: of the first the oracle must
find every byte its own, of the second it must say what is wrong, and nothing else.
"""

import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final, NamedTuple

from tests.broker.shop import Shop, reference
from tests.crash.ground import (
    Ground,
    feed,
    finish,
    finish_and_check,
    open_shop,
    wait_until_done,
)
from tests.crash.oracle import differences
from tests.crash.points import EVENTS, killed, overtaken, takes
from tests.crash.processes import Forked, forked, wait_for

PATIENT: Final[dict[str, object]] = {"transaction.timeout.ms": 30_000}
MALFORMED: Final = 0.1
"""So many that hardly a transaction has nothing to publish."""

MISSING: Final = re.compile(r"[1-9]\d* missing, 0 too many")
TWICE: Final = re.compile(r"[1-9]\d* times|0 missing, [1-9]\d* too many")
STATE: Final = re.compile(r": array \S+ is .*; expected |^alerts of ")


def die_after_offsets(shop: Shop, broken: str) -> None:
    """Workers that die when a transaction with offsets is committed, and something is to follow."""
    feed(shop, EVENTS, malformed=MALFORMED)
    for _ in range(2):
        killed(shop, ("after commit", 6), broken=broken)


def start_behind_a_checkpoint(shop: Shop, broken: str) -> None:
    """A worker that starts where the checkpoint is older than the committed offset."""
    feed(shop, EVENTS, malformed=MALFORMED)
    killed(shop, ("far from a checkpoint", 1))
    with forked(shop, broken=broken) as worker:
        wait_until_done(shop, worker)
        assert worker.stop() == 0, worker.log_file
    assert worker.has_logged("re-learned") == (not broken), worker.log_file


@contextmanager
def coming_back(shop: Shop, broken: str) -> Iterator[tuple[Forked, Forked]]:
    """A worker that stood still between two batches until all its partitions were another's, whole,
    and have been read to their ends; and the other."""
    feed(shop, EVENTS, malformed=MALFORMED)
    with overtaken(shop, ("frozen between batches", 3), broken=broken) as (one, other):
        wait_until_done(shop, other)
        one.send(signal.SIGCONT)
        yield one, other


def lose_what_is_processed(shop: Shop, broken: str) -> None:
    """A worker that learns with a full outbox that its partitions are another's, and joins again."""
    with coming_back(shop, broken) as (one, other):
        wait_for(lambda: one.has_logged("partition lost"), "it to notice", one)
        wait_for(lambda: takes(one) > shop.partitions, "a share for it", one)
        feed(shop, EVENTS, seed=8, malformed=MALFORMED)
        wait_until_done(shop, one, other)
        assert one.stop() == other.stop() == 0, one.log_file


def stopped_by_an_assertion(ground: Ground) -> None:
    """One that is broken in its outbox only never comes to commit what it lost: it ends, and the
    oracle has nothing to say."""
    shop = open_shop(ground, "keep the outbox", 4, kafka=PATIENT)
    with coming_back(shop, "keep the outbox") as (one, other):
        assert one.ended() == 1, one.log_file
        assert "AssertionError: not ours to commit" in one.log_file.read_text(), one.log_file
        assert other.stop() == 0, other.log_file
    finish_and_check(shop, "last")


class Sabotage(NamedTuple):
    """What is broken, the story that shows it, and what every line of the oracle must say."""

    broken: str
    story: Callable[[Shop, str], None]
    partitions: int
    says: re.Pattern[str]


def found_out(sabotage: Sabotage, ground: Ground) -> None:
    """Tell the story as it should be, and broken."""
    for broken in ("", sabotage.broken):
        shop = open_shop(
            ground,
            f"{sabotage.broken} {bool(broken)}",
            sabotage.partitions,
            kafka=PATIENT,
        )
        sabotage.story(shop, broken)
        finish(shop, "last")
        found = [x for x in differences(shop, reference(shop)) if not x.startswith("  ")]
        said = "\n".join(found)
        assert bool(found) == bool(broken), said or "the oracle has found nothing"
        assert all(sabotage.says.search(line) for line in found), said


BROKEN: Final[dict[str, Callable[[Ground], None]]] = {
    name.replace(" ", "-"): partial(found_out, Sabotage(name, story, partitions, says))
    for name, story, partitions, says in (
        ("commit before produce", die_after_offsets, 1, MISSING),
        ("skip the rewind", start_behind_a_checkpoint, 1, STATE),
        ("commit a lost partition", lose_what_is_processed, 4, TWICE),
    )
} | {"keep-the-outbox": stopped_by_an_assertion}
"""What `--points` may name, too: they pass where what is broken is found out."""
