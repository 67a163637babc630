"""Labels in a replay: joined to their events, known from their own time on and never before, and the
last word on each event at the end."""

import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from numpy.random import default_rng

from stream.cli.options import parse_labels_option
from stream.config import Config, label_entity_fields, parse
from stream.errors import ExtraMissing, InputError
from stream.evaluation import database
from stream.inputs import FileReader
from stream.inputs.partitioning import partition_of
from stream.inputs.ranges import TopicRangeReader
from stream.kafka.topic_reader import OffsetRange
from stream.replay import Summary, TimeSplit, inputs, labels, replay
from stream.replay.inputs import with_label_input
from tests.memory_topics import patch_topics

START_MS = 1_772_409_600_000
STEP_MS = 10_000
LATER_MS = 600_000
"""How long after its event a label becomes known."""
CONFIG = """
[inputs.shop]
topic = "shop"
type = "transaction"
[inputs.shop.fields]
event_id = "id"
time = "at"
account = "who"
device = "device"
amount = "amount"

[inputs.verdicts]
topic = "verdicts"
type = "label"
[inputs.verdicts.fields]
event_id = { position = true }
time = { path = "known_at", unit = "iso" }
labelled_event_id = "payment"
verdict = { path = "fraud", values = { "0" = "honest", "1" = "fraud" } }
kind = "how"
account = "account"
device = "device"

[[monitors]]
name = "account"
entity = "account"
inputs = ["verdicts", "shop"]
features = [{ name = "amount", kind = "value", field = "amount" }]
detectors = [
  { kind = "label_risk", name = "risk" },
  { kind = "label_risk", name = "device_risk", field = "device" },
]
policy = { warm_up_events = 100 }
"""
UNREAD = re.sub(
    r"detectors = \[.*?\n\]", 'detectors = [{ kind = "tail" }]', CONFIG, flags=re.DOTALL
).replace('inputs = ["verdicts", "shop"]', 'inputs = ["shop"]')
Row = dict[str, Any]


def config(text: str = CONFIG) -> Config:
    """A parsed configuration."""
    return parse(tomllib.loads(text), {})


def payments(count: int = 2_000) -> list[Row]:
    """Payments of twenty accounts over a few devices; every fiftieth has no account."""
    rng = default_rng(5)
    return [
        {
            "id": f"e{i}",
            "at": START_MS + i * STEP_MS,
            "who": f"a{rng.integers(20)}" if i % 50 else None,
            "device": f"d{rng.integers(30)}" if i % 3 else None,
            "amount": round(float(rng.lognormal(3, 0.3)), 2),
        }
        for i in range(count)
    ]


def label(of: str, at_ms: int, *, fraud: bool = True, **more: str) -> Row:
    """A label by event id alone."""
    return {"payment": of, "known_at": at_ms, "fraud": int(fraud), **more}


def verdicts(rows: list[Row]) -> list[Row]:
    """A label for each payment, some time after it, in another order than they became known in."""
    rng = default_rng(11)
    made = [
        label(row["id"], row["at"] + LATER_MS, fraud=row["who"] in {"a1", "a2"}, how="stolen")
        for row in rows
    ]
    return [made[i] for i in rng.permutation(len(made))]


def ndjson(path: Path, rows: list[Row]) -> Path:
    """A file with one event a line."""
    path.write_bytes(b"\n".join(map(orjson.dumps, rows)))
    return path


def label_table(path: Path, rows: list[Row]) -> Path:
    """A Parquet file of labels, with times as a warehouse would write them."""
    table = pa.Table.from_pylist(rows)
    at = table.schema.get_field_index("known_at")
    column = table.column(at).cast(pa.int64()).cast(pa.timestamp("ms"))
    pq.write_table(table.set_column(at, "known_at", column), path)
    return path


def run(folder: Path, rows: list[Row], known: list[Row], using: Config | None = None) -> Summary:
    """Replay payments and a label file, both in files of their own, into the folder `out`."""
    folder.mkdir(exist_ok=True)
    shop = ndjson(folder / "shop", rows)
    given = [("verdicts", label_table(folder / "labels", known))] if known else []
    return replay(using or config(), [("shop", shop)], folder / "out", lambda *_: None, given)


def scores(folder: Path) -> dict[str, float]:
    """The score of each payment."""
    table = pq.read_table(folder / "out" / "scores.parquet")
    return dict(
        zip(table.column("event_id").to_pylist(), table.column("score").to_pylist(), strict=True)
    )


def final_labels(folder: Path) -> list[Row]:
    """The rows of labels.parquet."""
    found: list[Row] = pq.read_table(folder / "out" / "labels.parquet").to_pylist()
    return found


def named(rows: list[Row], known: list[Row]) -> list[Row]:
    """The same labels as a topic would bring them: with their event's entities, as they became
    known."""
    by_id = {row["id"]: row for row in rows}
    told = [
        one | {"account": by_id[one["payment"]]["who"], "device": by_id[one["payment"]]["device"]}
        for one in known
    ]
    return sorted(told, key=lambda one: one["known_at"])


def test_labels_by_event_id_train_like_labels_by_entity(tmp_path: Path) -> None:
    """A file of ids in any order is worth a topic of labels with entities, each at its time."""
    rows = payments()
    known = verdicts(rows)
    summary = run(tmp_path / "ids", rows, known)
    shop = ndjson(tmp_path / "shop", rows)
    topic = label_table(tmp_path / "topic", named(rows, known))
    inputs = [("shop", shop), ("verdicts", topic)]
    summary_of_topic = replay(config(), inputs, tmp_path / "named" / "out", lambda *_: None)
    assert scores(tmp_path / "ids") == scores(tmp_path / "named")
    assert len(set(scores(tmp_path / "ids").values())) > 20
    nobodies = [row["who"] is None and row["device"] is None for row in rows]
    nobody = sum(nobodies)
    late_nobody = sum(nobodies[-(LATER_MS // STEP_MS) :])
    assert summary.labels["verdicts"] == {
        "read": len(rows),
        "with_entity": 0,
        "joined": len(rows) - nobody,
        "event_without_entity": nobody,
        "unknown_event": 0,
        "unclear": 0,
        "dead_letters": 0,
        "before_event": 0,
        "after_last_event": sum(one["known_at"] > rows[-1]["at"] for one in known) - late_nobody,
        "ambiguous": 0,
    }
    assert nobody > 5
    assert summary.adds_up == {"account": True}
    # where nothing is joined, a label that names nobody is a dead letter, as it is live
    assert summary_of_topic.inputs["verdicts"]["dead_letter_label_without_entity"] == nobody
    letters = (tmp_path / "named" / "out" / "dead_letters.ndjson").read_bytes().splitlines()
    assert [orjson.loads(one)["eddy-code"] for one in letters] == ["label_without_entity"] * nobody
    assert summary_of_topic.adds_up == {"account": True}


def test_a_label_reaches_the_models_with_training_features_only(tmp_path: Path) -> None:
    """Entities that no reader of the labels looks at are not joined."""
    using = config()
    assert label_entity_fields(using, "verdicts") == ["account", "device"]
    text = CONFIG.replace(
        '  { kind = "label_risk", name = "device_risk", field = "device" },\n', ""
    )
    assert label_entity_fields(config(text), "verdicts") == ["account"]
    assessed = config(text + '[assess]\nsubject = "device"\n')
    assert label_entity_fields(assessed, "verdicts") == ["account", "device"]
    assert label_entity_fields(config(UNREAD), "verdicts") == []


def leaks(folder: Path) -> list[str]:
    """What changes before a moment when the labels known from it on are others: nothing should."""
    rows = payments()
    known = verdicts(rows)
    at_ms = START_MS + 1_000 * STEP_MS
    opposite = [
        one | {"fraud": 1 - one["fraud"]} if one["known_at"] >= at_ms else one for one in known
    ]
    without = [one for one in known if one["known_at"] < at_ms]
    for name, told in (("all", known), ("opposite", opposite), ("without", without)):
        run(folder / name, rows, told)
    truth = scores(folder / "all")
    found = []
    for name in ("opposite", "without"):
        other = scores(folder / name)
        changed = {row["id"] for row in rows if other[row["id"]] != truth[row["id"]]}
        assert changed, "the labels teach nothing, so that no leak could be seen"
        found += [row["id"] for row in rows if row["at"] < at_ms and row["id"] in changed]
    return found


def test_no_label_reaches_a_score_before_it_is_known(tmp_path: Path) -> None:
    """Other labels, or none, from a moment on change no score of an event before it."""
    assert leaks(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "planted"),
    [
        ("the event's own time", "due_ms + 1"),
        ("before the event", "due_ms - 1"),
        ("a minute too early", "label_ms - 60_000"),
    ],
)
def test_a_planted_leak_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, planted: str
) -> None:
    """The check above fails for labels that count from their event on, from before it, or only a
    minute too early."""
    monkeypatch.setattr(labels, "EFFECTIVE_MS", planted)
    assert leaks(tmp_path), name


@pytest.mark.slow
@pytest.mark.parametrize("named", [{}, {"account": "a7"}], ids=["by id", "by name"])
@pytest.mark.parametrize("late_ms", [0, 40_000])
def test_a_label_known_before_its_event_counts_after_it(
    tmp_path: Path, late_ms: int, named: dict[str, str]
) -> None:
    """Whatever time and entity it claims, it does not reach its own event, not even one that comes
    late."""
    rows = payments(1_500)
    last = rows[-3] | {"id": "late", "who": "a7", "at": rows[-3]["at"] - late_ms}
    rows.insert(-2, last)
    before = [label("late", START_MS + 5) | named]
    summary = run(tmp_path / "early", rows, before)
    run(tmp_path / "never", rows, [])
    assert scores(tmp_path / "early")["late"] == scores(tmp_path / "never")["late"]
    assert summary.labels["verdicts"]["before_event"] == 1
    assert final_labels(tmp_path / "early")[0]["known_time"].timestamp() * 1000 > rows[-3]["at"]


PARTITIONED = CONFIG.replace(
    'topic = "shop"', 'topic = "shop"\npartitions = 2\nkeyed_by = "device"\npartitioner = "murmur2"'
)


@pytest.mark.slow
def test_a_label_waits_for_its_event_in_whichever_partition(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labels known at the time of their events, of which one partition stands behind the other in
    the file: another verdict changes no score of the event that it is on."""
    monkeypatch.setattr(FileReader.__init__, "__defaults__", (20,))
    rows = [row | {"device": row["device"] or "d0"} for row in payments(1_000)]
    part = partition_of(pa.array([row["device"] for row in rows]), 2, "murmur2").tolist()
    askew = sorted(zip(rows, part, strict=True), key=lambda one: one[0]["at"] + 3_500_000 * one[1])
    known = [label(row["id"], row["at"], fraud=i % 7 == 0) for i, row in enumerate(rows)]
    at = next(i for i, p in enumerate(part) if p == 1 and i > 500)
    turned = [one | {"fraud": 1 - one["fraud"]} if i == at else one for i, one in enumerate(known)]
    for name, told in (("one", known), ("other", turned)):
        run(tmp_path / name, [row for row, _ in askew], told, config(PARTITIONED))
    one, other = (scores(tmp_path / name) for name in ("one", "other"))
    assert one[f"e{at}"] == other[f"e{at}"]
    assert one != other


@pytest.mark.slow
def test_a_non_event_holds_back_no_label(tmp_path: Path) -> None:
    """A record that the run takes for none, with a time that lies decades ahead, moves no label:
    every score is what it is without it."""
    rows = payments(1_000)
    ahead = rows[3] | {"id": None, "at": START_MS + 40 * 365 * 86_400_000}
    run(tmp_path / "with", [*rows[:9], ahead, *rows[9:]], verdicts(rows))
    run(tmp_path / "without", rows, verdicts(rows))
    assert scores(tmp_path / "with") == scores(tmp_path / "without")
    assert final_labels(tmp_path / "with") == final_labels(tmp_path / "without")


@pytest.mark.slow
def test_labels_among_events_hold_back_labels_of_these(tmp_path: Path) -> None:
    """An event that stands behind a label of a later time goes in when that has passed, and what a
    file says of it from then on."""
    text = CONFIG.replace(
        'type = "transaction"',
        'type = { field = "is", values = { "l" = "label", "t" = "transaction" } }',
    ).replace('amount = "amount"', 'amount = "amount"\nverdict = "verdict"')
    rows = [row | {"is": "t"} for row in payments(600)]
    held = rows[400] | {"id": "label", "is": "l", "verdict": "honest", "who": "a3"}
    held["at"] += 50_000
    rows[400:401] = [held, rows[400] | {"id": "late", "who": "a7"}]
    run(tmp_path / "early", rows, [label("late", START_MS + 5)], config(text))
    run(tmp_path / "never", rows, [], config(text))
    assert scores(tmp_path / "early")["late"] == scores(tmp_path / "never")["late"]


def test_a_correction_replaces_the_earlier_label(tmp_path: Path) -> None:
    """Once a fraud is taken back, the scores are those of the honest label alone; before, not. The
    last word stands in labels.parquet, once."""
    rows = payments()
    of, wrong_ms, right_ms = "e101", rows[200]["at"], rows[1_000]["at"]
    right = label(of, right_ms, fraud=False, how="none")
    run(tmp_path / "both", rows, [right, label(of, wrong_ms, how="stolen")])
    run(tmp_path / "right", rows, [right])
    run(tmp_path / "wrong", rows, [label(of, wrong_ms)])
    both, only, wrong = (scores(tmp_path / name) for name in ("both", "right", "wrong"))
    before = [row["id"] for row in rows[:1_000]]
    assert {of: both[of] for of in before} == {of: wrong[of] for of in before}
    assert any(both[of] != only[of] for of in before)
    who = rows[101]["who"]
    after = [row["id"] for row in rows[1_001:] if row["who"] == who]
    assert any(both[of] != wrong[of] for of in after)
    [word] = final_labels(tmp_path / "both")
    assert (word["event_id"], word["verdict"], word["scenario"]) == (of, "honest", "none")
    assert word["known_time"].timestamp() * 1000 == right_ms


def test_of_labels_before_event_the_later_is_final(tmp_path: Path) -> None:
    """They become known together, with the event; in the order of their times, not of the file."""
    rows = payments(500)
    fraud, honest = (label("e400", START_MS + ms, fraud=not ms) for ms in (0, 1))
    for name, both in (("old first", [fraud, honest]), ("new first", [honest, fraud])):
        run(tmp_path / name, rows, both)
        assert [word["verdict"] for word in final_labels(tmp_path / name)] == ["honest"]


def test_labels_of_unknown_events_are_counted_and_dropped(tmp_path: Path) -> None:
    """An id that no event has, and a label without an id, are no error, and teach nothing."""
    rows = payments(500)
    strange = [label("nowhere", START_MS + 1), label("", START_MS + 2)]
    summary = run(tmp_path / "strange", rows, strange)
    run(tmp_path / "none", rows, [])
    assert summary.labels["verdicts"]["unknown_event"] == 2
    assert summary.labels["verdicts"]["joined"] == 0
    assert scores(tmp_path / "strange") == scores(tmp_path / "none")
    assert final_labels(tmp_path / "strange") == []


def test_labels_that_name_an_entity_are_taken_as_they_are(tmp_path: Path) -> None:
    """They need no event, and what their event would add is not added."""
    rows = payments(1_000)
    alone = {"account": "a5", "known_at": rows[100]["at"], "fraud": 1, "payment": None}
    one = label("e10", rows[200]["at"]) | {"account": "a6", "device": None}
    summary = run(tmp_path / "named", rows, [one, alone])
    assert summary.labels["verdicts"]["with_entity"] == 2
    first, second = final_labels(tmp_path / "named")
    shown = pq.read_table(tmp_path / "named" / "out" / "scores.parquet")["account"].to_pylist()
    assert first["event_id"] is None
    assert first["account"] == next(
        id_ for row, id_ in zip(rows, shown, strict=True) if row["who"] == "a5"
    )
    assert (second["event_id"], second["account"]) == ("e10", None)
    assert "device" not in first
    run(tmp_path / "none", rows, [])
    changed = {
        row["who"]
        for row in rows[101:200]
        if scores(tmp_path / "named")[row["id"]] != scores(tmp_path / "none")[row["id"]]
    }
    assert "a5" in changed


def test_a_label_file_no_monitor_reads_serves_the_evaluation(tmp_path: Path) -> None:
    """Where no monitor learns from labels, all of known events are in labels.parquet and no score
    differs; events without any entity are no exception, nor where monitors learn."""
    rows = payments(600)
    known = verdicts(rows)
    summary = run(tmp_path / "unread", rows, known, config(UNREAD))
    run(tmp_path / "none", rows, [], config(UNREAD))
    assert scores(tmp_path / "unread") == scores(tmp_path / "none")
    assert summary.labels["verdicts"]["joined"] == len(rows)
    run(tmp_path / "read", rows, known)
    for name in ("unread", "read"):
        told = final_labels(tmp_path / name)
        assert sorted(one["event_id"] for one in told) == sorted(row["id"] for row in rows)
        times = [one["known_time"] for one in told]
        assert name == "read" or times == sorted(times)
        assert {one["scenario"] for one in told} == {"stolen"}


def test_unreadable_labels_are_dead_letters_and_all_add_up(tmp_path: Path) -> None:
    """A row without a time is kept in dead_letters.ndjson, and the others go their way."""
    rows = payments(300)
    known = [*verdicts(rows), {"payment": "e1", "known_at": None, "fraud": 1}]
    summary = run(tmp_path / "bad", rows, known)
    counts = summary.labels["verdicts"]
    assert (counts["dead_letters"], counts["read"], summary.dead_letters) == (1, 301, 1)
    [letter] = (tmp_path / "bad" / "out" / "dead_letters.ndjson").read_bytes().splitlines()
    assert orjson.loads(letter)["eddy-code"] == "missing_time"


def test_a_label_with_a_bad_field_is_a_label(tmp_path: Path) -> None:
    """A kind of the wrong type, and an event id too long for a field, take no label away: the label
    still means its event, and each repair is counted, with an example that is no dead letter."""
    rows = payments(300)
    rows[7] |= {"id": "e7" * 200}
    known = [{k: v for k, v in one.items() if k != "how"} for one in verdicts(rows)]
    good = run(tmp_path / "good", rows, [one | {"how": "stolen"} for one in known])
    bad = run(tmp_path / "bad", rows, [one | {"how": 0.5} for one in known])
    counts = bad.labels["verdicts"]
    assert counts["field_repaired/kind/wrong_type"] == 300
    assert counts["field_repaired/labelled_event_id/text_too_long"] == 1
    assert counts["dead_letters"] == bad.dead_letters == 0
    for name in ("read", "joined", "event_without_entity", "unknown_event"):
        assert counts[name] == good.labels["verdicts"][name]
    assert counts["unknown_event"] == 0
    assert any("bad values of fields" in note for note in bad.notes)


def test_examples_of_repaired_labels_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They wait in memory: only so many are kept, and every repair is counted."""
    monkeypatch.setattr(labels, "EXAMPLES_MAX", 1)
    rows = payments(300)
    summary = run(tmp_path, rows, [one | {"how": 0.5} for one in verdicts(rows)])
    assert summary.labels["verdicts"]["field_repaired/kind/wrong_type"] == 300
    assert len((tmp_path / "out" / "dead_letters.ndjson").read_bytes().splitlines()) == 1


def test_a_file_of_unreadable_labels_is_a_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More dead letters than are any accident are an error with the commonest reason."""
    monkeypatch.setattr(labels, "UNREADABLE_MAX", 20)
    rows = payments(50)
    with pytest.raises(
        InputError, match=r"50 of 50 labels cannot be read, 50 of them because of time: missing"
    ):
        run(tmp_path, rows, [one | {"known_at": None} for one in verdicts(rows)])


def test_labels_of_another_shape_are_refused_with_what_is_missing(tmp_path: Path) -> None:
    """Where the configuration has no input of labels they are read by Eddy's own names: a file of
    another shape, of any size, is an error that names that input and what belongs into it."""
    rows = payments(50)
    shop, labels_file = ndjson(tmp_path / "shop", rows), ndjson(tmp_path / "labels", verdicts(rows))
    text = UNREAD[: UNREAD.index("[inputs.verdicts]")] + UNREAD[UNREAD.index("[[monitors]]") :]
    using = with_label_input(config(text))
    expected = r"because of event_id: missing.*; inputs\.labels has no fields.*\[inputs\.labels\]"
    with pytest.raises(InputError, match=expected):
        replay(
            using, [("shop", shop)], tmp_path / "out", lambda *_: None, [("labels", labels_file)]
        )


def test_labels_without_a_verdict_are_counted_and_dropped(tmp_path: Path) -> None:
    """They teach and judge as if they were not there, whether in a file or among the events; the
    commonest of what they say is a note."""
    rows = payments(600)
    known = [one | {"fraud": str(one["fraud"])} for one in verdicts(rows)]
    odd = [one | {"fraud": "chargeback" if i else ""} for i, one in enumerate(known[:22])]
    summary = run(tmp_path / "odd", rows, odd + known[22:])
    run(tmp_path / "without", rows, known[22:])
    assert scores(tmp_path / "odd") == scores(tmp_path / "without")
    assert final_labels(tmp_path / "odd") == final_labels(tmp_path / "without")
    assert summary.labels["verdicts"]["unclear"] == 22
    [note] = [one for one in summary.notes if "neither" in one]
    assert "22 labels are neither fraud nor honest: 'chargeback' (21), nothing (1)" in note
    topic = label_table(tmp_path / "topic", named(rows, odd + known[22:]))
    inputs = [("shop", tmp_path / "odd" / "shop"), ("verdicts", topic)]
    of_topic = replay(config(), inputs, tmp_path / "topic_out" / "out", lambda *_: None)
    assert any("neither fraud nor honest: 'chargeback'" in one for one in of_topic.notes)
    assert {row["verdict"] for row in final_labels(tmp_path / "topic_out")} == {"fraud", "honest"}


def test_a_file_without_usable_labels_is_a_mistake(tmp_path: Path) -> None:
    """Where no label says fraud or honest, the file is not what it was given for: what they say, and
    where the mapping looked, is named."""
    rows = payments(50)
    said = r"none of 50 labels is fraud or honest; their verdicts are 'perhaps' \(50\).*verdicts.fields.verdict"
    with pytest.raises(InputError, match=said):
        run(tmp_path, rows, [one | {"fraud": "perhaps"} for one in verdicts(rows)])


def test_of_events_with_the_same_id_the_first_is_meant(tmp_path: Path) -> None:
    """A duplicate multiplies no label."""
    rows = payments(300)
    again = [*rows, rows[20]]
    summary = run(tmp_path / "twice", again, verdicts(rows))
    run(tmp_path / "once", rows, verdicts(rows))
    assert summary.labels["verdicts"]["read"] == len(rows)
    assert final_labels(tmp_path / "twice") == final_labels(tmp_path / "once")
    assert scores(tmp_path / "twice") == scores(tmp_path / "once")


def test_of_events_with_the_same_id_the_first_in_time_is_meant(tmp_path: Path) -> None:
    """Where ids return after longer than duplicates are remembered, a label is that of the event
    with the earliest time, whichever stands first in the file, and is counted as ambiguous."""
    using = config("limits = { duplicate_window = 2 }\n" + CONFIG)
    rows = payments(1_000)
    earlier = rows[101] | {"who": "a6", "device": None, "at": rows[101]["at"] - 500}
    rows.insert(105, earlier)
    of, at_ms = earlier["id"], rows[200]["at"]
    summary = run(tmp_path / "joined", rows, [label(of, at_ms), label("e7", at_ms)], using)
    assert summary.labels["verdicts"]["ambiguous"] == 1
    run(tmp_path / "a6", rows, [label(of, at_ms, account="a6"), label("e7", at_ms)], using)
    assert scores(tmp_path / "joined") == scores(tmp_path / "a6")
    run(tmp_path / "none", rows, [], using)
    assert scores(tmp_path / "a6") != scores(tmp_path / "none")


def test_the_memory_of_the_join_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With little memory and a few rows at a time, labels are joined and ordered alike."""
    rows = payments()
    run(tmp_path / "large", rows, verdicts(rows))
    monkeypatch.setattr(database, "MEMORY_LIMIT", "48MiB")
    monkeypatch.setattr(database, "ROWS_AT_ONCE", 7)
    run(tmp_path / "small", rows, verdicts(rows))
    assert scores(tmp_path / "small") == scores(tmp_path / "large")
    assert final_labels(tmp_path / "small") == final_labels(tmp_path / "large")


def test_a_topic_of_labels_is_joined_completely(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labels of all its partitions are read, taught and counted as those of one file are."""
    rows = payments(1_000)
    known = verdicts(rows)
    patch_topics(monkeypatch, {"verdicts": [known[::2], known[1::2]]})
    using = config(
        CONFIG.replace('topic = "verdicts"', 'topic = "verdicts"\npartitions = 2').replace(
            'unit = "iso"', 'unit = "ms"'
        )
        + "partitions = 1\n"
    )
    shop, out = ndjson(tmp_path / "shop", rows), tmp_path / "topic" / "out"
    topic = [("verdicts", "kafka://verdicts")]
    summary = replay(using, [("shop", shop)], out, lambda *_: None, topic)
    of_file = run(tmp_path / "file", rows, known)
    assert summary.labels == of_file.labels
    assert summary.inputs["verdicts"]["duplicate"] == 0
    assert scores(tmp_path / "topic") == scores(tmp_path / "file")
    assert sorted(one["event_id"] for one in final_labels(tmp_path / "topic")) == sorted(
        row["id"] for row in rows
    )


def test_labels_are_not_joined_to_an_internal_topic(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not hold the events that labels are of: that is said before anything is read."""
    patch_topics(monkeypatch, {"eddy-account-events": [[]]})
    known = label_table(tmp_path / "labels", verdicts(payments(10)))
    internal = [("account", "kafka://eddy-account-events")]
    with pytest.raises(InputError, match="--labels: an internal topic does not hold the events"):
        replay(config(), internal, tmp_path / "out", lambda *_: None, [("verdicts", known)])
    assert not (tmp_path / "out").exists()


def test_the_label_join_leaves_no_files(tmp_path: Path) -> None:
    """Neither a run that succeeds nor one that fails leaves tables behind; what one that was
    killed left is swept away."""
    rows = payments(200)
    out = tmp_path / "a" / "out"
    (out / "work.part" / "database-x.part").mkdir(parents=True)
    run(tmp_path / "a", rows, verdicts(rows))
    assert not [path for path in out.iterdir() if path.name.endswith(".part")]
    (tmp_path / "broken").write_bytes(b"PAR1")
    shop, broken = [("shop", tmp_path / "a" / "shop")], [("verdicts", tmp_path / "broken")]
    with pytest.raises(InputError, match="broken"):
        replay(config(), shop, out, lambda *_: None, broken)
    assert not [path for path in out.iterdir() if path.name.endswith(".part")]


def test_a_label_input_must_map_the_verdict(tmp_path: Path) -> None:
    """A mapping without it is refused before anything is joined."""
    without = re.sub("verdict = {.*}\n", "", UNREAD)
    with pytest.raises(InputError, match=r"inputs\.verdicts\.fields\.verdict: missing"):
        run(tmp_path, payments(10), verdicts(payments(10)), config(without))


def test_without_duckdb_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labels need the extra; a replay without labels does not."""
    monkeypatch.setitem(sys.modules, "duckdb", None)
    rows = payments(100)
    run(tmp_path / "without", rows, [])
    with pytest.raises(ExtraMissing, match="duckdb is not installed") as raised:
        run(tmp_path / "with", rows, verdicts(rows))
    assert "eddywatch[backtest]" in raised.value.remedy


@pytest.mark.parametrize(
    ("text", "given", "expected"),
    [
        (CONFIG, "a.parquet", ("verdicts", "a.parquet")),
        (CONFIG, "verdicts=a=b", ("verdicts", "a=b")),
        (CONFIG, "day=1/a", ("verdicts", "day=1/a")),
        (CONFIG, "kafka://labels?from=3", ("verdicts", "kafka://labels?from=3")),
        (CONFIG, "verdicts=s3://b/l.parquet", ("verdicts", "s3://b/l.parquet")),
        (
            CONFIG + '[inputs.more]\ntopic = "more"\ntype = "label"\n',
            "a",
            "NAME one of verdicts, more",
        ),
    ],
)
def test_labels_go_to_the_input_of_labels(
    text: str, given: str, expected: tuple[str, str] | str
) -> None:
    """A path alone will do where one input has type label; where none has, one in Eddy's own shape
    is added."""
    none = config(CONFIG.replace('type = "label"', 'type = "login"'))
    assert parse_labels_option(with_label_input(none), "a") == ("labels", "a")
    assert with_label_input(config(CONFIG)) == config(CONFIG)
    if isinstance(expected, tuple):
        assert parse_labels_option(config(text), given) == expected
        return
    with pytest.raises(InputError, match=expected):
        parse_labels_option(config(text), given)


def test_a_name_is_of_events_or_of_labels(tmp_path: Path) -> None:
    """The same under --input and --labels is refused, and so is a name for labels that the
    configuration gives to events."""
    rows = payments(20)
    shop = ndjson(tmp_path / "shop", rows)
    known = label_table(tmp_path / "labels", named(rows, verdicts(rows)))
    given = [("shop", shop), ("verdicts", known)]
    with pytest.raises(InputError, match="its records and those of verdicts have the same topic"):
        replay(config(), given, tmp_path / "out", lambda *_: None, [("verdicts", known)])
    taken = config(UNREAD.replace('type = "label"', 'type = "login"').replace("verdicts", "labels"))
    with pytest.raises(InputError, match=r"inputs\.labels holds events"):
        with_label_input(taken)


HANDBOOK = """
[inputs.transaction]
topic = "transactions"
type = "transaction"
[inputs.transaction.fields]
event_id = "transaction_id"
time = "ts"
card = "customer_id"
terminal = "terminal_id"
amount = "amount"

[inputs.label]
topic = "known-later"
type = "label"
[inputs.label.fields]
event_id = { position = true }
time = "available_at"
labelled_event_id = "transaction_id"
verdict = { path = "is_fraud", values = { "0" = "honest", "1" = "fraud" } }
kind = "scenario"
card = "card"
terminal = "terminal"

[[monitors]]
name = "terminal"
entity = "terminal"
inputs = ["transaction", "label"]
features = [{ name = "amount", kind = "value", field = "amount" }]
detectors = [{ kind = "label_risk", name = "risk", half_life = "14d" }]
"""


@pytest.mark.slow
def test_every_label_of_the_handbook_finds_its_payment(shared_data: Path, tmp_path: Path) -> None:
    """1.3 million labels by payment alone, known seven days late, are all joined; what they say of
    terminals puts the frauds of the last week first."""
    folder = shared_data / "transactions"
    inputs = [("transaction", folder / "handbook.parquet")]
    known = [("label", folder / "handbook_labels.parquet")]
    split = TimeSplit(from_ms=1_533_686_400_000)
    out = tmp_path / "out"
    summary = replay(config(HANDBOOK), inputs, out, lambda *_: None, known, split)
    counts = summary.labels["label"]
    assert counts["joined"] == counts["read"] == summary.events == 1_303_778
    words = pq.read_table(out / "labels.parquet", columns=["event_id", "verdict"])
    frauds = set(words.filter(pc.equal(words.column("verdict"), "fraud")).column(0).to_pylist())
    table = pq.read_table(out / "scores.parquet", filters=[("evaluated", "=", True)])
    fraud = np.array([of in frauds for of in table.column("event_id").to_pylist()])
    assert len(words) == 1_303_778
    top = np.argsort(-table.column("score").to_numpy(), kind="stable")[: len(fraud) // 100]
    assert fraud[top].mean() > 5 * fraud.mean()


@pytest.mark.parametrize("places", [["kafka://shop", "more"], ["kafka://shop", "kafka://shop"]])
def test_a_topic_is_the_only_place_of_its_input(tmp_path: Path, places: list[str]) -> None:
    """A topic and a file, or two topics, are refused before any is opened."""
    inputs = [("shop", place) for place in places]
    with pytest.raises(InputError, match="shop=kafka://shop: expected one topic, and nothing"):
        replay(config(), inputs, tmp_path / "out", lambda _records, _share: None)


def test_a_topic_range_is_read_whole_at_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The share that is read follows the offsets, and is 1 at the end, of a range whose last offsets
    have no records, too."""
    patch_topics(monkeypatch, {"shop": [payments(10)]})
    for stop, shares in ((10, [0.4, 0.8, 1.0, 1.0]), (16, [0.25, 0.5, 0.625, 1.0])):
        reader = vars(inputs)["TopicReader"]({}, "group", "shop")
        reader.start({0: OffsetRange(0, 10)})
        span = TopicRangeReader("shop", reader, 0, OffsetRange(0, stop), 4)
        assert span.fraction_read == 0.0
        assert [*(span.fraction_read for _ in span), span.fraction_read] == shares
