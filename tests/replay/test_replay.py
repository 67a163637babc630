"""A replay writes an alert file, a score for every event and counts that add up."""

import gzip
import tomllib
from datetime import UTC, datetime
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
from numpy.random import default_rng

from schemas.alerts import json_schema
from schemas.records import Records
from schemas.reports import ReportBatch
from stream.cli.run_output import repeated_event_warning
from stream.config import Config, load, parse
from stream.errors import InputError
from stream.inputs import FileReader
from stream.inputs.partitioning import partition_of
from stream.pipeline.alerting import RunInfo
from stream.pipeline.shard import ShardFactory
from stream.pipeline.stages.assess import Assess, AssessOutput
from stream.replay import Summary, replay
from stream.replay.run_files import FILES
from tests.memory_topics import patch_topics

ROOT = Path(__file__).resolve().parents[2]
START_MS = 1_772_409_600_000
CONFIG = """
reveal = ["account"]

[inputs.shop]
topic = "shop"
type = "transaction"

[inputs.site]
topic = "site"
codec = "access_log"

[[monitors]]
name = "account"
entity = "account"
inputs = ["shop"]
where = { kind = "payment" }
features = [
  { name = "amount", kind = "value", field = "amount", side = "high" },
  { name = "payments_1h", kind = "count", half_life = "1h" },
]
policy = { p_max = 1e-2, warm_up_events = 100, incident_gap = "1min" }

[[monitors]]
name = "ip"
entity = "ip"
inputs = ["site"]
features = [{ name = "requests_1min", kind = "count", half_life = "1min" }]
"""
LINE = '10.0.0.{} - - [02/Mar/2026:00:{:02}:{:02} +0000] "GET / HTTP/1.1" 200 5 "-" "x"'


def config(text: str = CONFIG) -> Config:
    """A parsed configuration."""
    return parse(tomllib.loads(text), {})


def events(count: int = 3_000) -> list[dict[str, Any]]:
    """Payments of twenty accounts, the last one of another kind altogether."""
    rng = default_rng(7)
    made = [
        {
            "event_id": f"e{i}",
            "time": START_MS + i * 10_000,
            "kind": "payment" if i % 5 else "refund",
            "account": f"a{rng.integers(20)}",
            "amount": round(float(rng.lognormal(3, 0.3)), 2),
        }
        for i in range(count)
    ]
    made[-1] |= {"kind": "payment", "account": "a3", "amount": 1e6}
    return made


def ndjson(path: Path, rows: list[dict[str, Any]], extra: tuple[bytes, ...] = ()) -> Path:
    """A file with one event a line."""
    path.write_bytes(b"\n".join([*map(orjson.dumps, rows), *extra]))
    return path


def run(inputs: list[tuple[str, Path]], out: Path, using: Config | None = None) -> Summary:
    """Replay without telling progress."""
    return replay(using or config(), inputs, out, lambda _records, _share: None)


def scores(out: Path) -> pa.Table:
    """The scores that a run wrote."""
    return pq.read_table(out / "scores.parquet")


def without_run(out: Path) -> list[dict[str, Any]]:
    """The alerts that a run wrote, less what the log does not determine."""
    lines = (out / "alerts.ndjson").read_bytes().splitlines()
    return [{k: v for k, v in orjson.loads(line).items() if k != "run"} for line in lines]


def test_every_event_has_a_score_and_every_count_adds_up(tmp_path: Path) -> None:
    """Scores, alerts, dead letters and counters all speak of the same events."""
    jsonschema = pytest.importorskip("jsonschema")
    rows = events()
    path = ndjson(tmp_path / "in", rows, (orjson.dumps(rows[0]), b"{", b"[]"))
    out = tmp_path / "out"
    summary = run([("shop", path)], out)
    table = scores(out)
    assert table.column_names == [
        *("event_id", "event_time", "topic", "partition", "offset"),
        *("score", "score_account", "score_ip", "activity_account", "activity_ip"),
        *("surprising_account", "surprising_ip", "account", "ip", "amount", "evaluated"),
    ]
    assert table.column("account").to_pylist() == [row["account"] for row in rows]
    assert table.column("amount").to_pylist() == [row["amount"] for row in rows]
    assert table.column("surprising_account").to_pylist()[-1] == "amount"
    assert table.column("surprising_ip").null_count == table.column("ip").null_count == len(rows)
    assert table.column("event_id").to_pylist() == [row["event_id"] for row in rows]
    assert table.schema.field("event_time").type == pa.timestamp("ms")
    times = [
        t.replace(tzinfo=UTC).timestamp() * 1000 for t in table.column("event_time").to_pylist()
    ]
    assert times == [row["time"] for row in rows]
    refunds = [row["kind"] == "refund" for row in rows]
    assert [score is None for score in table.column("score_account").to_pylist()] == refunds
    assert table.column("score_ip").null_count == len(rows)
    assert table.column("score").null_count == 0
    combined = table.column("score").to_pylist()
    silent = zip(combined, refunds, strict=True)
    assert {value for value, refund in silent if refund} == {0.0}
    assert combined.index(max(combined)) == len(rows) - 1
    assert summary.inputs["shop"]["read"] == len(rows) + 3
    assert summary.inputs["shop"]["duplicate"] == 1
    assert summary.monitors["account"]["not_applicable"] == sum(refunds)
    assert summary.adds_up == {"account": True, "ip": True}
    assert (summary.events, summary.dead_letters) == (len(rows), 2)
    assert summary.first_event_time == "2026-03-02T00:00:00.000Z"
    alerts = [orjson.loads(line) for line in (out / "alerts.ndjson").read_bytes().splitlines()]
    assert summary.alerts["account"] == len(alerts) > 0
    assert alerts[-1]["entity"] == {"type": "account", "id": "a3", "pseudonym": False}
    assert alerts[-1]["evidence"][0]["topic"] == "shop"
    assert alerts[-1]["evidence"][0]["offset"] == len(rows) - 1
    for alert in alerts:
        jsonschema.validate(alert, json_schema())
        assert (alert["run"]["mode"], alert["run"]["enforceable"]) == ("replay", False)
    letters = [orjson.loads(x) for x in (out / "dead_letters.ndjson").read_bytes().splitlines()]
    assert [letter["eddy-code"] for letter in letters] == ["malformed", "wrong_type"]
    assert orjson.loads((out / "summary.json").read_bytes())["alerts"] == summary.alerts
    assert {entry.name for entry in out.iterdir()} == {*FILES} - {
        "index.html",
        "features.parquet",
        "frauds.parquet",
    }


def test_formats_of_the_same_events_give_the_same_results(tmp_path: Path) -> None:
    """Parquet, NDJSON and packed NDJSON lead to the same alerts and the same scores."""
    rows = events(1_000)
    plain = ndjson(tmp_path / "in", rows)
    packed = tmp_path / "in.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    columns = tmp_path / "in.parquet"
    pq.write_table(pa.Table.from_pylist(rows), columns)
    outs = []
    for path in (plain, packed, columns):
        outs.append(tmp_path / f"out-{path.name}")
        run([("shop", path)], outs[-1])
    first, *others = outs
    for other in others:
        assert scores(other).equals(scores(first))
        assert without_run(other) == without_run(first)


def test_inputs_meet_by_event_time(tmp_path: Path) -> None:
    """With several inputs, each monitor sees its own, and all events are scored in one file."""
    shop = ndjson(tmp_path / "shop", events(600))
    site = tmp_path / "site"
    site.write_text("\n".join(LINE.format(i % 3, i // 60, i % 60) for i in range(600)))
    summary = run([("site", site), ("shop", shop)], tmp_path / "out")
    assert summary.events == 1_200
    assert summary.monitors["ip"]["scored"] == 600
    assert summary.adds_up == {"account": True, "ip": True}
    table = scores(tmp_path / "out")
    ids = table.column("event_id").to_pylist()
    assert ids.count("site:0:0") == 1
    assert table.column("score_ip").null_count == 600


def test_partitions_change_where_state_lies_and_not_which_events_are_scored(tmp_path: Path) -> None:
    """A topic keyed by account is replayed as one shard a partition, and still adds up."""
    keyed = CONFIG.replace(
        'topic = "shop"',
        'topic = "shop"\npartitions = 4\nkeyed_by = "account"\npartitioner = "murmur2"',
    )
    shop = ndjson(tmp_path / "shop", events(1_000))
    summary = run([("shop", shop)], tmp_path / "out", config(keyed))
    assert (summary.events, summary.adds_up["account"]) == (1_000, True)
    assert summary.monitors["account"]["entities"] == 20


def test_a_replay_is_repeatable(tmp_path: Path) -> None:
    """Two replays of the same file differ in nothing but the run; the second replaces the first."""
    shop = ndjson(tmp_path / "shop", events(1_000))
    run([("shop", shop)], tmp_path / "out")
    table, alerts = scores(tmp_path / "out"), without_run(tmp_path / "out")
    run([("shop", shop)], tmp_path / "out")
    assert scores(tmp_path / "out").equals(table)
    assert without_run(tmp_path / "out") == alerts


def test_a_file_in_disorder_is_an_error_that_names_both_rows(tmp_path: Path) -> None:
    """What is late by no more than lateness_max is scored; one row beyond it ends the replay, which
    says where it is and where that is which it is behind of."""
    rows = events(300)
    rows[200]["time"] -= 3_609_000
    shop = ndjson(tmp_path / "shop", rows)
    assert run([("shop", shop)], tmp_path / "out").events == 300
    rows[200]["time"] -= 2_000
    wrong = ndjson(tmp_path / "wrong", rows)
    with pytest.raises(InputError, match=r"wrong: row 200 .*the earlier .*wrong: row 199 has"):
        run([("shop", wrong)], tmp_path / "out")
    with pytest.raises(InputError, match=r"at most 3600 s late .* of account"):
        run([("shop", wrong)], tmp_path / "out")


def test_files_of_an_input_are_one_log(tmp_path: Path) -> None:
    """Two halves lead to what the whole leads to, byte for byte but for the run, whether they
    follow each other or their rows take turns; and so does a CSV of the same rows."""
    rows = events(1_000)
    run([("shop", ndjson(tmp_path / "whole", rows))], tmp_path / "out")
    ways = {"follow": [rows[:400], rows[400:]], "turns": [rows[::2], rows[1::2]]}
    for name, halves in ways.items():
        files = [("shop", ndjson(tmp_path / f"{name}{k}", half)) for k, half in enumerate(halves)]
        run(files, tmp_path / f"out-{name}")
        assert scores(tmp_path / f"out-{name}").equals(scores(tmp_path / "out"))
        assert without_run(tmp_path / f"out-{name}") == without_run(tmp_path / "out")
    pa_csv.write_csv(pa.Table.from_pylist(rows), tmp_path / "rows.csv")
    run([("shop", tmp_path / "rows.csv")], tmp_path / "out-csv")
    assert scores(tmp_path / "out-csv").equals(scores(tmp_path / "out"))


def test_progress_is_reported_to_the_end(tmp_path: Path) -> None:
    """The callback hears growing numbers and, at last, that all was read."""
    shop = ndjson(tmp_path / "shop", events(200))
    heard: list[tuple[int, float]] = []
    told = heard.append
    replay(config(), [("shop", shop)], tmp_path / "out", lambda n, share: told((n, share)))
    assert heard == sorted(heard)
    assert heard[-1] == (200, 1.0)


def test_a_foreign_folder_is_left_alone(tmp_path: Path) -> None:
    """A folder with anything in it that no replay wrote is refused and stays as it was."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    shop = ndjson(tmp_path / "shop", events(10))
    with pytest.raises(InputError, match=r"thesis\.txt"):
        run([("shop", shop)], out)
    assert [entry.name for entry in out.iterdir()] == ["thesis.txt"]
    with pytest.raises(InputError, match="is a file"):
        run([("shop", shop)], shop)


def test_a_failed_run_leaves_the_previous_run_intact(tmp_path: Path) -> None:
    """Files appear only when a run has succeeded; a failed one leaves neither parts nor halves."""
    shop = ndjson(tmp_path / "shop", events(200))
    out = tmp_path / "out"
    run([("shop", shop)], out)
    before = {entry.name: entry.read_bytes() for entry in out.iterdir()}
    broken = tmp_path / "broken"
    broken.write_bytes(gzip.compress(shop.read_bytes())[:-100])
    with pytest.raises(InputError, match="broken"):
        run([("shop", broken)], out)
    assert {entry.name: entry.read_bytes() for entry in out.iterdir()} == before


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "no input was given"),
        (["shp"], "no input is named shp"),
    ],
)
def test_names_are_checked_against_the_configuration(
    tmp_path: Path, names: list[str], message: str
) -> None:
    """Inputs that are unknown, doubled or missing are refused before anything is written."""
    shop = ndjson(tmp_path / "shop", events(1))
    with pytest.raises(InputError, match=message):
        run([(name, shop) for name in names], tmp_path / "out")
    with pytest.raises(InputError, match="no such file"):
        run([("shop", tmp_path / "nowhere")], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_indirect_monitor_equals_the_direct_one(tmp_path: Path) -> None:
    """Over an internal topic with one partition every score and every alert is the same, but for
    the fingerprint of the configuration that asked for the topic."""
    shop = ndjson(tmp_path / "shop", events())
    summary = run([("shop", shop)], tmp_path / "direct")
    hop = config(CONFIG.replace('inputs = ["shop"]', 'inputs = ["shop"]\npartitions = 1'))
    over = run([("shop", shop)], tmp_path / "hop", hop)
    assert scores(tmp_path / "hop").equals(scores(tmp_path / "direct"))
    direct, indirect = (without_run(tmp_path / name) for name in ("direct", "hop"))
    assert len(direct) > 5
    for alert in (*direct, *indirect):
        del alert["fingerprint"]
    assert indirect == direct
    counts = over.monitors["account"]
    assert counts.pop("sent") == counts["scored"] < over.events
    assert counts == summary.monitors["account"]
    assert over.adds_up == {"account": True, "ip": True}


def test_events_that_count_twice_are_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several internal topics, or one beside its source, that is said; of one by itself there is
    nothing to say."""
    twice = CONFIG.replace('["shop"]', '["shop"]\npartitions = 1').replace('["site"]', '["shop"]')
    using = config(twice.replace('entity = "ip"\n', 'entity = "account"\npartitions = 1\n'))
    values: list[bytes | None] = [orjson.dumps(row) for row in events(300)]
    records = Records("shop", 0, np.arange(300), np.full(300, 2**41), values)
    sent = ShardFactory(using, RunInfo("live", "x", str)).input_shard("shop").process(records)
    made = {
        name: [[m.value for m in sent.internal_records if m.log == name]]
        for name in ("account", "ip")
    }
    topics = {f"eddy-{name}-events": parts for name, parts in made.items()}
    patch_topics(monkeypatch, {**topics, "shop": [events(300)]})
    places = {"shop": "shop", **{name: f"eddy-{name}-events" for name in made}}
    for names, told in ((["ip"], 0), (["ip", "account"], 1), (["shop", "ip"], 1)):
        inputs = [(name, f"kafka://{places[name]}") for name in names]
        summary = replay(using, inputs, tmp_path / "out", lambda *_: None)
        assert (summary.events > 300) == bool(told)
        assert repeated_event_warning(summary).count("warning: an event that is in") == told


def test_inputs_are_not_mistaken_for_each_other(tmp_path: Path) -> None:
    """A name that stands for events and for labels is refused: their positions would be the same."""
    path = ndjson(tmp_path / "shop", events(10))
    with pytest.raises(InputError, match="its records and those of shop have the same topic, shop"):
        replay(config(), [("shop", path)], tmp_path / "out", lambda *_: None, [("shop", path)])


def test_partitions_of_an_input_meet_by_event_time(tmp_path: Path) -> None:
    """A topic keyed by another field is replayed as its partitions, yet the monitor behind its
    internal topic sees the file's order, as if the topic had one partition."""
    rows = [row | {"ip": f"10.0.0.{i % 7}"} for i, row in enumerate(events(2_000))]
    shop = ndjson(tmp_path / "shop", rows)
    run([("shop", shop)], tmp_path / "direct")
    keyed = 'topic = "shop"\npartitions = 4\nkeyed_by = "ip"\npartitioner = "crc32"'
    text = CONFIG.replace('topic = "shop"', keyed)
    text = text.replace('inputs = ["shop"]', 'inputs = ["shop"]\npartitions = 1')
    summary = run([("shop", shop)], tmp_path / "hop", config(text))
    assert summary.adds_up["account"]
    one, other = (by_id(scores(tmp_path / name)) for name in ("direct", "hop"))
    assert one == other
    default = run(
        [("shop", shop)], tmp_path / "four", config(text.replace("\npartitions = 1\n", "\n"))
    )
    assert default.adds_up["account"]
    assert default.monitors["account"]["sent"] == default.monitors["account"]["scored"]


def by_id(table: pa.Table) -> dict[str, tuple[float, float | None]]:
    """Both scores of each event."""
    ids, *both = (table.column(name).to_pylist() for name in ("event_id", "score", "score_account"))
    return dict(zip(ids, zip(*both, strict=True), strict=True))


LABELLED = """
[inputs.shop]
topic = "shop"
type = { field = "type" }

[[monitors]]
name = "account"
entity = "account"
inputs = ["shop"]
features = [{ name = "amount", kind = "value", field = "amount" }]
detectors = [{ kind = "tail" }, { kind = "label_risk", name = "risk" }]
"""


@pytest.mark.parametrize("labels", [30, 2_500])
def test_labels_come_when_they_came(tmp_path: Path, labels: int) -> None:
    """A monitor that reads payments and labels from two files learns as from one in time order:
    no label is known before its time, however many payments are read at once."""
    rng = default_rng(3)
    payments = [row | {"type": "transaction"} for row in events(25_000)]
    span_ms = payments[-1]["time"] - START_MS
    known = [
        {
            "event_id": f"l{i}",
            "time": START_MS + 10_000 * (i * len(payments) // labels) + 5_000,
            "type": "label",
            "account": f"a{rng.integers(20)}",
            "verdict": "fraud" if i % 3 else "honest",
        }
        for i in range(labels)
    ]
    assert known[-1]["time"] < START_MS + span_ms
    together = sorted([*payments, *known], key=lambda row: row["time"])
    run([("shop", ndjson(tmp_path / "all", together))], tmp_path / "one", config(LABELLED))
    text = LABELLED.replace('inputs = ["shop"]', 'inputs = ["labels", "shop"]')
    text += '[inputs.labels]\ntopic = "labels"\ntype = { field = "type" }\n'
    files = [
        ("shop", ndjson(tmp_path / "shop", payments)),
        ("labels", ndjson(tmp_path / "labels", known)),
    ]
    summary = run(files, tmp_path / "two", config(text))
    assert by_id(scores(tmp_path / "two")) == by_id(scores(tmp_path / "one"))
    assert summary.adds_up == {"account": True}
    assert summary.monitors["account"]["labels"] == labels


def test_a_real_access_log_end_to_end(shared_data: Path, tmp_path: Path) -> None:
    """A real site's log becomes scores for every request, with the configuration we ship."""
    log = shared_data / "traffic" / "access_may17_18.log"
    using = load(ROOT / "deploy" / "configs" / "access-log.toml")
    summary = run([("request", log)], tmp_path / "out", using)
    assert summary.events == len(scores(tmp_path / "out")) == 4_525
    assert summary.adds_up == {"crawler": True, "session": True, "prober": True}
    assert summary.first_event_time is not None
    assert datetime.fromisoformat(summary.first_event_time).year == 2015


@pytest.mark.slow
def test_the_handbook_end_to_end(shared_data: Path, tmp_path: Path) -> None:
    """1.3 million payments are all scored, with the configuration we ship."""
    path = shared_data / "transactions" / "handbook.parquet"
    using = load(ROOT / "deploy" / "configs" / "handbook.toml")
    summary = run([("transaction", path)], tmp_path / "out", using)
    table = scores(tmp_path / "out")
    assert summary.events == len(table) == 1_303_778
    assert summary.adds_up == {"card": True}
    assert table.column("score").null_count == 0


def test_a_rule_alerts_by_its_name_from_the_first_events_on(tmp_path: Path) -> None:
    """Before anything is learned, an alert that a rule decided names it, with what it asks for, and
    what was seen of that; with less of it there would be no alert."""
    text = CONFIG.replace(
        'inputs = ["shop"]',
        'inputs = ["shop"]\nrules = [{ name = "busy", at_least = { payments_1h = 3 }, p = 1e-3 }]',
    )
    rows = [{**event, "kind": "payment"} for event in events(10)]
    for row in rows:
        row["account"] = "one"
    run([("shop", ndjson(tmp_path / "shop", rows))], tmp_path / "out", config(text))
    alerts = [orjson.loads(x) for x in (tmp_path / "out" / "alerts.ndjson").read_bytes().split()]
    assert alerts[0]["detector"] == "busy"
    assert alerts[0]["action"]["reason_code"] == "account.busy"
    assert alerts[0]["p_value"] == 1e-3
    assert alerts[0]["counterfactual"] == ["payments_1h"]
    [only] = alerts[0]["contributions"]
    assert (only["feature"], only["expected_high"], only["share"]) == ("payments_1h", 3.0, 1.0)
    assert only["actual"] >= 3.0


SESSIONS = """
reveal = ["session"]

[inputs.site]
topic = "site"
codec = "access_log"
fields = { session = { path = ["ip", "user_agent"], joined = true } }

[[monitors]]
name = "session"
entity = "session"
inputs = ["site"]
session_gap = "30min"
features = [{ name = "requests", kind = "count", half_life = "365d" }]
rules = [{ name = "three", at_least = { requests = 2.9 }, p = 1e-3 }]
policy = { p_max = 1e-2 }
"""


@pytest.mark.parametrize(
    ("requests", "alerts"),
    [
        ([(0, "x"), (10, "x"), (40, "x")], ["10.0.0.1 x"]),
        ([(0, "x"), (10, "x"), (41, "x")], []),
        ([(0, "x"), (10, "x"), (20, "y")], []),
    ],
)
def test_sessions_are_an_address_and_an_agent_without_a_pause(
    tmp_path: Path, requests: list[tuple[int, str]], alerts: list[str]
) -> None:
    """A third request within 30 minutes of the second is one of the session's; later, or by
    another agent of the same address, it begins another."""
    lines = [LINE.format(1, minute, 0).replace('"x"', f'"{agent}"') for minute, agent in requests]
    (tmp_path / "site").write_text("\n".join(lines))
    run([("site", tmp_path / "site")], tmp_path / "out", config(SESSIONS))
    found = (tmp_path / "out" / "alerts.ndjson").read_bytes().splitlines()
    assert [orjson.loads(alert)["entity"]["id"] for alert in found] == alerts


KEYED = 'topic = "shop"\npartitions = 2\nkeyed_by = "account"\npartitioner = "murmur2"'
BEHIND_A_HOP = CONFIG.replace('topic = "shop"', KEYED).replace(
    'name = "account"\nentity = "account"', 'name = "kind"\nentity = "device"'
)


def by_partition(rows: list[dict[str, Any]]) -> list[bool]:
    """Whether each row's account lies in partition 1 of 2."""
    keys = pa.array([row["account"] for row in rows])
    found: list[bool] = (partition_of(keys, 2, "murmur2") == 1).tolist()
    return found


def askew(rows: list[dict[str, Any]], by_ms: float) -> list[dict[str, Any]]:
    """The rows of partition 1 stand so far behind those of partition 0."""
    late = zip(rows, by_partition(rows), strict=True)
    found = sorted(late, key=lambda one: one[0]["time"] + by_ms * one[1])
    return [row for row, _ in found]


@pytest.mark.slow
def test_batches_of_a_file_of_several_partitions_change_no_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where one partition stands behind the other, what is judged behind an internal log is judged
    in the same order however few rows are read at once."""
    rows = [row | {"device": f"d{i % 7}"} for i, row in enumerate(events(2_000))]
    shop = ndjson(tmp_path / "shop", askew(rows, 3_000_000))
    found = []
    for size in (10_000, 100, 7):
        monkeypatch.setattr(FileReader.__init__, "__defaults__", (size,))
        run([("shop", shop)], tmp_path / "out", config(BEHIND_A_HOP))
        found.append(scores(tmp_path / "out").sort_by("event_id"))
    assert len(set(found[0].column("score").to_pylist())) > 100
    assert found[1].equals(found[0])
    assert found[2].equals(found[0])


@pytest.mark.slow
def test_reports_over_logs_come_in_one_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Monitors behind internal logs of several partitions report on an event in the same order,
    whichever of them the first rows went to: assess revises what it says with each report."""
    text = CONFIG.replace('name = "account"\nentity', 'name = "account"\npartitions = 2\nentity')
    _, monitor, _ = text.split("[[monitors]]")
    second = monitor.replace('name = "account"', 'name = "device"')
    second = second.replace('entity = "account"', 'entity = "device"')
    assess = '[assess]\npartitions = 1\nsubject = "account"\nreport_p = 0.1\n'
    rows = [row | {"device": f"d{i % 7}"} for i, row in enumerate(events(1_200))]
    for i, row in enumerate(rows[300::25]):
        row |= {"amount": 1_000.0 + 100 * i, "kind": "payment"}
    shop = ndjson(tmp_path / "shop", rows)
    process = Assess.process
    heard: list[tuple[str, str]] = []

    def hear(of: Assess, batch: ReportBatch) -> AssessOutput:
        ids, by = batch.events.event_id.to_pylist(), batch.monitor.to_pylist()
        heard.extend(zip(ids, by, strict=True))
        return process(of, batch)

    monkeypatch.setattr(Assess, "process", hear)
    found = []
    for size in (10_000, 1):
        monkeypatch.setattr(FileReader.__init__, "__defaults__", (size,))
        run([("shop", shop)], tmp_path / "out", config(f"{text}[[monitors]]{second}{assess}"))
        found.append(sorted(heard, key=itemgetter(0)))  # stable: of one event as they came
        heard.clear()
    assert sum(of == "device" for _, of in found[0]) > 10
    assert found[0] == found[1]


@pytest.mark.parametrize("size", [10_000, 100])
def test_disorder_is_that_of_the_file_not_of_its_partitions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """One partition dumped whole and then the other is an error, with the first row of the other
    and the last before it; a file in order is none, however far apart in time its batches are."""
    monkeypatch.setattr(FileReader.__init__, "__defaults__", (size,))
    rows = [row | {"device": f"d{i % 7}"} for i, row in enumerate(events(2_000))]
    assert run([("shop", ndjson(tmp_path / "shop", rows))], tmp_path / "out").events == 2_000
    wrong = ndjson(tmp_path / "wrong", askew(rows, 1e12))
    first = by_partition(rows).count(False)
    with pytest.raises(
        InputError, match=f"wrong: row {first} .*but the earlier .*wrong: row {first - 1}"
    ):
        run([("shop", wrong)], tmp_path / "out", config(BEHIND_A_HOP))
