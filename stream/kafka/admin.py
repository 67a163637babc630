"""Looks up topics and their settings, and creates topics."""

from collections.abc import Iterable, Mapping

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import ConfigResource
from confluent_kafka.admin._resource import ResourceType
from confluent_kafka.cimpl import NewTopic

from stream.errors import Retriable
from stream.kafka.client_errors import (
    CALL_TIMEOUT_S,
    Beat,
    DeferredError,
    create_client,
    kafka_failure,
    map_client_errors,
    no_beat,
    retrying,
)
from stream.kafka.error_codes import UNKNOWN_TOPIC_CODES
from stream.kafka.properties import Properties, admin_properties


class TopicAdmin:
    """Looks up topics, and creates them."""

    def __init__(self, properties: Properties, beat: Beat = no_beat) -> None:
        self._deferred_error = DeferredError()
        self._beat = beat
        client_properties = {
            **admin_properties(properties),
            "error_cb": self._deferred_error.on_error,
        }
        self._client = create_client(AdminClient, client_properties)

    def partition_counts(self, topics: Iterable[str]) -> dict[str, int]:
        """Topic → number of partitions; a topic that does not exist is left out."""
        return {topic: count for topic in topics if (count := self._partition_count(topic))}

    def _partition_count(self, topic: str) -> int:
        for attempt in retrying(Retriable, beat=self._beat):
            with attempt, map_client_errors(f"asking for topic {topic}"):
                self._client.poll(0)  # lets the client report why it cannot connect
                self._deferred_error.raise_if_set()
                metadata = self._client.list_topics(topic, timeout=CALL_TIMEOUT_S).topics[topic]
                if metadata.error is None:
                    return len(metadata.partitions)
                if metadata.error.name() not in UNKNOWN_TOPIC_CODES:
                    raise kafka_failure(metadata.error, f"asking for topic {topic}")
        return 0

    def settings(self, topic: str, names: Iterable[str]) -> dict[str, str]:
        """The topic's settings of these names, as the broker applies them."""
        resource = ConfigResource(ResourceType.TOPIC, topic)
        for attempt in retrying(Retriable, beat=self._beat):
            with attempt, map_client_errors(f"asking for the settings of topic {topic}"):
                [future] = self._client.describe_configs(
                    [resource], request_timeout=CALL_TIMEOUT_S
                ).values()
                settings = future.result()
        return {name: settings[name].value for name in names}

    def create(
        self, topic: str, partitions: int, settings: Mapping[str, str], replication: int | None
    ) -> None:
        """Create a topic, and wait until the broker lists it.

        replication: None for the broker's default. A topic that exists is left as it is: the broker
        may not have listed it yet, or a retried request may have succeeded the first time.
        """
        new = NewTopic(topic, partitions, replication or -1, config=dict(settings))
        for attempt in retrying(Retriable, beat=self._beat):
            with attempt, map_client_errors(f"creating topic {topic}"):
                [future] = self._client.create_topics(
                    [new], request_timeout=CALL_TIMEOUT_S
                ).values()
                try:
                    future.result()
                except KafkaException as exception:
                    if exception.args[0].name() != "TOPIC_ALREADY_EXISTS":
                        raise
        for attempt in retrying(Retriable, beat=self._beat):
            with attempt:
                if not self._partition_count(topic):
                    raise Retriable(f"creating topic {topic}: the broker does not list it yet")
