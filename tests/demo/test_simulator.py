"""The simulator: the same seed gives the same shop, and the truth about its attackers holds."""

from collections import Counter
from hashlib import sha256
from itertools import islice, pairwise
from pathlib import Path

import jsonschema
import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import PCG64, Generator
from typer.testing import CliRunner

from schemas.dead_letters import CODES
from schemas.events import FIELDS, FIELDS_OF, TYPES, json_schema
from schemas.records import Records
from stream.cli import app
from stream.config import load
from stream.pipeline.alerting import RunInfo
from stream.pipeline.shard import ShardFactory
from stream.simulator import MALFORMED, START_MS, Attack, Shop, lines, malformed, shop_config
from stream.simulator.visits import DAY_MS, EVENTS_PER_DAY

EVENTS = 60_000
DIGEST = "75bb98210d1d3cb0345c4f5d282d2d5a433c72cc735f8004b5c44f9d05287bc2"
SHOP = Path(__file__).parents[2] / "deploy" / "configs" / "shop.toml"


@pytest.fixture(scope="module")
def shop() -> Shop:
    """The demo's shop."""
    return Shop(EVENTS, seed=7)


def test_same_seed_same_bytes() -> None:
    """Two shops of the same size and seed write the same bytes, another seed writes others."""
    one, two, other = (list(lines(Shop(6_000, seed), 0.02)) for seed in (3, 3, 4))
    assert one == two
    assert [line.value for line in one] != [line.value for line in other]


def test_the_stream_of_a_seed_stays_the_same() -> None:
    """Recorded figures are of this stream: a change to it changes them all. Malformed records and
    every kind of attack are in it. After an intended change, record the new digest."""
    shop = Shop(6_000, 3)
    written = b"\n".join(line.value for line in lines(shop, 0.02))
    assert len({attack.name for attack in shop.attacks}) == 6
    assert sha256(written).hexdigest() == DIGEST


def test_a_shop_can_be_read_again(shop: Shop) -> None:
    """A second pass over the same object gives what the first gave."""
    assert list(islice(shop.events(), 20_000)) == list(islice(shop.events(), 20_000))


@settings(max_examples=12, deadline=None)
@given(events=st.integers(0, 9_000), seed=st.integers(0, 2**32))
def test_any_size_is_exact_and_in_order(events: int, seed: int) -> None:
    """A shop has as many events as asked for, in time order, each with an id of its own."""
    shop = Shop(events, seed)
    made = [event for event, _ in shop.events()]
    assert len(made) == events
    assert all(a["time"] <= b["time"] for a, b in pairwise(made))
    assert len({event["event_id"] for event in made}) == events
    if made:
        assert made[-1]["time"] == shop.start_ms + shop.span_ms()


def test_events_are_events(shop: Shop) -> None:
    """Every event is of the published shape: known type, that type's fields, texts and ranges."""
    check = jsonschema.Draft202012Validator(json_schema())
    for count, (event, _) in enumerate(shop.events()):
        kind = event["type"]
        assert kind in TYPES
        assert event.keys() - {"type", "event_id", "time"} <= set(FIELDS_OF[kind])
        for name, value in event.items():
            if name in FIELDS and FIELDS[name].kind == "text":
                assert isinstance(value, str)
        if count % 97 == 0:
            check.validate(event)


def test_the_span_is_about_one_day_for_each_12000_events(shop: Shop) -> None:
    """Sixty thousand events cover five days, and the night is quiet."""
    assert shop.span_ms() / DAY_MS == pytest.approx(EVENTS / EVENTS_PER_DAY, rel=0.05)
    honest = [event["time"] for event, attack in shop.events() if attack is None]
    hours = Counter((np.array(honest) // 3_600_000 % 24).tolist())
    assert hours[3] * 4 < hours[19]


def test_attacks_come_late_and_are_reported(shop: Shop) -> None:
    """Attacks begin in the second half; each one's events lie in its window and name its entity."""
    seen: dict[Attack, list[int]] = {attack: [] for attack in shop.attacks}
    for event, attack in shop.events():
        if attack:
            seen[attack].append(event["time"])
            assert event[attack.entity_type] == attack.entity_id
    assert {attack.name for attack in shop.attacks} == {
        *("credential stuffing", "account takeover", "card testing"),
        *("stolen card", "price crawler", "coupon ring"),
    }
    for attack, times in seen.items():
        assert (min(times), max(times)) == (attack.first_ms, attack.last_ms)
        assert attack.first_ms >= START_MS + 0.49 * shop.span_ms()


def test_events_do_not_reveal_their_attack(shop: Shop) -> None:
    """No field of an event says that it belongs to an attack."""
    names = {attack.name for attack in shop.attacks}
    for event, attack in shop.events():
        if attack:
            assert not names & {str(value) for value in event.values()}
            assert "attack" not in event


def test_honest_events_include_suspicious_ones(shop: Shop) -> None:
    """Among honest events are failed logins, declined cards, resets, and a very busy address."""
    honest = [event for event, attack in shop.events() if attack is None]
    kinds = Counter(event["kind"] for event in honest)
    for kind in ("failure", "payment_declined", "reset", "email_change", "refund", "device_added"):
        assert kinds[kind] > 5, kind
    accounts = {event.get("account") for event in honest if event["ip"] == "192.0.2.10"}
    assert len(accounts) > 10


def test_short_streams_hold_no_attack() -> None:
    """Below five thousand events there is nothing to compare an attack with, and none is made."""
    assert Shop(4_999, 1).attacks == []
    assert len(Shop(5_000, 1).attacks) == 9


@pytest.mark.slow
def test_long_streams_hold_more_attacks() -> None:
    """A longer stream has a round of attacks for every sixty thousand events, none cut off."""
    shop = Shop(200_000, 5)
    times = Counter(attack for _, attack in shop.events() if attack)
    assert len(shop.attacks) == len(times) == 27
    assert len({(a.entity_type, a.entity_id) for a in shop.attacks}) == 27
    assert max(a.last_ms for a in shop.attacks) < shop.start_ms + shop.span_ms()


def test_the_start_time_shifts_every_event() -> None:
    """Another start shifts every time by the difference and changes nothing else."""
    day_later = Shop(5_000, 2, START_MS + DAY_MS)
    for (one, _), (two, _) in zip(Shop(5_000, 2).events(), day_later.events(), strict=True):
        assert {**one, "time": one["time"] + DAY_MS} == two
    assert day_later.attacks[0].first_ms == Shop(5_000, 2).attacks[0].first_ms + DAY_MS


def test_lines_carry_their_key() -> None:
    """A record's key is its account, or its address where it has none; unless another field that it
    has is asked for."""
    for line in lines(Shop(2_000, 1)):
        event = orjson.loads(line.value)
        assert line.key.decode() == event.get("account", event["ip"])
        assert line.code is None
    events = 0
    for line in lines(Shop(2_000, 1), keyed_by="card"):
        event = orjson.loads(line.value)
        assert line.key.decode() == event.get("card", event.get("account", event["ip"]))
        events += "card" in event
    assert events > 100


def test_malformed_records_are_added_to_the_events() -> None:
    """About the share asked for is malformed, of all nine kinds, and every event is still there."""
    made = list(lines(Shop(10_000, 1), malformed_share=0.02))
    bad = [line for line in made if line.kind]
    assert len(made) - len(bad) == 10_000
    assert 120 < len(bad) < 290
    assert {line.kind: line.code for line in bad} == {k: code for k, (_, code) in MALFORMED.items()}
    good = [line.value for line in made if not line.kind]
    assert good == [line.value for line in lines(Shop(10_000, 1))]


@pytest.mark.parametrize("kind", MALFORMED)
def test_malformed_kinds(kind: str) -> None:
    """There are nine kinds, each repeatable by its seed, with a code that dead letters know, or none
    where only a field is bad."""
    assert len(MALFORMED) == 9
    assert MALFORMED[kind][1] in (*CODES, None)
    one, two = (malformed(Generator(PCG64(4)), kind) for _ in range(2))
    assert one == two


def test_malformed_records_become_their_dead_letters() -> None:
    """The shop's own route gives every malformed record its code, and finds no fault in others."""
    made = list(lines(Shop(6_000, 1), malformed_share=0.05))
    shard = ShardFactory(load(SHOP), RunInfo("replay", "test", str)).input_shard("shop")
    records = Records(
        topic="shop-events",
        partition=0,
        offset=np.arange(len(made)),
        timestamp_ms=np.full(len(made), START_MS + DAY_MS),
        values=[line.value for line in made],
    )
    letters = shard.process(records).dead_letters
    codes = {
        int(dict(one.headers)["eddy-offset"]): dict(one.headers)["eddy-code"]
        for one in letters
        if not one.event_kept
    }
    wanted = {at: line.code.encode() for at, line in enumerate(made) if line.code}
    assert codes == wanted


def test_labels_name_every_event_of_an_attack_and_no_other(tmp_path: Path) -> None:
    """`eddy simulate --labels` says which events of the file are fraud, of which kind, a day
    later."""
    made, known = tmp_path / "shop", tmp_path / "labels"
    arguments = ["simulate", str(shop_config()), "--events", "8000", "--to", str(made)]
    result = CliRunner().invoke(app, [*arguments, "--labels", str(known)])
    assert result.exit_code == 0, result.output
    times = {
        row["event_id"]: row["time"] for row in map(orjson.loads, made.read_bytes().splitlines())
    }
    told = {
        row["labelled_event_id"]: row for row in map(orjson.loads, known.read_bytes().splitlines())
    }
    truth = {event["event_id"]: attack for event, attack in Shop(8_000, 7).events() if attack}
    assert {one: row["kind"] for one, row in told.items()} == {k: v.name for k, v in truth.items()}
    assert len(told) > 50
    for one, row in told.items():
        assert row["time"] == times[one] + 86_400_000
        assert (row["type"], row["verdict"]) == ("label", "fraud")
