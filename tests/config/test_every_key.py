"""Laws over every key of the configuration, found in its declaration: what the environment fills,
what is absurdly large, and what is a secret."""

import logging
import tomllib
from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import inspect as mi
from typer.testing import CliRunner

from detectors.spec import DURATION, seconds
from stream.cli import app
from stream.config import Config, fingerprint, load, parse
from stream.config.stage_graph import logs
from stream.errors import ConfigError, EddyError, InputError
from stream.pipeline.alerting import RunInfo
from stream.pipeline.shard import ShardFactory
from stream.replay import rerun
from stream.replay.manifest import ManifestInput, provenance, read
from stream.replay.time_split import NO_SPLIT
from stream.telemetry.logging import configure_logging

EVERYTHING: Final = """
group = "t"
revision = 1
mode = "live"
secret = "0123456789abcdef0123456789abcdef"
reveal = ["card"]

[kafka]
"bootstrap.servers" = "127.0.0.1:1"
"session.timeout.ms" = 6000
"fetch.min.bytes" = 1.0

[inputs.pay]
topic = "pay"
partitions = 3
keyed_by = "card"
partitioner = "murmur2"
codec = "json"
type = "transaction"
null_values = ["NA"]

[inputs.pay.fields]
event_id = "id"
time = { path = "at", unit = "ms" }
card = ["card", "token"]
account = { path = ["account", "user"], joined = true }
item = { path = "path", extract = '/(?P<item>\\d+)' }
route = { path = "path", classes = [{ name = "page", pattern = "x" }] }
kind = { path = "kind", values = { a = "payment" } }
outcome = { constant = "fine" }
amount = "amount"
latitude = { constant = 3 }
currency = { constant = "EUR" }
country = "country"

[inputs.site]
topic = "site"
codec = "access_log"

[inputs.mixed]
topic = "mixed"
type = { field = "what", values = { buy = "transaction" } }
fields = { event_id = { position = true }, time = "t", card = "c" }

[inputs.headed]
topic = "headed"
type = { header = "what" }
fields = { event_id = "id", time = "t", card = "c", latitude = { constant = 4.5 } }

[inputs.verdicts]
topic = "verdicts"
type = "label"
fields = { event_id = "id", time = "t", card = "c", verdict = "v", labelled_event_id = "of" }

[outputs]
alerts = "out"
dead_letters = "dead"
stale_after = "5min"

[limits]
record_bytes_max = 1000
time_ahead_max = "10min"
duplicate_window = 100

[[monitors]]
name = "cards"
entity = "card"
inputs = ["pay", "verdicts"]
partitions = 2
capacity = 64
where = { kind = "payment", outcome = ["fine"] }
lateness_max = "1h"
session_gap = "30min"
cohort = "country"
features = [
  { name = "amount", kind = "value", field = "amount", side = "high", scale = "root" },
  { name = "often", kind = "ratio", half_life = "1h", against = "1d", where = { kind = ["payment"], outcome = "fine" } },
  { name = "paid", kind = "share", half_life = "1h", of = { kind = "payment", outcome = ["fine"] } },
]
detectors = [
  { kind = "tail", half_life = "30d" },
  { kind = "half_space_trees", trees = 3, height = 3, seed = 1, min_events = 2, entities_max = 20 },
  { kind = "edges", name = "edge", field = "country", tick = "1min", half_life = "2h", threshold = 10.5, rows = 2, buckets = 64 },
  { kind = "seasonal", name = "hours", half_life = "30d", min_events = 4, entities_max = 20 },
  { kind = "label_risk", name = "risk", field = "card", half_life = "30d", keys_max = 50, labels_max = 50 },
  { kind = "river", name = "loda", model = "river.anomaly.HalfSpaceTrees", parameters = { n_trees = 3, seed = 7 }, feed = "scaled", window = 20, min_events = 4, entities_max = 20 },
]
rules = [{ name = "large", at_least = { amount = 500.5 }, p = 1e-4 }]
policy = { p_max = 1e-4, alerts_per_day = 20.5, incident_gap = "1h", warm_up_events = 10, action = { type = "block", ttl = "1h" } }

[[monitors]]
name = "plain"
entity = "card"
inputs = ["mixed"]
features = [{ name = "n", kind = "count", half_life = "1h" }]
detectors = [{ kind = "river_trees", trees = 3, height = 3, window = 20, seed = 1, min_events = 2, entities_max = 20 }]

[assess]
subject = "card"
report_p = 0.02
partitions = 2
capacity = 64
events_max = 64
learning = { inputs = ["verdicts"], features = ["cards.amount"] }
policy = { p_max = 1e-4, alerts_per_day = 20.5, incident_gap = "1h", warm_up_events = 10, action = { type = "block", ttl = "1h" } }

[worker]
commit_interval = "100ms"
batch_records = 100
http_host = "127.0.0.1"
http_port = 9464

[checkpoints]
url = ".eddy/checkpoints"
interval = "10min"
rewind_records_max = 1000
start_from = "saved"
"""
"""A configuration in which every key occurs."""

ABSURD: Final = (10**400, -(10**400), 1 << 20_000, 1e300, -1e300, float("inf"), float("nan"))
ABSURD_DURATIONS: Final = (
    *("9" * 400 + "d", "1" * 400 + "ms", "0." + "0" * 400 + "1s", "99999999999s", "1e9d", "1h\n"),
    *("-1h", "0h", "0.0001s", "1000000d", "\u0661h", ""),
)
KeyPath = tuple[str | int, ...]


def full_configuration() -> dict[str, Any]:
    """The document in which every key occurs."""
    return tomllib.loads(EVERYTHING)


def leaf_values(value: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Every value of a document that is no table or list, by its path."""
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else None
    )
    if items is None:
        yield path, value
    else:
        for key, inner in items:
            yield from leaf_values(inner, (*path, key))


def with_value(document: dict[str, Any], path: KeyPath, value: Any) -> dict[str, Any]:
    """The document with another value at a path."""
    result = deepcopy(document)
    at: Any = result
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return result


def path_text(path: KeyPath) -> str:
    """A path as a message has it."""
    text = "".join(f"[{one}]" if isinstance(one, int) else f".{one}" for one in path)
    return text.removeprefix(".")


def declared_types(kind: mi.Type, path: KeyPath, value: Any) -> Iterator[tuple[KeyPath, mi.Type]]:
    """Every key in the declaration of a value, by its path with "*" for names and positions.

    value: alike the declaration where that leaves a choice, else None.
    """
    if isinstance(kind, mi.Metadata):
        kind = kind.type
    if isinstance(kind, mi.UnionType):
        for member in kind.types:
            yield from declared_types(member, path, value)
    elif isinstance(kind, mi.StructType):
        own = () if kind.tag is None else (f"<{kind.tag}>",)
        for each in kind.fields:
            yield from declared_types(each.type, (*path, *own, each.encode_name), value)
    elif isinstance(kind, mi.DictType):
        yield from declared_types(kind.value_type, (*path, "*"), value)
    elif isinstance(kind, mi.ListType):
        yield from declared_types(kind.item_type, (*path, "*"), value)
    elif not isinstance(kind, mi.NoneType):
        yield path, kind


def generalized(document: dict[str, Any], path: KeyPath) -> KeyPath:
    """A path of the document as `declared_types` has it."""
    free = {("inputs",), ("kafka",)}
    result: KeyPath = ()
    at: Any = document
    for key in path:
        name: str | int = key
        if isinstance(at, list) or result in free or result[-1:] in OPEN:
            name = "*"
        elif isinstance(at, dict) and result[-2:] == ("detectors", "*"):
            result = (*result, f"<{at['kind']}>")
        result = (*result, name)
        at = at[key]
    return result


OPEN: Final = {(name,) for name in ("fields", "values", "where", "of", "at_least", "parameters")}
"""Tables whose keys are not the declaration's."""
LEAVES: Final = dict(leaf_values(full_configuration()))
DURATIONS: Final = [
    path
    for path, value in LEAVES.items()
    if isinstance(value, str) and DURATION.match(value) and path[0] != "kafka"
]
NUMBERS: Final = [path for path, value in LEAVES.items() if type(value) in {int, float}]
TEXTS: Final = [
    path for path, value in LEAVES.items() if isinstance(value, str) and path[-1] != "kind"
] + [path for path, value in LEAVES.items() if path[-1] == "kind" and "fields" in path]


def test_the_full_configuration_has_every_key() -> None:
    """A new key must be added to it."""
    known = {generalized(full_configuration(), path) for path in LEAVES}
    missing = [
        path
        for path, kind in declared_types(mi.type_info(Config), (), None)
        if path not in known and not isinstance(kind, mi.AnyType)
    ]
    assert missing == []


def is_exact(value: Any) -> bool:
    """Whether all texts in a value are ordinary ones."""
    if isinstance(value, dict):
        return all(map(is_exact, value)) and all(map(is_exact, value.values()))
    if isinstance(value, list | tuple):
        return all(map(is_exact, value))
    return not isinstance(value, str) or type(value) is str


def with_references(paths: Sequence[KeyPath]) -> tuple[dict[str, Any], dict[str, str]]:
    """The document with every text at these paths from an environment, and the environment."""
    document, environment = full_configuration(), dict[str, str]()
    for index, path in enumerate(paths):
        environment[f"V{index}"] = LEAVES[path]
        document = with_value(document, path, f"${{V{index}}}")
    return document, environment


def test_every_text_may_come_from_the_environment() -> None:
    """The configuration is the same as with the texts in it, ordinary texts throughout."""
    original, filled = parse(full_configuration(), {}), parse(*with_references(TEXTS))
    assert filled == original
    assert is_exact(msgspec.to_builtins(filled))
    assert fingerprint(filled) == fingerprint(original)


def test_a_configuration_of_references_alone_starts(tmp_path: Path) -> None:
    """With every text from the environment it passes the check, and shards, checkpoints' and
    replays' manifests can be made."""
    config = parse(*with_references(TEXTS))
    shards = ShardFactory(config, RunInfo("live", "run", str))
    for name in config.inputs:
        shards.input_shard(name).save()
    for log in logs(config):
        if log.internal:
            shards.make(log).save()
    whole = provenance(config, [], [], NO_SPLIT, writes_features=False)
    assert msgspec.json.encode(whole)
    (tmp_path / "config.toml").write_text(
        'group = "t"\n[inputs.pay]\ntopic = "${TOPIC}"\ntype = "${TYPE}"\n[inputs.pay.fields]\n'
        'event_id = "${ID}"\ntime = "at"\ncard = "card"\n[[monitors]]\nname = "${NAME}"\n'
        'entity = "card"\ninputs = ["pay"]\nfeatures = [{ name = "n", kind = "${KIND}", half_life = "1h" }]\n'
    )
    (tmp_path / "pay.json").write_text('{"id": "a", "at": 1767225600000, "card": "c"}\n')
    names = {"TOPIC": "pay", "TYPE": "login", "ID": "id", "NAME": "card", "KIND": "count"}
    run = ["replay", str(tmp_path / "config.toml"), "--input", f"pay={tmp_path / 'pay.json'}"]
    for command in (["config", "check", run[1]], [*run, "--out", str(tmp_path / "out")]):
        done = CliRunner().invoke(app, command, env=names)
        assert done.exit_code == 0, done


@pytest.mark.parametrize(
    ("paths", "value"),
    [*((NUMBERS, one) for one in ABSURD), *((DURATIONS, one) for one in ABSURD_DURATIONS)],
    ids=lambda one: str(one)[:12] if isinstance(one, str | float) else type(one).__name__,
)
def test_an_absurd_value_is_a_mistake_under_every_key(paths: list[KeyPath], value: object) -> None:
    """Every number and every duration is bounded: each is named, and nothing overflows."""
    document = full_configuration()
    for path in paths:
        document = with_value(document, path, value)
    with pytest.raises(ConfigError) as caught:
        parse(document, {})
    named = {line.partition(": ")[0] for line in caught.value.problems}
    missed = [one for one in map(path_text, paths) if not any(one.startswith(n) for n in named)]
    assert missed == []
    assert max(map(len, caught.value.problems)) < 600


def assert_refused(document: dict[str, Any], path: KeyPath) -> None:
    """The document has one mistake, within the value that holds the path, and a short line for
    it."""
    with pytest.raises(ConfigError) as caught:
        parse(document, {})
    [line] = caught.value.problems
    where = line.partition(": ")[0]
    assert path_text(path).startswith(where)
    assert len(line) < 600


@settings(deadline=None)
@given(
    number=st.integers(0, 10**15) | st.decimals(0, 10**15, places=3),
    unit=st.sampled_from(["ms", "s", "min", "h", "d"]),
)
def test_an_accepted_duration_fits_every_clock(number: object, unit: str) -> None:
    """It is a millisecond at least and a few hundred years at most."""
    text = f"{number}{unit}"
    if DURATION.match(text):
        assert 1e-3 <= seconds(text) <= 320 * 365.25 * 86_400


@pytest.mark.parametrize(
    "text", ["a = " + "9" * 5_000, "a = " + "[" * 100_000, "a = 0x" + "f" * 50_000], ids=len
)
def test_a_file_that_cannot_be_parsed_is_a_mistake_of_the_configuration(
    tmp_path: Path, text: str
) -> None:
    """A number that Python refuses to convert, and nesting beyond its stack, are no crash."""
    (tmp_path / "config.toml").write_text(text)
    with pytest.raises(ConfigError, match=r"config\.toml"):
        load(tmp_path / "config.toml")


@pytest.mark.parametrize("group", ["a b", "a/b", "a\n", "ä", "a\0", "x" * 201, "", "a:b"])
def test_a_group_that_kafka_or_the_store_would_refuse_is_a_mistake(group: str) -> None:
    """It is named when the configuration is loaded, not when the worker connects."""
    assert_refused(with_value(full_configuration(), ("group",), group), ("group",))


@pytest.mark.parametrize("topic", [".", "..", "a\n", "a/b", "x" * 250])
def test_a_topic_that_kafka_would_refuse_is_a_mistake(topic: str) -> None:
    """So it is for topics that are read and for those that are written."""
    for path in (("inputs", "pay", "topic"), ("outputs", "alerts"), ("outputs", "dead_letters")):
        assert_refused(with_value(full_configuration(), path, topic), path)


def test_a_name_with_a_trailing_line_feed_is_refused() -> None:
    """A line feed at the end of a name is part of it, and refused."""
    assert_refused(
        with_value(full_configuration(), ("monitors", 1, "name"), "plain\n"),
        ("monitors", 1, "name"),
    )


def test_a_nul_character_is_refused_where_a_c_library_would_cut_the_text() -> None:
    """In properties of Kafka, by name, and in addresses of stores."""
    for document in (
        with_value(full_configuration(), ("kafka", "client.id"), "a\0b"),
        with_value(full_configuration(), ("checkpoints", "url"), "a\0b"),
    ):
        with pytest.raises(ConfigError):
            parse(document, {})


# -- what is never shown --------------------------------------------------------------------------

SWORDFISH: Final = "sw0rdfish!"


@pytest.mark.parametrize(
    "paths",
    [
        TEXTS,
        *(
            [one for one in TEXTS if str(one[-1]) == last]
            for last in sorted({str(p[-1]) for p in TEXTS})
        ),
    ],
    ids=lambda paths: f"{len(paths)} {paths[0][-1]}",
)
def test_no_message_shows_a_value_of_the_environment(paths: list[KeyPath]) -> None:
    """Where it is wrong, the message has the reference instead."""
    document = full_configuration()
    for path in paths:
        document = with_value(document, path, "${MY_SECRET}")
    document["revision"] = -1  # a mistake, wherever the value is none
    with pytest.raises(ConfigError) as caught:
        parse(document, {"MY_SECRET": SWORDFISH})
    assert SWORDFISH not in str(caught.value)


def test_messages_show_the_reference_instead_of_its_value() -> None:
    """In mistakes of a value and in mistakes of a relation, where it is a part of the text, too."""
    document = with_value(full_configuration(), ("monitors", 0, "entity"), "${WHO}")
    document["monitors"][1]["entity"] = "my-${WHO}"
    document["mode"] = "${HOW}"
    with pytest.raises(ConfigError) as caught:
        parse(document, {"WHO": SWORDFISH, "HOW": "fast"})
    found = caught.value.problems
    assert any(line.startswith("monitors[0].entity: got ${WHO}; expected one of") for line in found)
    assert any(line.startswith("monitors[1].entity: got my-${WHO}; expected") for line in found)
    assert any(line.startswith('mode: got "${HOW}"; expected one of') for line in found)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://user:pw@bucket/x?sig=pw", "s3://(hidden)@bucket/x?(hidden)"),
        ("https://pw@host", "https://(hidden)@host"),
        ("http://user:p/w@host:80/x", "http://(hidden)@host:80/x"),
        ("az://user:p?w#x@host/x", "az://(hidden)@host/x"),
        (
            'got "gs://u:pw@b"; and s3://a:b@c, too',
            'got "gs://(hidden)@b"; and s3://(hidden)@c, too',
        ),
        ("https://h/x?sig=pw: no such file", "https://h/x?(hidden): no such file"),
        ("(at https://h/x?sig=pw).", "(at https://h/x?(hidden))."),
        ("s3://bucket/a@b/c", "s3://bucket/a@b/c"),
        ("http://host:9092/a@b", "http://host:9092/a@b"),
        ("kafka://topic?from=1&until=2", "kafka://topic?from=1&until=2"),
        ("sasl_ssl://broker:9093/bootstrap: refused", "sasl_ssl://broker:9093/bootstrap: refused"),
    ],
)
def test_errors_show_no_credentials_of_addresses(text: str, shown: str) -> None:
    """User, password and query are hidden in every error of Eddy; the rest of an address is not."""
    assert str(EddyError(text)) == EddyError(text).message == shown
    assert ConfigError([text]).problems == [shown]


def test_a_manifest_without_credentials_names_what_a_rerun_needs(tmp_path: Path) -> None:
    """An address whose credentials were hidden is not tried without them."""
    (tmp_path / "config.toml").write_text(EVERYTHING)
    config = load(tmp_path / "config.toml")
    whole = provenance(
        config,
        [ManifestInput("pay", ["s3://(hidden)@bucket/x"], [])],
        [],
        NO_SPLIT,
        writes_features=False,
    )
    body = msgspec.json.decode(msgspec.json.encode(whole)) | {"outputs": {}}
    (tmp_path / "manifest.json").write_bytes(msgspec.json.encode(body))
    found = read(tmp_path)
    with pytest.raises(InputError, match="holds no credentials"):
        rerun(found, config, tmp_path / "out", lambda _records, _share: None)


def test_log_lines_show_no_credentials_of_addresses(capsys: pytest.CaptureFixture[str]) -> None:
    """In the event, in its values however nested, and in the text of an exception."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        configure_logging("info", slot="s")
        logger = structlog.stdlib.get_logger("test")
        try:
            int("PUT https://u:sw0rdfish!@h/x?sig=sw0rdfish! failed")
        except ValueError:
            logger.exception("at s3://sw0rdfish!@b", inner={"url": ["az://u:sw0rdfish!@h"]})
        logging.getLogger("other").warning("see %s", "gs://h/x?key=sw0rdfish!")
        logger.info("counts", count=3, where=Path("/x"))
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        structlog.reset_defaults()
    lines = [msgspec.json.decode(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["event"] for line in lines] == [
        "at s3://(hidden)@b",
        "see gs://h/x?(hidden)",
        "counts",
    ]
    assert "PUT https://(hidden)@h/x?(hidden) failed" in lines[0]["exception"]
    assert lines[0]["inner"] == {"url": ["az://(hidden)@h"]}
    assert (lines[2]["count"], lines[2]["where"]) == (3, "/x")
    assert SWORDFISH not in str(lines)
