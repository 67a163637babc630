"""Labels in a live group: route sends them to the partitions of their entities."""

import re
from pathlib import Path

import orjson
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from tests.broker.shop import Shop, make_shop, messages, value_of, wait_for, worker

EVENTS = 1_500
LABELS = """
[inputs.labels]
topic = "{topic}"
type = "label"
"""
RISK = """
[[monitors.detectors]]
kind = "label_risk"
name = "risk"
"""


def with_label_input(shop: Shop) -> str:
    """Give the shop a topic of labels from which its account monitor learns; return its name."""
    topic = f"{shop.group}-labels"
    admin = AdminClient({"bootstrap.servers": shop.bootstrap})
    admin.create_topics([NewTopic(topic, 1)])[topic].result()
    head, *monitors = re.split(
        r"(?=^\[\[monitors\]\]$)", shop.config.read_text(), flags=re.MULTILINE
    )
    accounts = next(i for i, text in enumerate(monitors) if 'entity = "account"' in text)
    text = re.sub(r"inputs = .*", 'inputs = ["shop", "labels"]', monitors[accounts])
    policy = text.index("[monitors.policy]")
    monitors[accounts] = text[:policy] + RISK + text[policy:]
    shop.config.write_text(head + LABELS.format(topic=topic) + "".join(monitors))
    return topic


def test_labels_of_entities_train_and_labels_without_any_are_dead_letters(
    broker: str, tmp_path: Path
) -> None:
    """Each label that names an account reaches the partition that watches it; one that names only
    an event becomes a dead letter, and the worker continues."""
    shop = make_shop(broker, tmp_path, "labels", 2, internal_topics=True)
    shop.feed(EVENTS, malformed=0.0)
    topic = with_label_input(shop)
    events = [orjson.loads(one.value() or b"") for one in messages(broker, shop.topic)]
    named = [one for one in events if one.get("account")][:60]
    said = [
        {"event_id": f"l{i}", "time": one["time"], "verdict": "fraud", "account": one["account"]}
        for i, one in enumerate(named)
    ]
    nobody = {"event_id": "l", "time": named[0]["time"], "verdict": "fraud"}
    nobody["labelled_event_id"] = named[0]["event_id"]
    producer = Producer({"bootstrap.servers": shop.bootstrap})
    for value in [*said[:30], nobody, *said[30:]]:
        producer.produce(topic, orjson.dumps(value), b"key")
    assert producer.flush(30) == 0
    with worker(shop) as process:
        shop.wait_until_caught_up()
        wait_for(lambda: shop.committed(topic, 1) == {0: 61}, "the labels")
        wait_for(
            lambda: value_of(process.get("/metrics")[1], "eddy_labels_total") == 60, "learning"
        )
        assert process.stop() == 0
    [letter] = messages(broker, f"{shop.group}-dead")
    assert letter.value() == orjson.dumps(nobody)
    headers = dict(letter.headers() or [])
    assert headers["eddy-code"] == b"label_without_entity"
    assert headers["eddy-topic"] == topic.encode()
