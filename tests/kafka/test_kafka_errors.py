"""Errors and properties of Kafka's client: every code has a class, no secret is shown, no guarantee
can be disabled."""

import pytest
from confluent_kafka import KafkaError, Producer
from hypothesis import given
from hypothesis import strategies as st

from stream.checkpoints.manager import REVOKE_TIMEOUT_S
from stream.errors import Abortable, ConfigError, Fatal, Fenced, Retriable
from stream.kafka.client_errors import (
    CALL_TIMEOUT_S,
    RETRY_PAUSE_MAX_S,
    classify,
    create_client,
    kafka_failure,
    retrying,
)
from stream.kafka.error_codes import CODE_MEANINGS
from stream.kafka.properties import (
    RESERVED,
    consumer_properties,
    printable_properties,
    producer_properties,
    property_problems,
    slot_properties,
)
from stream.telemetry.health import BEAT_OVERDUE_S

CODES = {name: code for name, code in vars(KafkaError).items() if isinstance(code, int)}

FATAL_BY_DEFAULT = {
    # not errors, or of clients and calls that Eddy does not make
    *("NO_ERROR", "UNKNOWN", "_APPLICATION", "_ASSIGN_PARTITIONS", "_REVOKE_PARTITIONS", "_NOOP"),
    *("_PARTITION_EOF", "_NODE_UPDATE", "_KEY_SERIALIZATION", "_VALUE_SERIALIZATION", "_PARTIAL"),
    *("_KEY_DESERIALIZATION", "_VALUE_DESERIALIZATION", "_UNDERFLOW", "_NO_OFFSET", "_OUTDATED"),
    # bugs of ours or of the client
    *("_FAIL", "_FATAL", "_STATE", "_INVALID_ARG", "_INVALID_TYPE", "_CONFLICT", "_INCONSISTENT"),
    *("_NOENT", "_READ_ONLY", "_NOT_CONFIGURED", "_NOT_IMPLEMENTED", "_EXISTING_SUBSCRIPTION"),
    *("_GAPLESS_GUARANTEE", "_INVALID_DIFFERENT_RECORD", "_UNKNOWN_BROKER", "_UNKNOWN_GROUP"),
    *("_UNKNOWN_PROTOCOL", "_DESTROY", "_CRIT_SYS_RESOURCE", "_FS", "INVALID_TXN_STATE"),
    *("DUPLICATE_SEQUENCE_NUMBER", "INVALID_REQUEST", "INVALID_REQUIRED_ACKS", "INVALID_GROUP_ID"),
    *("INVALID_TIMESTAMP", "MEMBER_ID_REQUIRED", "OPERATION_NOT_ATTEMPTED", "UNSUPPORTED_ASSIGNOR"),
    *("INVALID_REGULAR_EXPRESSION", "UNKNOWN_SUBSCRIPTION_ID", "SECURITY_DISABLED"),
    *("GROUP_SUBSCRIBED_TO_TOPIC", "TELEMETRY_TOO_LARGE", "RESOURCE_NOT_FOUND"),
    # of administration: topics, configuration, quotas, voters
    *("TOPIC_ALREADY_EXISTS", "TOPIC_DELETION_DISABLED", "INVALID_PARTITIONS", "INVALID_CONFIG"),
    *("INVALID_REPLICA_ASSIGNMENT", "REASSIGNMENT_IN_PROGRESS"),
    *(
        "NO_REASSIGNMENT_IN_PROGRESS",
        "NON_EMPTY_GROUP",
        "GROUP_ID_NOT_FOUND",
        "ELECTION_NOT_NEEDED",
    ),
    *("FEATURE_UPDATE_FAILED", "INVALID_UPDATE_VERSION", "LOG_DIR_NOT_FOUND", "DUPLICATE_RESOURCE"),
    *("UNACCEPTABLE_CREDENTIAL", "DUPLICATE_VOTER", "VOTER_NOT_FOUND", "INVALID_VOTER_KEY"),
    *("INCONSISTENT_VOTER_SET", "INVALID_REGISTRATION", "UNKNOWN_CONTROLLER_ID"),
    *("MISMATCHED_ENDPOINT_TYPE", "UNSUPPORTED_ENDPOINT_TYPE", "INVALID_PRINCIPAL_TYPE"),
    *("PRINCIPAL_DESERIALIZATION_FAILURE", "STALE_BROKER_EPOCH", "STALE_CTRL_EPOCH"),
    # of delegation tokens
    *("DELEGATION_TOKEN_AUTHORIZATION_FAILED", "DELEGATION_TOKEN_AUTH_DISABLED"),
    *("DELEGATION_TOKEN_EXPIRED", "DELEGATION_TOKEN_NOT_FOUND", "DELEGATION_TOKEN_OWNER_MISMATCH"),
    "DELEGATION_TOKEN_REQUEST_NOT_ALLOWED",
    # of share groups and Kafka Streams
    *("INVALID_RECORD_STATE", "INVALID_SHARE_SESSION_EPOCH", "SHARE_SESSION_LIMIT_REACHED"),
    *("SHARE_SESSION_NOT_FOUND", "FENCED_STATE_EPOCH", "STREAMS_INVALID_TOPOLOGY"),
    *("STREAMS_INVALID_TOPOLOGY_EPOCH", "STREAMS_TOPOLOGY_FENCED"),
}


def test_every_code_is_in_the_table_or_fatal_on_purpose() -> None:
    """A code of a newer client must be classified before it counts as fatal."""
    assert CODES.keys() - CODE_MEANINGS.keys() == FATAL_BY_DEFAULT & CODES.keys()
    assert not FATAL_BY_DEFAULT & CODE_MEANINGS.keys()


def test_table_names_only_codes_of_the_client() -> None:
    """A misspelt code in the table would silently be fatal."""
    assert not CODE_MEANINGS.keys() - CODES.keys()


@given(code=st.sampled_from(sorted(CODES.values())))
def test_code_without_flags_has_the_class_of_its_row(code: int) -> None:
    """Without flags the table decides, and an unknown code is fatal."""
    error = KafkaError(code)
    row = CODE_MEANINGS.get(error.name())
    assert classify(error) is (row.kind if row else Fatal)


@given(code=st.sampled_from(sorted(CODES.values())), fatal=st.booleans(), retriable=st.booleans())
def test_flags_never_soften_what_no_retry_can_help(code: int, fatal: bool, retriable: bool) -> None:
    """A fatal flag is never retried, and a code that the table calls fatal is fatal with any
    flags."""
    error = KafkaError(code, "", fatal=fatal, retriable=retriable, txn_requires_abort=True)
    kind = classify(error)
    if fatal:
        assert kind in {Fatal, Fenced}
    row = CODE_MEANINGS.get(error.name())
    if row is not None and row.kind is Fatal:
        assert kind is Fatal


def test_the_client_may_report_more_than_the_code() -> None:
    """The client's flags decide about a code that is fatal by default."""
    code = KafkaError.UNKNOWN
    assert classify(KafkaError(code, "", retriable=True)) is Retriable
    assert classify(KafkaError(code, "", txn_requires_abort=True)) is Abortable
    assert classify(KafkaError(KafkaError._FENCED, "", fatal=True)) is Fenced


def test_a_failure_names_action_cause_and_remedy() -> None:
    """A message names the operation, the code, the cause and the remedy."""
    error = kafka_failure(KafkaError(KafkaError.GROUP_AUTHORIZATION_FAILED, "no"), "committing")
    assert isinstance(error, Fatal)
    for part in ("committing", "GROUP_AUTHORIZATION_FAILED", "lacks a permission", "grant Read"):
        assert part in error.message


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_property_that_guarantees_rest_on_may_not_be_set(name: str) -> None:
    """Both clients refuse it, with the reason."""
    own: dict[str, str | int | float | bool] = {name: "x", "client.id": "mine"}
    for client in ("consumer", "producer"):
        with pytest.raises(ConfigError, match="may not be set") as refused:
            consumer_properties(own, "g") if client == "consumer" else producer_properties(own, {})
        assert refused.value.problems == [f"kafka.{name}: may not be set: {RESERVED[name]}"]
    assert len(property_problems({name: "x", "bootstrap.servers": "y"})) == 1


def test_properties_of_the_user_win_over_defaults_and_reach_the_right_client() -> None:
    """A producer's properties are not passed to the consumer, and the other way round."""
    given_: dict[str, str | int | float | bool] = {
        "bootstrap.servers": "b",
        "linger.ms": 50,
        "fetch.min.bytes": 10,
        "group.instance.id": "i",
        "transaction.timeout.ms": 9_000,
    }
    consumer = consumer_properties(given_, "g")
    producer = producer_properties(given_, {"transactional.id": "g-1"})
    assert (consumer["group.id"], consumer["isolation.level"]) == ("g", "read_committed")
    assert (consumer["fetch.min.bytes"], consumer["group.instance.id"]) == (10, "i")
    assert (producer["linger.ms"], producer["transaction.timeout.ms"]) == (50, 9_000)
    assert (producer["transactional.id"], producer["enable.idempotence"]) == ("g-1", True)
    assert not {"linger.ms", "transaction.timeout.ms"} & consumer.keys()
    assert not {"fetch.min.bytes", "group.instance.id"} & producer.keys()


@pytest.mark.parametrize("name", ["session.timeout.ms", "heartbeat.interval.ms"])
def test_broker_side_settings_are_refused_with_the_new_protocol(name: str) -> None:
    """The error names the broker's setting; under the classic protocol they are allowed."""
    classic: dict[str, str | int | float | bool] = {name: 6_000}
    assert property_problems(classic) == []
    [line] = property_problems(classic | {"group.protocol": "consumer"})
    assert line.startswith(f"kafka.{name}: may not be set with group.protocol = consumer")
    assert f"group.consumer.{name}" in line
    with pytest.raises(ConfigError, match=f"group.consumer.{name}"):
        consumer_properties(classic | {"group.protocol": "consumer"}, "g")


def test_both_group_protocols_may_be_chosen_and_no_other() -> None:
    """The assignor is ours under the classic protocol, and the broker's under the new one."""
    strategy = "partition.assignment.strategy"
    assert consumer_properties({}, "g")[strategy] == "cooperative-sticky"
    assert consumer_properties({"group.protocol": "classic"}, "g")[strategy] == "cooperative-sticky"
    assert strategy not in consumer_properties({"group.protocol": "consumer"}, "g")
    [line] = property_problems({"group.protocol": "share"})
    assert line == "kafka.group.protocol: got another value; expected classic or consumer"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("transaction.timeout.ms", value) for value in (2_999, "soon", 86_400_001)),
        *(("message.max.bytes", value) for value in (999_999, "large")),
    ],
)
def test_numbers_that_would_break_a_transaction_are_refused(name: str, value: str | int) -> None:
    """A time-out that leaves no time to abort, and a size below what Eddy writes, are refused."""
    [line] = property_problems({name: value})
    got = value if isinstance(value, int) else "no integer"
    assert line.startswith(f"kafka.{name}: got {got}; expected a number from")
    assert (
        property_problems({"transaction.timeout.ms": "3000", "message.max.bytes": 1_000_000}) == []
    )


def test_clients_carry_their_slot() -> None:
    """With static membership the member's id is the slot, whatever was configured."""
    assert slot_properties({}, "a-1") == {"client.id": "eddy-a-1"}
    given_: dict[str, str | int | float | bool] = {"client.id": "mine", "group.instance.id": "x"}
    assert slot_properties(given_, "a-1") == {"client.id": "mine", "group.instance.id": "a-1"}


def test_waiting_beats_before_every_pause() -> None:
    """A worker that waits for a broker beats more often than the health check requires."""
    beats = 0

    def beat() -> None:
        nonlocal beats
        beats += 1

    for attempt in retrying(Retriable, sleep=lambda _: None, beat=beat):
        with attempt:
            if attempt.retry_state.attempt_number < 4:
                raise Retriable("not yet")
    assert beats == 3
    assert BEAT_OVERDUE_S > 2 * (CALL_TIMEOUT_S + RETRY_PAUSE_MAX_S + REVOKE_TIMEOUT_S)


@pytest.mark.parametrize(
    "name",
    [
        *("sasl.password", "ssl.key.password", "ssl.key.pem", "ssl.keystore.password"),
        *("sasl.oauthbearer.client.secret", "sasl.oauthbearer.config", "sasl.jaas.config"),
        *("oauth.token", "SASL.PASSWORD", "aws.credentials", "sasl.passwrd", "sasl.username"),
        *("ssl.provider", "https.proxy", "plugin.library.paths", "Client.Id"),
    ],
)
def test_properties_are_hidden_unless_known_to_be_harmless(name: str) -> None:
    """A misspelt property is hidden, and so are credentials in the address of a printable one."""
    given_ = {name: "swordfish", "client.id": "me", "bootstrap.servers": "SSL://u:swordfish@b:1"}
    assert printable_properties(given_) == {
        name: "(hidden)",
        "client.id": "me",
        "bootstrap.servers": "SSL://(hidden)@b:1",
    }


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("u:sword@fish@b:1,c:2", "(hidden)@b:1,c:2"),
        ("b:1, swordfish@c:2", "b:1, (hidden)@c:2"),
    ],
)
def test_credentials_before_a_broker_are_hidden(value: str, expected: str) -> None:
    """Also where the address has no scheme."""
    assert printable_properties({"bootstrap.servers": value}) == {"bootstrap.servers": expected}


@pytest.mark.parametrize("number", [12345, 123.5])
def test_numbers_of_unknown_properties_are_hidden(number: float) -> None:
    """A password of digits may be written as a number."""
    assert printable_properties({"sasl.passwrd": number}) == {"sasl.passwrd": "(hidden)"}


@pytest.mark.parametrize(
    ("name", "value"),
    [("security.protocol", "swordfish"), ("sasl.mechanism", "sword fish"), ("sasl.pass", "x")],
)
def test_a_refused_property_is_named_without_its_value(name: str, value: str) -> None:
    """The client's own message holds the value; Eddy's holds the name alone, and no cause."""
    with pytest.raises(ConfigError, match=r"kafka: ") as caught:
        create_client(Producer, {"security.protocol": "sasl_ssl", name: value})
    assert "fish" not in str(caught.value)
    assert name.removesuffix("s") in str(caught.value)
    assert caught.value.__cause__ is None
