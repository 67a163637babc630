"""The hop over an internal topic: each event once, in order, and the monitor behind it the same
however the logs were cut."""

import tomllib
from collections import defaultdict
from dataclasses import replace
from functools import cache
from itertools import pairwise

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.monitor import is_relevant
from detectors.numeric.hashing import hash_key, hash_text
from schemas.alerts import alert_record
from schemas.columns import EventBatch
from schemas.records import Records
from stream.config import Config, parse
from stream.config.stage_graph import logs
from stream.config.topology import Log
from stream.errors import ForeignRecord
from stream.pipeline.alerting import RunInfo
from stream.pipeline.shard import Shard, ShardFactory, ShardOutput
from stream.pipeline.stages import InternalRecord
from tests.streams import START_MS

PARTITIONS = 3
CONFIG = f"""
group = "g"
reveal = ["account"]
[inputs.pay]
topic = "pay"
partitions = 2
type = {{ field = "type" }}
[inputs.site]
topic = "site"
type = {{ field = "type" }}
[[monitors]]
name = "account"
entity = "account"
inputs = ["pay", "site"]
partitions = {PARTITIONS}
where = {{ kind = ["payment", "view"] }}
features = [
  {{ name = "amount", kind = "value", field = "amount" }},
  {{ name = "events_1h", kind = "count", half_life = "1h" }},
]
policy = {{ p_max = 0.01, alerts_per_day = 100_000, incident_gap = "1s" }}
[[monitors]]
name = "ip"
entity = "ip"
inputs = ["site"]
features = [{{ name = "events_1h", kind = "count", half_life = "1h" }}]
"""
EVENTS = 1_500
few = settings(max_examples=5, deadline=None)


def config() -> Config:
    """Accounts over two topics, and addresses straight from one."""
    return parse(tomllib.loads(CONFIG), {})


def shards(run: str = "one") -> ShardFactory:
    """What makes their shards."""
    return ShardFactory(config(), RunInfo("live", run, lambda: "2026-01-01T00:00:00Z"))


def internal_log() -> Log:
    """The log of the accounts."""
    return next(log for log in logs(config()) if log.internal)


def records(topic: str, partition: int, seed: int, count: int = EVENTS) -> Records:
    """Payments, views, refunds and labels of a few accounts, some of nobody, with bursts."""
    draw = np.random.default_rng([seed, partition])
    values: list[bytes | None] = []
    for i in range(count):
        burst = 100.0 if i % 200 > 190 else 1.0
        event = {
            "event_id": f"{topic}{partition}-{i}",
            "time": START_MS + 30_000 * i + int(draw.integers(60_000)),
            "type": "label" if i % 13 == 0 else "transaction",
            "kind": str(draw.choice(["payment", "view", "refund"])),
            "ip": f"10.0.0.{draw.integers(5)}",
            "amount": burst * float(draw.lognormal(2.0, 0.3)),
        }
        if draw.random() < 0.9:
            event["account"] = f"a{draw.integers(12)}"
        values.append(orjson.dumps(event) if i % 50 else b"no event")
    return Records(topic, partition, np.arange(count) * 2 + 5, np.full(count, -1), values)


def sent(topic: str, partition: int, seed: int, cuts: list[int]) -> list[ShardOutput]:
    """What a source shard emits for its records, cut at these places."""
    shard = shards().input_shard(topic)
    everything = records(topic, partition, seed)
    edges = [0, *sorted({cut for cut in cuts if cut < EVENTS}), EVENTS]
    return [shard.process(everything.slice(a, b)) for a, b in pairwise(edges)]


def by_partition(output: list[ShardOutput]) -> dict[int, list[InternalRecord]]:
    """What goes into each partition of the internal log."""
    found = defaultdict(list)
    for one in output:
        for record in one.internal_records:
            assert record.log == "account"
            found[record.partition].append(record)
    return found


def as_log(messages: list[InternalRecord]) -> Records:
    """Messages as the records of one partition of the internal log."""
    size = len(messages)
    offset = np.arange(size)
    return Records(
        "g-account-events", 0, offset, np.full(size, -1), [one.value for one in messages]
    )


def identity(events: EventBatch) -> list[tuple[str, int, int, str]]:
    """Where each event stood, and its id."""
    places = (events.sources[i] for i in events.source.tolist())
    ids = events.event_id.to_pylist()
    return [
        (topic, partition, offset, event_id)
        for (topic, partition), offset, event_id in zip(
            places, events.offset.tolist(), ids, strict=True
        )
    ]


@few
@given(seed=st.integers(0, 2**16), cuts=st.lists(st.integers(1, EVENTS), max_size=9))
def test_each_event_that_concerns_the_monitor_is_sent_once_in_order(
    seed: int, cuts: list[int]
) -> None:
    """Behind the hop stand exactly the events that the monitor judges or learns labels from, each
    in its entity's partition, in the order of their log, however that was cut."""
    output = sent("pay", 1, seed, cuts)
    reader = shards().make(internal_log())
    spec = config().monitors[0]
    expected: dict[int, list[tuple[str, int, int, str]]] = defaultdict(list)
    for one in output:
        events = one.events.take(np.flatnonzero(is_relevant(one.events, spec)))
        hashed = hash_text(events.text["account"], hash_key(""))[:, 1] % np.uint64(PARTITIONS)
        for who, partition in zip(identity(events), hashed.tolist(), strict=True):
            expected[partition].append(who)
    found = {
        partition: identity(reader.decode(as_log(messages)))
        for partition, messages in by_partition(output).items()
    }
    assert found == expected
    assert len(found) == PARTITIONS


def test_sent_and_unsent_events_add_up() -> None:
    """For each monitor, events that passed route are sent or not applicable; the counts survive."""
    shard = shards().input_shard("pay")
    shard.process(records("pay", 0, 1))
    counts = shard.counts()
    assert (
        counts["account"]["sent"] + counts["account"]["not_applicable"]
        == (counts["route"]["passed"])
    )
    assert 0 < counts["account"]["not_applicable"] < counts["account"]["sent"]
    assert "ip" not in counts
    other = shards().input_shard("pay")
    other.load(shard.save())
    assert other.counts() == counts
    again = other.process(records("pay", 0, 1))
    assert len(again.events) == 0
    assert again.internal_records == []


@cache
def interleaved(seed: int) -> list[InternalRecord]:
    """One partition of the internal log: messages of all three source partitions by turns."""
    cuts = list(range(100, EVENTS, 100))
    logs_of = [
        by_partition(sent(topic, partition, seed, cuts))[0]
        for topic, partition in (("site", 0), ("pay", 0), ("pay", 1))
    ]
    return [message for turn in zip(*logs_of, strict=True) for message in turn]


def scored(shard: Shard, messages: list[InternalRecord], cuts: list[int]) -> list[bytes]:
    """The alerts for messages that came in several batches."""
    edges = [0, *sorted({cut for cut in cuts if cut < len(messages)}), len(messages)]
    parts = [shard.process(as_log(messages[a:b])) for a, b in pairwise(edges)]
    return [alert_record(alert).value for part in parts for alert in part.alerts]


@few
@given(cuts=st.lists(st.integers(1, 44), max_size=9), stop=st.integers(1, 44))
def test_a_monitor_over_an_internal_topic_is_a_fold(cuts: list[int], stop: int) -> None:
    """Cut the internal log into batches anywhere, save and load anywhere: same alerts, same
    state."""
    messages = interleaved(5)
    whole, cut, first, second = (shards().make(internal_log()) for _ in range(4))
    expected = scored(whole, messages, [])
    assert len(expected) > 1
    assert scored(cut, messages, cuts) == expected
    alerts = scored(first, messages[:stop], [])
    second.load(first.save())
    assert alerts + scored(second, messages[stop:], []) == expected
    for other in (cut, second):
        state = whole.save()
        assert [n for n, a in other.save().items() if a.tobytes() != state[n].tobytes()] == []


def test_events_are_scored_in_bounded_batches() -> None:
    """However many events a poll brings, a stage processes a bounded number at a time."""
    messages = interleaved(3)
    expected = scored(shards().make(internal_log()), messages, [])
    shard = shards().make(internal_log())
    few = replace(shard._first.node.declaration, batch_rows_max=7)
    shard._first = shard._first._replace(node=replace(shard._first.node, declaration=few))
    assert scored(shard, messages, []) == expected


def test_alerts_name_the_source() -> None:
    """Evidence and ids are those of the event's own position, not of the message it came in; an
    update's incident was opened where it was, whichever topic its event came from."""
    alerts = [
        orjson.loads(each) for each in scored(shards().make(internal_log()), interleaved(5), [])
    ]
    assert {one["evidence"][0]["topic"] for one in alerts} == {"pay", "site"}
    for alert in alerts:
        [evidence] = alert["evidence"]
        row = (evidence["offset"] - 5) // 2
        assert evidence["event_id"] == f"{evidence['topic']}{evidence['partition']}-{row}"
        assert alert["related"][0]["type"] == "ip"


def test_a_foreign_record_is_an_error_that_names_it() -> None:
    """What Eddy did not write stops the shard, before anything of its batch was learned."""
    shard = shards().make(internal_log())
    messages = interleaved(5)[:3]
    log = as_log([*messages, messages[0]._replace(value=b"hello"), messages[1]])
    with pytest.raises(ForeignRecord, match=r"g-account-events\[0\]: the record at offset 3 is no"):
        shard.process(log)
    assert shard.counts()["account"]["scored"] == 0
