"""A configuration is right as a whole, or every mistake in it is named at once."""

import tomllib
from copy import deepcopy
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stream.config import (
    SHADOW_OUTPUTS,
    Config,
    OutputSpec,
    extracted_fields,
    fingerprint,
    is_input_read,
    load,
    parse,
    secret_problem,
)
from stream.config.stage_graph import StageNode, logs, nodes
from stream.config.topology import source_partitions
from stream.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
MINIMAL = """
[inputs.shop]
topic = "shop"

[[monitors]]
name = "account"
entity = "account"
inputs = ["shop"]

[[monitors.features]]
name = "events_1h"
kind = "count"
half_life = "1h"
"""


def document() -> dict[str, Any]:
    """The minimal configuration, parsed."""
    return tomllib.loads(MINIMAL)


def problems_of(of: dict[str, Any], environment: dict[str, str] | None = None) -> list[str]:
    """The lines that a document is refused with."""
    with pytest.raises(ConfigError) as caught:
        parse(of, environment or {})
    return caught.value.problems


def with_change(path: str, value: Any) -> dict[str, Any]:
    """The minimal document with one value changed; keys are joined by "/", lists by position."""
    result = document()
    at: Any = result
    *outer, last = path.split("/")
    for key in outer:
        at = at[int(key)] if isinstance(at, list) else at.setdefault(key, {})
    if isinstance(at, list) and int(last) == len(at):
        at.append(value)
    else:
        at[int(last) if isinstance(at, list) else last] = value
    return result


@pytest.mark.parametrize("path", sorted((ROOT / "deploy" / "configs").glob("*.toml")), ids=str)
def test_every_ready_configuration_is_valid(path: Path) -> None:
    """The configurations we ship load, and every monitor of theirs reads its topic directly, unless
    it learns from labels, which have one of their own."""
    config = load(path)
    indirect = {
        node.name for node in nodes(config) if node.internal_topic and not node.combines_reports
    }
    assert indirect == {one.name for one in config.monitors if "label" in one.inputs}


def account_node(of: Config) -> StageNode:
    """The monitor account."""
    return next(node for node in nodes(of) if node.name == "account")


def test_a_minimal_configuration_has_every_default() -> None:
    """What is not said has a default; what is said is kept."""
    config = parse(document(), {})
    assert config.group == "eddy"
    assert config.monitors[0].capacity == 100_000
    assert config == msgspec.convert(document(), Config)


@pytest.mark.parametrize(
    ("path", "value", "line"),
    [
        ("grup", "x", "grup: unknown key; nearest: group"),
        ("mode", "dry", 'mode: got "dry"; expected one of live, shadow'),
        ("kafka/x", [1], "kafka.x: got a value that is not shown here; expected a text,"),
        ("group", "", 'group: got ""; expected a text, 1 to 200 letters'),
        ("inputs/Shop", {"topic": "t"}, "inputs.Shop: invalid name; expected a text, lower"),
        ("inputs/shop/topic", "a b", 'inputs.shop.topic: got "a b"; expected a text, a topic'),
        ("inputs/shop/type", "logn", 'inputs.shop.type: got "logn"; expected one of'),
        (
            "monitors/0/rules",
            [{"name": "busy", "at_least": {"amont": 3.0}}],
            "monitors[0].rules[0].at_least.amont: no feature is named amont",
        ),
        ("inputs/shop/keyed_by", "account", "inputs.shop.partitioner: missing; expected murmur2"),
        ("inputs/shop/partitioner", "crc32", "inputs.shop.keyed_by: missing; expected the field"),
        (
            "inputs/shop/fields",
            {"event_id": "a", "account": "b"},
            "inputs.shop.fields.time: missing",
        ),
        ("inputs/copy", {"topic": "shop"}, "inputs.copy.topic: shop is already inputs.shop.topic"),
        (
            "limits/time_ahead_max",
            "5 minutes",
            'limits.time_ahead_max: got "5 minutes"; expected a',
        ),
        (
            "worker/http_port",
            True,
            "worker.http_port: got true; expected an integer ≥ 0 and ≤ 65_535",
        ),
        ("monitors", [], "monitors: got a list of 0; expected a list with at least 1 item"),
        ("monitors/0/entity", "acount", "monitors[0].entity: got acount; expected one of account"),
        (
            "monitors/0/inputs",
            ["shp"],
            "monitors[0].inputs[0]: no input is named shp; nearest: shop",
        ),
        ("monitors/0/inputs", ["shop", "shop"], "monitors[0].inputs[1]: shop is already inputs[0]"),
        ("monitors/0/capacity", -3, "monitors[0].capacity: got -3; expected an integer ≥ 16"),
        (
            "monitors/0/policy",
            {"p_maxx": 1e-4},
            "monitors[0].policy.p_maxx: unknown key (value 0.0001); nearest: p_max",
        ),
        (
            "monitors/0/policy",
            {"p_max": 1.5},
            "monitors[0].policy.p_max: got 1.5; expected a number > 0 and ≤ 0.01",
        ),
        ("monitors/0/where", {"kin": "x"}, "monitors[0].where.kin: unknown field; nearest: kind"),
        ("monitors/0/where", {"amount": "x"}, "monitors[0].where.amount: is a number"),
        ("monitors/0/where", {"type": "x"}, "monitors[0].where.type: expected among transaction"),
        (
            "monitors/0/features/0/kind",
            "cuont",
            "monitors[0].features[0].kind: got cuont; expected",
        ),
        ("monitors/0/features/0/field", "amount", "monitors[0].features[0].field: count reads no"),
        ("monitors/0/features/1", {"name": "x"}, "monitors[0].features[1].kind: missing"),
        (
            "monitors/0/features/0/of",
            {"kind": "failure"},
            "monitors[0].features[0].of: count distinguishes no events; remove it",
        ),
        (
            "monitors/0/features/1",
            {"name": "x", "kind": "occurrence", "of": {"kin": "failure"}},
            "monitors[0].features[1].of.kin: unknown field; nearest: kind",
        ),
        ("monitors/0/detectors", [{"kind": "tial"}], 'monitors[0].detectors[0].kind: got "tial"'),
        (
            "monitors/0/detectors",
            [{"kind": "half_space_trees", "trees": 0}],
            "monitors[0].detectors[0].trees: got 0; expected an integer ≥ 1 and ≤ 100",
        ),
        (
            "monitors/0/detectors",
            [{"kind": "edges", "name": "bursts", "field": "amount"}],
            "monitors[0].detectors[0].field: got amount; expected an event field that is a text",
        ),
        (
            "monitors/0/detectors",
            [{"kind": "river", "name": "r", "model": "os.system"}],
            "monitors[0].detectors[0].model: got os.system; expected a River class",
        ),
        (
            "monitors/0/detectors",
            [
                {
                    "kind": "river",
                    "name": "r",
                    "model": "river.anomaly.LODA",
                    "parameters": {"k": [1], "seed": 7},
                }
            ],
            "monitors[0].detectors[0].parameters.k: river.anomaly.LODA has no such parameter",
        ),
        (
            "outputs",
            {"dead_letters": "shop"},
            "outputs.dead_letters: shop is already inputs.shop.topic",
        ),
        ("monitors/0/name", "route", "monitors[0].name: got route"),
        ("monitors/0/name", "assess", "monitors[0].name: got assess"),
        ("assess", {"subject": "acount"}, "assess.subject: got acount; expected one of account"),
        ("assess", {"policy": {}}, "assess.subject: missing"),
        ("monitors/0/partitions", 0, "monitors[0].partitions: got 0; expected an integer ≥ 1"),
        (
            "monitors/0/detectors",
            [{"kind": "tail"}, {"kind": "tail"}],
            "monitors[0].detectors[1]: expected at most one detector of this kind",
        ),
        ("reveal", ["email"], "reveal[0]: got email; expected one of account"),
    ],
)
def test_each_mistake_is_one_line_with_path_value_and_expectation(
    path: str, value: Any, line: str
) -> None:
    """One mistake gives one line: where, what was got, what was expected, what is near."""
    found = problems_of(with_change(path, value))
    assert len(found) == 1, found
    assert found[0].startswith(line)


def test_all_mistakes_are_named_at_once() -> None:
    """Mistakes of shape do not hide mistakes of relation, nor each other."""
    wrong = document()
    monitor = wrong["monitors"][0]
    monitor |= {"capacity": 1, "inputs": ["shp"], "entity": 5}
    monitor["features"] += [{"name": "events_1h", "kind": "gap"}, {"name": "n", "kind": "sum"}, 7]
    wrong["monitors"].append(deepcopy(monitor))
    wrong["worker"] = {"port": 1}
    got = {line.split(": ", 1)[0] for line in problems_of(wrong)}
    own = {"capacity", "entity", "inputs[0]", "features[1].name", "features[3]"}
    own |= {"features[2].field", "features[2].half_life"}
    assert got == {
        *(f"monitors[{i}].{where}" for i in (0, 1) for where in own),
        "monitors[1].name",
        "worker.port",
    }


def test_fields_a_kind_also_reads_must_be_mapped() -> None:
    """Coordinates, and what `of` names, are missed where no input maps them; an offset is not."""
    some = document()
    some["inputs"]["shop"] |= {
        "type": "login",
        "fields": {"event_id": "i", "time": "t", "account": "a", "latitude": "at"},
    }
    some["monitors"][0]["features"] += [
        {"name": "travel", "kind": "impossible_travel"},
        {"name": "hour", "kind": "hour_habit", "half_life": "30d"},
        {"name": "failed", "kind": "occurrence", "of": {"kind": "failure"}},
    ]
    found = [line.split(": ")[0] for line in problems_of(some)]
    assert found == ["monitors[0].features[1].kind", "monitors[0].features[3].of.kind"]


def test_a_field_that_no_input_maps_is_named() -> None:
    """A monitor must find its entity in every input, and each other field in at least one."""
    two = document()
    mapped = {"event_id": "i", "time": "t", "account": "a"}
    two["inputs"]["shop"] |= {"type": "transaction", "fields": mapped}
    two["inputs"]["site"] = {"topic": "site", "codec": "access_log"}
    monitor = two["monitors"][0]
    monitor["inputs"] = ["shop", "site"]
    monitor["features"] += [
        {"name": "paths", "kind": "novelty", "field": "path"},
        {"name": "amount", "kind": "value", "field": "amount"},
    ]
    assert [line.split(": ")[0] for line in problems_of(two)] == [
        "monitors[0].entity",
        "monitors[0].features[2].field",
    ]


def test_a_subject_that_no_monitor_can_report_is_named() -> None:
    """An input of some monitor must map the subject of assess: a report names it."""
    two = document()
    two["inputs"]["site"] = {"topic": "site", "codec": "access_log"}
    two["monitors"].append(two["monitors"][0] | {"name": "ip", "entity": "ip", "inputs": ["site"]})
    two["assess"] = {"subject": "account"}
    assert parse(two, {}).assess
    del two["monitors"][0]
    [line] = problems_of(two)
    assert line.startswith("assess.subject: got account, which no monitor's input maps; ")
    assert "expected an entity field that they map (" in line
    assert line.endswith("or account in inputs.site.fields")


def test_the_environment_fills_texts_and_is_never_shown() -> None:
    """A reference is replaced, one not set is a mistake, and values stay out of messages."""
    right = with_change("kafka/sasl.password", "${EDDY_PW}")
    right["kafka"]["bootstrap.servers"] = "${HOST}:9092"
    config = parse(right, {"EDDY_PW": "hunter2", "HOST": "kafka"})
    assert config.kafka == {"sasl.password": "hunter2", "bootstrap.servers": "kafka:9092"}
    assert len(problems_of(right, {"HOST": "k"})) == 1
    wrong = right | {"pasword": "hunter2", "mode": "${EDDY_PW}", "reveal": "${EDDY_PW}"}
    wrong["secret"] = ["hunter2"]
    wrong["kafka"]["ssl.key.password"] = {"value": "hunter2"}
    found = problems_of(wrong, {"EDDY_PW": "hunter2", "HOST": "k"})
    assert len(found) == 5
    assert "hunter2" not in "\n".join(found)


def test_a_file_that_is_not_toml_is_a_configuration_error(tmp_path: Path) -> None:
    """A missing, garbled or binary file is told like any other mistake."""
    for name, content in {"garbled": b"a = [", "binary": b"\xff\xfe"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ConfigError, match=name):
            load(tmp_path / name)
    with pytest.raises(ConfigError, match="missing"):
        load(tmp_path / "missing")


def test_only_fields_that_are_read_are_extracted() -> None:
    """Entities and amounts always, else what a monitor names, and what gives these their
    meaning."""
    plain = parse(document(), {})
    assert "currency" not in extracted_fields(plain, "shop")
    assert {"account", "card", "ip"} <= set(extracted_fields(plain, "shop"))
    reading = document()
    monitor = reading["monitors"][0]
    monitor["where"] = {"kind": "payment", "type": "transaction"}
    monitor["features"] += [
        {"name": "amount", "kind": "value", "field": "amount", "where": {"channel": "app"}},
        {"name": "hour", "kind": "time_of_day"},
    ]
    wanted = set(extracted_fields(parse(reading, {}), "shop"))
    assert wanted - set(extracted_fields(plain, "shop")) == {
        *("kind", "channel", "currency", "utc_offset_min"),
    }


def test_an_input_is_read_by_a_monitor_or_for_its_labels() -> None:
    """Of three inputs one is read by the only monitor, one for the labels that assess learns from, and
    one by nothing."""
    some = document()
    some["inputs"]["verdicts"] = {"topic": "verdicts", "type": "label"}
    some["inputs"]["site"] = {"topic": "site"}
    config = parse(some, {})
    assert [name for name in config.inputs if is_input_read(config, name)] == ["shop"]
    feature = f"account.{config.monitors[0].features[0].name}"
    learning = {"inputs": ["verdicts"], "features": [feature]}
    config = parse(some | {"assess": {"subject": "account", "learning": learning}}, {})
    assert [name for name in config.inputs if is_input_read(config, name)] == ["shop", "verdicts"]


def test_a_monitor_reads_directly_only_where_one_log_holds_its_entity() -> None:
    """One partition or a topic keyed by the entity is direct; all else goes over an internal topic
    with as many partitions as the largest input's, unless others are asked for."""
    assert account_node(parse(document(), {})).internal_topic is None
    keyed = document()
    keyed["inputs"]["shop"] |= {"partitions": 4, "keyed_by": "account", "partitioner": "crc32"}
    assert account_node(parse(keyed, {})).internal_topic is None
    other = deepcopy(keyed)
    other["inputs"]["shop"]["keyed_by"] = "card"
    unkeyed = with_change("inputs/shop/partitions", 4)
    several = document()
    several["inputs"]["site"] = {"topic": "site"}
    several["monitors"][0]["inputs"].append("site")
    asked = with_change("monitors/0/partitions", 7)
    for indirect, partitions, why in (
        (other, 4, "keyed by card"),
        (unkeyed, 4, "without keyed_by"),
        (several, 1, "2 topics"),
        (asked, 7, "partitions = 7 requires it"),
    ):
        config = parse(indirect, {})
        read_path = account_node(config).read_path
        assert why in read_path.reason
        assert read_path.internal_topic == ("account", "eddy-account-events", partitions, True)
        assert logs(config)[-1] == read_path.internal_topic


def test_the_source_partitions_of_a_monitor_have_a_fixed_order() -> None:
    """Every partition of its inputs, in the order in which the monitor names them."""
    some = document()
    some["inputs"] = {
        "shop": {"topic": "s", "partitions": 2},
        "other": {"topic": "o"},
        "site": {"topic": "w"},
    }
    some["monitors"][0]["inputs"] = ["site", "shop"]
    config = parse(some, {})
    topics = {name: spec.topic for name, spec in config.inputs.items()}
    assert source_partitions(config, config.monitors[0].inputs, topics) == (
        ("w", 0),
        ("s", 0),
        ("s", 1),
    )


def test_an_internal_topic_differs_from_every_input_and_output() -> None:
    """A group that makes no topic's name, and a topic that has the name already, are mistakes."""
    some = with_change("inputs/shop/partitions", 3)
    some["group"] = "risk" * 50
    some["monitors"][0]["name"] = "a" * 60
    [line] = problems_of(some)
    assert line.startswith('monitors[0]: its internal topic would be "riskrisk')
    assert line.endswith("which is not a valid topic name; expected a shorter group")
    some["monitors"][0]["name"] = "account"
    some["group"] = "risk"
    some["inputs"]["shop"]["topic"] = "risk-account-events"
    assert problems_of(some) == ["monitors[0]: risk-account-events is already inputs.shop.topic"]
    some["inputs"]["shop"]["topic"] = "shop"
    some["outputs"] = {"alerts": "risk-account-events"}
    assert problems_of(some) == ["outputs.alerts: risk-account-events is already monitors[0]"]


def test_shadow_mode_writes_to_separate_topics() -> None:
    """Each output that is not named has shadow's default, and live's alerts topic is refused."""
    shadow = with_change("mode", "shadow")
    assert parse(shadow, {}).outputs == OutputSpec(**SHADOW_OUTPUTS)
    assert parse({**shadow, "mode": "live"}, {}).outputs == OutputSpec()
    shadow["outputs"] = {"dead_letters": "mine"}
    assert parse(shadow, {}).outputs == OutputSpec(alerts="eddy-alerts-shadow", dead_letters="mine")
    shadow["outputs"] = {"alerts": "eddy-alerts"}
    [line] = problems_of(shadow)
    assert line.startswith("outputs.alerts: got eddy-alerts; expected another topic, such as eddy-")
    shadow["outputs"] = 7
    assert problems_of(shadow) == ["outputs: got 7; expected a table"]


@pytest.mark.parametrize(
    ("secret", "size"), [("", "none"), ("fifteen bytes !", "one that is shorter")]
)
def test_a_weak_secret_is_reported(secret: str, size: str) -> None:
    """Fewer than 16 bytes are too few, however many characters; it is not shown."""
    assert secret_problem(parse(with_change("secret", secret), {})).startswith(
        f"secret: got {size}; exp"
    )
    assert not secret_problem(parse(with_change("secret", "sixteen bytes  !"), {}))
    assert not secret_problem(parse(with_change("secret", "é" * 8), {}))


def test_the_fingerprint_covers_exactly_what_affects_scores() -> None:
    """Monitors, mapping, limits, secret and reveal change it; Kafka, outputs and worker do not."""
    base = fingerprint(parse(document(), {}))
    assert base == fingerprint(parse(document(), {}))
    state_config = [
        with_change("secret", "s"),
        with_change("reveal", ["account"]),
        with_change("limits/duplicate_window", 50),
        with_change("inputs/shop/type", "transaction"),
        with_change("monitors/0/capacity", 64),
        with_change("monitors/0/partitions", 2),
        with_change("assess", {"subject": "account"}),
        with_change("assess", {"subject": "account", "partitions": 2}),
        with_change("monitors/0/features/0/half_life", "2h"),
    ]
    digits = {fingerprint(parse(one, {})) for one in state_config}
    assert len(digits | {base}) == len(state_config) + 1
    idle = [
        with_change("group", "g"),
        with_change("mode", "shadow"),
        with_change("kafka/bootstrap.servers", "k"),
        with_change("outputs/alerts", "a"),
        with_change("outputs/stale_after", "1min"),
        with_change("worker/http_port", 1),
    ]
    assert {fingerprint(parse(one, {})) for one in idle} == {base}
