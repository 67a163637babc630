"""assess: what all monitors report on one event is one score, however the reports came."""

import tomllib
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.fusion.assessment import REPORT_P, censored_inverse_p, is_sampled
from detectors.numeric.combination import harmonic_mean
from schemas.alerts import ALERT_BYTES_MAX, alert_record
from schemas.codecs.reports import ReportCodec
from schemas.columns import EventBatch
from schemas.reports import ReportBatch, concat_reports
from stream.config import AssessSpec, Config, load, parse
from stream.config.stage_graph import ReadPath, logs, nodes
from stream.pipeline.alerting import RunInfo
from stream.pipeline.shard import Shard, ShardFactory
from stream.pipeline.stages.report_subscription import ReportSubscription
from stream.pipeline.stages.watch import WatchOutput
from stream.replay import replay
from stream.simulator import Shop, lines

ROOT = Path(__file__).resolve().parents[2]
READY = (ROOT / "deploy" / "configs" / "shop.toml").read_text()
KEY = (1, 2)
ASSESSED = """
[assess]
subject = "account"
events_max = {events_max}
policy = {{ p_max = 0.01, alerts_per_day = 100_000, incident_gap = "1min", warm_up_events = 2000 }}
"""
CENSORED = censored_inverse_p(REPORT_P)
MONITORS = ("account", "card", "ip")
REPORTS = 600
few = settings(max_examples=10, deadline=None)


def config(*, partitions: int = 1, hop: bool = False, events_max: int = 100_000) -> Config:
    """The shop with an assessment of accounts; with a hop, the reports go over their own log."""
    text = READY.replace("partitions = 1", f"partitions = {partitions}")
    extra = ASSESSED.format(events_max=events_max)
    return parse(tomllib.loads(text + (extra + "partitions = 2\n" if hop else extra)), {})


def assess_read_path(of: Config) -> ReadPath | None:
    """How assess reads the reports, where it is configured."""
    return next((node.read_path for node in nodes(of) if node.name == "assess"), None)


def shards(of: Config) -> ShardFactory:
    """What makes its shards."""
    return ShardFactory(of, RunInfo("live", "one", lambda: "2026-01-01T00:00:00Z"))


def shard(events_max: int = 100_000) -> Shard:
    """A shard of the log of the reports."""
    hopping = config(hop=True, events_max=events_max)
    log = next(one for one in logs(hopping) if one.name == "assess")
    return shards(hopping).make(log)


@cache
def made_up(seed: int) -> ReportBatch:
    """Reports of three monitors on events of a few accounts, in no order of monitors."""
    draw = np.random.default_rng(seed)
    event = np.sort(draw.integers(0, REPORTS // 2, REPORTS))
    p_value = 10.0 ** -draw.uniform(2.0, 9.0, REPORTS)
    events = EventBatch(
        sources=(("shop-events", 0),),
        source=np.zeros(REPORTS, np.int32),
        offset=event.astype(np.int64),
        time_ms=1_772_409_600_000 + 20_000 * event.astype(np.int64),
        type_code=np.zeros(REPORTS, np.uint8),
        event_id=pa.array([f"e{k}" for k in event]),
        text={
            "account": pa.array([f"a{k % 17}" for k in event]),
            "ip": pa.array([f"10.0.0.{k % 5}" for k in event]),
        },
        number={},
    )
    monitor = pa.array([str(draw.choice(MONITORS)) for _ in range(REPORTS)])
    return ReportBatch(events, monitor, p_value, {})


def alerts(of: Shard, reports: ReportBatch, cuts: list[int]) -> list[bytes]:
    """The alerts for reports that came in several batches."""
    edges = [0, *sorted({cut for cut in cuts if cut < len(reports)}), len(reports)]
    parts = (of.process_rows(reports.slice(a, b)) for a, b in pairwise(edges))
    return [alert_record(alert).value for part in parts for alert in part.alerts]


@pytest.mark.parametrize(
    ("p", "expected"),
    [
        ([1e-6, np.nan, np.nan], 3 / (1e6 + 2 * CENSORED)),
        ([1e-6, 1e-6, 1e-6], 1e-6),
        ([1e-3, 1e-5, np.nan], 3 / (1e3 + 1e5 + CENSORED)),
        ([0.9, np.nan], 2 / (1 / 0.9 + CENSORED)),
        ([0.5], 0.5),
        ([1.0, 1.0], 1.0),
    ],
)
def test_reports_combine_by_the_harmonic_mean(p: list[float], expected: float) -> None:
    """By its formula; who did not report counts as what is expected above the limit. A p-value is never
    above 1, and without any there is none."""
    assert harmonic_mean(np.array(p), CENSORED) == pytest.approx(expected, rel=1e-12)
    assert harmonic_mean(np.array([np.nan, 1.0]), 0.5) == 1.0
    assert np.isnan(harmonic_mean(np.array([np.nan, np.nan]), 0.0))
    above = np.random.default_rng(1).uniform(REPORT_P, 1.0, 200_000)
    assert pytest.approx(np.mean(1.0 / above), rel=0.02) == CENSORED


def test_one_event_in_a_thousand_is_sampled_by_its_id_alone() -> None:
    """The same events for every monitor and every cut, about as many as are said."""
    ids = pa.array([f"event-{i}" for i in range(100_000)])
    zeros = np.zeros(100_000, np.int64)
    events = EventBatch((("t", 0),), zeros, zeros, zeros, zeros, ids, {}, {})  # type: ignore[arg-type]
    chosen = is_sampled(events, (1, 2))
    assert 60 < chosen.sum() < 140
    assert (is_sampled(events.slice(500, 900), (1, 2)) == chosen[500:900]).all()
    assert (is_sampled(events, (3, 2)) != chosen).any()


@few
@given(seed=st.integers(0, 2**16), cuts=st.lists(st.integers(1, REPORTS), max_size=9))
def test_assess_is_a_fold(seed: int, cuts: list[int]) -> None:
    """Cut anywhere, save and load anywhere, with events that give way: same alerts, same state."""
    reports = made_up(seed)
    stop = cuts[0] if cuts else 1
    whole, cut, first, second = (shard(64) for _ in range(4))
    expected = alerts(whole, reports, [])
    assert alerts(cut, reports, cuts) == expected
    before = alerts(first, reports.slice(0, stop), [])
    alerts(second, made_up(0).slice(0, 50), [])  # what stood there must not shine through
    second.load(first.save())
    assert before + alerts(second, reports.slice(stop, REPORTS), [3]) == expected
    state = whole.save()
    for other in (cut, second):
        assert [n for n, a in other.save().items() if a.tobytes() != state[n].tobytes()] == []


def test_each_report_revises_its_events_score() -> None:
    """A second report on an event speaks again only when it raises the score by enough; alerts
    show the reports so far, and add up."""
    said = [orjson.loads(each) for each in alerts(shard(), made_up(1), [])]
    assert len(said) > 20
    by_event: dict[str, list[float]] = {}
    for alert in said:
        shown = {one["feature"]: one["p_value"] for one in alert["contributions"]}
        p = np.array([shown.get(name, np.nan) for name in MONITORS])
        assert alert["p_value"] == pytest.approx(harmonic_mean(p, CENSORED), rel=1e-4)
        assert sum(one["share"] for one in alert["contributions"]) == pytest.approx(1.0)
        assert (alert["monitor"], alert["entity"]["type"]) == ("assess", "account")
        assert alert["related"][0]["type"] == "ip"
        by_event.setdefault(alert["evidence"][0]["event_id"], []).append(alert["score"])
    assert len({alert["alert_id"] for alert in said}) == len(said)
    revised = [scores for scores in by_event.values() if len(scores) > 1]
    assert revised
    assert all(b >= a + 1.99 for scores in revised for a, b in pairwise(scores))


def test_reports_of_a_removed_monitor_are_counted_and_dropped() -> None:
    """Wherever they stand between the others' they change no alert."""
    mine, gone = made_up(1), made_up(2)
    gone = replace(gone, monitor=pa.array(["device"] * len(gone)))
    mixed = concat_reports([mine.slice(0, 200), gone, mine.slice(200, len(mine))])
    alone, beside = shard(), shard()
    assert beside.process_rows(mixed).alerts == alone.process_rows(mine).alerts
    counts = beside.counts()["assess"]
    assert counts["reports_ignored"] == len(gone)
    assert {**counts, "reports_ignored": 0} == alone.counts()["assess"]


def test_assess_runs_inline_only_where_all_read_one_log() -> None:
    """One partition: inline. Several, or partitions asked for: over its own log."""
    inline, hop, wide = (
        assess_read_path(one) for one in (config(), config(hop=True), config(partitions=4))
    )
    assert inline
    assert inline.internal_topic is None
    assert hop
    assert hop.internal_topic == ("assess", "eddy-shop-assess-reports", 2, True)
    assert wide
    assert wide.internal_topic == ("assess", "eddy-shop-assess-reports", 4, True)
    assert assess_read_path(load(ROOT / "deploy" / "configs" / "shop.toml")) is None


def test_assess_scores_the_same_inline_and_over_its_log(tmp_path: Path) -> None:
    """In replay both ways give the same alerts on the same accounts; reports come before the
    assessment looks, and monitors say what they say without it."""
    shop = tmp_path / "shop"
    shop.write_bytes(b"\n".join(line.value for line in lines(Shop(12_000, seed=7), 0.0)))
    plain = parse(tomllib.loads(READY), {})
    one_log = READY.replace("capacity = 50_000", "capacity = 50_000\npartitions = 1")
    hopping = parse(
        tomllib.loads(one_log + ASSESSED.format(events_max=100_000) + "partitions = 1\n"), {}
    )
    found = []
    for name, using in (("plain", plain), ("inline", config()), ("hop", hopping)):
        out = tmp_path / name
        summary = replay(using, [("shop", shop)], out, lambda _records, _share: None)
        assert all(summary.adds_up.values())
        made = [orjson.loads(line) for line in (out / "alerts.ndjson").read_bytes().splitlines()]
        for alert in made:
            assert len(orjson.dumps(alert)) <= ALERT_BYTES_MAX
            del alert["run"], alert["fingerprint"]
        found.append(sorted(made, key=lambda one: (one["event_time_ms"], one["alert_id"])))
    without, inline, hop = found
    assert sum(alert["monitor"] == "assess" for alert in inline) > 10
    assert [alert for alert in inline if alert["monitor"] != "assess"] == without
    assert hop == inline


@pytest.mark.parametrize("score_all", [False, True])
def test_reports_are_small_p_values_and_a_sample(score_all: bool) -> None:
    """Of events with a subject those below report_p are reported, and the sample; where every event
    is scored, all to which the monitor applied."""
    n = 4_000
    draw = np.random.default_rng(8)
    accounts = pa.array([None if k % 7 == 0 else f"a{k}" for k in range(n)], pa.string())
    zeros = np.zeros(n, np.int64)
    events = EventBatch(
        (("shop", 0),),
        zeros.astype(np.int32),
        np.arange(n),
        zeros,
        zeros.astype(np.uint8),
        pa.array([f"e{k}" for k in range(n)]),
        {"account": accounts},
        {},
    )
    p_value = draw.uniform(0.0, 0.1, n)
    p_value[draw.random(n) < 0.1] = np.nan
    output = WatchOutput(p_value=p_value, monitor_output=None, training_features={})  # type: ignore[arg-type]  # not read
    spec = AssessSpec(subject="account", report_p=REPORT_P)
    codec = ReportCodec(["account"], [], (("shop", 0),))
    selected = ReportSubscription(spec, codec, KEY, score_all=score_all).select_output(
        "card", events, output
    )
    assert selected is not None
    wanted = ~np.isnan(p_value) & accounts.is_valid().to_numpy(zero_copy_only=False)
    if not score_all:
        wanted &= (p_value < REPORT_P) | is_sampled(events, KEY)
    assert selected.rows.tolist() == np.flatnonzero(wanted).tolist()
    assert np.array_equal(selected.batch.p_value, p_value[wanted])
    assert set(selected.batch.monitor.to_pylist()) == {"card"}
