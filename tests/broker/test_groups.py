"""Groups on a real broker, under both protocols: partitions that move, with and without a goodbye."""

import signal
from pathlib import Path
from typing import Any

import pytest

from tests.broker.shop import (
    PROTOCOLS,
    WorkerProcess,
    holds_all_once,
    make_shop,
    reference,
    send,
    wait_for,
    worker,
)

EVENTS = 6_000
SLOWLY: dict[str, Any] = {"batch_records": 100, "commit_interval": "1ms"}
BOTH = pytest.mark.parametrize("kafka", PROTOCOLS.values(), ids=PROTOCOLS)


def count(process: WorkerProcess, event: str) -> int:
    """How often it has logged that."""
    return sum(line["event"] == event for line in process.log())


@BOTH
def test_workers_that_come_and_go_share_the_partitions(
    broker: str, tmp_path: Path, kafka: dict[str, object]
) -> None:
    """Partitions that move between workers in mid-stream lose and double nothing, and those that
    stay are not touched: a rebalance takes from a worker only what another is to get."""
    shop = make_shop(broker, tmp_path, "share", 4, kafka=kafka, **SLOWLY)
    shop.feed(EVENTS)
    with worker(shop, "one") as first:
        wait_for(lambda: count(first, "partition taken") == 4, "an assignment")
        with worker(shop, "two") as second:
            wait_for(lambda: count(second, "partition taken") == 2, "a share")
            assert count(first, "partition given back") == 2
            wait_for(lambda: sum(shop.committed().values()) > EVENTS // 10, "commits")
            assert first.stop() == 0
            shop.feed(EVENTS // 10, seed=8)
            shop.wait_until_done()
            assert count(second, "partition taken") == 4
            assert second.stop() == 0
    holds_all_once(shop)


@BOTH
def test_partitions_of_a_killed_worker_move(
    broker: str, tmp_path: Path, kafka: dict[str, object]
) -> None:
    """The survivor goes on with them from what was committed, and keeps its own."""
    shop = make_shop(broker, tmp_path, "killed", 4, kafka=kafka, **SLOWLY)
    shop.feed(EVENTS)
    with worker(shop, "one") as first, worker(shop, "two") as second:
        wait_for(lambda: count(first, "partition taken") > 0, "a share")
        wait_for(lambda: count(second, "partition taken") > 0, "a share")
        wait_for(lambda: sum(shop.committed().values()) > EVENTS // 10, "commits")
        first.stop(signal.SIGKILL)
        shop.feed(EVENTS // 10, seed=8)
        shop.wait_until_done()
        assert not second.has_logged("partition lost")
        assert second.stop() == 0
    holds_all_once(shop)


@BOTH
def test_a_worker_that_was_away_commits_nothing_of_what_it_lost(
    broker: str, tmp_path: Path, kafka: dict[str, object]
) -> None:
    """One that is stopped for longer than its session drops what others have taken meanwhile, and
    goes on; or it ends, because its transaction was open for too long. Nothing is twice."""
    shop = make_shop(broker, tmp_path, "away", 4, kafka=kafka, **SLOWLY)
    shop.feed(EVENTS)
    with worker(shop, "one") as first, worker(shop, "two") as second:
        wait_for(lambda: count(first, "partition taken") >= 2, "a share")
        wait_for(lambda: count(second, "partition taken") >= 2, "a share")
        wait_for(lambda: sum(shop.committed().values()) > EVENTS // 10, "commits")
        held = count(second, "partition taken") - count(second, "partition given back")
        first.process.send_signal(signal.SIGSTOP)
        wait_for(
            lambda: count(second, "partition taken") - count(second, "partition given back") == 4,
            "the second worker to have all",
        )
        assert held < 4
        first.process.send_signal(signal.SIGCONT)
        wait_for(
            lambda: first.has_logged("partition lost") or first.process.poll() is not None,
            "the first worker to notice",
        )
        shop.feed(EVENTS // 10, seed=8)
        shop.wait_until_done()
        code = first.process.poll()
        assert code in {None, 7}, first.log_file.read_text()
        if code is None:
            assert count(first, "partition lost") > 0
            assert first.stop() == 0
        assert second.stop() == 0
    holds_all_once(shop)


@BOTH
def test_a_member_with_a_name_keeps_its_partitions_through_a_restart(
    broker: str, tmp_path: Path, kafka: dict[str, object]
) -> None:
    """With group.instance.id one configuration serves many workers, each named like its slot, and
    a restart moves no partition to the others."""
    shop = make_shop(
        broker, tmp_path, "static", 4, kafka={**kafka, "group.instance.id": "ours"}, **SLOWLY
    )
    shop.feed(EVENTS // 2)
    with worker(shop, "one") as first, worker(shop, "two") as second:
        wait_for(lambda: count(first, "partition taken") >= 2, "a share")
        wait_for(lambda: count(second, "partition taken") >= 2, "a share")
        shop.wait_until_done()
        taken = count(second, "partition taken")
        given = count(second, "partition given back")
        assert first.stop() == 0
        with worker(shop, "one") as again:
            wait_for(lambda: count(again, "partition taken") == 2, "its share")
            shop.feed(EVENTS // 2, seed=8)
            shop.wait_until_done()
            assert count(second, "partition taken") == taken
            assert count(second, "partition given back") == given
            assert again.stop() == 0
        assert second.stop() == 0
    holds_all_once(shop)


@BOTH
def test_a_second_worker_of_a_slot_says_whom_it_waits_for(
    broker: str, tmp_path: Path, kafka: dict[str, object]
) -> None:
    """It names the other's host and what to do; the other ends at its next commit, and says why."""
    shop = make_shop(broker, tmp_path, "twins", 1, kafka=kafka)
    send(shop, [b"no event"])
    with worker(shop, "same") as first:
        shop.wait_until_done()
        with worker(shop, "same") as second:
            wait_for(lambda: second.has_logged("another worker has this slot"), "a word")
            [said] = [line for line in second.log() if line["event"].startswith("another worker")]
            assert (said["client"], said["partitions"]) == ("eddy-same", 1)
            assert "127.0.0.1" in said["host"]
            send(shop, [b"no event either"])
            assert first.process.wait(60) == 5
            assert "give every worker of the group a slot" in first.log_file.read_text()
            shop.wait_until_done()
            assert second.stop() == 0
    assert shop.dead_letters() == reference(shop).dead_letters


def test_a_worker_too_many_says_so(broker: str, tmp_path: Path) -> None:
    """With fewer partitions than workers one has nothing to do, which is no fault of its slot."""
    shop = make_shop(broker, tmp_path, "spare", 1)
    with worker(shop, "one") as first:
        wait_for(lambda: first.has_logged("partition taken"), "an assignment")
        with worker(shop, "two") as second:
            wait_for(lambda: second.has_logged("no partition for us: other workers"), "a word")
            assert not second.has_logged("another worker has this slot")
