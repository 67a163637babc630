"""Groups on a real broker, under both protocols: partitions that move, after clean and unclean
ends."""

import signal
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.admin._resource import ResourceType

from stream.runtime.status import UNASSIGNED_WARNING
from tests.broker.shop import (
    PROTOCOLS,
    Shop,
    WorkerProcess,
    assert_published_exactly_once,
    make_shop,
    reference,
    send,
    wait_for,
    worker,
)

EVENTS = 6_000
SESSION_MS = 60_000
"""Longer than a restart takes on a busy machine."""
SLOWLY: dict[str, Any] = {"batch_records": 100, "commit_interval": "1ms"}
BOTH = pytest.mark.parametrize("kafka", PROTOCOLS.values(), ids=PROTOCOLS)


def count(process: WorkerProcess, event: str) -> int:
    """How often it has logged that event."""
    return sum(line["event"] == event for line in process.log())


def let_sessions_last(shop: Shop) -> None:
    """Under the new protocol the broker sets the group's session time-out."""
    admin = AdminClient({"bootstrap.servers": shop.bootstrap})
    entry = ConfigEntry(
        "consumer.session.timeout.ms", str(SESSION_MS), incremental_operation=AlterConfigOpType.SET
    )
    group = ConfigResource(ResourceType.GROUP, shop.group, incremental_configs=[entry])
    for future in admin.incremental_alter_configs([group]).values():
        future.result()


def client_ids(shop: Shop) -> set[str]:
    """The client ids of the group's members, as the broker shows them."""
    admin = AdminClient({"bootstrap.servers": shop.bootstrap})
    [asked] = admin.describe_consumer_groups([shop.group], request_timeout=10).values()
    return {member.client_id for member in asked.result().members}


@BOTH
def test_workers_that_come_go_and_die_share_the_partitions(
    broker: str, tmp_path: Path, kafka: dict[str, object]
) -> None:
    """Partitions that move lose and double nothing, and the others stay: a rebalance takes from a
    worker only what another one gets."""
    shop = make_shop(broker, tmp_path, "share", 4, kafka=kafka, **SLOWLY)
    shop.feed(EVENTS)
    with worker(shop, "one") as first:
        wait_for(lambda: count(first, "partition taken") == 4, "an assignment")
        with worker(shop, "two") as second:
            wait_for(lambda: count(second, "partition taken") == 2, "a share")
            assert count(first, "partition revoked") == 2
            wait_for(lambda: sum(shop.committed().values()) > EVENTS // 10, "commits")
            first.stop(signal.SIGKILL)
            wait_for(lambda: count(second, "partition taken") == 4, "the killed worker's share")
            with worker(shop, "three") as third:
                wait_for(lambda: count(third, "partition taken") == 2, "a share")
                assert second.stop() == 0
                shop.feed(EVENTS // 10, seed=8)
                shop.wait_until_caught_up()
                assert count(third, "partition taken") == 4
                assert third.stop() == 0
            assert not second.has_logged("partition lost")
    assert_published_exactly_once(shop)


@pytest.mark.long
@BOTH
def test_a_paused_worker_commits_nothing_of_lost_partitions(
    broker: str, tmp_path: Path, kafka: dict[str, object]
) -> None:
    """A worker that is stopped for longer than its session drops its lost partitions and continues,
    or ends because its transaction was open for too long. Nothing is doubled."""
    shop = make_shop(broker, tmp_path, "away", 4, kafka=kafka, **SLOWLY)
    shop.feed(EVENTS)
    with worker(shop, "one") as first, worker(shop, "two") as second:
        wait_for(lambda: count(first, "partition taken") >= 2, "a share")
        wait_for(lambda: count(second, "partition taken") >= 2, "a share")
        wait_for(lambda: sum(shop.committed().values()) > EVENTS // 10, "commits")
        held = count(second, "partition taken") - count(second, "partition revoked")
        first.process.send_signal(signal.SIGSTOP)
        wait_for(
            lambda: count(second, "partition taken") - count(second, "partition revoked") == 4,
            "the second worker to have all",
        )
        assert held < 4
        first.process.send_signal(signal.SIGCONT)
        wait_for(
            lambda: first.has_logged("partition lost") or first.process.poll() is not None,
            "the first worker to notice",
        )
        shop.feed(EVENTS // 10, seed=8)
        shop.wait_until_caught_up()
        code = first.process.poll()
        assert code in {None, 7}, first.log_file.read_text()
        if code is None:
            assert count(first, "partition lost") > 0
            assert first.stop() == 0
        assert second.stop() == 0
    assert_published_exactly_once(shop)


@pytest.mark.long
@BOTH
def test_a_member_with_a_name_keeps_its_partitions_through_a_restart(
    broker: str, tmp_path: Path, kafka: dict[str, object]
) -> None:
    """With group.instance.id one configuration serves many workers, each named by its slot, and a
    restart moves no partition to another worker."""
    if "session.timeout.ms" in kafka:
        kafka = {"session.timeout.ms": SESSION_MS}
    shop = make_shop(
        broker, tmp_path, "static", 4, kafka={**kafka, "group.instance.id": "ours"}, **SLOWLY
    )
    let_sessions_last(shop)
    shop.feed(EVENTS // 2)
    with worker(shop, "one") as first, worker(shop, "two") as second:
        wait_for(lambda: count(first, "partition taken") >= 2, "a share")
        wait_for(lambda: count(second, "partition taken") >= 2, "a share")
        shop.wait_until_caught_up()
        taken = count(second, "partition taken")
        given = count(second, "partition revoked")
        assert first.stop() == 0
        with worker(shop, "one") as again:
            wait_for(lambda: count(again, "partition taken") == 2, "its share")
            shop.feed(EVENTS // 2, seed=8)
            shop.wait_until_caught_up()
            assert count(second, "partition taken") == taken
            assert count(second, "partition revoked") == given
            assert again.stop() == 0
        assert second.stop() == 0
    assert_published_exactly_once(shop)


def test_a_second_worker_of_a_slot_names_the_first(broker: str, tmp_path: Path) -> None:
    """It logs who may own its partitions, how to find out, and what to do; the first worker ends at
    its next commit, and says why."""
    shop = make_shop(broker, tmp_path, "twins", 1)
    send(shop, [b"no event"])
    with worker(shop, "same") as first:
        shop.wait_until_caught_up()
        with worker(shop, "same") as second:
            wait_for(lambda: second.has_logged(UNASSIGNED_WARNING), "a word")
            [warning] = [line for line in second.log() if line["event"] == UNASSIGNED_WARNING]
            assert (warning["slot"], warning["group"]) == ("same", shop.group)
            assert client_ids(shop) == {"eddy-same"}
            send(shop, [b"no event either"])
            assert first.process.wait(60) == 5
            assert "give every worker of the group its own slot" in first.log_file.read_text()
            shop.wait_until_caught_up()
            assert second.stop() == 0
    assert shop.dead_letters() == reference(shop).dead_letters
