"""`eddy run --processes N` on a real broker: workers that crash, stop, and lose their
supervisor."""

import os
import signal
from pathlib import Path

import pytest

from tests.broker.shop import (
    CLASSIC_PROTOCOL,
    WorkerProcess,
    assert_published_exactly_once,
    make_shop,
    wait_for,
    worker,
    workers,
)

EVENTS = 6_000
KAFKA: dict[str, dict[str, object]] = {
    "classic": CLASSIC_PROTOCOL,
    "consumer-static": {"group.protocol": "consumer", "group.instance.id": "ours"},
}


def started(process: WorkerProcess) -> list[dict[str, object]]:
    """The log lines about started workers."""
    return [line for line in process.log() if line["event"] == "worker started"]


def takings(process: WorkerProcess, slot: str) -> list[int]:
    """The partitions that the workers of a slot have taken, in order."""
    return [
        line["partition"]
        for line in process.log()
        if line["event"] == "partition taken" and line["slot"] == slot
    ]


def taken(process: WorkerProcess) -> set[tuple[str, int]]:
    """The slot and partition of every assignment."""
    return {
        (line["slot"], line["partition"])
        for line in process.log()
        if line["event"] == "partition taken"
    }


def slots(process: WorkerProcess) -> set[str]:
    """The slots that have had a partition."""
    return {slot for slot, _ in taken(process)}


@pytest.mark.parametrize(
    "protocol",
    [
        name if k == 0 else pytest.param(name, marks=pytest.mark.long)
        for k, name in enumerate(KAFKA)
    ],
)
def test_a_killed_worker_returns_to_its_slot(broker: str, tmp_path: Path, protocol: str) -> None:
    """Its successor has the same slot, nothing is lost or doubled, and a signal stops all. A static
    member's successor may have to restart until the killed member's session times out."""
    kafka = KAFKA[protocol]
    shop = make_shop(
        broker, tmp_path, "slots", 4, kafka=kafka, batch_records=100, commit_interval="1ms"
    )
    shop.feed(EVENTS)
    with workers(shop, 2) as both:
        wait_for(lambda: len(slots(both)) == 2, "two workers with partitions")
        wait_for(lambda: len({partition for _, partition in taken(both)}) == 4, "all taken")
        wait_for(lambda: sum(shop.committed().values()) > EVENTS // 10, "commits")
        victim = started(both)[0]
        before = len(takings(both, "shop-0"))
        os.kill(int(str(victim["pid"])), signal.SIGKILL)
        wait_for(lambda: len(started(both)) >= 3, "a successor")
        assert started(both)[2]["worker"] == victim["worker"] == "shop-0"
        shop.feed(EVENTS // 4, seed=8)
        shop.wait_until_caught_up()
        wait_for(lambda: len(takings(both, "shop-0")) > before, "the successor to have partitions")
        assert both.stop() == 0
    assert {line["slot"] for line in both.log()} == {"shop", "shop-0", "shop-1"}
    assert sum(line["event"] == "stopped" for line in both.log()) == 2
    assert_published_exactly_once(shop)


@pytest.mark.long
def test_workers_stop_cleanly_when_their_supervisor_is_killed(broker: str, tmp_path: Path) -> None:
    """They commit, log the reason, and leave no transaction open."""
    shop = make_shop(broker, tmp_path, "orphans", 4, batch_records=100, commit_interval="1ms")
    shop.feed(EVENTS)
    with workers(shop, 2) as both:
        wait_for(lambda: len(slots(both)) == 2, "two workers with partitions")
        assert both.stop(signal.SIGKILL) == -signal.SIGKILL
        wait_for(
            lambda: sum(line["event"] == "stopped" for line in both.log()) == 2, "workers to stop"
        )
        assert both.has_logged("the supervisor is gone")
    with worker(shop, "after"):
        shop.wait_until_caught_up()
    assert_published_exactly_once(shop)


@pytest.mark.long
def test_a_non_restartable_worker_ends_the_supervisor(broker: str, tmp_path: Path) -> None:
    """A missing topic ends all workers with exit code 2, without restarts."""
    shop = make_shop(broker, tmp_path, "never", 4)
    shop.config.write_text(shop.config.read_text().replace(f"{shop.group}-dead", "nowhere"))
    with workers(shop, 2) as both:
        assert both.process.wait(120) == 2
    assert len(started(both)) == 2
