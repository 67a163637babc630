"""How long partitions stand still when their worker is killed: measured, and nothing decided."""

import time
from collections.abc import Callable, Collection
from typing import NamedTuple

from stream.kafka.writing import Feed
from stream.simulator import Shop as Simulated
from stream.simulator import lines
from tests.broker.shop import KEYED_BY, PATIENCE_S, Shop

FEED_EVENTS = 200
LOOK_S = 0.05


class Pause(NamedTuple):
    """By partition: seconds from the kill to the first commit of records that came after it."""

    by_partition: dict[int, float]

    def longest_s(self) -> float:
        """Of the partition that waited longest."""
        return max(self.by_partition.values())


def pause_s(shop: Shop, partitions: Collection[int], kill: Callable[[], None]) -> Pause:
    """When everything is committed: kill, feed on, and time each partition's next commit.

    partitions: those of the worker that `kill` kills, by SIGKILL. Every one must get records from
    the events that are fed: those of about 40 addresses, spread by their hash.
    """
    shop.wait_until_done()
    before, events = shop.committed(), list(lines(Simulated(FEED_EVENTS, seed=22), 0, KEYED_BY))
    feed = Feed({"bootstrap.servers": shop.bootstrap}, shop.topic, "murmur2")
    kill()
    killed_at = time.monotonic()
    for event in events:
        feed.send(event.key, event.value)
    feed.close()
    waiting, found = set(partitions), dict[int, float]()
    while waiting:
        now, committed = time.monotonic(), shop.committed()
        for partition in [one for one in waiting if committed[one] > before[one]]:
            found[partition] = now - killed_at
            waiting.remove(partition)
        assert now - killed_at < PATIENCE_S, f"partitions {waiting} never went on"
        time.sleep(LOOK_S)
    return Pause(found)
