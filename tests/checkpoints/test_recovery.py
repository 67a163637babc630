"""Where a partition starts: what is loaded, what is re-learned, and what is refused."""

import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from obstore.store import LocalStore

from detectors.state import STATE_VERSION, Arrays, copy_arrays
from stream.checkpoints import loading, recovered, state_losses
from stream.checkpoints.manifest import Manifest, encode
from stream.checkpoints.recovered import RecoveredState, StartContext
from stream.checkpoints.recovery import recover
from stream.checkpoints.saving import save
from stream.checkpoints.store import Folder, saved_folder
from stream.config import Config, fingerprint
from stream.config.stage_graph import logs
from stream.config.topology import Log
from stream.errors import (
    CheckpointCorrupt,
    CheckpointPointerLost,
    ConfigurationSuperseded,
    ForeignOffset,
    PartitionCountChanged,
    RetentionGap,
    SavedStateUnusable,
    StateWouldBeDropped,
)
from stream.kafka.positions import CommittedOffset, Partition
from stream.pipeline.cluster import PartitionState
from stream.pipeline.shard import ShardFactory
from tests.checkpoints.shop import (
    EVENTS,
    RUN,
    SHOP,
    Group,
    config,
    internal_records,
    monitor,
    stream,
)
from tests.laws.test_laws import assert_same

ANOTHER = "swordfish"
"""A secret that is not the group's."""


@pytest.fixture
def group(tmp_path: Path) -> Group:
    """A group that has committed 400 of 600 records, its checkpoints at 0, 100, 200 and 300."""
    made = Group(LocalStore(tmp_path), config())
    made.work(0, 400, [100, 200, 300])
    return made


def folded(stop: int, made: Config | None = None) -> Arrays:
    """The state after so many records, without checkpoints."""
    shard = ShardFactory(made or config(), RUN).input_shard("shop")
    shard.process(stream().slice(0, stop))
    return shard.save()


def finish(found: RecoveredState, stop: int = EVENTS) -> Arrays:
    """The state after re-learning and processing the records up to there."""
    found.shard.process(stream().slice(found.head.offset, stop))
    return found.shard.save()


def allowed_drops(*stages: str, made: Config | None = None) -> list[str]:
    """The arguments that allow a start to drop these stages' state."""
    return [f"{stage}@{fingerprint(made or config())}" for stage in stages]


def damage(group: Group, what: str, name: str) -> None:
    """Truncate a checkpoint's manifest, or a block that only it has."""
    folder = group.folder()
    if what == "manifest":
        path = f"{folder.path}/manifests/{name}.json"
    else:
        others = [folder.manifest(one).blocks() for one in folder.names() if one != name]
        path = f"{folder.path}/blocks/{min(folder.manifest(name).blocks() - set().union(*others))}"
    body = bytes(group.objects.get(path).bytes())
    group.objects.put(path, body[: len(body) // 2])


def test_nothing_committed_starts_live_at_the_beginning(tmp_path: Path) -> None:
    """A group that has read nothing re-learns nothing, wherever the log begins."""
    made = Group(LocalStore(tmp_path), config())
    made.low = 7
    found = made.start()
    assert (found.head.offset, found.live_from, found.head.first_offset) == (7, 7, 7)
    assert found.checkpoint is None


def test_a_crash_before_the_first_commit_loses_nothing(tmp_path: Path) -> None:
    """The checkpoint of the empty state, written before the first commit, may be missing."""
    made = Group(LocalStore(tmp_path), config())
    made.work(0, 0, [])
    made.committed = None
    assert made.folder().names()
    assert made.start().live_from == 0


def test_a_checkpoint_and_the_remaining_log_restore_the_state(group: Group) -> None:
    """Loaded at 300, re-learned up to 400, live from there: byte for byte the fold over the log."""
    found = group.start()
    assert (found.head.offset, found.live_from) == (300, 400)
    assert_same(finish(found), folded(EVENTS))


def test_configuration_of_another_kind_of_running_changes_nothing(group: Group) -> None:
    """Settings that do not affect the fold keep the state: promotion from shadow to live, and
    back."""
    quiet: dict[str, Any] = {"worker": {"batch_records": 7}, "kafka": {"bootstrap.servers": "x"}}
    for other in (config(**quiet), config(mode="shadow")):
        found = group.start(other)
        assert not found.needs_migration
        assert_same(finish(found), folded(EVENTS))


@pytest.mark.parametrize("what", ["manifest", "block"])
def test_the_previous_checkpoint_replaces_a_damaged_one(group: Group, what: str) -> None:
    """It is loaded, counted, and gives the same state."""
    damage(group, what, group.folder().names()[0])
    found = group.start()
    assert (found.head.offset, found.live_from, found.broken_checkpoints) == (200, 400, 1)
    assert_same(finish(found), folded(EVENTS))


def test_without_an_intact_checkpoint_the_log_is_re_learned_from_its_start(
    group: Group,
) -> None:
    """If the log still holds all of it; output up to the committed offset is not published."""
    for name in group.folder().names():
        damage(group, "manifest", name)
    found = group.start()
    assert (found.head.offset, found.live_from, found.checkpoint) == (0, 400, None)
    assert_same(finish(found), folded(EVENTS))


def test_an_unrecoverable_state_is_an_error(group: Group) -> None:
    """No intact checkpoint and a log that begins too late: refused, with everything that was
    tried."""
    damage(group, "manifest", group.folder().names()[0])
    group.low = 250
    with pytest.raises(CheckpointCorrupt, match=r"300-\w+: the manifest.*begins at 250"):
        group.start()


def test_a_converted_state_is_never_rebuilt_from_the_log_alone(group: Group) -> None:
    """After a migration, checkpoints of the old configuration cannot replace the new ones."""
    other = config(monitor("account"), monitor("ip", capacity=300))
    group.work(300, 400, [400])
    group.allowed_drops = allowed_drops("ip")
    kept = group.work(400, 450, [], other)
    damage(group, "manifest", kept.published[0])
    with pytest.raises(CheckpointCorrupt, match="without a checkpoint only a replay"):
        group.start(other)


def test_a_log_that_lost_uncommitted_records_is_a_gap(group: Group) -> None:
    """Records deleted after the checkpoint, and a log that ends before the committed offset."""
    group.low = 301
    with pytest.raises(RetentionGap, match=r"checkpoint is at offset 300.*begins at 301"):
        group.start()
    group.low, group.high = 0, 399
    with pytest.raises(RetentionGap, match=r"committed offset 400, and the log ends at 399"):
        group.start()


def test_an_offset_without_its_checkpoints_name_is_refused(group: Group) -> None:
    """A commit by another tool has no pointer."""
    group.committed = CommittedOffset(100, "")
    with pytest.raises(
        CheckpointPointerLost, match=r"offset 100 with metadata \"\"; expected the n"
    ):
        group.start()


def test_an_offset_of_another_program_is_refused(tmp_path: Path) -> None:
    """Without checkpoints, the group is not Eddy's."""
    made = Group(LocalStore(tmp_path), config())
    made.committed = CommittedOffset(100, "theirs")
    with pytest.raises(ForeignOffset, match='offset 100 with metadata "theirs"'):
        made.start()


def test_checkpoints_without_an_offset_are_refused(group: Group) -> None:
    """Where the group's offset expired or was deleted, nothing starts over by itself."""
    group.committed = None
    with pytest.raises(CheckpointPointerLost, match=r"committed no offset, but .* 0+300-"):
        group.start()


def test_a_checkpoint_ahead_of_the_committed_offset_is_refused(group: Group) -> None:
    """Alerts on the records between the offset and the checkpoint would be lost."""
    assert group.committed
    group.committed = group.committed._replace(next_offset=299)
    with pytest.raises(CheckpointPointerLost, match="is after the committed offset 299"):
        group.start()


def test_another_state_version_is_refused_with_the_remedy(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every monitor and the remedy are named. Once allowed, the group starts with nothing learned
    at the committed offset, and the log alone cannot rebuild that state."""
    why = f"its state is of version {STATE_VERSION}; this is version {STATE_VERSION + 1}"
    for module in (state_losses, recovered):
        monkeypatch.setattr(module, "STATE_VERSION", STATE_VERSION + 1)
    assert refused(group) == [
        f"monitor {name}: {why}: --drop-state {allowed_drops('all')[0]}"
        for name in ("account", "ip")
    ]
    assert "eddy replay CONFIG" in StateWouldBeDropped.remedy
    assert "start_from" in StateWouldBeDropped.remedy
    group.allowed_drops = allowed_drops("account", "ip")
    assert len(refused(group)) == 2, "the state of route would go, too"
    group.allowed_drops = allowed_drops("all")
    found = group.start()
    assert (found.head.offset, found.live_from, found.checkpoint) == (400, 400, None)
    assert (found.head.state_version, found.head.first_offset) == (STATE_VERSION + 1, None)
    assert found.head.dropped == [group.folder().names()[0]]
    assert found.shard.counts()["route"]["read"] == 0


def test_a_saved_configuration_that_no_longer_loads_is_refused(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A declaration that this version no longer has is treated as another state version."""

    def gone(*_: object, **__: object) -> None:
        raise msgspec.ValidationError("Object contains unknown field `was_here`")

    allowed, made = allowed_drops("all"), config()
    monkeypatch.setattr(msgspec, "convert", gone)
    assert all("cannot read: Object" in line for line in refused(group, made))
    group.allowed_drops = allowed
    found = group.start()
    assert (found.head.offset, found.live_from, found.checkpoint) == (400, 400, None)
    assert found.head.first_offset is None


def test_another_format_is_refused_as_another_version_is(group: Group) -> None:
    """The committed offset names the configuration of a manifest that cannot be read."""
    assert group.committed is not None
    name, body = encode(msgspec.structs.replace(group.folder().manifest(newest(group)), format=7))
    group.objects.put(f"{group.folder().path}/manifests/{name}.json", body)
    note = group.committed.metadata.rpartition("=")[0] + f"={name}"
    group.committed = group.committed._replace(metadata=note)
    [line] = refused(group)
    assert "format 7; this version reads format 2" in line
    assert line.endswith(f"--drop-state {allowed_drops('all')[0]}")
    group.allowed_drops = allowed_drops("all")
    found = group.start()
    assert (found.head.offset, found.head.dropped) == (400, [name])


def newest(group: Group) -> str:
    """The name of the group's last checkpoint."""
    return group.folder().names()[0]


def refused(group: Group, made: Config | None = None) -> list[str]:
    """The lines with which a start is refused; the store is not changed."""
    before = stored(group)
    with pytest.raises(StateWouldBeDropped) as caught:
        group.start(made)
    assert stored(group) == before
    assert caught.value.message.splitlines()[1:] == [f"  {line}" for line in caught.value.lines]
    return caught.value.lines


def stored(group: Group) -> dict[str, bytes]:
    """Everything in the store, by its path."""
    paths = [each["path"] for page in group.objects.list() for each in page]
    return {path: bytes(group.objects.get(path).bytes()) for path in paths}


def test_another_number_of_partitions_is_refused(group: Group) -> None:
    """Of a partition with state, and of one without."""
    shop = {"topic": "shop-events", "type": {"field": "type"}, "partitions": 4}
    shop |= {"keyed_by": "account", "partitioner": "murmur2"}
    more = config(monitor("account"), inputs={"shop": shop})
    with pytest.raises(PartitionCountChanged, match=r"has 4 partitions; .* when it had 1"):
        group.start(more)
    log = Log("shop", "shop-events", 4)
    folder = Folder(group.objects, "group", log.topic, 3)
    asked = StartContext(more, RUN, log, 3, folder, None, 0, 10, lambda: None)
    with pytest.raises(PartitionCountChanged, match=r"has 4 partitions; .* when it had 1"):
        recover(asked)


def test_a_monitor_that_is_the_same_keeps_its_state(group: Group) -> None:
    """With nothing left to re-learn, kept state is the same byte for byte, other state is empty,
    and all counts still add up."""
    group.work(300, 400, [400])
    other = config(
        monitor("account", policy={"p_max": 0.001}),
        monitor("ip", lateness_max="2h"),
        monitor("card"),
    )
    assert refused(group, other) == [
        f"monitor ip: its lateness_max changed: --drop-state {allowed_drops('ip')[0]}"
    ]
    group.allowed_drops = allowed_drops("ip")
    found = group.start(other)
    assert found.needs_migration
    before = copy_arrays(found.shard.save())
    found.migrate(other, RUN)
    after = found.shard.save()
    kept = [name for name in after if name.startswith(("account/", "route/"))]
    assert_same({n: after[n] for n in kept}, {n: before[n] for n in kept})
    counts = found.shard.counts()
    assert counts["account"]["scored"] > 100
    for fresh in ("ip", "card"):
        assert counts[fresh]["scored"] == 0
        assert counts[fresh]["not_applicable"] == counts["route"]["passed"]
    assert found.head.fingerprint == fingerprint(other)
    assert (found.head.first_offset, found.head.offset) == (None, 400)
    found.shard.process(stream().slice(400, EVENTS))
    assert found.shard.counts()["card"]["scored"] > 5


def test_the_remaining_log_is_re_learned_under_the_old_configuration(group: Group) -> None:
    """Up to the committed offset, the state is that of the old configuration."""
    other = config(monitor("account"), monitor("ip", capacity=300))
    assert len(refused(group, other)) == 1, "refused at the start, and not where re-learning ends"
    group.allowed_drops = allowed_drops("ip")
    found = group.start(other)
    assert (found.needs_migration, found.head.offset, found.live_from) == (True, 300, 400)
    assert_same(finish(found, 400), folded(400))


@pytest.mark.parametrize("left", [100, 0])
def test_another_secret_is_refused_and_the_right_one_continues(group: Group, left: int) -> None:
    """As if nothing had happened, with or without offsets to re-learn. With the flag everything is
    dropped, including known event ids."""
    if not left:
        group.work(300, 400, [400])
    other = config(secret=ANOTHER)
    assert refused(group, other) == [
        f"{title}: the secret changed: --drop-state {allowed_drops('all')[0]}"
        for title in ("route", "monitor account", "monitor ip")
    ]
    assert_same(finish(group.start()), folded(EVENTS))
    group.allowed_drops = allowed_drops("all")
    found = group.start(other)
    assert (found.head.offset, found.live_from) == (400, 400)
    counts = found.shard.counts()
    assert counts["account"]["scored"] == counts["ip"]["scored"] == 0
    assert not any(np.any(a) for n, a in found.shard.save().items() if n == "route/recent_slots")


def test_a_flag_of_another_fingerprint_changes_nothing(group: Group) -> None:
    """A flag left in place, or of a monitor that keeps its state, neither drops nor allows
    anything."""
    group.allowed_drops = allowed_drops("account", "all", made=config(revision=7)) + allowed_drops(
        "account"
    )
    assert_same(finish(group.start()), folded(EVENTS))
    assert len(refused(group, config(monitor("account"), monitor("ip", capacity=300)))) == 1


def test_no_flag_is_required_when_nothing_is_dropped(group: Group) -> None:
    """A new monitor, rules, policy, revision, the limit of times ahead, and revealed fields."""
    rules = [{"name": "large", "at_least": {"amount": 1e6}}]
    more = [monitor("account", rules=rules), monitor("ip", policy={"p_max": 1e-6}), monitor("card")]
    limits = {"time_ahead_max": "1h"}
    for other in (config(*more), config(revision=4, reveal=["ip"]), config(limits=limits)):
        assert group.start(other).needs_migration


def test_known_event_ids_are_learned_state_too(group: Group) -> None:
    """If they were forgotten, duplicates would be published again."""
    why = "limits.duplicate_window changed"
    found = refused(group, config(limits={"duplicate_window": 10}))
    assert found == [f"route: {why}: --drop-state {allowed_drops('route')[0]}"]


def test_a_dropped_checkpoint_is_never_collected_and_can_be_restored(
    group: Group, tmp_path: Path
) -> None:
    """It stays after any number of later checkpoints. Copied to a store of saved states, a group
    starts from it under the old configuration, byte for byte."""
    former, dropped = config(), newest(group)
    group.allowed_drops = allowed_drops("ip")
    group.committed = group.committed and group.committed._replace(next_offset=300)
    other = config(monitor("account"), monitor("ip", capacity=300))
    group.work(300, 500, [], other)
    kept = group.work(300, EVENTS, [340, 380, 420, 460], other)
    folder = group.folder()
    assert folder.collect(kept.published, lambda: True, kept.state.head.dropped) > 0
    assert dropped in folder.names()
    assert kept.state.head.dropped == folder.manifest(folder.names()[0]).dropped == [dropped]
    place = saved_folder(LocalStore(tmp_path), SHOP, 0)
    shutil.copytree(tmp_path / folder.path, tmp_path / place.path)
    for path in (tmp_path / place.path / "manifests").iterdir():
        if path.stem != dropped:
            path.unlink()
    group.committed, group.saved = None, place
    with pytest.raises(CheckpointPointerLost):
        group.start(former)
    fresh = Group(LocalStore(tmp_path / "fresh", mkdir=True), former)
    fresh.saved = place
    assert_same(finish(fresh.start()), folded(EVENTS))


def test_the_remedy_keeps_the_state_a_replay_learned(
    group: Group, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A group that may drop everything and names a saved state starts from that, re-learns up to
    the committed offset and publishes from there; a later state is refused."""
    made = config(secret=ANOTHER)
    group.allowed_drops = allowed_drops("all")
    for offset in (400, 350, 401):
        objects = LocalStore(tmp_path / str(offset), mkdir=True)
        shard = ShardFactory(made, RUN).input_shard("shop")
        shard.process(stream().slice(0, offset))
        save(made, [PartitionState(SHOP, 0, shard, offset, None)], str(tmp_path / str(offset)))
        group.saved = saved_folder(objects, SHOP, 0)
        if offset > 400:
            with pytest.raises(SavedStateUnusable, match=r"offset 401.*until=0:400$"):
                group.start(made)
            continue
        found = group.start(made)
        assert (found.head.offset, found.live_from) == (offset, 400)
        assert found.head.fingerprint == fingerprint(made)
        assert_same(finish(found), folded(EVENTS, made))


def test_a_backup_from_before_a_policy_change_names_the_remedy(
    group: Group, tmp_path: Path
) -> None:
    """The store is restored to before the change: the error names the replay that rebuilds the
    state, and the group continues from what that saves."""
    group.work(300, 400, [400])
    before = stored(group)
    other = config(monitor("account"), monitor("ip", policy={"p_max": 0.002}))
    group.work(400, 450, [450], other)
    for path in stored(group).keys() - before.keys():
        group.objects.delete(path)
    for path, body in before.items():
        group.objects.put(path, body)
    with pytest.raises(CheckpointCorrupt) as caught:
        group.start(other)
    assert "only a replay of kafka://shop-events?from=0:0&until=0:450" in caught.value.message
    assert f"was written under configuration {fingerprint(config())}" in caught.value.message
    assert "--save-state" in caught.value.remedy
    assert "--out" in caught.value.remedy  # without it the command is refused
    shard = ShardFactory(other, RUN).input_shard("shop")
    shard.process(stream().slice(0, 450))
    save(other, [PartitionState(SHOP, 0, shard, 450, None)], str(tmp_path / "saved"))
    group.saved = saved_folder(LocalStore(tmp_path / "saved"), SHOP, 0)
    found = group.start(other)
    assert found.broken_checkpoints > 0
    assert_same(finish(found), folded(EVENTS, other))


def test_no_secret_is_in_a_checkpoint(tmp_path: Path) -> None:
    """Neither the hashing secret nor the client's credentials are written."""
    made = Group(LocalStore(tmp_path), config(secret=ANOTHER, kafka={"sasl.password": "marlin"}))
    made.work(0, 50, [50])
    written = b"".join(file.read_bytes() for file in tmp_path.rglob("*.json"))
    assert b"capacity" in written
    assert ANOTHER.encode() not in written
    assert b"marlin" not in written


def test_a_worker_with_an_older_configuration_stops(group: Group) -> None:
    """Once a group has changed to another configuration, its old one is refused, also after a
    restart; another revision of it is another configuration."""
    former, later = group.config, config(monitor("account"))
    group.work(300, 400, [400])
    group.allowed_drops = allowed_drops("ip")
    group.work(400, 450, [450], later)
    with pytest.raises(ConfigurationSuperseded, match=fingerprint(former)):
        group.start(former)
    back = config(revision=1)
    group.work(450, 500, [500], back)
    assert group.start(back).shard.counts()["account"]["scored"] > 100
    with pytest.raises(ConfigurationSuperseded, match=fingerprint(later)):
        group.start(later)


def test_arrays_that_do_not_fit_are_refused(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    """A state of the same version with other arrays is a bug, and is never loaded."""
    whole = loading.load

    def missing(*asked: Any) -> Arrays:
        found = whole(*asked)
        del found["account/cohort"]
        return found

    monkeypatch.setattr(loading, "load", missing)
    group.low = 1
    with pytest.raises(CheckpointCorrupt, match=r"its arrays do not fit: KeyError\('cohort'\)"):
        group.start()


def test_a_checkpoint_of_another_partition_is_refused(group: Group, tmp_path: Path) -> None:
    """A folder that was copied to the wrong partition is noticed."""
    other = Group(group.objects, group.config)
    other.committed = group.committed
    manifests: list[Manifest] = [group.folder().manifest(n) for n in group.folder().names()]
    assert {one.partition for one in manifests} == {0}
    where = StartContext(
        group.config,
        RUN,
        Log("shop", "shop-events", 1),
        3,
        group.folder(),
        group.committed,
        350,
        1000,
        lambda: None,
    )
    with pytest.raises(
        CheckpointCorrupt, match=r"is of shop-events\[0\]; expected shop-events\[3\]"
    ):
        recover(where)


# -- a whole group --------------------------------------------------------------------------------


def lines_for(group: Group, made: Config, *flags: str) -> list[str]:
    """The refusals of a worker with that configuration, before it joins the group."""
    own = [Partition(log.topic, 0) for log in logs(made)]
    offsets = {where: group.committed if where.topic == SHOP.topic else None for where in own}
    try:
        state_losses.check_state_losses(made, offsets, group.objects, flags)
    except StateWouldBeDropped as error:
        return error.lines
    return []


def named(made: Config) -> Config:
    """The checkpoints' configuration in the group."""
    return msgspec.structs.replace(made, group="group")


def test_a_group_is_refused_before_a_worker_joins_it(group: Group) -> None:
    """For the same losses as at an assignment; without a loss no flag is needed, and errors that an
    assignment raises are left to it."""
    changed = named(config(monitor("account"), monitor("ip", capacity=300)))
    assert lines_for(group, named(config())) == []
    assert lines_for(group, changed) == refused(group, changed)
    assert lines_for(group, changed, *allowed_drops("ip")) == []
    assert lines_for(group, named(config(monitor("account"), monitor("ip"), monitor("card")))) == []
    assert len(lines_for(group, named(config(secret=ANOTHER)))) == 3
    shop = {"topic": SHOP.topic, "type": {"field": "type"}, "partitions": 4}
    assert lines_for(group, named(config(inputs={"shop": shop}))) == []
    for name in group.folder().names():
        damage(group, "manifest", name)
    assert lines_for(group, changed) == []


def test_a_group_whose_only_topic_is_another_is_refused(group: Group, tmp_path: Path) -> None:
    """Its monitors would start with nothing learned, until the new topic has a committed offset."""
    renamed = named(config(inputs={"shop": {"topic": "renamed", "type": {"field": "type"}}}))
    arguments = allowed_drops("account", "ip")
    assert lines_for(group, renamed) == [
        f"monitor {one.partition('@')[0]}: inputs.shop changed: --drop-state {one}"
        for one in arguments
    ]
    assert lines_for(group, renamed, *arguments) == []
    kept = Group(group.objects, renamed, Log("shop", "renamed", 1)).work(0, 50, [50])
    there = Partition("renamed", 0)
    state_losses.check_state_losses(
        renamed, {there: CommittedOffset(50, kept.metadata())}, group.objects, []
    )
    other = named(config(secret=ANOTHER))
    state_losses.check_state_losses(
        other, {there: None}, LocalStore(tmp_path / "new", mkdir=True), []
    )


# -- internal logs --------------------------------------------------------------------------------


def with_internal_topics(*monitors: dict[str, Any], **more: Any) -> Config:
    """A configuration whose monitors, and assess, read internal logs of one partition each."""
    chosen = monitors or [monitor(name, partitions=1) for name in ("account", "ip")]
    return config(*chosen, assess={"subject": "account", "partitions": 1}, **more)


def internal(made: Config, name: str) -> Log:
    """The internal log of a monitor, or of assess."""
    return next(log for log in logs(made) if log.internal and log.name == name)


@pytest.mark.parametrize("name", ["account", "assess"])
def test_an_internal_log_comes_back_from_its_checkpoint(tmp_path: Path, name: str) -> None:
    """Loaded in the middle of the log and re-learned from there: byte for byte the fold over the
    log."""
    made = with_internal_topics()
    log = internal(made, name)
    records = internal_records(made, log)
    third, most = len(records) // 3, len(records) * 2 // 3
    assert third > 1
    group = Group(LocalStore(tmp_path), made, log, records)
    group.work(0, most, [third])
    found = group.start()
    assert (found.head.log, found.head.offset, found.live_from) == (log, third, most)
    found.shard.process(records.slice(third, len(records)))
    once = ShardFactory(made, RUN).make(log)
    once.process(records)
    assert_same(found.shard.save(), once.save())
    assert sum(once.counts()[name].values()) > 10


@pytest.mark.parametrize(
    ("name", "other", "keeps"),
    [
        ("account", with_internal_topics(monitor("account", partitions=1)), True),
        ("account", with_internal_topics(monitor("account", partitions=1, capacity=300)), False),
        ("assess", with_internal_topics(limits={"time_ahead_max": "1h"}), True),
        ("assess", with_internal_topics(monitor("account", partitions=1)), False),
    ],
)
def test_an_internal_log_continues_under_another_configuration(
    tmp_path: Path, name: str, other: Config, keeps: bool
) -> None:
    """Only the settings that its own stage learns from matter."""
    made = with_internal_topics()
    log = internal(made, name)
    records = internal_records(made, log)
    group = Group(LocalStore(tmp_path), made, log, records)
    group.work(0, len(records), [len(records)])
    group.allowed_drops = allowed_drops("account", "ip", "assess", made=made)
    found = group.start(other)
    before = copy_arrays(found.shard.save())
    found.migrate(other, RUN)
    fresh = ShardFactory(other, RUN).make(log).save()
    assert any(np.any(before[name] != array) for name, array in fresh.items() if len(array))
    assert_same(found.shard.save(), before if keeps else fresh)


def test_an_internal_log_with_another_number_of_partitions_is_refused(tmp_path: Path) -> None:
    """As an input's: entities would have moved."""
    made = with_internal_topics()
    log = internal(made, "account")
    group = Group(LocalStore(tmp_path), made, log, internal_records(made, log))
    group.work(0, 10, [10])
    with pytest.raises(PartitionCountChanged, match=r"has 4 partitions; .* when it had 1"):
        group.start(with_internal_topics(monitor("account", partitions=4)))


def test_a_monitor_moved_to_an_internal_topic_keeps_counts_that_add_up(group: Group) -> None:
    """The source's shard drops its state, and counts earlier events as not applicable."""
    group.work(300, 400, [400])
    other = config(monitor("account", partitions=1), monitor("ip"))
    group.allowed_drops = allowed_drops("account")
    found = group.start(other)
    found.migrate(other, RUN)
    counts = found.shard.counts()
    assert counts["account"] == {"sent": 0, "not_applicable": counts["route"]["passed"]}
    assert counts["ip"]["scored"] > 0
    found.shard.process(stream().slice(400, EVENTS))
    assert found.shard.counts()["account"]["sent"] > 0
