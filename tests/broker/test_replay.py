"""A replay of a topic gives the live group's alerts, and leaves no trace on the broker."""

from collections import defaultdict
from pathlib import Path

import orjson
import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from schemas.alerts import without_run
from stream.config import load
from stream.config.stage_graph import logs
from stream.errors import InputError
from stream.kafka.positions import Partition
from stream.replay import Summary, manifest, replay, rerun
from tests.broker.shop import (
    ReadAt,
    Shop,
    consumer,
    make_shop,
    messages,
    reference,
    worker,
)

EVENTS = 20_000


def live_run(broker: str, folder: Path, *, internal_topics: bool) -> Shop:
    """A shop whose worker has processed four partitions."""
    shop = make_shop(broker, folder, "lived", 4, internal_topics=internal_topics)
    shop.feed(EVENTS)
    with worker(shop) as process:
        shop.wait_until_caught_up()
        assert process.stop() == 0
    return shop


def replayed(shop: Shop, out: Path, inputs: list[tuple[str, str]]) -> Summary:
    """Replay without showing progress."""
    return replay(load(shop.config), inputs, out, note_lines)


def note_lines(_records: int, _share: float) -> None:
    """Ignore progress."""


def live_bodies(shop: Shop, read_at: ReadAt) -> dict[Partition, list[bytes]]:
    """Every published alert's body without `run`, byte for byte, by the log of its shard."""
    found: dict[Partition, list[bytes]] = defaultdict(list)
    for message in messages(shop.bootstrap, f"{shop.group}-alerts"):
        body = message.value() or b""
        found[partition_and_offset(body, read_at)].append(without_run(body))
    return dict(found)


def replay_bodies(out: Path, read_at: ReadAt) -> dict[Partition, list[bytes]]:
    """The same for a replay's alerts."""
    found: dict[Partition, list[bytes]] = defaultdict(list)
    for body in (out / "alerts.ndjson").read_bytes().splitlines():
        alert = orjson.loads(body)
        assert (alert["run"]["mode"], alert["run"]["enforceable"]) == ("replay", False)
        found[partition_and_offset(body, read_at)].append(without_run(body))
    return dict(found)


def partition_and_offset(body: bytes, read_at: ReadAt) -> Partition:
    """The log whose shard raised an alert."""
    alert = orjson.loads(body)
    [evidence] = alert["evidence"]
    source = Partition(evidence["topic"], evidence["partition"])
    return read_at.get((alert["monitor"], *source, evidence["offset"]), source)


def test_a_replayed_topic_gives_the_alerts_and_dead_letters_of_live(
    broker: str, tmp_path: Path
) -> None:
    """A replay of the whole topic, and of a range from its start, gives the same alerts and dead
    letters byte for byte, except for `run`; a second one gives the same files."""
    shop = live_run(broker, tmp_path, internal_topics=False)
    live = live_bodies(shop, {})
    assert sum(map(len, live.values())) > 20
    assert len(live) > 1
    summary = replayed(shop, tmp_path / "all", [("shop", f"kafka://{shop.topic}")])
    assert summary.inputs["shop"]["read"] == sum(shop.ends().values())
    assert all(summary.adds_up.values())
    assert replay_bodies(tmp_path / "all", {}) == live
    letters = [
        orjson.loads(x)["eddy-offset"]
        for x in (tmp_path / "all" / "dead_letters.ndjson").read_bytes().splitlines()
    ]
    assert len(letters) == sum(map(len, shop.dead_letters().values())) > 0
    repeated = rerun(
        manifest.read(tmp_path / "all"), load(shop.config), tmp_path / "again", note_lines
    )
    assert repeated.changed_files == []
    until = {partition: end // 2 for partition, end in shop.ends().items()}
    text = ",".join(f"{partition}:{offset}" for partition, offset in until.items())
    replayed(shop, tmp_path / "half", [("shop", f"kafka://{shop.topic}?from=0&until={text}")])
    half = {
        place: [body for body in bodies if offset_in(body) < until[place.partition]]
        for place, bodies in live.items()
    }
    assert 0 < sum(map(len, half.values())) < sum(map(len, live.values()))
    assert replay_bodies(tmp_path / "half", {}) == {k: v for k, v in half.items() if v}


def offset_in(body: bytes) -> int:
    """The offset of an alert's event."""
    [evidence] = orjson.loads(body)["evidence"]
    return int(evidence["offset"])


def test_replayed_internal_topics_give_the_alerts_of_live(broker: str, tmp_path: Path) -> None:
    """An internal topic determines the output of its stage: each monitor's, and that of the
    reports, replayed alone or together, gives the live alerts byte for byte."""
    shop = live_run(broker, tmp_path, internal_topics=True)
    logs = {log.name: log.topic for log in shop.internal_logs()}
    read_at = reference(shop).read_at
    live = live_bodies(shop, read_at)
    assert {logs["assess"], logs["ip"]} <= {place.topic for place in live} <= set(logs.values())
    for name, topic in logs.items():
        out = tmp_path / name
        replayed(shop, out, [(name, f"kafka://{topic}")])
        found = replay_bodies(out, read_at)
        # what the monitor reports goes on to assess, whose log this replay was not given
        of_log = {place: bodies for place, bodies in found.items() if place.topic == topic}
        assert of_log == {place: bodies for place, bodies in live.items() if place.topic == topic}
    everything = [("shop", shop.topic), *logs.items()]
    out = tmp_path / "everything"
    summary = replayed(shop, out, [(name, f"kafka://{topic}") for name, topic in everything])
    assert replay_bodies(out, read_at) == live
    assert summary.inputs["shop"]["read"] == sum(shop.ends().values())
    repeated = rerun(manifest.read(out), load(shop.config), tmp_path / "again", note_lines)
    assert repeated.changed_files == []


def test_a_range_between_two_times(broker: str, tmp_path: Path) -> None:
    """Times are the broker's: from before the first record to now is everything, from now on
    nothing."""
    shop = make_shop(broker, tmp_path, "times", 4)
    shop.feed(500)
    early, late = "2020-01-01T00:00:00Z", "2100-01-01T00:00:00+00:00"
    address = f"kafka://{shop.topic}?from={early}&until={late}"
    summary = replayed(shop, tmp_path / "all", [("shop", address)])
    assert summary.inputs["shop"]["read"] == sum(shop.ends().values())
    nothing = f"kafka://{shop.topic}?from={late}"
    assert replayed(shop, tmp_path / "none", [("shop", nothing)]).events == 0


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("?from=999999", "the topic holds 0 to"),
        ("?until=0:1,9:1", "no partition 9"),
        ("?since=1", "got since; expected from and until"),
        ("?from=yesterday", "ISO 8601"),
    ],
)
def test_a_missing_range_is_named(broker: str, tmp_path: Path, query: str, message: str) -> None:
    """Offsets that the topic does not hold, or that are not offsets, are errors before anything is
    written."""
    shop = make_shop(broker, tmp_path, "nowhere", 4)
    shop.feed(100)
    with pytest.raises(InputError, match=message):
        replayed(shop, tmp_path / "out", [("shop", f"kafka://{shop.topic}{query}")])
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="has 1 partitions; expected 4"):
        replayed(shop, tmp_path / "out", [("shop", f"kafka://{shop.group}-alerts")])


def test_a_replay_leaves_no_trace(broker: str, tmp_path: Path) -> None:
    """With the live group's configuration and broker: no record is written, no group joined, no
    offset moved, no checkpoint written; and its alerts may not be enforced."""
    shop = live_run(broker, tmp_path, internal_topics=True)

    def traces() -> tuple[object, ...]:
        with consumer(broker, "nobody") as client:
            topics = client.list_topics(timeout=10).topics
            ends = {
                (name, partition): client.get_watermark_offsets(
                    TopicPartition(name, partition), timeout=10
                )
                for name, topic in topics.items()
                if name.startswith(shop.group)
                for partition in topic.partitions
            }
        admin = AdminClient({"bootstrap.servers": broker})
        groups = {one.group_id for one in admin.list_consumer_groups().result().valid}
        committed = [shop.committed(log.topic, log.partitions) for log in logs(load(shop.config))]
        files = {str(path): path.stat().st_mtime_ns for path in shop.store.rglob("*")}
        return ends, groups, committed, files

    before = traces()
    assert shop.group in before[1]  # type: ignore[operator]
    assert before[3]
    for out, inputs in {
        "source": [("shop", f"kafka://{shop.topic}")],
        "internal": [(log.name, f"kafka://{log.topic}") for log in shop.internal_logs()],
    }.items():
        replayed(shop, tmp_path / out, inputs)
        bodies = (tmp_path / out / "alerts.ndjson").read_bytes().splitlines()
        assert bodies
        for body in bodies:
            run = orjson.loads(body)["run"]
            assert (run["mode"], run["enforceable"], run["reason"]) == ("replay", False, "replay")
    assert traces() == before
