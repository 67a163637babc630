"""Kafka's client logs through Eddy's logger."""

import time
from collections.abc import Callable
from typing import Any, Final

import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient

from stream.kafka.admin import TopicAdmin
from stream.kafka.client_errors import CLIENT_LOG
from stream.kafka.properties import Properties
from stream.kafka.sink import KafkaSink, PlainProducer
from stream.kafka.source import KafkaSource
from stream.kafka.topic_reader import TopicReader

NOWHERE: Final[Properties] = {"bootstrap.servers": "127.0.0.1:1", "log_level": 7}
"""Nobody listens there, and the client says so."""
WAIT_MAX_S: Final = 30.0

CLIENTS: dict[str, Callable[[], Consumer | Producer | AdminClient]] = {
    "group consumer": lambda: KafkaSource(NOWHERE, "group")._consumer,
    "range consumer": lambda: TopicReader(NOWHERE, "group", "events")._consumer,
    "transactional producer": lambda: KafkaSink(NOWHERE, "group", "slot")._producer,
    "plain producer": lambda: PlainProducer(NOWHERE, "events", None)._producer,
    "admin": lambda: TopicAdmin(NOWHERE)._client,
}


@pytest.mark.parametrize("make", CLIENTS.values(), ids=CLIENTS)
def test_a_clients_own_log_goes_through_the_logger(
    make: Callable[[], Any], caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """None of its lines goes to standard error unformatted."""
    caplog.set_level("DEBUG", CLIENT_LOG.name)
    client, deadline = make(), time.monotonic() + WAIT_MAX_S
    while not any("Connection refused" in one.getMessage() for one in caplog.records):
        assert time.monotonic() < deadline, "the client says nothing"
        client.poll(0.05)
    assert {one.name for one in caplog.records} == {CLIENT_LOG.name}
    assert "rdkafka" not in capfd.readouterr().err
