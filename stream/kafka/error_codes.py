"""Kafka's error codes by name: the class of each, its usual cause, and the remedy. Data only."""

from typing import Final, NamedTuple

from stream.errors import Abortable, Fatal, Fenced, Retriable

ErrorClass = type[Retriable] | type[Abortable] | type[Fenced] | type[Fatal]


class CodeMeaning(NamedTuple):
    """An error code: its class, usual cause, and remedy."""

    kind: ErrorClass
    cause: str
    action: str


_MEANINGS: Final[tuple[tuple[ErrorClass, str, str, str], ...]] = (
    (
        Retriable,
        """
        _TRANSPORT _ALL_BROKERS_DOWN _RESOLVE _TIMED_OUT _TIMED_OUT_QUEUE NETWORK_EXCEPTION
        REQUEST_TIMED_OUT _DESTROY_BROKER REBOOTSTRAP_REQUIRED
        """,
        "the broker cannot be reached, or does not answer in time",
        "check bootstrap.servers, the network and the brokers",
    ),
    (
        Retriable,
        """
        LEADER_NOT_AVAILABLE NOT_LEADER_FOR_PARTITION BROKER_NOT_AVAILABLE UNKNOWN_TOPIC_ID
        REPLICA_NOT_AVAILABLE FENCED_LEADER_EPOCH UNKNOWN_LEADER_EPOCH LISTENER_NOT_FOUND
        PREFERRED_LEADER_NOT_AVAILABLE ELIGIBLE_LEADERS_NOT_AVAILABLE NOT_CONTROLLER
        OFFSET_NOT_AVAILABLE FETCH_SESSION_ID_NOT_FOUND INVALID_FETCH_SESSION_EPOCH
        INCONSISTENT_TOPIC_ID
        """,
        "a partition's leader is moving, or the client's metadata is out of date",
        "nothing, unless it lasts: then look for offline partitions",
    ),
    (
        Retriable,
        """
        COORDINATOR_LOAD_IN_PROGRESS COORDINATOR_NOT_AVAILABLE NOT_COORDINATOR _WAIT_COORD
        CONCURRENT_TRANSACTIONS UNSTABLE_OFFSET_COMMIT _IN_PROGRESS _PREV_IN_PROGRESS
        _WAIT_CACHE _RETRY _INTR THROTTLING_QUOTA_EXCEEDED _QUEUE_FULL
        """,
        "a coordinator is moving or busy, or an earlier transaction is still being completed",
        "nothing, unless it lasts: then look at the brokers' load",
    ),
    (
        Retriable,
        """
        NOT_ENOUGH_REPLICAS NOT_ENOUGH_REPLICAS_AFTER_APPEND KAFKA_STORAGE_ERROR _ISR_INSUFF
        INVALID_MSG _BAD_MSG _BAD_COMPRESSION
        """,
        "replicas are missing, a disk failed, or a record arrived damaged",
        "bring the missing brokers back; look at the broker's disks",
    ),
    (
        Retriable,
        "_MAX_POLL_EXCEEDED",
        "a batch took longer than max.poll.interval.ms, so the group expelled this worker",
        "lower worker.batch_records, or raise max.poll.interval.ms",
    ),
    (
        Abortable,
        """
        ILLEGAL_GENERATION UNKNOWN_MEMBER_ID REBALANCE_IN_PROGRESS STALE_MEMBER_EPOCH
        FENCED_MEMBER_EPOCH _ASSIGNMENT_LOST
        """,
        "the group rebalanced after the last known assignment",
        "nothing: the commit is tried again under the new assignment",
    ),
    (
        Abortable,
        """
        TRANSACTION_ABORTABLE INVALID_PRODUCER_ID_MAPPING UNKNOWN_PRODUCER_ID
        OUT_OF_ORDER_SEQUENCE_NUMBER _MSG_TIMED_OUT _PURGE_QUEUE _PURGE_INFLIGHT
        """,
        "a record of the transaction was not delivered, or the broker forgot the producer",
        "nothing, unless it lasts: then look at the brokers' load and disks",
    ),
    (
        Fenced,
        """
        PRODUCER_FENCED INVALID_PRODUCER_EPOCH _FENCED FENCED_INSTANCE_ID
        TRANSACTION_COORDINATOR_FENCED
        """,
        "a newer worker has the same slot, or a transaction outlived transaction.timeout.ms",
        "give every worker of the group its own slot",
    ),
    (
        Fatal,
        """
        _AUTHENTICATION SASL_AUTHENTICATION_FAILED _SSL ILLEGAL_SASL_STATE
        UNSUPPORTED_SASL_MECHANISM
        """,
        "the broker rejects the credentials, or its certificate is not trusted",
        "check the sasl.* and ssl.* properties and the account's password",
    ),
    (
        Fatal,
        """
        TOPIC_AUTHORIZATION_FAILED GROUP_AUTHORIZATION_FAILED CLUSTER_AUTHORIZATION_FAILED
        TRANSACTIONAL_ID_AUTHORIZATION_FAILED
        """,
        "the account lacks a permission",
        "grant Read on inputs and group, Write on outputs and on the transactional id",
    ),
    (
        Fatal,
        "UNKNOWN_TOPIC_OR_PART _UNKNOWN_TOPIC _UNKNOWN_PARTITION TOPIC_EXCEPTION",
        "the topic or the partition does not exist, or its name is invalid",
        "create the topic, or correct its name in the configuration",
    ),
    (
        Fatal,
        """
        MSG_SIZE_TOO_LARGE INVALID_MSG_SIZE RECORD_LIST_TOO_LARGE INVALID_RECORD
        POLICY_VIOLATION OFFSET_METADATA_TOO_LARGE INVALID_COMMIT_OFFSET_SIZE
        """,
        "the broker refuses this record",
        "set max.message.bytes of the output topics to Kafka's default or more",
    ),
    (
        Fatal,
        "INVALID_TRANSACTION_TIMEOUT",
        "transaction.timeout.ms is larger than the broker's transaction.max.timeout.ms",
        "lower kafka.transaction.timeout.ms",
    ),
    (
        Fatal,
        """
        UNSUPPORTED_VERSION UNSUPPORTED_FOR_MESSAGE_FORMAT _UNSUPPORTED_FEATURE
        INCONSISTENT_GROUP_PROTOCOL UNSUPPORTED_COMPRESSION_TYPE
        """,
        "the broker is too old, or other members of the group are not Eddy workers",
        "use Kafka 2.5 or newer, and a group only for Eddy",
    ),
    (
        Fatal,
        "OFFSET_OUT_OF_RANGE _AUTO_OFFSET_RESET _LOG_TRUNCATION",
        "the log no longer holds the next offset",
        "raise the topic's retention; to start over on purpose, use another group",
    ),
    (
        Fatal,
        "GROUP_MAX_SIZE_REACHED INVALID_SESSION_TIMEOUT UNRELEASED_INSTANCE_ID",
        "the broker does not let this member into the group",
        "check group.instance.id, session.timeout.ms and the broker's group.max.size",
    ),
    (
        Fatal,
        "INVALID_REPLICATION_FACTOR",
        "the replication factor exceeds the number of brokers",
        "choose a lower --replication, or start more brokers",
    ),
)

CODE_MEANINGS: Final[dict[str, CodeMeaning]] = {
    code: CodeMeaning(kind, cause, action)
    for kind, codes, cause, action in _MEANINGS
    for code in codes.split()
}
"""Code name → meaning. A code that is missing here is fatal."""

UNKNOWN_CODE: Final = CodeMeaning(Fatal, "Eddy does not know this code", "see the broker's log")

UNKNOWN_TOPIC_CODES: Final = frozenset(
    {"UNKNOWN_TOPIC_OR_PART", "_UNKNOWN_TOPIC", "_UNKNOWN_PARTITION"}
)
"""Codes of a topic or partition that the broker or the client does not know (yet)."""
