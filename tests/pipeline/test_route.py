"""route accounts for every record, whatever it holds and however its log is cut."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import default_rng

from detectors.numeric.hashing import hash_text
from detectors.state import copy_arrays
from schemas.columns import U64
from schemas.dead_letters import DeadLetter
from schemas.records import Headers, Records
from stream.config import InputSpec, LimitsSpec
from stream.pipeline.decoding import Decoder
from stream.pipeline.stages.recent_events import NEW, REUSED, SAME, RecentEvents
from stream.pipeline.stages.route import Route
from stream.simulator.malformed import MALFORMED, malformed

TIME_MS = 1_772_409_600_000
KEY = (3, 5)
LIMITS = LimitsSpec(record_bytes_max=2_000, duplicate_window=100)


def event(number: int, **fields: Any) -> bytes:
    """A payment as JSON."""
    common = {"type": "transaction", "time": TIME_MS + number, "account": f"a{number % 7}"}
    return orjson.dumps({"event_id": f"e{number}", **common, "amount": 1.5, **fields})


def records(values: list[bytes | None], first: int = 0) -> Records:
    """Records of one partition, with headers."""
    size = len(values)
    headers: list[Headers] = [[("source", b"shop"), ("none", None)]] * size
    return Records(
        "shop", 2, np.arange(first, first + size), np.full(size, TIME_MS, np.int64), values, headers
    )


def route() -> Route:
    """A stage with small limits."""
    decoder = Decoder(InputSpec(topic="shop"), LIMITS, ["account", "amount"])
    return Route(decoder, LIMITS.duplicate_window, KEY)


def hashes(numbers: Sequence[int]) -> U64:
    """uint64[n]: a hash of each number."""
    texts = pa.array([f"e{n}" for n in numbers], pa.string())
    return np.ascontiguousarray(hash_text(texts, KEY)[:, 0])


def header(letter: DeadLetter, name: str) -> bytes:
    """One header's value."""
    return dict(letter.headers)[name]


@pytest.mark.parametrize("kind", [kind for kind, (_, code) in MALFORMED.items() if code])
def test_every_kind_of_malformed_record_gets_its_code(kind: str) -> None:
    """The simulator's kinds of mistakes that leave no event become dead letters with their codes."""
    bad = malformed(default_rng(1), kind)
    stage = route()
    routed = stage.process(records([event(1), bad, event(2)], first=40))
    (letter,) = routed.dead_letters
    assert header(letter, "eddy-code").decode() == MALFORMED[kind][1]
    assert header(letter, "eddy-disposition") == b"dead_lettered"
    assert header(letter, "eddy-offset") == b"41"
    assert header(letter, "original-source") == b"shop"
    assert letter.value == bad
    assert routed.events.offset.tolist() == [40, 42]
    assert routed.events.sources == (("shop", 2),)
    assert stage.counts()[f"dead_letter_{MALFORMED[kind][1]}"] == 1


def test_a_correction_under_the_corrected_id_is_no_duplicate() -> None:
    """Labels often have their event's id: another verdict, or the same known at another time, passes,
    and only the same label again is a duplicate; nor is a label one of the event that it speaks of."""

    def label(verdict: str, time: int = 0) -> bytes:
        said = {"verdict": verdict, "labelled_event_id": "e1", "account": "a1"}
        return orjson.dumps({"event_id": "e1", "type": "label", "time": TIME_MS + time, **said})

    fields = ["account", "amount", "verdict", "labelled_event_id"]
    decoder = Decoder(InputSpec(topic="shop"), LIMITS, fields)
    stage = Route(decoder, LIMITS.duplicate_window, KEY)
    said = [event(1), label("fraud"), label("honest"), label("fraud", 1), label("honest"), event(1)]
    routed = stage.process(records([*said]))
    assert routed.events.offset.tolist() == [0, 1, 2, 3]
    assert stage.counts()["duplicate"] == 2


def test_a_label_without_event_or_entity_is_a_dead_letter() -> None:
    """A label by event id alone teaches nobody, as live nobody looks its event up; one that names
    any entity passes, and where no monitor reads the input so does every label."""
    spec = InputSpec(topic="labels", type="label")
    fields = ["account", "card", "verdict", "labelled_event_id"]

    def label(number: int, **named: str) -> bytes:
        said = {"verdict": "fraud", "labelled_event_id": "e1", **named}
        return orjson.dumps({"event_id": f"l{number}", "time": TIME_MS, **said})

    values: list[bytes | None] = [
        label(1, card="c1"),
        b"{",
        label(2),
        label(3, account=""),
        label(4, account="a"),
    ]
    stage = Route(Decoder(spec, LIMITS, fields), LIMITS.duplicate_window, KEY)
    routed = stage.process(records(values, first=7))
    assert routed.events.offset.tolist() == [7, 11]
    assert [header(one, "eddy-code") for one in routed.dead_letters] == [
        b"malformed",
        *[b"label_without_entity"] * 2,
    ]
    assert [header(one, "eddy-offset") for one in routed.dead_letters] == [b"8", b"9", b"10"]
    assert routed.dead_letters[1].value == values[2]
    counts = stage.counts()
    assert (counts["read"], counts["passed"], counts["dead_letter_label_without_entity"]) == (
        5,
        2,
        2,
    )
    decoder = Decoder(spec, LIMITS, fields)
    unread = Route(decoder, LIMITS.duplicate_window, KEY, is_read=False)
    assert len(unread.process(records(values)).events) == 4


def test_every_record_is_counted_once() -> None:
    """Read is the sum of passed, duplicate, tombstone and dead letters by their codes."""
    stage = route()
    values = [event(1), None, event(1), event(2, pad="x" * 3000), b"", event(3), event(3)]
    routed = stage.process(records(values))
    counts = {name: n for name, n in stage.counts().items() if n}
    assert counts == {
        "read": 7,
        "passed": 2,
        "duplicate": 2,
        "tombstone": 1,
        "dead_letter_too_large": 1,
        "dead_letter_malformed": 1,
    }
    assert [header(letter, "eddy-offset") for letter in routed.dead_letters] == [b"3", b"4"]
    assert (
        header(routed.dead_letters[0], "eddy-payload-bytes") == str(len(values[3] or b"")).encode()
    )


def test_a_record_too_large_is_never_decoded() -> None:
    """A record over its limit is refused by its size, whatever is in it."""
    (letter,) = route().process(records([b"\xff" * 2_001])).dead_letters
    assert header(letter, "eddy-code") == b"too_large"


RECORDS = st.one_of(
    st.integers(0, 12).map(event),
    st.none(),
    st.sampled_from([b"{", b"[]", event(1, amount="x"), event(5, pad="y" * 3000)]),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(RECORDS, max_size=40), st.integers(1, 9))
def test_cutting_the_log_changes_nothing(values: list[bytes | None], cut: int) -> None:
    """Events, dead letters, counters and state are those of one batch, however the log is cut."""
    whole, parts = route(), route()
    once = whole.process(records(values))
    pieces = [
        parts.process(records(values[i : i + cut], first=i)) for i in range(0, len(values), cut)
    ]
    assert once.events.offset.tolist() == [o for p in pieces for o in p.events.offset.tolist()]
    assert once.dead_letters == [letter for p in pieces for letter in p.dead_letters]
    assert whole.counts() == parts.counts()
    for name, array in whole.save().items():
        np.testing.assert_array_equal(array, parts.save()[name])


def test_a_saved_stage_continues_in_another_process() -> None:
    """A stage loaded from a saved state counts on, and knows the duplicates of the first."""
    first, second = route(), route()
    first.process(records([event(1), event(2)]))
    state = copy_arrays(first.save())
    first.process(records([event(3)]))
    second.load(state)
    second.process(records([event(2), event(3)]))
    assert (second.counts()["passed"], second.counts()["duplicate"]) == (3, 1)
    assert (first.counts()["passed"], first.counts()["duplicate"]) == (3, 0)


def test_table_rows_are_routed_like_records() -> None:
    """A columnar file's rows are counted and checked alike; a bad row's dead letter is its JSON."""
    table = pa.table(
        {
            "event_id": ["e1", None, "e1"],
            "type": ["transaction"] * 3,
            "time": [TIME_MS] * 3,
            "account": ["a", "b", "a"],
        }
    )
    stage = route()
    routed = stage.process(Records("shop", 0, np.arange(3), np.full(3, -1, np.int64), table))
    (letter,) = routed.dead_letters
    assert orjson.loads(letter.value) == table.slice(1, 1).to_pylist()[0]
    assert routed.events.text["account"].to_pylist() == ["a"]
    assert stage.counts()["duplicate"] == 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 30), max_size=200), st.integers(2, 16))
def test_recent_events_are_known_for_half_a_window_and_forgotten_after_a_whole_one(
    numbers: list[int], window: int
) -> None:
    """An event seen within the last half window is always known, beyond a whole one never; that
    holds, too, where several events share an id."""
    recent = RecentEvents(window)
    ids = hashes([n // 3 for n in numbers])
    found = recent.classify(ids, hashes(numbers)) == SAME
    entered: list[int] = []  # events in the order in which they were taken for new
    for number, known in zip(numbers, found.tolist(), strict=True):
        half = max(1, window // 2)
        if number in entered[len(entered) - (half - 1) :] and half > 1:
            assert known
        if number not in entered[-window:]:
            assert not known
        if not known:
            entered.append(number)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=120),
    st.integers(1, 24),
)
def test_recent_events_are_two_panes_of_ids_and_contents(
    events: list[tuple[int, int]], window: int
) -> None:
    """They equal a reference that stores pairs of id and content, whatever the hash of a content: the
    content of hash 0 too. A duplicate is not stored again."""
    per_pane = max(1, window // 2)
    panes: list[set[tuple[int, int]]] = [set(), set()]
    expected = []
    for pair in events:
        known = panes[0] | panes[1]
        has_id = pair[0] in {id_ for id_, _ in known}
        expected.append(SAME if pair in known else REUSED if has_id else NEW)
        if pair not in known:
            panes[0].add(pair)
            if len(panes[0]) == per_pane:
                panes = [set(), panes[0]]
    recent = RecentEvents(window)
    contents = np.array([content for _, content in events], np.uint64)
    found = recent.classify(hashes([id_ for id_, _ in events]), contents)
    assert found.tolist() == expected


def test_an_id_with_other_content_is_another_event() -> None:
    """However often an id returns, each new content is new once; the content may differ in any
    decoded field or in the time alone, and what is not mapped does not count."""
    stage = route()
    fields: list[dict[str, object]] = [
        {},
        {"amount": 2.0},
        {"account": "other"},
        {"account": None},
        {"amount": None},
        {"time": TIME_MS + 9},
        {"type": "login"},
    ]
    values = [event(1, **one) for one in fields]
    again = [event(1, **one, unmapped="x") for one in fields]
    routed = [stage.process(records([*values, *again], first=k)) for k in (0, 14)]
    assert [one.events.offset.tolist() for one in routed] == [list(range(7)), []]
    counts = stage.counts()
    assert (counts["duplicate"], counts["id_reused"], counts["passed"]) == (21, 6, 7)


def test_a_reused_id_is_as_cheap_as_another() -> None:
    """Ten thousand contents under one id are all distinguished, and their entries spread over the
    table: no long run of occupied slots makes a search slow."""
    recent = RecentEvents(40_000)
    one_id, contents = hashes([7] * 10_000), hashes(range(10_000))
    found = recent.classify(one_id, contents)
    assert found[0] == NEW
    assert (found[1:] == REUSED).all()
    assert (recent.classify(one_id, contents) == SAME).all()
    taken = np.flatnonzero(recent.save()["recent_slots"][0, :, 0])
    assert np.diff(np.flatnonzero(np.diff(taken) > 1)).max() < 100


def test_the_memory_of_events_does_not_grow() -> None:
    """Many times a window of events takes no more memory than the first ones."""
    recent = RecentEvents(1_000)
    before = sum(array.nbytes for array in recent.save().values())
    for start in range(0, 20_000, 500):
        some = hashes(range(start, start + 500))
        assert (recent.classify(some, some) == NEW).all()
    assert sum(array.nbytes for array in recent.save().values()) == before <= 64 * 1_024


def repaired_event(number: int, minute: int = 0, **fields: Any) -> bytes:
    """A payment of a minute, with bad fields."""
    return event(number, time=TIME_MS + minute * 60_000 + number, **fields)


def test_a_repaired_event_is_counted_and_one_a_minute_is_an_example() -> None:
    """Examples of a field and a code are at most one a minute of stream time, each with the record's
    bytes, field, code and disposition; a minute that went back has none; all records are events."""
    stage = route()
    values = [
        repaired_event(1, amount="x"),
        repaired_event(2, amount="x"),
        repaired_event(3, amount=1e300),
        repaired_event(4, 1, amount="x", account="a" * 300),
        repaired_event(5, 0, amount="x"),
        repaired_event(6, 9, amount="x"),
    ]
    routed = stage.process(records([*values], first=10))
    shown = [
        tuple(header(one, name).decode() for name in ("eddy-offset", "eddy-field", "eddy-code"))
        for one in routed.dead_letters
    ]
    assert shown == [
        ("10", "amount", "wrong_type"),
        ("12", "amount", "out_of_range"),
        ("13", "account", "text_too_long"),
        ("13", "amount", "wrong_type"),
        ("15", "amount", "wrong_type"),
    ]
    assert {header(one, "eddy-disposition") for one in routed.dead_letters} == {b"event_kept"}
    assert all(one.event_kept for one in routed.dead_letters)
    assert routed.dead_letters[1].value == values[2]
    counts = {name: n for name, n in stage.counts().items() if n}
    assert counts == {
        "read": 6,
        "passed": 6,
        "field_repaired/account/text_too_long": 1,
        "field_repaired/amount/wrong_type": 5,
        "field_repaired/amount/out_of_range": 1,
    }
    assert routed.events.offset.tolist() == list(range(10, 16))


@pytest.mark.parametrize("before", [0, 100])
def test_a_time_from_the_future_does_not_end_the_examples(before: int) -> None:
    """Minutes are of stream time: a bad field in an event of 2099, the first of the log or a later
    one, uses up no later minute."""
    stage = route()
    values = [event(n) for n in range(before)]
    values += [event(200, time=4_080_000_000_000, amount="x")]
    values += [event(300 + n) for n in range(100)]
    routed = stage.process(
        records([*values, repaired_event(500, 1, amount="x"), repaired_event(501, 2, amount="x")])
    )
    offsets = [int(header(one, "eddy-offset")) for one in routed.dead_letters]
    assert offsets == [before, before + 101, before + 102]


def test_a_record_without_an_event_has_no_repairs() -> None:
    """A dead letter is nothing else, with any number of bad fields."""
    stage = route()
    bad = [event(1, amount="x", time=None), event(2, amount="x", event_id=None)]
    label = orjson.dumps({"event_id": "l", "type": "label", "time": TIME_MS, "amount": "x"})
    routed = stage.process(records([*bad, label]))
    assert [header(one, "eddy-disposition") for one in routed.dead_letters] == [
        b"dead_lettered"
    ] * 3
    assert not any(name.startswith("field_repaired") for name in stage.counts())


def test_a_label_without_a_verdict_is_a_dead_letter() -> None:
    """Absent, empty and unreadable verdicts are refused where the mapping has one; any text passes."""
    spec = InputSpec(topic="labels", type="label")
    given_ = [None, "", ["fraud"], "fraud", "perhaps"]
    values = [
        orjson.dumps({"event_id": f"l{i}", "time": TIME_MS, "account": "a", "verdict": verdict})
        for i, verdict in enumerate(given_)
    ]
    stage = Route(Decoder(spec, LIMITS, ["account", "verdict"]), LIMITS.duplicate_window, KEY)
    routed = stage.process(records([*values]))
    assert routed.events.offset.tolist() == [3, 4]
    assert [header(one, "eddy-code") for one in routed.dead_letters] == [
        b"label_without_verdict"
    ] * 3


SPOILT = st.builds(
    repaired_event,
    st.integers(0, 40),
    st.integers(0, 3),
    amount=st.sampled_from([1.5, "x", 1e300, "nan", [1]]),
    account=st.sampled_from(["a", "a" * 300, {}]),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(SPOILT, max_size=40), st.integers(1, 9), st.integers(0, 40))
def test_cuts_and_restarts_choose_no_other_example(
    values: list[bytes], cut: int, stop: int
) -> None:
    """However the log is cut, and also where a saved state goes on, examples, counters and state are
    those of one batch."""
    whole, parts = route(), route()
    once = whole.process(records([*values]))
    letters: list[DeadLetter] = []
    for i in range(0, len(values), cut):
        if i >= stop:
            saved = copy_arrays(parts.save())
            parts = route()
            parts.process(
                records([repaired_event(99, 8, amount="x")])
            )  # earlier state must not stay
            parts.load(saved)
        letters += parts.process(records([*values[i : i + cut]], first=i)).dead_letters
    assert once.dead_letters == letters
    assert whole.counts() == parts.counts()
    for name, array in whole.save().items():
        np.testing.assert_array_equal(array, parts.save()[name])
