"""Configurations compared in one pass: each run is what it is alone, and the verdict says no more
than the labels do."""

import tomllib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import orjson
import pyarrow.parquet as pq
import pytest
from numpy.random import default_rng
from scipy.stats import spearmanr  # type: ignore[import-untyped]

from schemas.alerts import without_run
from schemas.columns import I64
from schemas.dead_letters import Fault
from schemas.records import Records
from stream.cli.compare import folder_names
from stream.config import Config, parse
from stream.errors import InputError
from stream.evaluation.comparison import Comparison, Difference, Drift, Pair, ScoreBand
from stream.evaluation.conclusions import (
    AVERAGE_PRECISION,
    EQUAL_RECALL,
    PRECISION,
    RECALL,
    pair_conclusion,
)
from stream.evaluation.drift import SCORE_STEP, population_stability
from stream.evaluation.results import Estimate
from stream.formatting import format_difference
from stream.inputs import FileReader
from stream.inputs.files import find_files
from stream.pipeline.decoding import Decoder, shared_decoders
from stream.replay import Summary, TimeSplit, replay
from stream.replay.compare_runs import Candidate, Renderers, compare
from stream.replay.run_files import FILES
from stream.report.comparison import _periods_chart, render_comparison
from stream.report.run_page import render_run
from tests.memory_topics import patch_topics

START_MS = 1_772_409_600_000
STEP_MS = 400_000
DAY_MS = 86_400_000
FRAUDS_EVERY = 50
CONFIG = """
reveal = ["account"]
[inputs.shop]
topic = "shop"
type = "transaction"
[inputs.shop.fields]
event_id = "id"
time = "at"
account = "who"
device = "device"
kind = "kind"
amount = "amount"

[inputs.visits]
topic = "visits"
codec = "access_log"

[inputs.verdicts]
topic = "verdicts"
type = "label"
[inputs.verdicts.fields]
event_id = { position = true }
time = "known_at"
labelled_event_id = "payment"
verdict = "verdict"
kind = "how"

[[monitors]]
name = "account"
entity = "account"
inputs = ["shop"]
features = [{ name = "amount", kind = "value", field = "amount", side = "high" }]
policy = { p_max = 1e-2, warm_up_events = 100, incident_gap = "1min", alerts_per_day = 20 }
"""
BY_GAP = CONFIG.replace('kind = "value", field = "amount", side = "high"', 'kind = "gap"')
TWO_PARTITIONS = CONFIG.replace(
    'topic = "shop"',
    'topic = "shop"\npartitions = 2\nkeyed_by = "account"\npartitioner = "murmur2"',
)
OVER_A_HOP = CONFIG.replace('inputs = ["shop"]', 'inputs = ["shop"]\npartitions = 3')
BY_ADDRESS = (
    CONFIG
    + """
[[monitors]]
name = "ip"
entity = "ip"
inputs = ["visits"]
features = [{ name = "requests_1min", kind = "count", half_life = "1min" }]
"""
)
SECOND_SHOP = """
[inputs.second]
topic = "second"
type = "transaction"
[inputs.second.fields]
event_id = "id"
time = "at"
account = "who"
amount = "amount"
"""
IN_SECOND_SHOP = """
[[monitors]]
name = "second"
entity = "account"
inputs = ["second"]
features = [{ name = "amount", kind = "value", field = "amount" }]
"""
LINE = '10.0.0.{} - - [{:02}/Mar/2026:{:02}:00:00 +0000] "GET / HTTP/1.1" 200 5 "-" "x"'
Row = dict[str, Any]


def config(text: str = CONFIG) -> Config:
    """A parsed configuration."""
    return parse(tomllib.loads(text), {})


def payments(count: int = 3_000) -> list[Row]:
    """Payments of twenty accounts over two weeks; each fiftieth is a fraud and far too large."""
    rng = default_rng(11)
    return [
        {
            "id": f"e{i}",
            "at": START_MS + i * STEP_MS,
            "who": f"a{rng.integers(20)}",
            "device": f"d{rng.integers(30)}",
            "kind": "food",
            "amount": round(float(rng.lognormal(3, 0.3)), 2) * (8 if is_fraud(i) else 1),
        }
        for i in range(count)
    ]


def is_fraud(index: int) -> bool:
    """Whether the payment of that number is one."""
    return index % FRAUDS_EVERY == FRAUDS_EVERY - 1


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The shop's payments with bad records among them, their labels, and visits at the same time."""
    folder = tmp_path_factory.mktemp("recorded")
    rows = payments()
    bad = [
        b"{",
        orjson.dumps(rows[4]),
        orjson.dumps(rows[1_198] | {"id": "long", "kind": "k" * 5_000}),
        orjson.dumps(rows[2_597] | {"id": "no number", "amount": "much"}),
    ]
    lines = [orjson.dumps(row) for row in rows]
    for place, line in zip((5, 9, 1_200, 2_600), bad, strict=True):
        lines.insert(place, line)
    labels = [
        orjson.dumps(
            {
                "payment": row["id"],
                "known_at": row["at"] + DAY_MS,
                "verdict": "fraud" if is_fraud(i) else "honest",
                "how": "takeover" if is_fraud(i) else None,
            }
        )
        for i, row in enumerate(rows)
    ]
    visits = [LINE.format(i % 7, 2 + i // 24, i % 24).encode() for i in range(24 * 10)]
    found = {"shop": lines, "labels": labels, "visits": visits}
    for name, content in found.items():
        (folder / name).write_bytes(b"\n".join(content))
    return {name: folder / name for name in found}


def candidate(name: str, text: str, files: dict[str, Path], *, labelled: bool = True) -> Candidate:
    """A configuration to compare."""
    return Candidate(name, config(text), [("verdicts", files["labels"])] if labelled else [])


def compared(
    candidates: Sequence[Candidate],
    files: dict[str, Path],
    out: Path,
    split: TimeSplit | None = None,
) -> Comparison:
    """Compare over shop and visits, without telling progress."""
    inputs = [("shop", files["shop"]), ("visits", files["visits"])]
    renderers = Renderers(render_run, render_comparison)
    progress = lambda _records, _share: None  # noqa: E731
    return compare(candidates, inputs, out, progress, split or TimeSplit(), renderers)


def left_behind(folder: Path) -> dict[str, bytes]:
    """What a run wrote, without the alerts' `run` and without times that a clock gave."""
    found = {name: (folder / name).read_bytes() for name in FILES if (folder / name).exists()}
    found.pop("index.html", None)
    lines = found["alerts.ndjson"].splitlines()
    summary = {
        key: value
        for key, value in orjson.loads(found["summary.json"]).items()
        if key not in {"name", "seconds", "events_per_s", "incidents"}
    }
    return found | {
        "alerts.ndjson": b"\n".join(map(without_run, lines)),
        "summary.json": orjson.dumps(summary),
    }


@pytest.mark.slow
def test_each_run_is_what_it_is_alone(files: dict[str, Path], tmp_path: Path) -> None:
    """Configurations that share inputs, want other fields of them, or cut them otherwise leave the
    same bytes behind as if each had been replayed by itself."""
    of = {
        "today": CONFIG,
        "gap": BY_GAP,
        "kinds": CONFIG.replace('field = "amount", side = "high"', 'field = "amount"').replace(
            "policy =", 'where = { kind = "food" }\npolicy ='
        ),
        "partitions": TWO_PARTITIONS,
        "hop": OVER_A_HOP,
        "address": BY_ADDRESS,
    }
    split = TimeSplit(from_ms=START_MS + 2 * DAY_MS)
    candidates = [candidate(name, text, files) for name, text in of.items()]
    compared(candidates, files, tmp_path / "together", split)
    inputs = [("shop", files["shop"]), ("visits", files["visits"])]
    for one in candidates:
        alone = tmp_path / "alone" / one.name
        replay(one.config, inputs, alone, lambda _r, _s: None, one.labels, split)
        expected, got = left_behind(alone), left_behind(tmp_path / "together" / one.name)
        assert [name for name in expected if expected[name] != got.get(name)] == []
        assert len(expected["alerts.ndjson"]) > 0
    letters = {
        name: (tmp_path / "together" / name / "dead_letters.ndjson").read_bytes().count(b"\n")
        for name in of
    }
    assert letters["kinds"] == letters["today"] + 1, (
        "a kind too long is an example where it is read"
    )


def test_inputs_with_the_same_mapping_are_decoded_once(files: dict[str, Path]) -> None:
    """Configurations with the same mapping share a batch's columns; one with another does not."""
    other = CONFIG.replace('amount = "amount"', 'amount = { path = "amount" }')
    first, second, third = shared_decoders([config(), config(BY_GAP), config(other)])
    spec = config().inputs["shop"]
    [batch] = next(iter(FileReader("shop", find_files(str(files["shop"])), spec, 4)))
    assert first["shop"] is second["shop"]
    assert first["shop"].read(batch) is second["shop"].read(batch)
    assert first["shop"] is not third["shop"]


def test_inputs_meet_as_in_a_run_alone(files: dict[str, Path], tmp_path: Path) -> None:
    """At the same event time the input that was named first goes first, whichever of them the first
    configuration reads."""
    both = CONFIG.replace("[inputs.visits]", SECOND_SHOP + "[inputs.visits]") + IN_SECOND_SHOP
    second = tmp_path / "second"
    second.write_bytes(files["shop"].read_bytes().replace(b'"id":"', b'"id":"second'))
    inputs = [("second", second), ("shop", files["shop"])]
    candidates = [Candidate("one", config()), Candidate("both", config(both))]
    compare(candidates, inputs, tmp_path / "together", lambda _r, _s: None)
    replay(config(both), inputs, tmp_path / "alone", lambda _r, _s: None)
    expected, got = left_behind(tmp_path / "alone"), left_behind(tmp_path / "together" / "both")
    assert [name for name in expected if expected[name] != got.get(name)] == []


def test_dead_letters_of_one_candidate_do_not_affect_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where one forgets ids that the other still knows, and so takes records that came again under a
    later time, the other reads its logs in the order in which it does alone."""
    monkeypatch.setattr("stream.replay.inputs.FileReader", partial(FileReader, batch_records=20))
    both = CONFIG.replace("[inputs.visits]", SECOND_SHOP + "[inputs.visits]") + IN_SECOND_SHOP
    forgetful = both + "[limits]\nduplicate_window = 2\n"
    inputs = []
    for name, at_ms in (("shop", 0), ("second", 30_000)):
        rows: list[Row] = [
            {"id": f"{name}{i}", "at": START_MS + at_ms + i * 60_000, "who": f"a{i % 7}"}
            | {"amount": 500.0 if i % 40 == 39 else 20.0 + i % 5}
            for i in range(400)
        ]
        for i in (59, 159, 259) if name == "shop" else ():  # the last of a batch
            rows.insert(i, rows[i] | {"id": rows[i - 30]["id"], "at": rows[i]["at"] + 240_000})
        (tmp_path / name).write_bytes(b"\n".join(map(orjson.dumps, rows)))
        inputs.append((name, tmp_path / name))
    candidates = [Candidate("long", config(both)), Candidate("short", config(forgetful))]
    compare(candidates, inputs, tmp_path / "together", lambda _r, _s: None)
    for one in candidates:
        replay(one.config, inputs, tmp_path / one.name, lambda _r, _s: None)
        expected = left_behind(tmp_path / one.name)
        got = left_behind(tmp_path / "together" / one.name)
        assert [name for name in expected if expected[name] != got.get(name)] == []


@pytest.mark.slow
def test_events_of_a_topic_are_there_beside_labels(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stretch that labels were joined to is read once more for the runs."""
    patch_topics(monkeypatch, {"shop": [payments(300)]})
    candidates = [candidate(name, CONFIG, files) for name in ("one", "two")]
    told = compare(candidates, [("shop", "kafka://shop")], tmp_path / "out", lambda _r, _s: None)
    assert [side.events for side in told.runs] == [300, 300]
    assert told.no_evaluation_reason is None


@pytest.mark.slow
def test_labels_cost_one_more_reading_of_the_events_for_all(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many configurations have labels, their events are decoded once to be joined, and once
    for all runs."""
    decoded = Counter[str]()
    screened = Decoder._decodable_rows

    def counted(self: Decoder, batch: Records) -> tuple[I64, list[Fault], int]:
        decoded[batch.topic] += 1
        return screened(self, batch)

    monkeypatch.setattr(Decoder, "_decodable_rows", counted)
    shop = tmp_path / "shop"
    shop.write_bytes(b"\n".join(map(orjson.dumps, payments(300))))
    candidates = [candidate(str(i), CONFIG, files) for i in range(3)]
    compare(candidates, [("shop", shop)], tmp_path / "out", lambda _r, _s: None)
    assert decoded["shop"] == 2


@pytest.mark.slow
def test_the_better_one_is_named(files: dict[str, Path], tmp_path: Path) -> None:
    """What finds frauds that the other cannot see catches more, whichever of them comes first, and
    the difference is the same with its sign turned."""
    amount, gap = candidate("amount", CONFIG, files), candidate("gap", BY_GAP, files)
    one = compared([gap, amount], files, tmp_path / "one")
    other = compared([amount, gap], files, tmp_path / "other")
    better = "amount catches more than gap with equally many alerts."
    assert one.conclusion.startswith(better)
    assert other.conclusion.startswith(better)
    assert one.pairs[0].reason == other.pairs[0].reason
    [forth], [back] = one.pairs, other.pairs
    for there, here in zip(forth.differences, back.differences, strict=True):
        assert there.difference.value == pytest.approx(-(here.difference.value or 0.0))
        if there.difference.low is not None:
            assert there.difference.low == pytest.approx(-(here.difference.high or 0.0))
    view = one.runs[1].view
    assert view is not None
    assert forth.differences[0].other == view.levels["events"].average_precision.value
    frauds = next(one for one in forth.overlaps if one.what == "frauds")
    assert frauds.other_only > frauds.both + frauds.first_only
    assert [found.amount for found in forth.caught_by_other_only] == sorted(
        (found.amount for found in forth.caught_by_other_only), key=lambda amount: -(amount or 0.0)
    )


def test_the_same_configuration_is_no_better(files: dict[str, Path], tmp_path: Path) -> None:
    """Compared with itself no difference is significant: every one is exactly 0, all alerts are in
    common and no setting differs."""
    same = compared([candidate(n, CONFIG, files) for n in ("one", "two")], files, tmp_path / "out")
    [pair] = same.pairs
    assert same.conclusion.startswith("No significant difference between one and two. ")
    # an interval would say that in some resample the two differ
    assert {(d.value, d.low, d.high) for one in pair.differences for d in [one.difference]} == {
        (0.0, None, None)
    }
    assert pair.reason == "average precision the same; recall at equally many alerts the same"
    assert {one.first_only + one.other_only for one in pair.overlaps} == {0.0}
    assert pair.overlaps[0].both > 0
    assert pair.drift.rank_correlation == pytest.approx(1.0)
    assert pair.drift.alerts_in_common == 1.0
    assert pair.drift.population_stability == 0.0
    assert same.settings == []


NO_DRIFT = Drift(
    events=1,
    rank_correlation=None,
    population_stability=0.0,
    alerts_in_common=None,
    bands=[],
    period_days=1,
    periods=[],
)


def difference(measure: str, low: float, high: float) -> Difference:
    """A measure that differs by as much."""
    apart = Estimate(value=(low + high) / 2, low=low, high=high)
    sign = int(low > 0) - int(high < 0)
    return Difference(measure=measure, first=0.5, other=0.25, difference=apart, sign=sign)


@pytest.mark.parametrize(
    ("ranks", "finds", "expected"),
    [
        ((0.02, 0.05), (0.01, 0.03), "b catches more than a with equally many alerts"),
        ((-0.05, -0.02), (-0.03, -0.01), "a catches more than b with equally many alerts"),
        ((-0.05, -0.02), (-0.03, 0.01), "a ranks frauds higher than b; b alerts on 4 times"),
        (
            (-0.02, 0.02),
            (0.01, 0.03),
            "b finds more frauds than a with equally many alerts; no significant",
        ),
        ((0.02, 0.05), (-0.03, -0.01), "b ranks frauds higher than a; with equally many alerts a"),
        (
            (-0.02, 0.02),
            (-0.01, 0.03),
            "No significant difference in how a and b rank; b alerts on",
        ),
    ],
)
def test_the_winner_follows_from_the_intervals(
    ranks: tuple[float, float], finds: tuple[float, float], expected: str
) -> None:
    """A run is called better by a measure only where its interval leaves 0 out, both measures are
    told as the better one has them, and what each costs is told as it is."""
    differences = [
        difference(AVERAGE_PRECISION, *ranks),
        difference(EQUAL_RECALL, *finds),
        difference(PRECISION, -0.4, -0.1),
    ]
    told = pair_conclusion("a", "b", differences, (450, 1_800), NO_DRIFT)
    assert told.conclusion.startswith(expected)
    sign = -1 if told.conclusion.startswith("a ") else 1
    value = sum(ranks) / 2 * sign
    assert told.reason.startswith(f"average precision {format_difference(value)} (95 %: ")
    gap = "\N{NO-BREAK SPACE}"
    assert told.alert_volume == (
        f"a has 450 events with an alert, 50.0{gap}% of them fraud; "
        f"b has 1{gap}800 events with an alert, 25.0{gap}% of them fraud"
    )


def test_more_alerts_at_lower_precision_is_stated_first() -> None:
    """Where both rank alike the verdict says how many times as many events one alerts on, at what
    part of the other's precision, and why it finds more; where these cannot be told apart, neither."""
    alike = [difference(AVERAGE_PRECISION, -0.1, 0.1), difference(EQUAL_RECALL, -0.1, 0.1)]
    told = pair_conclusion(
        "a", "b", [*alike, difference(PRECISION, -0.4, -0.1)], (100, 620), NO_DRIFT
    )
    assert told.conclusion == (
        "No significant difference in how a and b rank; "
        "b alerts on 6.2 times as many events as a, at 0.5 times its precision"
    )
    more = [*alike, difference(RECALL, 0.21, 0.48), difference(PRECISION, -0.1, 0.1)]
    told = pair_conclusion("a", "b", more, (100, 620), NO_DRIFT)
    assert told.reason.endswith("; recall at the alert budget +.345 (95 %: +.210 to +.480)")
    same = [*alike, difference(RECALL, -0.1, 0.1), difference(PRECISION, -0.1, 0.1)]
    told = pair_conclusion("a", "b", same, (100, 102), NO_DRIFT)
    assert told.conclusion == "No significant difference between a and b"


@pytest.mark.slow
def test_certain_differences_are_marked(files: dict[str, Path], tmp_path: Path) -> None:
    """Where the one finds each fraud and the other none, on every day, no resample differs: there is
    no interval, and yet it is said which is better."""
    policy = "policy = { p_max = 1e-8, warm_up_events = 0, alerts_per_day = 1000 }"
    rule = 'rules = [{{ name = "large", at_least = {{ amount = {} }}, p = 1e-9 }}]\n'
    text = CONFIG[: CONFIG.index("policy =")]
    day = 288
    rows: list[Row] = [
        {"id": f"e{i}", "at": START_MS + i * DAY_MS // day, "who": f"a{i % 20}", "amount": 5.0}
        for i in range(day * 12)
    ]
    frauds = rows[100::day]
    for row in frauds:
        row["amount"] = 90.0
    for row in rows[200::day]:
        row["kind"] = "odd"
    labels = [{"payment": r["id"], "known_at": r["at"] + 9, "verdict": "fraud"} for r in frauds]
    own = {name: tmp_path / name for name in ("shop", "labels")}
    for name, content in (("shop", rows), ("labels", labels)):
        own[name].write_bytes(b"\n".join(map(orjson.dumps, content)))
    odd = 'where = { kind = "odd" }\n'
    both = {"odd": text + odd + rule.format(1) + policy, "large": text + rule.format(80) + policy}
    told = compare(
        [candidate(name, of, own) for name, of in both.items()],
        [("shop", own["shop"])],
        tmp_path / "out",
        lambda _records, _share: None,
        TimeSplit(),
    )
    [pair] = told.pairs
    found = {one.measure: one for one in pair.differences}[RECALL]
    assert (found.difference.value, found.difference.low, found.sign) == (1.0, None, 1)
    assert "large catches more than odd with equally many alerts" in told.conclusion
    assert "(the same in every resample)" in pair.reason


def test_without_labels_runs_are_still_compared(files: dict[str, Path], tmp_path: Path) -> None:
    """A time behind the last event leaves nothing to judge, and is no error."""
    candidates = [candidate("a", CONFIG, files), candidate("b", BY_GAP, files)]
    told = compared(candidates, files, tmp_path / "out", TimeSplit(from_ms=START_MS + 400 * DAY_MS))
    [pair] = told.pairs
    assert (pair.drift.events, pair.drift.rank_correlation) == (0, None)


@pytest.mark.slow
def test_runs_in_a_folder_with_signs_of_patterns_are_their_own(
    files: dict[str, Path], tmp_path: Path
) -> None:
    """What a folder's name would match as a pattern is not compared in its place."""
    candidates = [candidate("a", CONFIG, files), candidate("b", BY_GAP, files)]
    later = compared(candidates, files, tmp_path / "o1", TimeSplit(from_ms=START_MS + 3 * DAY_MS))
    told = compared(candidates, files, tmp_path / "o[1]")
    assert told.pairs[0].drift.events == told.runs[0].events > later.runs[0].events


def test_to_no_alert_at_all_nothing_is_equally_many(files: dict[str, Path], tmp_path: Path) -> None:
    """Held against a run without alerts the recall at equally many is not defined, and the verdict
    says so, and what the other finds."""
    silent = CONFIG.replace("p_max = 1e-2", "p_max = 1e-12")
    told = compared(
        [candidate("none", silent, files), candidate("some", CONFIG, files)],
        files,
        tmp_path / "out",
    )
    [pair] = told.pairs
    by_measure = {one.measure: one for one in pair.differences}
    equal = by_measure[EQUAL_RECALL]
    assert (equal.first, equal.other, equal.difference.value) == (None, None, None)
    assert "; none has no alert, so recall at equally many alerts is undefined" in pair.conclusion
    found = format_difference(by_measure[RECALL].difference.value)
    assert f"; recall at the alert budget {found}" in pair.reason
    assert "equally many" not in pair.reason


@pytest.mark.slow
def test_more_alerts_alone_are_not_better(files: dict[str, Path], tmp_path: Path) -> None:
    """The same model with a threshold that lets more alerts through finds more frauds, at a price:
    the verdict calls neither better, and tells the price."""
    strict = CONFIG.replace("p_max = 1e-2", "p_max = 1e-3")
    told = compared(
        [candidate("few", strict, files), candidate("many", CONFIG, files)], files, tmp_path / "out"
    )
    [pair] = told.pairs
    by_measure = {one.measure: one.difference for one in pair.differences}
    more = by_measure["recall at the alert budget"]
    assert more.low is not None
    assert more.low > 0
    equal = by_measure[EQUAL_RECALL]
    assert equal.low is None or equal.low <= 0
    assert told.conclusion.startswith("No significant difference in how few and many rank; many ")
    assert "; recall at the alert budget +" in pair.reason
    few, many = (side.view for side in told.runs)
    assert few is not None
    assert many is not None
    for view in (few, many):
        events = view.levels["events"]
        assert f" has {events.published} events with an alert, " in told.conclusion


def test_without_labels_there_is_no_winner(files: dict[str, Path], tmp_path: Path) -> None:
    """Without labels only drift and overlaps are told, and the verdict says so."""
    both = [candidate(n, t, files, labelled=False) for n, t in (("a", CONFIG), ("b", BY_GAP))]
    told = compared(both, files, tmp_path / "out")
    assert told.conclusion.startswith(
        "Without labels of events it is unknown whether a or b is better"
    )
    assert str(told.no_evaluation_reason).startswith("No labels were given")
    assert told.pairs[0].differences == []
    assert {one.what for one in told.pairs[0].overlaps} == {
        *("events", "entities", "incidents", "amount"),
    }
    assert told.pairs[0].drift.rank_correlation is not None
    assert told.pairs[0].drift.rank_correlation < 0.9
    assert told.settings[0].key.startswith("monitors.account.features[0].")


def test_the_folder_holds_every_table_with_the_same_figures(
    files: dict[str, Path], tmp_path: Path
) -> None:
    """comparison.json is the comparison, and comparing again into the folder replaces it; a folder
    with anything else in it is refused."""
    out = tmp_path / "out"
    both = [candidate("a", CONFIG, files), candidate("b", BY_GAP, files)]
    told = compared(both, files, out)
    read = msgspec.json.decode((out / "comparison.json").read_bytes(), type=Comparison)
    assert read == told
    assert sorted(entry.name for entry in out.iterdir()) == [
        *("a", "b", "comparison.json", "index.html"),
    ]
    assert compared(both, files, out).pairs == told.pairs
    with pytest.raises(InputError, match="holds b, which"):
        compared([both[0], candidate("c", BY_GAP, files)], files, out)
    with pytest.raises(InputError, match="two or more with different names"):
        compared([both[0], both[0]], files, tmp_path / "twice")
    with pytest.raises(InputError, match="no input is named nowhere"):
        compare(both, [("nowhere", files["shop"])], tmp_path / "n", lambda _r, _s: None)


def test_a_configuration_that_would_read_nothing_is_refused(
    files: dict[str, Path], tmp_path: Path
) -> None:
    """Held against one that reads none of the files, every verdict would be void; nothing is left."""
    elsewhere = CONFIG.replace("[inputs.shop]", "[inputs.till]").replace('["shop"]', '["till"]')
    elsewhere = elsewhere.replace("[inputs.shop.", "[inputs.till.")
    both = [
        candidate("a", CONFIG, files, labelled=False),
        candidate("b", elsewhere, files, labelled=False),
    ]
    with pytest.raises(
        InputError, match="b has none of the inputs shop; expected a file for one of"
    ):
        compare(both, [("shop", files["shop"])], tmp_path / "out", lambda _r, _s: None)
    assert not (tmp_path / "out").exists()


def test_stability_is_what_its_formula_says() -> None:
    """Σ (q - p) ln (q/p) over the shares of bands, half an event added to each, by hand."""
    bands = [
        ScoreBand(score_from=0.0, first=1.0, other=1.0),
        ScoreBand(score_from=1.0, first=0.3, other=0.6),
    ]
    p, q = np.array([70.5, 30.5]) / 101, np.array([40.5, 60.5]) / 101
    by_hand = (q[0] - p[0]) * np.log(q[0] / p[0]) + (q[1] - p[1]) * np.log(q[1] / p[1])
    assert population_stability(bands, 100) == pytest.approx(by_hand)
    assert by_hand > 0.25


@pytest.mark.slow
def test_drift_is_that_of_what_both_runs_wrote(files: dict[str, Path], tmp_path: Path) -> None:
    """The correlation is scipy's of the scores, cut to their steps; each period has the events of
    its day on which one and the other and both alert."""
    both = [candidate("a", CONFIG, files), candidate("b", BY_GAP, files)]
    told = compared(both, files, tmp_path / "out").pairs[0].drift
    first, other = (
        pq.read_table(tmp_path / "out" / name / "scores.parquet").sort_by("event_id")["score"]
        for name in "ab"
    )
    steps = [np.floor(one.to_numpy() / SCORE_STEP) for one in (first, other)]
    assert told.rank_correlation == pytest.approx(spearmanr(*steps).statistic)
    alerted = []
    for name in "ab":
        alerts = pq.read_table(tmp_path / "out" / name / "alerts.parquet").to_pylist()
        alerted.append({(row["event_id"], str(row["event_time"])[:10]) for row in alerts})
    assert told.period_days == 1
    assert len(told.periods) == 14
    for one in told.periods:
        of_day = [{event for event, day in each if day == one.from_day} for each in alerted]
        common = of_day[0] & of_day[1]
        assert (one.first, one.other, one.both) == (*map(len, of_day), len(common))
    assert sum(one.first for one in told.periods) > 20


WIDE = CONFIG.replace(
    "policy = { p_max = 1e-2, warm_up_events = 100,",
    """rules = [
  { name = "dear", at_least = { amount = 100 }, p = 1e-4 },
  { name = "dearer", at_least = { amount = 1_000 }, p = 1e-5 },
]
policy = { p_max = 1e-3, warm_up_events = 0,""",
).replace('"1min"', '"1h"')
NARROW = WIDE.replace('"1h"', '"1min"')
"""Both alert on each payment of 100 or more; the wide one counts those of a burst as one incident."""


def test_an_alert_is_a_published_one_wherever_runs_are_compared(tmp_path: Path) -> None:
    """What was only counted into an incident is recall and amount alerted on, and nothing else: cost,
    precision, overlaps, periods, equally many alerts and the frauds of one alone are of events with
    an alert, by hand."""
    rows, frauds = [], []
    for day in range(3):
        for i, (who, amount) in enumerate(
            [*((f"b{i % 9}", 5.0) for i in range(40)), *(("a", x) for x in (150, 150, 150, 1_500))]
        ):
            at = START_MS + day * DAY_MS + i * 120_000
            rows.append({"id": f"e{day}-{i}", "at": at, "who": who, "amount": amount})
            if i > 40:  # the burst's first is honest
                frauds.append({"payment": f"e{day}-{i}", "known_at": at, "verdict": "fraud"})
    made, known = tmp_path / "shop", tmp_path / "labels"
    for path, content in ((made, rows), (known, frauds)):
        path.write_bytes(b"\n".join(map(orjson.dumps, content)))
    both = [
        Candidate(name, config(text), [("verdicts", known)])
        for name, text in (("wide", WIDE), ("narrow", NARROW))
    ]
    told = compare(both, [("shop", made)], tmp_path / "out", lambda _records, _share: None)
    [pair] = told.pairs
    gap = "\N{NO-BREAK SPACE}"
    assert pair.alert_volume == (
        f"wide has 3 events with an alert, 0{gap}% of them fraud; "
        f"narrow has 12 events with an alert, 75.0{gap}% of them fraud"
    )
    found = {one.measure: (one.first, one.other) for one in pair.differences}
    assert found[PRECISION] == (0.0, 0.75)
    assert found[EQUAL_RECALL] == (0.0, 3 / 9)  # narrow's dearest of each burst
    assert found["recall at the alert budget"] == (1.0, 1.0)
    assert found["share of the frauds' amount alerted on"] == (1.0, 1.0)
    assert {one.what: (one.both, one.first_only, one.other_only) for one in pair.overlaps} == {
        "events": (3, 0, 9),
        "entities": (1, 0, 0),
        "incidents": (3, 0, 9),
        "amount": (450, 0, 5_400),
        "frauds": (0, 0, 9),
        "fraud entities": (1, 0, 0),
        "fraud amount": (0, 0, 5_400),
    }
    assert [(one.first, one.other, one.both) for one in pair.drift.periods] == [(1, 4, 1)] * 3
    assert pair.drift.alerts_in_common == 0.25
    assert (len(pair.caught_by_first_only), len(pair.caught_by_other_only)) == (0, 9)


def test_names_of_folders_are_plain_and_differ() -> None:
    """A configuration's folder is named by its file, without what a path or a page could trip
    over."""
    paths = [
        Path("x/today.toml"),
        Path("y/today.toml"),
        Path('<b>"../é.toml'),
        Path("index.html.x"),
    ]
    assert folder_names(paths) == ["today", "today-2", "configuration", "index-html"]


def test_summary_reads_back(files: dict[str, Path], tmp_path: Path) -> None:
    """summary.json holds the whole summary."""
    one = candidate("one", CONFIG, files)
    inputs = [("shop", files["shop"])]
    told = replay(one.config, inputs, tmp_path / "out", lambda _r, _s: None, one.labels)
    read = msgspec.json.decode((tmp_path / "out" / "summary.json").read_bytes(), type=Summary)
    assert read == told


def test_an_event_matches_in_both_runs_whatever_the_batches(tmp_path: Path) -> None:
    """By position where all cut alike, else by id and time; where ids are positions of other
    partitions it is refused, before anything is read."""
    path = tmp_path / "shop"
    path.write_bytes(b"\n".join(map(orjson.dumps, payments(300))))
    by_place = "event_id = { position = true }"
    positional, two_positional = (
        text.replace('event_id = "id"', by_place, 1) for text in (CONFIG, TWO_PARTITIONS)
    )

    def drift(*texts: str) -> Drift:
        both = [Candidate(name, config(text)) for name, text in zip("ab", texts, strict=True)]
        told = compare(both, [("shop", path)], tmp_path / "out", lambda _records, _share: None)
        return told.pairs[0].drift

    assert drift(CONFIG, TWO_PARTITIONS).events == 300
    alike = drift(CONFIG, positional)
    assert alike.events == 300
    assert alike.rank_correlation == pytest.approx(1.0)
    with pytest.raises(InputError, match="event ids are positions, and the configurations divide"):
        drift(positional, two_positional)
    with pytest.raises(InputError, match="none has the same id and time in both"):
        drift(CONFIG, TWO_PARTITIONS.replace('event_id = "id"', 'event_id = "device"'))


@pytest.mark.parametrize(("days", "each"), [(1, "day"), (2, "2 days"), (30, "30 days")])
def test_a_chart_of_periods_names_their_length(days: int, each: str) -> None:
    """A day, or so many days."""
    drift = replace(NO_DRIFT, period_days=days)
    pair = Pair(
        first="a",
        other="b",
        conclusion="",
        alert_volume="",
        reason="",
        differences=[],
        overlaps=[],
        caught_by_first_only=[],
        caught_by_other_only=[],
        drift=drift,
    )
    chart = _periods_chart(pair, 0)
    assert chart.label == f"Events with an alert, each {each}, of a, of b and of both"
    assert chart.data["x"]["title"] == f"{each} from"
