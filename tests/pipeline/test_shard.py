"""A whole shard, from raw records to alerts: cuts, restarts, the alert's shape and its reasons."""

from collections import Counter
from itertools import chain
from pathlib import Path

import jsonschema
import msgspec
import numpy as np
import pytest

from schemas.alerts import ALERT_BYTES_MAX, Alert, alert_record, without_run
from schemas.events import json_schema as event_schema
from schemas.records import Records
from stream.config import Config, load
from stream.pipeline.alerting import Mode, RunInfo
from stream.pipeline.counters import RECORD_COUNTERS
from stream.pipeline.shard import Shard, ShardFactory
from stream.simulator import Shop, lines

SHOP = Path(__file__).parents[2] / "deploy" / "configs" / "shop.toml"
EVENTS = 20_000


@pytest.fixture(scope="module")
def config() -> Config:
    """The ready configuration of the simulated shop."""
    return load(SHOP)


@pytest.fixture(scope="module")
def records() -> Records:
    """The shop's stream with one malformed record in a hundred, as one partition."""
    values: list[bytes | None] = [line.value for line in lines(Shop(EVENTS, seed=7), 0.01)]
    n = len(values)
    return Records("shop-events", 0, np.arange(n), np.full(n, -1), values)


RUN = RunInfo("live", "one", lambda: "2026-01-01T00:00:00Z")


def fold(
    config: Config, records: Records, size: int, run: str = "one"
) -> tuple[Shard, list[Alert]]:
    """A fresh shard fed the records in batches of the given size, and its alerts."""
    shard = ShardFactory(config, RunInfo("live", run, lambda: "2026-01-01T00:00:00Z")).input_shard(
        "shop"
    )
    alerts = []
    for start in range(0, len(records), size):
        part = records.slice(start, min(start + size, len(records)))
        alerts += shard.process(part).alerts
    return shard, alerts


@pytest.fixture(scope="module")
def reference(config: Config, records: Records) -> tuple[Shard, list[Alert]]:
    """The fold over the whole stream in one batch."""
    return fold(config, records, len(records))


@pytest.mark.parametrize(
    "size",
    [pytest.param(1, marks=pytest.mark.slow), pytest.param(7, marks=pytest.mark.slow), 10_000],
)
def test_batches_of_any_size_give_the_same_alerts_and_state(
    config: Config, records: Records, size: int, reference: tuple[Shard, list[Alert]]
) -> None:
    """Batches of 1, 7 and 10,000 records give the same alert bytes and the same state bytes."""
    whole, expected = reference
    # Small batches call every step so often, so they go for the attacks' part only.
    first, last = (0, len(records)) if size > 100 else (10_000, 10_000 + 700 * size)
    cut, alerts = fold(config, records.slice(0, first), max(first, 1))
    assert not alerts
    for start in range(first, last, size):
        alerts += cut.process(records.slice(start, min(start + size, last))).alerts
    assert len(alerts) > 10
    alerts += cut.process(records.slice(last, len(records))).alerts
    assert [alert_record(one) for one in alerts] == [alert_record(one) for one in expected]
    one, other = whole.save(), cut.save()
    assert one.keys() == other.keys()
    assert [name for name in one if one[name].tobytes() != other[name].tobytes()] == []


def test_a_shard_continues_from_its_saved_state(config: Config, records: Records) -> None:
    """A shard loaded from another's state gives the alerts that the other would have given."""
    first, _ = fold(config, records.slice(0, 12_345), 1_000)
    second = ShardFactory(config, RUN).input_shard("shop")
    second.load(first.save())
    rest = records.slice(12_345, len(records))
    assert second.process(rest).alerts == first.process(rest).alerts


def test_every_record_is_accounted_for(reference: tuple[Shard, list[Alert]]) -> None:
    """read = scored + not applicable + labels + duplicates + tombstones + dead letters, for each
    monitor."""
    counts = reference[0].counts()
    route = counts.pop("route")
    outside = sum(route[one.key] for one in RECORD_COUNTERS if one.key not in ("read", "passed"))
    assert outside > 100
    for name, one in counts.items():
        passed = one["scored"] + one["not_applicable"] + one["labels"]
        assert route["read"] == passed + outside, name


def test_alerts_fit_the_published_schema(reference: tuple[Shard, list[Alert]]) -> None:
    """Every alert's body validates against the schema in the package and stays below its limit."""
    schema = msgspec.json.decode(
        (Path(__file__).parents[2] / "schemas" / "json" / "alert.v1.json").read_bytes()
    )
    validator = jsonschema.Draft202012Validator(schema)
    for alert in reference[1]:
        body = alert_record(alert).value
        validator.validate(msgspec.json.decode(body))
        assert len(body) <= ALERT_BYTES_MAX


def test_the_shops_events_fit_the_published_schema() -> None:
    """The simulator speaks the shape that the event schema describes."""
    validator = jsonschema.Draft202012Validator(event_schema())
    for event, _ in Shop(500, seed=1).events():
        validator.validate(event)


def test_alerts_explain_themselves(reference: tuple[Shard, list[Alert]]) -> None:
    """Shares sum to 1, largest first; the p-value is below the threshold, which the run cannot
    change; a counterfactual names features of the monitor."""
    for alert in reference[1]:
        shares = [one.share for one in alert.contributions]
        assert sum(shares) == pytest.approx(1.0)
        assert shares == sorted(shares, reverse=True)
        assert 0.0 < alert.p_value <= alert.threshold
        assert len(alert.counterfactual or []) <= 3
    assert any(alert.counterfactual for alert in reference[1])


def test_ids_are_unique_and_updates_belong_to_an_incident(
    reference: tuple[Shard, list[Alert]],
) -> None:
    """No two alerts share an id; each update follows its incident's opening, revision by
    revision."""
    alerts = reference[1]
    assert len({alert.alert_id for alert in alerts}) == len(alerts)
    revisions = Counter[str]()
    for alert in alerts:
        revisions[alert.incident_id] += 1
        assert alert.revision == revisions[alert.incident_id]
        assert alert.activity == ("opened" if alert.revision == 1 else "updated")


@pytest.mark.parametrize(
    ("run", "reasons"),
    [
        (RunInfo("replay", "two", lambda: "2027-01-01T00:00:00Z"), {"replay"}),
        (RunInfo("live", "two", lambda: "2099-01-01T00:00:00Z", 900_000.0), {"stale"}),
    ],
)
def test_only_the_run_object_knows_the_run(
    config: Config,
    records: Records,
    reference: tuple[Shard, list[Alert]],
    run: RunInfo,
    reasons: set[str],
) -> None:
    """Another run in another mode, or with another clock, gives the same alerts but for `run`; only
    live may enforce, and only what is recent."""
    others = ShardFactory(config, run).input_shard("shop").process(records).alerts
    ours = [alert_record(one).value for one in reference[1]]
    theirs = [alert_record(one).value for one in others]
    assert ours != theirs
    assert [without_run(one) for one in ours] == [without_run(one) for one in theirs]
    assert not any(alert.run.enforceable for alert in others)
    assert {alert.run.reason for alert in others} == reasons
    assert {alert.run.reason for alert in reference[1]} <= {"warming", None}


def test_shadow_is_never_enforceable(
    config: Config, records: Records, reference: tuple[Shard, list[Alert]]
) -> None:
    """Where live may enforce, shadow says that it may not and why; nothing else of `run` decides."""
    shards = ShardFactory(config, RunInfo("shadow", "one", lambda: "2026-01-01T00:00:00Z"))
    shadowed = shards.input_shard("shop").process(records).alerts
    assert any(alert.run.enforceable for alert in reference[1])
    assert {(alert.run.enforceable, alert.run.reason) for alert in shadowed} == {(False, "shadow")}


def ids(alerts: list[Alert]) -> set[str]:
    """Everything that a reader could tell two alerts apart, or deduplicate them, by."""
    headers = [dict(alert_record(alert).headers)["ce_source"].decode() for alert in alerts]
    named = ((one.alert_id, one.incident_id, one.dedup_key) for one in alerts)
    return {*headers, *chain.from_iterable(named)}


@pytest.mark.parametrize("changed", [{"mode": "shadow"}, {"group": "another"}])
def test_groups_and_modes_share_no_id(
    config: Config,
    records: Records,
    reference: tuple[Shard, list[Alert]],
    changed: dict[str, str],
) -> None:
    """The same events under another group, or in the other mode, give ids of their own; a replay of
    that configuration gives the very same ids."""
    other = msgspec.structs.replace(config, **changed)
    modes: list[Mode] = [other.mode, "replay"]
    runs = [RunInfo(mode, "two", lambda: "2026-01-01T00:00:00Z") for mode in modes]
    found = [
        ids(ShardFactory(other, run).input_shard("shop").process(records).alerts) for run in runs
    ]
    assert found[0] == found[1]
    assert len(found[0]) > 10
    assert found[0].isdisjoint(ids(reference[1]))
    assert f"eddy/{other.group}/{other.mode}/{other.monitors[0].name}" in found[0]


def test_raw_ids_leave_only_where_revealed(config: Config, records: Records) -> None:
    """Without `reveal` no raw account, card, device or address stands in an alert."""
    hidden = msgspec.structs.replace(config, reveal=[])
    _, alerts = fold(hidden, records, len(records))
    raw = {
        str(event[field])
        for event, _ in Shop(EVENTS, seed=7).events()
        for field in ("account", "card", "ip", "device")
        if event.get(field)
    }
    assert alerts
    for alert in alerts:
        assert alert.entity.pseudonym
        assert not raw & {alert.entity.id, *(one.id for one in alert.related)}
