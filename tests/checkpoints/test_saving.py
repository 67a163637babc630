"""A group starts from a state that a replay has saved: complete, of the same configuration, in a
store of its own."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from obstore.store import LocalStore

from detectors.state import STATE_VERSION
from schemas.alerts import alert_record, without_run
from schemas.records import Records
from stream.checkpoints import saved_states
from stream.checkpoints.recovered import RecoveredState, StartContext
from stream.checkpoints.recovery import recover
from stream.checkpoints.saving import check_save_target, save
from stream.checkpoints.store import saved_folder
from stream.config import Config, fingerprint
from stream.config.stage_graph import logs
from stream.config.topology import Log
from stream.errors import (
    CheckpointCorrupt,
    ConfigError,
    InputError,
    RetentionGap,
    SavedStateUnusable,
)
from stream.pipeline.cluster import InMemoryCluster
from stream.pipeline.shard import ShardFactory
from stream.replay import replay
from tests.checkpoints.shop import EVENTS, RUN, SHOP, Group, config, monitor, stream
from tests.laws.test_laws import assert_same

HISTORY = 400
ASSESSED: dict[str, Any] = {"assess": {"subject": "account", "partitions": 2}}


def with_internal_topics(**more: Any) -> Config:
    """A configuration with internal topics: a monitor's, and that of the reports."""
    return config(monitor("account", partitions=2), monitor("ip"), **ASSESSED, **more)


def history(folder: Path, stop: int = HISTORY) -> Path:
    """The first of the shop's records as a file."""
    values = stream().values
    assert isinstance(values, list)
    path = folder / "history"
    path.write_bytes(b"\n".join(value or b"" for value in values[:stop]))
    return path


def saved(folder: Path, made: Config) -> str:
    """The store in which a replay of the history has saved its state."""
    place = str(folder / "saved")
    inputs = [("shop", history(folder))]
    replay(made, inputs, folder / "out", lambda *_: None, save_state=place)
    return place


def begun(
    folder: Path, made: Config, place: str, log: Log = SHOP, partition: int = 0, **more: Any
) -> RecoveredState:
    """The start of a group that has committed nothing."""
    objects = LocalStore(folder / "live", mkdir=True)
    group = Group(objects, made, log)
    asked: dict[str, Any] = {
        "config": made,
        "run": RUN,
        "log": log,
        "partition": partition,
        "folder": group.folder(),
        "committed": None,
        "low": 3,
        "high": 1_000,
        "beat": lambda: None,
        "saved": saved_folder(LocalStore(place), log, partition),
        "offset_at": lambda _: 0,
    }
    return recover(StartContext(**asked | more))


def test_every_partition_begins_with_the_state_that_the_replay_ended_with(tmp_path: Path) -> None:
    """Of inputs and of internal topics, byte for byte."""
    made = with_internal_topics()
    place = saved(tmp_path, made)
    cluster = InMemoryCluster(made, RUN, {"shop": "shop"})
    values = stream().slice(0, HISTORY)
    records = Records("shop", 0, values.offset, values.timestamp_ms, values.values)
    cluster.process_and_enqueue("shop", records)
    cluster.advance(float("inf"))
    states = list(cluster.states())
    assert [(one.log.name, one.partition) for one in states] == [
        ("shop", 0),
        *[("account", 0), ("account", 1)],
        *[("assess", 0), ("assess", 1)],
    ]
    for one in states:
        found = begun(tmp_path, made, place, one.log, one.partition)
        assert_same(found.shard.save(), one.shard.save())
        assert (found.checkpoint, found.needs_migration) == (None, False)


def later() -> Records:
    """The shop's further records; a few payments among them are far too large."""
    records = stream().slice(HISTORY, EVENTS)
    assert isinstance(records.values, list)
    values = [
        value.replace(b'"amount":', b'"amount":99999') if value and i % 15 == 0 else value
        for i, value in enumerate(records.values)
    ]
    return Records(SHOP.topic, 0, records.offset, records.timestamp_ms, values)


def test_it_continues_as_if_it_had_read_the_history(tmp_path: Path) -> None:
    """Further alerts equal those of one fold over history and all, except for `run`."""
    made = config()
    whole = ShardFactory(made, RUN).input_shard("shop")
    whole.process(stream().slice(0, HISTORY))
    expected = whole.process(later()).alerts
    found = begun(tmp_path, made, saved(tmp_path, made)).shard
    alerts = found.process(later()).alerts
    assert [without_run(alert_record(one).value) for one in alerts] == [
        without_run(alert_record(one).value) for one in expected
    ]
    assert [(one.monitor, one.revision) for one in alerts] == [("account", 1), ("ip", 1)]
    assert_same(found.save(), whole.save())
    assert ShardFactory(made, RUN).input_shard("shop").process(later()).alerts == []


def test_it_starts_after_the_records_the_replay_has_read(tmp_path: Path) -> None:
    """At the first record whose broker time is that of the replay's last event, or later, but not
    before the log's start; an internal topic at its start."""
    made = with_internal_topics()
    place = saved(tmp_path, made)
    asked: list[int] = []

    def offset_at(time_ms: int) -> int:
        asked.append(time_ms)
        return 77

    found = begun(tmp_path, made, place, offset_at=offset_at)
    assert (found.head.offset, found.live_from) == (77, 77)
    assert begun(tmp_path, made, place).head.offset == 3
    cluster = InMemoryCluster(made, RUN)
    last_ms = max(cluster.process_and_enqueue("shop", stream().slice(0, HISTORY)).events.time_ms)
    assert asked == [last_ms]
    internal = next(log for log in logs(made) if log.name == "account")
    assert begun(tmp_path, made, place, internal, offset_at=offset_at).head.offset == 3


def test_a_state_of_the_topic_itself_continues_by_offset(tmp_path: Path) -> None:
    """Right after the last replayed record, also where the first one has no time; where that was
    deleted, or the log is another one, the group does not start."""
    made = with_internal_topics()
    cluster = InMemoryCluster(made, RUN)
    recorded = stream().slice(0, HISTORY)
    at_ms = np.full(HISTORY, 1_900_000_000_000)
    at_ms[0] = -1
    cluster.process_and_enqueue(
        "shop", Records(SHOP.topic, 0, recorded.offset + 50, at_ms, recorded.values)
    )
    cluster.advance(float("inf"))
    save(made, cluster.states(), str(tmp_path / "saved"))
    place, behind = str(tmp_path / "saved"), 50 + HISTORY

    def never(_: int) -> int:
        raise AssertionError("a position is known, and a time asked for")

    assert begun(tmp_path, made, place, offset_at=never).head.offset == behind
    gone: list[dict[str, Any]] = [{"low": behind + 1}, {"high": behind - 1}]
    for span in gone:
        with pytest.raises(RetentionGap, match=f"saved at offset {behind}"):
            begun(tmp_path, made, place, **span)
    internal = next(log for log in logs(made) if log.name == "account")
    assert begun(tmp_path, made, place, internal, offset_at=never).head.offset == 3


def test_a_crash_before_the_first_commit_starts_again_from_it(tmp_path: Path) -> None:
    """The checkpoint written before the first commit may be missing; a later one may not."""
    made = config()
    place = saved(tmp_path, made)
    group = Group(LocalStore(tmp_path / "live", mkdir=True), made)
    group.saved = saved_folder(LocalStore(place), SHOP, 0)
    kept = group.work(0, 0, [])
    assert kept.state.head.first_offset is None
    group.committed = None
    assert_same(group.start().shard.save(), kept.state.shard.save())


def test_after_its_first_commit_a_group_continues_from_its_own_checkpoints(tmp_path: Path) -> None:
    """The saved state is no longer used; without an intact checkpoint the log cannot rebuild the
    state."""
    made = config()
    group = Group(LocalStore(tmp_path / "live", mkdir=True), made)
    group.saved = saved_folder(LocalStore(saved(tmp_path, made)), SHOP, 0)
    kept = group.work(0, 500, [200])
    group.saved = saved_folder(LocalStore(tmp_path / "nowhere", mkdir=True), SHOP, 0)
    found = group.start()
    assert (found.head.offset, found.live_from) == (200, 500)
    found.shard.process(group.records.slice(200, 500))
    assert_same(found.shard.save(), kept.state.shard.save())
    for name in group.folder().names():
        group.objects.delete(f"{group.folder().path}/manifests/{name}.json")
    with pytest.raises(CheckpointCorrupt, match="without a checkpoint only a replay"):
        group.start()


def test_another_configuration_or_version_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both fingerprints are named; a saved state is not migrated, since a replay can save it
    again."""
    made = config()
    place = saved(tmp_path, made)
    other = config(monitor("account", capacity=300), monitor("ip"))
    with pytest.raises(SavedStateUnusable, match=f"{fingerprint(made)}.*{fingerprint(other)}"):
        begun(tmp_path, other, place)
    monkeypatch.setattr(saved_states, "STATE_VERSION", STATE_VERSION + 1)
    with pytest.raises(SavedStateUnusable, match=f"version {STATE_VERSION + 1}$"):
        begun(tmp_path, made, place)


def test_a_folder_without_a_state_is_refused(tmp_path: Path) -> None:
    """A group that is to start from a saved state never starts without it."""
    with pytest.raises(SavedStateUnusable, match="no state in state/input-shop/0"):
        begun(tmp_path, config(), str(tmp_path))


def test_settings_without_effect_on_scores_are_no_other_configuration(tmp_path: Path) -> None:
    """A shadow group with another name may start from it, too."""
    place = saved(tmp_path, with_internal_topics())
    shadow = with_internal_topics(group="shadow", mode="shadow")
    for log in logs(shadow):
        begun(tmp_path, shadow, place, log)


@pytest.mark.parametrize("written", ["{}", "{}/", "{}/../live", "file://{}"])
def test_a_replay_never_saves_where_live_writes(tmp_path: Path, written: str) -> None:
    """However the URL is spelled, nothing is replayed and nothing written."""
    live = tmp_path / "live"
    live.mkdir()
    made = config(checkpoints={"url": str(live)})
    place = written.format(live)
    with pytest.raises(InputError, match="expected another store"):
        replay(
            made,
            [("shop", history(tmp_path))],
            tmp_path / "out",
            lambda *_: None,
            save_state=place,
        )
    assert not list(live.iterdir())
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match=r"checkpoints\.start_from: is checkpoints\.url"):
        config(checkpoints={"url": str(live), "start_from": place})


def test_a_state_is_not_saved_among_the_results(tmp_path: Path) -> None:
    """The folder of results holds only results."""
    with pytest.raises(InputError, match="the results are written there"):
        replay(
            config(),
            [("shop", tmp_path / "x")],
            tmp_path,
            lambda *_: None,
            save_state=str(tmp_path),
        )


def test_a_folder_with_a_state_is_left_alone(tmp_path: Path) -> None:
    """A second replay does not mix its state with the first one's."""
    place = saved(tmp_path, config())
    with pytest.raises(InputError, match="expected an empty store"):
        check_save_target(config(), place)


def test_partitions_without_records_begin_empty(tmp_path: Path) -> None:
    """Every partition of a topic has a state, so that a missing one is noticed."""
    made = msgspec.structs.replace(
        with_internal_topics(),
        inputs={
            "shop": msgspec.structs.replace(with_internal_topics().inputs["shop"], partitions=3)
        },
    )
    place = saved(tmp_path, made)
    log = logs(made)[0]
    assert log.partitions == 3
    empty = begun(tmp_path, made, place, log, 2, offset_at=lambda _: 9)
    assert_same(empty.shard.save(), ShardFactory(made, RUN).input_shard("shop").save())
    assert empty.head.offset == 9


def test_saving_reads_a_state_and_changes_nothing(tmp_path: Path) -> None:
    """A cluster that continues after its state was saved gives the same output."""
    made = config()
    clusters = [InMemoryCluster(made, RUN) for _ in range(2)]
    for cluster in clusters:
        cluster.process_and_enqueue("shop", stream().slice(0, HISTORY))
        cluster.advance(float("inf"))
    save(made, clusters[0].states(), str(tmp_path))
    for cluster in clusters:
        cluster.process_and_enqueue("shop", stream().slice(HISTORY, EVENTS))
    one, other = ([state.shard.save() for state in cluster.states()] for cluster in clusters)
    for left, right in zip(one, other, strict=True):
        assert_same(left, right)


def test_a_group_with_offsets_re_learns_from_the_first_unread_record(tmp_path: Path) -> None:
    """A saved state of files and a committed offset: from the record at the replay's end, or from the
    committed offset where that comes first; an internal topic from its committed offset."""
    made = with_internal_topics()
    place = saved(tmp_path, made)
    internal = next(log for log in logs(made) if log.name == "account")

    def started(log: Log, unread: int, committed: int) -> RecoveredState:
        context = StartContext(
            config=made,
            run=RUN,
            log=log,
            partition=0,
            folder=Group(LocalStore(tmp_path / "live", mkdir=True), made, log).folder(),
            committed=None,
            low=3,
            high=1_000,
            beat=lambda: None,
            saved=saved_folder(LocalStore(place), log, 0),
            offset_at=lambda _: unread,
        )
        assert context.saved is not None
        return saved_states.from_saved_state(context, context.saved, committed)

    for log, unread, start in ((SHOP, 20, 20), (SHOP, 50, 50), (SHOP, 70, 50), (internal, 20, 50)):
        state = started(log, unread, 50)
        assert (state.head.offset, state.live_from) == (start, 50)
