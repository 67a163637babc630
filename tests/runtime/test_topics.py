"""The required topics are listed, created and checked; differences are named."""

import tomllib
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from stream.config import Config, parse
from stream.errors import ConfigError
from stream.kafka.admin import TopicAdmin
from stream.runtime.topics import (
    GROWN_HINT,
    ExistingTopic,
    check_topics,
    existing_topics,
    internal_topic_settings,
    missing_topics,
    permissions,
)
from tests.broker.shop import eddy, make_shop

CONFIG = """
group = "risk"
[inputs.shop]
topic = "shop"
partitions = 4
[[monitors]]
name = "account"
entity = "account"
inputs = ["shop"]
partitions = 2
features = [{ name = "events_1h", kind = "count", half_life = "1h" }]
"""


def config(interval: str = "10min", mode: str = "live") -> Config:
    """One monitor that reads an internal topic; the interval is the checkpoints'."""
    checkpoints = f'[checkpoints]\ninterval = "{interval}"\n'
    return parse(tomllib.loads(f'mode = "{mode}"\n{CONFIG}{checkpoints}'), {})


SETTINGS = {**internal_topic_settings(config()), "max.message.bytes": "1048588"}


def everything(**settings: str) -> dict[str, ExistingTopic]:
    """All topics as required, except for these settings of the internal one."""
    ours = SETTINGS | {name.replace("_", "."): value for name, value in settings.items()}
    internal = {"risk-account-events": ExistingTopic(2, ours)}
    return internal | {
        topic: ExistingTopic(count, {})
        for topic, count in (("shop", 4), ("eddy-alerts", 3), ("eddy-dead-letters", 1))
    }


def problems(known: dict[str, ExistingTopic]) -> list[str]:
    """The lines of the check's error."""
    with pytest.raises(ConfigError) as caught:
        check_topics(config(), known)
    return caught.value.problems


def test_topics_as_they_must_be_pass() -> None:
    """Outputs may have any number of partitions; retention may be unlimited."""
    check_topics(config(), everything())
    check_topics(config(), everything(retention_ms="-1"))


def test_rare_checkpoints_need_a_long_retention() -> None:
    """The created and the required retention cover ten checkpoint intervals."""
    rare = config("48h")
    assert internal_topic_settings(rare)["retention.ms"] == str(10 * 48 * 3_600_000)
    with pytest.raises(ConfigError, match="at least 1728000000"):
        check_topics(rare, everything())
    check_topics(rare, everything(retention_ms=internal_topic_settings(rare)["retention.ms"]))


def test_missing_topics_are_named_with_the_command_that_creates_them() -> None:
    """All at once; inputs are created only on request."""
    assert problems({}) == [
        (
            'inputs.shop.topic: got "shop"; expected a topic that exists, create it, or run: eddy '
            "topics create --inputs CONFIG"
        ),
        (
            'monitors[0]: got "risk-account-events"; expected a topic that exists, run: eddy topics '
            "create CONFIG"
        ),
        (
            'outputs.alerts: got "eddy-alerts"; expected a topic that exists, create it, or run: eddy '
            "topics create CONFIG"
        ),
        (
            'outputs.dead_letters: got "eddy-dead-letters"; expected a topic that exists, create it, '
            "or run: eddy topics create CONFIG"
        ),
    ]


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("cleanup_policy", "compact", "cleanup.policy = compact; expected delete"),
        (
            "retention_ms",
            "259199999",
            "expected -1 or at least 259200000, which is 3 days or 10 times",
        ),
        ("retention_bytes", "1000", "retention.bytes = 1000; expected -1"),
        ("max_message_bytes", "524288", "max.message.bytes = 524288; expected at least 589824"),
    ],
)
def test_each_wrong_setting_of_an_internal_topic_is_named(
    name: str, value: str, expected: str
) -> None:
    """Settings that would lose or reject events before they are scored."""
    [line] = problems(everything(**{name: value}))
    assert line.startswith('monitors[0]: the internal topic "risk-account-events" has ')
    assert expected in line


def test_partitions_must_be_those_of_the_configuration() -> None:
    """Of an input and of an internal topic: entities would be in other partitions."""
    one, other = {"shop": ExistingTopic(3, {})}, {"risk-account-events": ExistingTopic(5, SETTINGS)}
    said = f'inputs.shop.partitions: got 4; expected 3, which topic "shop" has{GROWN_HINT}'
    assert problems(everything() | one) == [said]
    [line] = problems(everything() | other)
    assert "has 5 partitions; expected 2; set monitors[0].partitions" in line
    assert problems(everything() | one | other) == [said], "the other may follow from it"


def test_only_missing_topics_are_created() -> None:
    """Outputs with one partition, internal topics with theirs, inputs only on request."""
    known = everything()
    assert missing_topics(config(), known, inputs=True) == []
    del known["shop"], known["eddy-alerts"], known["risk-account-events"]
    made = missing_topics(config(), known, inputs=False)
    assert made == [
        ("risk-account-events", 2, internal_topic_settings(config())),
        ("eddy-alerts", 1, {}),
    ]
    assert ("shop", 4, {}) in missing_topics(config(), known, inputs=True)


def test_permissions_name_every_topic_and_the_group() -> None:
    """A worker reads inputs, writes outputs, does both with internal topics, and nothing more."""
    assert list(permissions(config())) == [
        "--operation Read --operation Describe --topic shop",
        (
            "--operation Read --operation Write --operation Describe --operation DescribeConfigs "
            "--topic risk-account-events"
        ),
        "--operation Write --operation Describe --topic eddy-alerts",
        "--operation Write --operation Describe --topic eddy-dead-letters",
        "--operation Read --group risk",
        (
            "--operation Write --operation Describe --transactional-id risk- "
            "--resource-pattern-type prefixed"
        ),
    ]


def test_shadow_needs_and_may_write_its_own_outputs_only() -> None:
    """Topics and permissions name the shadow group's outputs, never the live group's."""
    shadow = config(mode="shadow")
    made = [topic for topic, *_ in missing_topics(shadow, {}, inputs=False)]
    assert made == ["risk-account-events", "eddy-alerts-shadow", "eddy-dead-letters-shadow"]
    allowed = "\n".join(permissions(shadow)).split()
    assert {"eddy-alerts-shadow", "eddy-dead-letters-shadow"} < set(allowed)
    assert not {"eddy-alerts", "eddy-dead-letters"} & set(allowed)


def test_topics_are_created_once_with_the_required_settings(broker: str, tmp_path: Path) -> None:
    """The command creates missing topics on a real broker, and nothing the second time; a changed
    topic is named, and the worker refuses to start."""
    shop = make_shop(broker, tmp_path, "made", 2, internal_topics=True)
    admin = TopicAdmin({"bootstrap.servers": broker})
    wanted = shop.config.read_text().replace(shop.group, f"{shop.group}-new")
    shop.config.write_text(wanted)
    group = f"{shop.group}-new"
    said = eddy("topics", "create", str(shop.config), code=2)
    assert f"{group}-card-events: created, 3 partitions" in said
    assert f'inputs.shop.topic: got "{group}-events"; expected a topic that exists' in said
    said = eddy("topics", "create", str(shop.config), "--inputs", "--replication", "1")
    assert f"{group}-events: created, 2 partitions" in said
    assert f"{group}-card-events: exists, 3 partitions" in said
    assert f"{group}-alerts: exists, 1 partition\n" in said
    using = parse(tomllib.loads(wanted), {})
    known = existing_topics(using, admin)
    check_topics(using, known)
    assert known[f"{group}-ip-events"].settings.items() >= internal_topic_settings(using).items()
    narrow = wanted.replace("partitions = 3", "partitions = 4")
    shop.config.write_text(narrow)
    for command in (("topics", "create"), ("run",)):
        said = eddy(*command, str(shop.config), code=2)
        assert said.count("has 3 partitions; expected 4") == 3


def test_a_topic_that_cannot_be_made_says_why(broker: str, tmp_path: Path) -> None:
    """A replication factor above the number of brokers: the broker's reason, without a
    traceback."""
    shop = make_shop(broker, tmp_path, "copies", 1)
    shop.config.write_text(shop.config.read_text().replace("-alerts", "-elsewhere"))
    said = eddy("topics", "create", str(shop.config), "--replication", "9", code=5)
    assert f"creating topic {shop.group}-elsewhere: INVALID_REPLICATION_FACTOR" in said
    assert "Traceback" not in said
    assert (
        f"{shop.group}-elsewhere"
        not in AdminClient({"bootstrap.servers": broker}).list_topics().topics
    )
