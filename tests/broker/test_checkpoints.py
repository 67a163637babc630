"""Checkpoints on a real broker: a worker continues the state of a killed one, byte for byte, and
whatever prevents that is an error with its remedy.

Every test compares alerts and dead letters, and the state after a clean stop, with the reference.
"""

import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions
from obstore.store import LocalStore

from stream.checkpoints.loading import load as load_arrays
from stream.checkpoints.migration import migrate
from stream.checkpoints.store import Folder
from stream.config import fingerprint, load, state_config
from stream.config.stage_graph import logs
from stream.kafka.positions import Partition
from stream.pipeline.alerting import RunInfo
from stream.pipeline.shard import Shard, ShardFactory
from tests.broker.shop import (
    Shop,
    WorkerProcess,
    as_records,
    consumer,
    eddy,
    make_shop,
    messages,
    published_alert,
    reference,
    value_of,
    wait_for,
    worker,
)
from tests.laws.test_laws import assert_same

EVENTS = 6_000
SLOWLY: dict[str, Any] = {"batch_records": 200, "commit_interval": "1ms"}
OFTEN: dict[str, Any] = {"rewind_records_max": 3_000}
"""A checkpoint is due after 1,000 records."""
FEW = 300
"""Too few for a checkpoint."""


def first(shop: Shop) -> Partition:
    """The first partition of the shop's events."""
    return Partition(shop.topic, 0)


def equals_reference(shop: Shop) -> None:
    """Output and, after a clean stop, state equal the reference's."""
    expected = reference(shop)
    assert shop.alerts(expected.read_at) == expected.alerts
    assert shop.dead_letters() == expected.dead_letters
    for where, shard in expected.shards.items():
        same_state(shop, where, shard)


def same_state(shop: Shop, where: Partition, expected: Shard) -> None:
    """The checkpoint at a partition's committed offset holds that shard's state, byte for byte."""
    folder = Folder(LocalStore(shop.store), shop.group, *where)
    manifest = folder.manifest(shop.committed_checkpoint(where))
    assert manifest.offset == shop.committed(where.topic, where.partition + 1)[where.partition]
    assert_same(load_arrays(folder, manifest, lambda: None), expected.save())


def finish(shop: Shop) -> WorkerProcess:
    """A worker that processes the rest and stops cleanly."""
    with worker(shop) as process:
        partitions_read = sum(log.partitions for log in logs(load(shop.config)))
        wait_for(lambda: count(process, "partition taken") == partitions_read, "an assignment")
        shop.wait_until_caught_up()
        wait_for(lambda: process.get("/readyz")[0] == 200, "readiness")
        assert process.stop() == 0
    return process


def run_until_killed(shop: Shop, checkpoints: int = 2) -> None:
    """A worker that is killed after it has published so many checkpoints, with records committed
    since the last, and others left."""
    with worker(shop) as process:
        wait_for(lambda: count(process, "checkpoint written") > checkpoints, "checkpoints")
        shop.feed(FEW, seed=8)
        there = first(shop)
        wait_for(
            lambda: newest_offset(shop, there) < shop.committed()[0], "commits behind the last"
        )
        process.stop(signal.SIGKILL)
    shop.feed(FEW, seed=9)
    assert shop.committed()[0] < shop.ends()[0], "killed too late to say anything"


def count(process: WorkerProcess, event: str) -> int:
    """How often it has logged that event."""
    return sum(line["event"] == event for line in process.log())


def test_a_killed_worker_re_learns_no_more_than_it_must(broker: str, tmp_path: Path) -> None:
    """The next worker starts at the checkpoint that the committed offset names, and logs its
    progress."""
    shop = make_shop(broker, tmp_path, "rewind", 1, OFTEN, **SLOWLY)
    shop.feed(EVENTS)
    run_until_killed(shop)
    committed, name = shop.committed()[0], shop.committed_checkpoint()
    process = finish(shop)
    start = next(line for line in process.log() if line["event"] == "partition taken")
    assert start["next_offset"] == int(name.partition("-")[0])
    assert 0 < committed - start["next_offset"] <= 3_000
    assert start["live_from"] == committed
    left = next(line for line in process.log() if line["event"] == "re-learning")
    assert left["offsets_left"] == committed - start["next_offset"]
    equals_reference(shop)
    # Two that were published, one that never was, and what a stop does not wait to be removed.
    assert len(shop.checkpoints()) <= 4
    assert not finish(shop).has_logged("re-learn")  # a clean stop left nothing to re-learn


@pytest.mark.parametrize(
    "how",
    [pytest.param(signal.SIGTERM, marks=pytest.mark.long), signal.SIGKILL],
    ids=["SIGTERM", "SIGKILL"],
)
def test_internal_logs_continue_from_their_checkpoints(
    broker: str, tmp_path: Path, how: signal.Signals
) -> None:
    """However a worker ends, the shards of internal topics recover from checkpoints that their own
    offsets name, and nothing is lost, doubled or learned twice."""
    shop = make_shop(
        broker, tmp_path, "hops", 4, {"interval": "1s"}, internal_topics=True, **SLOWLY
    )
    shop.feed(EVENTS)
    with worker(shop) as process:
        shop.wait_until_caught_up()
        partitions_read = [where for where in reference(shop).shards if where.topic != shop.topic]
        wait_for(
            lambda: all(newest_offset(shop, where) > 0 for where in partitions_read), "checkpoints"
        )
        shop.feed(EVENTS, seed=8)
        before = sum(shop.committed().values())
        wait_for(lambda: sum(shop.committed().values()) > before + EVENTS // 10, "commits")
        assert process.stop(how) == (0 if how is signal.SIGTERM else -how)
    assert sum(shop.committed().values()) < sum(shop.ends().values()), "stopped too late"
    expected = {where: newest_offset(shop, where) for where in partitions_read}
    process = finish(shop)
    taken = {
        Partition(line["topic"], line["partition"]): line["next_offset"]
        for line in process.log()
        if line["event"] == "partition taken"
    }
    assert {where: taken[where] for where in partitions_read} == expected
    assert process.has_logged("re-learned") == (how is signal.SIGKILL)
    equals_reference(shop)


def newest_offset(shop: Shop, where: Partition) -> int:
    """The offset of the checkpoint that a partition's committed offset names."""
    return int(shop.committed_checkpoint(where).partition("-")[0])


@pytest.mark.long
def test_an_idle_worker_writes_its_state_and_names_it(broker: str, tmp_path: Path) -> None:
    """A state is written when the interval is over even if no record arrives, and its offset is
    committed again with the new checkpoint's name."""
    shop = make_shop(broker, tmp_path, "idle", 1, {"interval": "2s"})
    shop.feed(300)
    with worker(shop) as process:
        shop.wait_until_caught_up()
        wait_for(
            lambda: shop.committed_checkpoint().startswith(f"{shop.ends()[0]:019d}"), "a checkpoint"
        )
        exposition = process.get("/metrics")[1]
        process.stop(signal.SIGKILL)
    assert value_of(exposition, "eddy_checkpoints_total") >= 2
    assert value_of(exposition, "eddy_checkpoint_bytes_total") > 1_000
    finish(shop)
    equals_reference(shop)


def test_a_damaged_checkpoint_falls_back_to_the_previous_one(broker: str, tmp_path: Path) -> None:
    """With an error in the log and the same output. Without any intact checkpoint the log is
    re-learned from its first record; where that was deleted, starting is an error."""
    shop = make_shop(broker, tmp_path, "corrupt", 1, OFTEN, **SLOWLY)
    shop.feed(EVENTS)
    run_until_killed(shop)
    kept = shop.config.with_name("kept")
    shutil.copytree(shop.store, kept)
    last = shop.committed_checkpoint()
    manifest = next(shop.store.rglob(f"{last}.json"))
    manifest.write_bytes(manifest.read_bytes()[:-10])
    with worker(shop) as process:
        wait_for(lambda: process.has_logged("partition taken"), "it")
        assert process.has_logged("checkpoint is damaged: falling back to an earlier one")
        wait_for(lambda: "eddy_records_total{" in process.get("/metrics")[1], "a reading")
        assert value_of(process.get("/metrics")[1], "eddy_checkpoint_fallbacks_total") == 1
        start = next(line for line in process.log() if line["event"] == "partition taken")
        assert 0 < start["next_offset"] < int(last.partition("-")[0])
        process.stop(signal.SIGKILL)
    shutil.rmtree(shop.store)
    process = finish(shop)
    assert process.has_logged("no intact checkpoint: re-learning from the first record")
    equals_reference(shop)
    shutil.rmtree(shop.store)
    delete_before(shop, 2)
    output = eddy("run", str(shop.config), code=4)
    assert "there is no intact checkpoint from which the log, which begins at 2, could" in output
    assert "Check that checkpoints.url names the right store" in output
    assert "Traceback" not in output


def delete_before(shop: Shop, offset: int) -> None:
    """Have the broker delete the records before that offset."""
    admin = AdminClient({"bootstrap.servers": shop.bootstrap})
    for future in admin.delete_records([TopicPartition(shop.topic, 0, offset)]).values():
        future.result()


@pytest.mark.long
def test_a_log_that_lost_uncommitted_records_is_a_retention_gap(
    broker: str, tmp_path: Path
) -> None:
    """Deleted records that the checkpoint does not include are an error that names the offsets."""
    shop = make_shop(broker, tmp_path, "gap", 1, OFTEN, **SLOWLY)
    shop.feed(EVENTS)
    run_until_killed(shop)
    newest_offset = int(shop.committed_checkpoint().partition("-")[0])
    delete_before(shop, newest_offset + 10)
    output = eddy("run", str(shop.config), code=4)
    assert f"{shop.topic}[0]: the group's checkpoint is at offset {newest_offset}" in output
    assert f"the log now begins at {newest_offset + 10}" in output
    assert "Raise the topic's retention" in output
    assert "Traceback" not in output


@pytest.mark.long
def test_an_offset_and_its_checkpoint_belong_together(broker: str, tmp_path: Path) -> None:
    """Offsets committed by another tool, and checkpoints without an offset, are refused."""
    shop = make_shop(broker, tmp_path, "pointer", 1)
    shop.feed(300)
    finish(shop)
    with consumer(broker, shop.group) as client:
        client.commit(offsets=[TopicPartition(shop.topic, 0, 10)], asynchronous=False)
    output = eddy("run", str(shop.config), code=4)
    assert 'offset 10 with metadata ""; expected the name of a checkpoint' in output
    assert "The group's offsets were reset or deleted" in output
    admin = AdminClient({"bootstrap.servers": broker})
    for future in admin.delete_consumer_groups([shop.group]).values():
        future.result()
    output = eddy("run", str(shop.config), code=4)
    assert "the group has committed no offset, but there is checkpoint" in output
    assert "Traceback" not in output


@pytest.mark.long
def test_a_topic_with_more_partitions_is_refused(broker: str, tmp_path: Path) -> None:
    """Entities have moved, so that no partition's state would be right."""
    shop = make_shop(broker, tmp_path, "grown", 4)
    shop.feed(300)
    finish(shop)
    admin = AdminClient({"bootstrap.servers": broker})
    for future in admin.create_partitions([NewPartitions(shop.topic, 8)]).values():
        future.result()
    shop.config.write_text(shop.config.read_text().replace("partitions = 4", "partitions = 8"))
    output = eddy("run", str(shop.config), code=4)
    assert f"{shop.topic}: it has 8 partitions; the state of partition" in output
    assert "Entities have moved between partitions" in output


@pytest.mark.long
def test_another_configuration_takes_over_where_the_former_one_ends(
    broker: str, tmp_path: Path
) -> None:
    """Committed records are re-learned under the old configuration, then the state is migrated:
    unchanged monitors keep their state, others start with nothing learned. The old configuration is
    refused afterwards."""
    shop = make_shop(broker, tmp_path, "turns", 1, OFTEN, **SLOWLY)
    shop.feed(EVENTS)
    run_until_killed(shop)
    former, turned_at = load(shop.config), shop.committed()[0]
    former_text = shop.config.read_text()
    at = former_text.index('entity = "card"')
    changed = former_text[:at] + former_text[at:].replace("capacity = ", "capacity = 1", 1)
    shop.config.write_text(changed)
    shop.config.with_name("later.toml").write_text(changed)
    assert load(shop.config) != former
    argument = f"card@{fingerprint(former)}"
    refusal = refused(shop)
    assert f"monitor card: its capacity changed: --drop-state {argument}" in refusal
    assert refusal.count("--drop-state card@") == 1
    shop.drops.append(argument)
    process = finish(shop)
    assert process.has_logged("re-learned")
    fates = {
        line["stage"]: line["event"]
        for line in process.log()
        if "configuration changed" in line["event"]
    }
    assert fates["account"] == "configuration changed: state kept"
    assert fates["card"] == "configuration changed: stage starts with nothing learned"

    log = messages(broker, shop.topic)
    run = RunInfo("live", "reference", str)
    one, other = (
        ShardFactory(config, run).input_shard("shop") for config in (former, load(shop.config))
    )
    before = [m for m in log if (m.offset() or 0) < turned_at]
    alerts = one.process(as_records(shop.topic, before)).alerts
    migrate(one.save(), state_config(former), state_config(load(shop.config)), other)
    alerts += other.process(as_records(shop.topic, log[len(before) :])).alerts
    assert shop.alerts({})[first(shop)] == [published_alert(alert) for alert in alerts]
    same_state(shop, first(shop), other)

    shop.config.write_text(former_text)
    output = eddy("run", str(shop.config), code=4)
    assert "the group changed to it from this worker's" in output
    assert "raise its `revision`" in output
    later = load(shop.config.with_name("later.toml"))
    shop.config.write_text("revision = 1\n" + former_text)
    argument = f"card@{fingerprint(later)}"
    assert f"--drop-state {argument}" in refused(shop)
    shop.drops.append(argument)
    finish(shop)


def refused(shop: Shop, *options: str) -> str:
    """The output of a worker whose start would drop learned state; it writes and commits
    nothing."""

    def everything() -> tuple[dict[Path, bytes], dict[int, int], str]:
        kept = {path: path.read_bytes() for path in shop.store.rglob("*") if path.is_file()}
        return kept, shop.committed(), shop.committed_checkpoint()

    before = everything()
    output = eddy("run", str(shop.config), *options, code=4)
    assert everything() == before
    assert "this start would drop learned state of the group" in output
    assert "Traceback" not in output
    return output


def test_a_wrong_secret_is_refused_and_the_right_one_continues(broker: str, tmp_path: Path) -> None:
    """Exit code 4; then the right secret continues as if nothing had happened. With the flag
    everything is learned again from the committed offset, and the checkpoint of the dropped state
    stays in the store."""
    shop = make_shop(broker, tmp_path, "secret", 1, OFTEN, **SLOWLY)
    shop.feed(EVENTS)
    run_until_killed(shop)
    right = shop.config.read_text()
    wrong = re.sub(r'(?m)^secret = ".*"', 'secret = "another secret of 16 bytes"', right)
    argument = f"all@{fingerprint(load(shop.config))}"
    shop.config.write_text(wrong)
    for options in ([], ["--drop-state", f"all@{'0' * 32}"]):
        output = refused(shop, *options)
        assert f"monitor account: the secret changed: --drop-state {argument}" in output
    shop.config.write_text(right)
    shop.drops.append(argument)  # forgotten, and harmless
    finish(shop)
    equals_reference(shop)
    learned = shop.checkpoints()[-1]
    shop.config.write_text(wrong)
    shop.feed(FEW, seed=10)
    process = finish(shop)
    assert process.has_logged("state dropped")
    assert learned in shop.checkpoints()


@pytest.mark.long
def test_a_topic_with_another_name_is_refused(broker: str, tmp_path: Path) -> None:
    """A group whose only topic is renamed would silently drop all its state, since the new topic
    has no committed offset."""
    shop = make_shop(broker, tmp_path, "renamed", 1)
    shop.feed(300)
    finish(shop)
    former = load(shop.config)
    other = make_shop(broker, tmp_path, "other", 1)
    text = shop.config.read_text().replace(f'"{shop.topic}"', f'"{other.topic}"')
    shop.config.write_text(text)
    output = refused(shop)
    for one in former.monitors:
        argument = f"{one.name}@{fingerprint(former)}"
        assert f"monitor {one.name}: inputs.shop changed: --drop-state {argument}" in output
        shop.drops.append(argument)
    for _ in range(2):  # the second time no flag is needed
        other.feed(300)
        with worker(shop) as process:
            wait_for(lambda: process.has_logged("partition taken"), "an assignment")
            wait_for(lambda: all_read(shop, other), "the end")
            assert process.stop() == 0
        shop.drops.clear()


def all_read(shop: Shop, other: Shop) -> bool:
    """Whether the shop's group has committed the end of the other shop's topic."""
    return shop.committed(other.topic)[0] >= other.ends()[0] > 0


@pytest.mark.long
def test_workers_change_configuration_one_by_one(broker: str, tmp_path: Path) -> None:
    """A worker without the flag is refused before it joins, and the running ones lose no partition.
    With the flag each takes over in turn, and every partition keeps the checkpoint that was
    dropped."""
    shop = make_shop(broker, tmp_path, "rolling", 4, internal_topics=True)
    shop.feed(FEW)
    finish(shop)
    former, text = load(shop.config), shop.config.read_text()
    at = text.index('entity = "card"')
    with worker(shop, "one") as one, worker(shop, "two") as two:
        wait_for(lambda: one.has_logged("partition taken"), "partitions")
        wait_for(lambda: two.has_logged("partition taken"), "partitions")
        shop.config.write_text(text[:at] + text[at:].replace("capacity = ", "capacity = 1", 1))
        before = [count(each, "partition revoked") for each in (one, two)]
        output = eddy("run", str(shop.config), "--slot", "three", code=4)
        assert [count(each, "partition revoked") for each in (one, two)] == before
        arguments = re.findall(r"--drop-state (\S+)", output)
        assert arguments == [f"card@{fingerprint(former)}"]
        shop.drops += arguments
        assert one.stop() == 0
        with worker(shop, "one") as again:
            wait_for(lambda: again.has_logged("partition taken"), "partitions")
            assert two.stop() == 0
            shop.feed(FEW, seed=8)
            shop.wait_until_caught_up()
            assert again.stop() == 0
    log = next(log for log in logs(load(shop.config)) if log.internal and log.name == "card")
    for partition in range(log.partitions):
        where = Partition(log.topic, partition)
        folder = Folder(LocalStore(shop.store), shop.group, *where)
        manifest = folder.manifest(shop.committed_checkpoint(where))
        assert manifest.fingerprint == fingerprint(load(shop.config))
        assert {*manifest.dropped} <= {*folder.names()}
        assert len(manifest.dropped) == 1


@pytest.mark.long
def test_a_backup_from_before_a_policy_change_can_be_restored(broker: str, tmp_path: Path) -> None:
    """The error names the range of the topic to replay; from the state that this saves the group
    continues, byte for byte."""
    shop = make_shop(broker, tmp_path, "backup", 1)
    shop.feed(EVENTS)
    finish(shop)
    backup = shop.config.with_name("backup")
    shutil.copytree(shop.store, backup)
    text = shop.config.read_text().replace("p_max = 0.01", "p_max = 0.002", 1)
    shop.config.write_text(text)
    shop.feed(FEW, seed=8)
    finish(shop)
    shutil.rmtree(shop.store)
    shutil.copytree(backup, shop.store)
    output = eddy("run", str(shop.config), code=4)
    assert "--save-state" in output
    found = re.search(r"a replay of (kafka://\S+)", output)
    assert found is not None
    saved = str(tmp_path / "saved")
    out = ("--out", str(tmp_path / "out"))
    eddy("replay", str(shop.config), "--input", f"shop={found[1]}", *out, "--save-state", saved)
    start_from = f'[checkpoints]\nstart_from = "{saved}"\n'
    shop.config.write_text(text.replace("[checkpoints]\n", start_from, 1))
    shop.feed(FEW, seed=9)
    process = finish(shop)
    assert process.has_logged("no intact checkpoint: starting from the saved state")
    same_state(shop, first(shop), reference(shop).shards[first(shop)])


@pytest.mark.long
def test_a_failing_store_stops_no_worker_until_the_bound(broker: str, tmp_path: Path) -> None:
    """The worker continues while its store fails, and logs it; it stops only when a restart would
    have more to re-learn than the configuration allows."""
    shop = make_shop(broker, tmp_path, "full", 1, {"rewind_records_max": 1_500})
    shop.feed(300)
    finish(shop)
    with worker(shop) as process:
        wait_for(lambda: process.has_logged("partition taken"), "it")
        shutil.rmtree(shop.store)
        shop.store.touch()  # where the folder was there is a file: nothing can be written
        shop.feed(600, seed=8)
        shop.wait_until_caught_up()
        wait_for(lambda: process.has_logged("checkpoint failed"), "a failure")
        assert value_of(process.get("/metrics")[1], "eddy_checkpoint_failures_total") >= 1
        shop.feed(3_000, seed=9)
        assert process.process.wait(60) == 6
        assert b"checkpoints.rewind_records_max is 1500" in process.log_file.read_bytes()
    expected = reference(shop)
    published = shop.alerts({})[first(shop)]
    assert expected.alerts[first(shop)][: len(published)] == published
