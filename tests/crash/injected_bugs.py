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
from tests.crash.environment import (
    Environment,
    feed,
    finish_and_check,
    finish_with_one_worker,
    make_crash_shop,
    wait_until_caught_up,
)
from tests.crash.oracle import differences
from tests.crash.processes import ForkedWorker, running_worker, wait_for
from tests.crash.scenarios import EVENTS, frozen_and_replaced, partitions_taken, run_until_killed

LONG_TRANSACTIONS: Final[dict[str, object]] = {"transaction.timeout.ms": 30_000}
MALFORMED: Final = 0.1
"""So many that hardly a transaction has nothing to publish."""

MISSING: Final = re.compile(r"[1-9]\d* missing, 0 too many")
TWICE: Final = re.compile(r"[1-9]\d* times|0 missing, [1-9]\d* too many")
STATE: Final = re.compile(r": array \S+ is .*; expected |^alerts of ")


def die_after_offsets(shop: Shop, bug: str) -> None:
    """Workers that die when a transaction with offsets is committed, and something is to follow."""
    feed(shop, EVENTS, malformed=MALFORMED)
    for _ in range(2):
        run_until_killed(shop, ("after commit", 6), bug=bug)


def start_from_an_older_checkpoint(shop: Shop, bug: str) -> None:
    """A worker that starts where the checkpoint is older than the committed offset."""
    feed(shop, EVENTS, malformed=MALFORMED)
    run_until_killed(shop, ("far from a checkpoint", 1))
    with running_worker(shop, bug=bug) as worker:
        wait_until_caught_up(shop, worker)
        assert worker.stop() == 0, worker.log_file
    assert worker.has_logged("re-learned") == (not bug), worker.log_file


@contextmanager
def resumed_after_loss(shop: Shop, bug: str) -> Iterator[tuple[ForkedWorker, ForkedWorker]]:
    """A worker that stood still between two batches until all its partitions were another's, whole,
    and have been read to their ends; and the other."""
    feed(shop, EVENTS, malformed=MALFORMED)
    with frozen_and_replaced(shop, ("frozen between batches", 3), bug=bug) as (one, other):
        wait_until_caught_up(shop, other)
        one.send_signal(signal.SIGCONT)
        yield one, other


def lose_processed_output(shop: Shop, bug: str) -> None:
    """A worker that learns with a full outbox that its partitions are another's, and joins again."""
    with resumed_after_loss(shop, bug) as (one, other):
        wait_for(lambda: one.has_logged("partition lost"), "it to notice", one)
        wait_for(lambda: partitions_taken(one) > shop.partitions, "a share for it", one)
        feed(shop, EVENTS, seed=8, malformed=MALFORMED)
        wait_until_caught_up(shop, one, other)
        assert one.stop() == other.stop() == 0, one.log_file


def stopped_by_the_assertion(environment: Environment) -> None:
    """One that is broken in its outbox only never comes to commit what it lost: it ends, and the
    oracle has nothing to say."""
    shop = make_crash_shop(environment, "keep the outbox", 4, kafka=LONG_TRANSACTIONS)
    with resumed_after_loss(shop, "keep the outbox") as (one, other):
        assert one.wait_for_exit() == 1, one.log_file
        assert "AssertionError: not ours to commit" in one.log_file.read_text(), one.log_file
        assert other.stop() == 0, other.log_file
    finish_and_check(shop, "last")


class InjectedBug(NamedTuple):
    """What is broken, the story that shows it, and what every line of the oracle must say."""

    bug: str
    scenario: Callable[[Shop, str], None]
    partitions: int
    expected_difference: re.Pattern[str]


def finds_the_bug(injected: InjectedBug, environment: Environment) -> None:
    """Tell the story as it should be, and broken."""
    for bug in ("", injected.bug):
        shop = make_crash_shop(
            environment,
            f"{injected.bug} {bool(bug)}",
            injected.partitions,
            kafka=LONG_TRANSACTIONS,
        )
        injected.scenario(shop, bug)
        finish_with_one_worker(shop, "last")
        found = [x for x in differences(shop, reference(shop)) if not x.startswith("  ")]
        text = "\n".join(found)
        assert bool(found) == bool(bug), text or "the oracle has found nothing"
        assert all(injected.expected_difference.search(line) for line in found), text


INJECTED_BUGS: Final[dict[str, Callable[[Environment], None]]] = {
    name.replace(" ", "-"): partial(
        finds_the_bug, InjectedBug(name, scenario, partitions, expected_difference)
    )
    for name, scenario, partitions, expected_difference in (
        ("commit before produce", die_after_offsets, 1, MISSING),
        ("skip the rewind", start_from_an_older_checkpoint, 1, STATE),
        ("commit a lost partition", lose_processed_output, 4, TWICE),
    )
} | {"keep-the-outbox": stopped_by_the_assertion}
"""What `--points` may name, too: they pass where what is broken is found out."""
