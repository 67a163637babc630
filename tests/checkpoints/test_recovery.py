"""Where a partition starts: what is loaded, what is left to re-learn, and every way it cannot
be."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from obstore.store import LocalStore

from detectors.state import STATE_VERSION, Arrays, copied
from stream.checkpoints import loading, recovery
from stream.checkpoints.manifest import Manifest
from stream.checkpoints.recovery import Recovered
from stream.checkpoints.store import Folder
from stream.config import ASSESS, Config, Log, fingerprint, logs
from stream.errors import (
    CheckpointCorrupt,
    CheckpointIncompatible,
    CheckpointPointerLost,
    ConfigurationSuperseded,
    ForeignOffset,
    PartitionCountChanged,
    RetentionGap,
)
from stream.kafka.positions import Committed
from stream.shard import Shards
from tests.checkpoints.shop import EVENTS, RUN, Group, config, monitor, sent, stream
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
    """The state after so many records, without any checkpoint."""
    shard = Shards(made or config(), RUN).source("shop")
    shard.process(stream().slice(0, stop))
    return shard.save()


def finish(found: Recovered, stop: int = EVENTS) -> Arrays:
    """Its state after re-learning and the records up to there."""
    found.shard.process(stream().slice(found.head.offset, stop))
    return found.shard.save()


def harm(group: Group, what: str, name: str) -> None:
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


def test_a_crash_before_the_first_commit_is_no_loss(tmp_path: Path) -> None:
    """The checkpoint of an empty state, which comes before the first commit, is not missed."""
    made = Group(LocalStore(tmp_path), config())
    made.work(0, 0, [])
    made.committed = None
    assert made.folder().names()
    assert made.start().live_from == 0


def test_a_checkpoint_and_what_is_left_give_the_whole_state(group: Group) -> None:
    """Loaded at 300, re-learned up to 400, live from there: byte for byte the fold over the log."""
    found = group.start()
    assert (found.head.offset, found.live_from) == (300, 400)
    assert_same(finish(found), folded(EVENTS))


def test_configuration_of_another_kind_of_running_changes_nothing(group: Group) -> None:
    """What does not steer the fold is no other configuration."""
    found = group.start(config(worker={"batch_records": 7}, kafka={"bootstrap.servers": "x"}))
    assert not found.converts


@pytest.mark.parametrize("what", ["manifest", "block"])
def test_the_checkpoint_before_stands_in(group: Group, what: str) -> None:
    """Where the last is not whole the one before is loaded, counted, and gives the same state."""
    harm(group, what, group.folder().names()[0])
    found = group.start()
    assert (found.head.offset, found.live_from, found.left_behind) == (200, 400, 1)
    assert_same(finish(found), folded(EVENTS))


def test_without_a_whole_checkpoint_the_log_is_re_learned_from_its_first_record(
    group: Group,
) -> None:
    """As long as the log holds all of it; the committed offset still bounds what is silent."""
    for name in group.folder().names():
        harm(group, "manifest", name)
    found = group.start()
    assert (found.head.offset, found.live_from, found.checkpoint) == (0, 400, None)
    assert_same(finish(found), folded(EVENTS))


def test_what_nothing_can_make_again_is_an_error(group: Group) -> None:
    """No whole checkpoint and a log that begins too late: refused, with everything that was
    tried."""
    harm(group, "manifest", group.folder().names()[0])
    group.low = 250
    with pytest.raises(CheckpointCorrupt, match=r"300-\w+: the manifest.*begins at 250"):
        group.start()


def test_a_converted_state_is_never_made_from_the_log_alone(group: Group) -> None:
    """After another configuration took over, its predecessor's checkpoints cannot stand in."""
    other = config(monitor("account"), monitor("ip", capacity=300))
    group.work(300, 400, [400])
    kept = group.work(400, 450, [], other)
    harm(group, "manifest", kept.published[0])
    with pytest.raises(CheckpointCorrupt, match="without a checkpoint nothing can make"):
        group.start(other)


def test_a_log_that_lost_what_is_left_is_a_gap(group: Group) -> None:
    """Both ends count: records gone behind the checkpoint, and a log shorter than what was read."""
    group.low = 301
    with pytest.raises(RetentionGap, match=r"checkpoint stands at offset 300.*begins at 301"):
        group.start()
    group.low, group.high = 0, 399
    with pytest.raises(RetentionGap, match=r"committed offset 400, and the log ends at 399"):
        group.start()


def test_an_offset_without_its_checkpoints_name_is_refused(group: Group) -> None:
    """A plain commit, as by a tool that resets offsets, takes the pointer away."""
    group.committed = Committed(100, "")
    with pytest.raises(
        CheckpointPointerLost, match=r"offset 100 with the note \"\"; expected the n"
    ):
        group.start()


def test_an_offset_of_another_program_is_refused(tmp_path: Path) -> None:
    """Where there are no checkpoints, either, the group is not Eddy's."""
    made = Group(LocalStore(tmp_path), config())
    made.committed = Committed(100, "theirs")
    with pytest.raises(ForeignOffset, match='offset 100 with the note "theirs"'):
        made.start()


def test_checkpoints_without_an_offset_are_refused(group: Group) -> None:
    """Where the group's offset expired or was removed, nothing starts from the beginning by
    itself."""
    group.committed = None
    with pytest.raises(CheckpointPointerLost, match=r"committed no offset, and yet .* 0+300-"):
        group.start()


def test_a_checkpoint_behind_the_committed_offset_is_refused(group: Group) -> None:
    """A state that has seen records which are to be published would lose their alerts."""
    assert group.committed
    group.committed = group.committed._replace(next_offset=299)
    with pytest.raises(CheckpointPointerLost, match="stands behind the committed offset 299"):
        group.start()


def test_another_state_version_is_refused_while_something_is_left(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the version that wrote a state can re-learn what it has not seen; with nothing left all
    starts anew, and the log alone cannot make that again."""
    said = rf"version {STATE_VERSION}; this is version {STATE_VERSION + 1}, and 100 offs"
    monkeypatch.setattr(recovery, "STATE_VERSION", STATE_VERSION + 1)
    with pytest.raises(CheckpointIncompatible, match=said):
        group.start()
    monkeypatch.undo()
    group.work(300, 400, [400])
    monkeypatch.setattr(recovery, "STATE_VERSION", STATE_VERSION + 1)
    found = group.start()
    assert (found.head.offset, found.live_from, found.checkpoint) == (400, 400, None)
    assert (found.head.state_version, found.head.first_offset) == (STATE_VERSION + 1, None)
    assert found.shard.counts()["route"]["read"] == 0


def test_a_configuration_that_no_version_knows_now_is_refused_while_something_is_left(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A declaration that this version has no more is as another version of the state: with nothing
    left all starts anew."""

    def gone(*_: object, **__: object) -> None:
        raise msgspec.ValidationError("Object contains unknown field `was_here`")

    with monkeypatch.context() as newer:
        newer.setattr(msgspec, "convert", gone)
        with pytest.raises(CheckpointIncompatible, match=r"does not know: .*was_here.*100 offsets"):
            group.start()
    group.work(300, 400, [400])
    monkeypatch.setattr(msgspec, "convert", gone)
    found = group.start()
    assert (found.head.offset, found.live_from, found.checkpoint) == (400, 400, None)
    assert found.head.first_offset is None


def test_another_number_of_partitions_is_refused(group: Group) -> None:
    """Of a partition that has state, and of one that never had any."""
    shop = {"topic": "shop-events", "type": {"field": "type"}, "partitions": 4}
    shop |= {"keyed_by": "account", "partitioner": "murmur2"}
    more = config(monitor("account"), inputs={"shop": shop})
    with pytest.raises(PartitionCountChanged, match=r"has 4 partitions; .* when it had 1"):
        group.start(more)
    log = Log("shop", "shop-events", 4)
    folder = Folder(group.objects, "group", log.topic, 3)
    asked = recovery.Circumstances(more, RUN, log, 3, folder, None, 0, 10, lambda: None)
    with pytest.raises(PartitionCountChanged, match=r"has 4 partitions; .* when it had 1"):
        recovery.recover(asked)


def test_a_monitor_that_is_the_same_keeps_its_state(group: Group) -> None:
    """With nothing left to re-learn, what survives another configuration is byte for byte the same,
    what does not is fresh, and every count goes on adding up."""
    group.work(300, 400, [400])
    other = config(
        monitor("account", policy={"p_max": 0.001}),
        monitor("ip", lateness_max="2h"),
        monitor("card"),
    )
    found = group.start(other)
    assert found.converts
    before = copied(found.shard.save())
    found.convert(other, RUN)
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


def test_what_is_left_is_re_learned_under_the_former_configuration(group: Group) -> None:
    """Up to the committed offset the state is what the former configuration makes of the log."""
    other = config(monitor("account"), monitor("ip", capacity=300))
    found = group.start(other)
    assert (found.converts, found.head.offset, found.live_from) == (True, 300, 400)
    assert_same(finish(found, 400), folded(400))


def test_another_secret_is_refused_while_something_is_left(group: Group) -> None:
    """The former secret is in no checkpoint, so that nothing can be re-learned with it; with
    nothing left all monitors start anew."""
    other = config(secret=ANOTHER)
    with pytest.raises(CheckpointIncompatible, match="another secret, and 100 offsets are left"):
        group.start(other)
    group.work(300, 400, [400])
    found = group.start(other)
    found.convert(other, RUN)
    counts = found.shard.counts()
    assert counts["account"]["scored"] == counts["ip"]["scored"] == 0
    assert not any(np.any(a) for n, a in found.shard.save().items() if n == "route/recent_slots")


def test_no_secret_is_in_a_checkpoint(tmp_path: Path) -> None:
    """Neither what entities are hashed with nor what the client logs in with is written."""
    made = Group(LocalStore(tmp_path), config(secret=ANOTHER, kafka={"sasl.password": "marlin"}))
    made.work(0, 50, [50])
    written = b"".join(file.read_bytes() for file in tmp_path.rglob("*.json"))
    assert b"capacity" in written
    assert ANOTHER.encode() not in written
    assert b"marlin" not in written


def test_a_worker_with_a_former_configuration_stops(group: Group) -> None:
    """Once a group has gone on to another configuration, its former one is refused, even by a
    restarted worker; another revision of it is a configuration of its own."""
    former, later = group.config, config(monitor("account"))
    group.work(300, 400, [400])
    group.work(400, 450, [450], later)
    with pytest.raises(ConfigurationSuperseded, match=fingerprint(former)):
        group.start(former)
    back = config(revision=1)
    group.work(450, 500, [500], back)
    assert group.start(back).shard.counts()["account"]["scored"] > 100
    with pytest.raises(ConfigurationSuperseded, match=fingerprint(later)):
        group.start(later)


def test_arrays_that_do_not_fit_are_refused(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    """A state of the same version that has other arrays is a mistake of ours, and never loaded."""
    whole = loading.load

    def missing(*asked: Any) -> Arrays:
        found = whole(*asked)
        del found["account/cohort"]
        return found

    monkeypatch.setattr(recovery, "load", missing)
    with pytest.raises(
        CheckpointIncompatible, match=r"account/cohort is on one side only.*report it"
    ):
        group.start()


def test_a_checkpoint_of_another_partition_is_refused(group: Group, tmp_path: Path) -> None:
    """A folder that was copied to the wrong place is noticed."""
    other = Group(group.objects, group.config)
    other.committed = group.committed
    manifests: list[Manifest] = [group.folder().manifest(n) for n in group.folder().names()]
    assert {one.partition for one in manifests} == {0}
    where = recovery.Circumstances(
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
    with pytest.raises(CheckpointCorrupt, match=r"is of shop-events\[0\], not of shop-events\[3\]"):
        recovery.recover(where)


# -- internal logs --------------------------------------------------------------------------------


def hopping(*monitors: dict[str, Any], **more: Any) -> Config:
    """A configuration whose monitors, and assess, read internal logs of one partition each."""
    chosen = monitors or [monitor(name, partitions=1) for name in ("account", "ip")]
    return config(*chosen, assess={"subject": "account", "partitions": 1}, **more)


def internal(made: Config, name: str) -> Log:
    """The internal log of a monitor, or of assess."""
    return next(log for log in logs(made) if log.internal and log.name == name)


@pytest.mark.parametrize("name", ["account", ASSESS])
def test_an_internal_log_comes_back_from_its_checkpoint(tmp_path: Path, name: str) -> None:
    """Loaded in the midst of it and re-learned from there: byte for byte the fold over the log."""
    made = hopping()
    log = internal(made, name)
    records = sent(made, log)
    third, most = len(records) // 3, len(records) * 2 // 3
    assert third > 1
    group = Group(LocalStore(tmp_path), made, log, records)
    group.work(0, most, [third])
    found = group.start()
    assert (found.head.log, found.head.offset, found.live_from) == (log, third, most)
    found.shard.process(records.slice(third, len(records)))
    once = Shards(made, RUN).make(log)
    once.process(records)
    assert_same(found.shard.save(), once.save())
    assert sum(once.counts()[name].values()) > 10


@pytest.mark.parametrize(
    ("name", "other", "keeps"),
    [
        ("account", hopping(monitor("account", partitions=1)), True),
        ("account", hopping(monitor("account", partitions=1, capacity=300)), False),
        (ASSESS, hopping(limits={"time_ahead_max": "1h"}), True),
        (ASSESS, hopping(monitor("account", partitions=1)), False),
    ],
)
def test_an_internal_log_goes_on_under_another_configuration(
    tmp_path: Path, name: str, other: Config, keeps: bool
) -> None:
    """What its own stage learns from decides, and not what else of the configuration changed."""
    made = hopping()
    log = internal(made, name)
    records = sent(made, log)
    group = Group(LocalStore(tmp_path), made, log, records)
    group.work(0, len(records), [len(records)])
    found = group.start(other)
    before = copied(found.shard.save())
    found.convert(other, RUN)
    fresh = Shards(other, RUN).make(log).save()
    assert any(np.any(before[name] != array) for name, array in fresh.items() if len(array))
    assert_same(found.shard.save(), before if keeps else fresh)


def test_an_internal_log_with_another_number_of_partitions_is_refused(tmp_path: Path) -> None:
    """As an input's: entities would have moved."""
    made = hopping()
    log = internal(made, "account")
    group = Group(LocalStore(tmp_path), made, log, sent(made, log))
    group.work(0, 10, [10])
    with pytest.raises(PartitionCountChanged, match=r"has 4 partitions; .* when it had 1"):
        group.start(hopping(monitor("account", partitions=4)))


def test_a_monitor_that_moves_behind_a_hop_leaves_counts_that_add_up(group: Group) -> None:
    """In the source's shard its state goes, and the hop to it begins behind what passed."""
    group.work(300, 400, [400])
    other = config(monitor("account", partitions=1), monitor("ip"))
    found = group.start(other)
    found.convert(other, RUN)
    counts = found.shard.counts()
    assert counts["account"] == {"sent": 0, "not_applicable": counts["route"]["passed"]}
    assert counts["ip"]["scored"] > 0
    found.shard.process(stream().slice(400, EVENTS))
    assert found.shard.counts()["account"]["sent"] > 0
