"""What is judged: one definition of alerted and one of which event a label means, whatever ids,
names, times and labels look like."""

import tomllib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from stream.cli import app
from stream.cli.run_output import describe_evaluation, describe_time_split
from stream.config import Config, parse
from stream.errors import ConfigError, QueryError
from stream.evaluation import queries
from stream.evaluation.labelled_run import CENTS
from stream.evaluation.results import Evaluation, LevelMeasures
from stream.replay import Summary, TimeSplit, replay
from stream.replay.compare_runs import ONLY_ENTITY_LABELS, Candidate, compare
from stream.replay.incident_table import in_cents
from stream.report.run_page import render_run
from tests.report.test_page import Parsed

START_MS = 1_772_409_600_000
DAY_MS = 86_400_000
FIELDS = """
event_id = "id"
time = "at"
account = "who"
amount = "amount"
"""
CONFIG = f"""
reveal = ["account"]
[limits]
time_ahead_max = "30d"  # these logs have gaps of days between a few events
[inputs.shop]
topic = "shop"
type = "transaction"
[inputs.shop.fields]{FIELDS}
[inputs.site]
topic = "site"
type = "login"
[inputs.site.fields]{FIELDS}
[inputs.verdicts]
topic = "verdicts"
type = "label"
[inputs.verdicts.fields]
event_id = {{ position = true }}
time = "known_at"
labelled_event_id = "payment"
verdict = "verdict"
account = "account"

[[monitors]]
name = "spend"
entity = "account"
inputs = ["shop"]
features = [{{ name = "amount", kind = "value", field = "amount", side = "high" }}]
rules = [{{ name = "dear", at_least = {{ amount = 100 }}, p = 1e-4 }}]
policy = {{ p_max = 1e-3, warm_up_events = 0, incident_gap = "1h", alerts_per_day = 20 }}
"""
"""A monitor that alerts on every payment of 100 or more, if the budget allows."""
PLACE = ("topic", "partition", "offset")
Row = dict[str, Any]


def config(text: str = CONFIG) -> Config:
    """A parsed configuration."""
    return parse(tomllib.loads(text), {})


def payment(i: int, who: str, amount: float, **more: Any) -> Row:
    """A payment in the i-th minute."""
    return {"id": f"e{i}", "at": START_MS + i * 60_000, "who": who, "amount": amount, **more}


def fraud(of: str | None, at_ms: int = START_MS + DAY_MS, says: str = "fraud", **more: str) -> Row:
    """A label."""
    return {"payment": of, "known_at": at_ms, "verdict": says, **more}


def ndjson(path: Path, rows: Sequence[Row]) -> Path:
    """A file with a row a line."""
    path.write_bytes(b"\n".join(map(orjson.dumps, rows)))
    return path


def run(
    folder: Path,
    rows: Sequence[Row],
    labels: Sequence[Row],
    using: str = CONFIG,
    site: Sequence[Row] = (),
    split: TimeSplit | None = None,
    *,
    page: bool = True,
) -> tuple[Summary, Evaluation]:
    """Replay payments, and logins that are given before them, with labels into `out`."""
    inputs = [("site", ndjson(folder / "site", site))] if site else []
    inputs.append(("shop", ndjson(folder / "shop", rows)))
    known = [("verdicts", ndjson(folder / "labels", labels))]
    told = lambda _records, _share: None  # noqa: E731
    render = render_run if page else None
    summary = replay(
        config(using), inputs, folder / "out", told, known, split or TimeSplit(), render=render
    )
    assert summary.evaluation is not None
    return summary, summary.evaluation


def events_level(evaluation: Evaluation) -> LevelMeasures:
    """The figures of the events of all monitors."""
    return evaluation.views[0].levels["events"]


def rows_of(folder: Path, name: str) -> list[Row]:
    """A table of the run."""
    found: list[Row] = pq.read_table(folder / "out" / f"{name}.parquet").to_pylist()
    return found


def test_an_action_ends_before_its_last_instant(tmp_path: Path) -> None:
    """A fraud a minute before an action of one hour ends is caught; one at the instant at which it
    ends is not."""
    rows = [*NO_ALERT, payment(100, "a", 150.0), payment(159, "a", 5.0), payment(160, "a", 6.0)]
    _, evaluation = run(tmp_path, rows, [fraud("e159"), fraud("e160")])
    amount = evaluation.views[0].amount
    assert (amount.caught, amount.missed) == (5.0, 6.0)
    assert [missed.event_id for missed in evaluation.missed.by_amount] == ["e160"]


NO_ALERT = [payment(i, f"b{i % 9}", 5.0) for i in range(100)]
ATTACK = [payment(100 + i, "a", 150.0) for i in range(7)]
"""An honest payment that alerts, and six frauds that are counted into its incident."""
FRAUDS = [fraud(row["id"]) for row in ATTACK[1:]]


def test_an_attack_gets_one_score(tmp_path: Path) -> None:
    """Frauds that were counted into an open incident are in it: its verdict, recall, delay and the
    amount caught say the same, and precision says what was published."""
    summary, evaluation = run(tmp_path, [*NO_ALERT, *ATTACK, payment(300, "b1", 5.0)], FRAUDS)
    [incident] = rows_of(tmp_path, "incidents")
    assert (incident["verdict"], incident["frauds"], incident["events"]) == ("fraud", 6, 7)
    assert (incident["alerts"], incident["suppressed"]) == (1, 6)
    assert incident["last"].timestamp() * 1000 == ATTACK[-1]["at"]
    [shown] = summary.incidents
    assert (shown.verdict, shown.suppressed, shown.last_ms) == ("fraud", 6, ATTACK[-1]["at"])
    view = evaluation.views[0]
    assert events_level(evaluation).recall.value == view.amount.caught_share.value == 1.0
    assert (view.delay.never.value, view.delay.median_s.value) == (0.0, 0.0)
    assert (events_level(evaluation).published, events_level(evaluation).precision.value) == (
        1,
        0.0,
    )
    assert evaluation.missed.frauds == 0
    activities = [row["activity_spend"] for row in rows_of(tmp_path, "scores")]
    assert activities == [None] * 100 + ["opened"] + ["suppressed"] * 6 + [None]


def test_a_late_event_leaves_an_incident_that_was_over(tmp_path: Path) -> None:
    """What came late into the next incident is counted there and stretches neither; an incident
    lasts as long as its events follow each other within `incident_gap`, in whatever order they came.
    """
    attack = [payment(i, "a", 150.0) for i in (100, 155, 210, 180, 1_000, 999)]
    run(tmp_path, [*NO_ALERT, *attack], [fraud("e999")])
    over, next_one = rows_of(tmp_path, "incidents")
    assert over["last"].timestamp() * 1000 == attack[2]["at"]
    assert (over["suppressed"], over["events"], over["verdict"]) == (3, 4, "honest")
    assert next_one["last"] == next_one["opened"]
    assert (next_one["suppressed"], next_one["events"], next_one["verdict"]) == (1, 1, "honest")


def test_an_id_means_the_first_event_that_has_it(tmp_path: Path) -> None:
    """Where payments and logins number alike a label means the earlier event, is judged once, and
    teaches what it is judged by; labels that could mean several are counted."""
    site = [payment(i, f"s{i}", 1.0) | {"at": START_MS + i * 60_000 + 5} for i in range(107)]
    labels = [fraud(f"e{i}") for i in range(0, 100, 10)]
    summary, evaluation = run(tmp_path, [*NO_ALERT, *ATTACK], labels, site=site)
    assert (evaluation.frauds, evaluation.ambiguous, evaluation.event_labels) == (10, 10, 10)
    assert {row["topic"] for row in rows_of(tmp_path, "frauds")} == {"shop"}
    assert summary.labels["verdicts"]["ambiguous"] == 10
    assert events_level(evaluation).alerted == 7


def test_training_and_evaluation_assign_a_label_to_the_same_event(tmp_path: Path) -> None:
    """Of an input that is read first, and of one whose event is earlier, the earlier is meant."""
    text = CONFIG.replace('inputs = ["shop"]', 'inputs = ["shop", "site", "verdicts"]').replace(
        "policy =", 'detectors = [{ kind = "label_risk", name = "risk" }]\npolicy ='
    )
    rows = [*NO_ALERT, *(payment(200 + i, w, 5.0) for i, w in enumerate(("b0", "late")))]
    late = [payment(0, "late", 1.0) | {"at": START_MS + 1_000}]
    run(tmp_path, rows, [fraud("e0", START_MS + 6_000_000)], text, site=late)
    by_id = {row["event_id"]: row for row in rows_of(tmp_path, "scores")}
    assert by_id["e200"]["score_spend"] > by_id["e201"]["score_spend"]
    assert [row["account"] for row in rows_of(tmp_path, "frauds")] == ["b0"]


@pytest.mark.parametrize("end", ["x" * 130, "\u0007"], ids=["long", "unprintable"])
def test_an_id_that_an_alert_may_not_show_keeps_its_alert(tmp_path: Path, end: str) -> None:
    """Alerts are found by position: an id too long, or not to be printed, loses none."""
    rows = [row | {"id": row["id"] + end} for row in (*NO_ALERT, *ATTACK)]
    _, evaluation = run(tmp_path, rows, [fraud(row["payment"] + end) for row in FRAUDS])
    assert (events_level(evaluation).alerted, events_level(evaluation).recall.value) == (7, 1.0)


def test_labels_by_entity_alone_are_evaluated(tmp_path: Path) -> None:
    """They say fraud of the entity and its incidents, are known from then on, and the page does not
    deny them; a correction takes one back."""
    labels = [fraud(None, account="a"), fraud(None, account="b1")]
    labels.append(fraud(None, START_MS + 2 * DAY_MS, "honest", account="b1"))
    next_day = payment(2_880, "a", 5.0)
    summary, evaluation = run(tmp_path, [*NO_ALERT, *ATTACK, next_day], labels)
    assert (evaluation.labelled_entities, evaluation.frauds) == (1, 0)
    by_level = evaluation.views[0].levels
    assert (by_level["entities"].frauds, by_level["entities"].frauds_alerted) == (1, 1)
    assert (by_level["incidents"].frauds, by_level["entity_days"].frauds) == (1, 0)
    assert by_level["new_events"].count == by_level["events"].count - 1
    assert [row["verdict"] for row in rows_of(tmp_path, "incidents")] == ["fraud"]
    assert "No confirmed fraud" not in summary.headline
    assert [one.verdict for one in summary.incidents] == ["fraud"]


def test_a_label_of_an_honest_event_does_not_label_others(tmp_path: Path) -> None:
    """Beside labels of fraudulent entities, the label of one honest event does not label the other
    events: figures by event are absent, and those by entity come first."""
    labels = [fraud("e1", says="honest"), fraud(None, account="a")]
    summary, evaluation = run(tmp_path, [*NO_ALERT, *ATTACK], labels)
    assert (evaluation.event_labels, evaluation.level) == (1, "entities")
    assert evaluation.views[0].levels["events"].precision.value is None
    assert evaluation.views[0].budget == []
    assert "for entities, not for events" in summary.headline


def test_amounts_below_0_count_like_those_above(tmp_path: Path) -> None:
    """Refunds among the frauds make no share of the amount larger than one."""
    back = [payment(200 + i, f"r{i}", -5.0) for i in range(25)]
    labels = [fraud("e101"), *(fraud(row["id"]) for row in back)]
    _, evaluation = run(tmp_path, [*NO_ALERT, *ATTACK[:2], *back], labels)
    amount = evaluation.views[0].amount
    assert (amount.fraud, amount.caught, amount.missed) == (275.0, 150.0, 125.0)
    assert amount.caught_share.value == 150 / 275


def test_levels_without_labels_are_empty(tmp_path: Path) -> None:
    """Where labels name entities alone no figure goes by frauds among events, terminal and page tell
    those of entities and incidents, and `eddy top` and a comparison say why they have none."""
    rows = [*NO_ALERT, *ATTACK, payment(2_880, "a", 5.0)]
    summary, evaluation = run(tmp_path, rows, [fraud(None, account="a"), fraud(None, account="b1")])
    view = evaluation.views[0]
    assert {name for name, one in view.levels.items() if one.precision.value is not None} == {
        *("entities", "incidents"),
    }
    assert not [one for one in view.precision_at_k if one.precision.value is not None]
    assert (view.precision_recall, view.budget) == ([], [])
    assert {day.precision for day in view.days} == {None}
    said = describe_evaluation(evaluation)
    assert said.startswith("2 frauds in 10 entities: AUC ")
    assert "precision of entities with an alert 1.000" in said
    assert "recall of alerted 0.500, precision of incidents 1.000" in said
    page = render_run(summary)
    assert "of the fraudulent entities alerted" in page
    assert "none of them labelled" in page
    assert "average precision of entities" in page
    assert "Precision against recall" not in page
    with (
        queries.open_runs([tmp_path / "out"]) as tables,
        pytest.raises(QueryError, match="no event of this run is labelled fraud"),
    ):
        tables.top("missed", None, 10)
    both = [
        Candidate(name, config(), [("verdicts", tmp_path / "labels")]) for name in ("one", "two")
    ]
    compared = compare(both, [("shop", tmp_path / "shop")], tmp_path / "both", lambda *_: None)
    assert compared.no_evaluation_reason == ONLY_ENTITY_LABELS
    assert compared.pairs[0].differences == []


TWO_ATTACKS = [*NO_ALERT, *ATTACK, *(payment(2_880 + 30 * i, "b1", 150.0) for i in range(3))]
"""An incident on the first day, one an hour long on the third."""
THIRD_DAY = TimeSplit(from_ms=START_MS + 2 * DAY_MS)


def test_tables_and_top_follow_the_time_split(tmp_path: Path) -> None:
    """Alerts and incidents say whether they are judged; who is asked for the first entities, or to
    explain one, is told of the judged ones."""
    rows = [*TWO_ATTACKS, payment(4_000, "a", 150.0)]
    run(tmp_path, rows, FRAUDS, split=THIRD_DAY)
    assert [row["evaluated"] for row in rows_of(tmp_path, "incidents")] == [False, True, True]
    by_event = {row["event_id"]: row["evaluated"] for row in rows_of(tmp_path, "scores")}
    alerts = rows_of(tmp_path, "alerts")
    assert [row["evaluated"] for row in alerts] == [by_event[row["event_id"]] for row in alerts]
    assert {row["evaluated"] for row in alerts} == {False, True}
    with queries.open_runs([tmp_path / "out"]) as tables:
        for by in ("score", "alerts", "amount"):
            names, found = tables.top(by, None, 10)
            entities = [dict(zip(names, row, strict=True)) for row in found]
            assert {row["entity"]: row["incidents"] for row in entities} == {"a": 1, "b1": 1}
        explained = tables.explain("a")
        assert isinstance(explained, queries.Explanation)
        assert explained.alert["evaluated"]


def test_without_labels_a_page_shows_the_evaluated_time(tmp_path: Path) -> None:
    """Every headline figure is of the evaluated time, which is named; where it has no events, the
    page does not deny the alerts before it, and the terminal warns."""
    inputs = [("shop", ndjson(tmp_path / "shop", TWO_ATTACKS))]
    told = lambda _records, _share: None  # noqa: E731
    summary = replay(config(), inputs, tmp_path / "out", told, (), THIRD_DAY)
    assert summary.evaluation_span.events == 3
    assert summary.evaluation_span.alerts_per_day == {"spend": 24.0 * summary.alerts_published}
    page = Parsed(render_run(summary)).said
    assert "Evaluated from 2026-03-04: 3 events." in page
    assert "events evaluated 3" in " ".join(page.split())
    nothing = replay(config(), inputs, tmp_path / "no", told, (), TimeSplit(from_ms=START_MS * 2))
    assert nothing.alerts["spend"] > 0
    assert nothing.evaluation_span.alerts_per_day == {"spend": None}
    assert "No alert was raised" not in Parsed(render_run(nothing)).said
    assert "warning: no event is in the evaluated time" in describe_time_split(nothing)


ASSESSED = (
    CONFIG.replace("p_max = 1e-3", "p_max = 1e-12")
    + """
[assess]
subject = "account"
policy = { p_max = 1e-2, warm_up_events = 0, incident_gap = "1min", alerts_per_day = 1 }
"""
)


def test_assess_is_evaluated_and_explained_like_monitors(tmp_path: Path) -> None:
    """What only assess alerts on, and what its budget holds back, is told of assess; it has a view,
    and its alerts are explained with its scores."""
    rows = [*NO_ALERT, payment(100, "a", 150.0), payment(101, "c", 150.0)]
    _, evaluation = run(tmp_path, rows, [fraud("e100"), fraud("e101")], ASSESSED)
    assert [view.name for view in evaluation.views] == ["all", "spend", "assess"]
    of_assess = evaluation.views[2].levels["events"]
    assert (of_assess.alerted, of_assess.frauds, of_assess.recall.value) == (1, 2, 0.5)
    assert of_assess.count == len(rows)
    assert of_assess.roc_auc.value == 1.0
    [missed] = evaluation.missed.by_amount
    assert (missed.event_id, missed.nearest) == ("e101", "assess")
    assert [said.held_back for said in missed.monitors] == [False, True]
    assert {one.name: one.frauds for one in evaluation.missed.bands if one.frauds} == {
        "held back": 1
    }
    [alert] = rows_of(tmp_path, "alerts")
    scores = {row["event_id"]: row for row in rows_of(tmp_path, "scores")}
    assert scores["e100"]["score_assess"] == pytest.approx(alert["score"], rel=1e-5)
    assert scores["e101"]["activity_assess"] == "held_back"
    assert scores["e100"]["score"] == scores["e100"]["score_spend"]
    assert scores["e0"]["score_assess"] is None
    shown = CliRunner().invoke(app, ["explain", str(tmp_path / "out"), "a"]).stdout
    assert "score_assess" in shown
    assert "held its alert back, over budget" in (tmp_path / "out" / "index.html").read_text()


def test_a_day_without_events_is_none(tmp_path: Path) -> None:
    """One event in 1970 is one day more: it costs no memory, and the budget curve stays."""
    rows = [{**payment(0, "b0", 5.0), "id": "first", "at": 1_000}, *NO_ALERT, *ATTACK]
    _, evaluation = run(tmp_path, rows, FRAUDS)
    assert evaluation.days == 2
    assert [day.day for day in evaluation.views[0].days] == ["1970-01-01", "2026-03-02"]
    assert len(evaluation.views[0].budget) > 3


def test_small_figures_are_exact(tmp_path: Path) -> None:
    """Of three frauds on two of three days two are caught: amounts, days and the budget curve are
    those counted by hand from the rows and their scores."""
    day = 24 * 60
    rows = [*NO_ALERT, payment(200, "a", 150.25), payment(201, "b1", 40.5), payment(day, "c", 5.0)]
    rows += [payment(day + 20, "d", 300.0), payment(3 * day, "e", 7.75)]
    rows += [payment(3 * day + 1, "f", 120.0)]
    known = START_MS + 5 * DAY_MS
    labels = [fraud("e200", known), fraud("e201", known), fraud(f"e{3 * day}", known)]
    _, evaluation = run(tmp_path, rows, labels, page=False)
    [missed] = evaluation.missed.by_amount
    assert (missed.event_id, missed.amount) == (f"e{3 * day}", 7.75)
    assert evaluation.missed.nearest == [missed]
    view = evaluation.views[0]
    assert [(one.events, one.amount_fraud, one.amount_caught) for one in view.days] == [
        *((102, 190.75, 190.75), (2, 0.0, 0.0), (2, 7.75, 0.0))
    ]
    [kind] = view.scenarios
    assert (kind.amount, kind.amount_caught, kind.amount_missed) == (198.5, 190.75, 7.75)
    frauds = {"e200": 150.25, "e201": 40.5, f"e{3 * day}": 7.75}
    scored = [(r["score"], r["event_id"]) for r in rows_of(tmp_path, "scores") if r["score"]]
    assert len(view.budget) > 5
    for point in view.budget:
        above = [event_id for score, event_id in scored if score >= point.score]
        lower = max((score for score, _ in scored if score < point.score), default=None)
        assert len(above) == point.events <= 3 * point.alerts_per_day
        if lower is not None:
            assert sum(score >= lower for score, _ in scored) > 3 * point.alerts_per_day
        hits = [event_id for event_id in above if event_id in frauds]
        assert point.precision == len(hits) / len(above)
        assert point.recall == len(hits) / 3
        assert point.amount_caught_share == sum(frauds[one] for one in hits) / 198.5


def test_alerts_are_counted_by_their_own_time(tmp_path: Path) -> None:
    """An alert behind the span is not among those of a view, though its incident opened inside."""
    rows = [*NO_ALERT, *(payment(100 + i, "a", 150.0) for i in range(20))]
    split = TimeSplit(until_ms=START_MS + 104 * 60_000)
    summary, evaluation = run(tmp_path, rows, [fraud("e101")], split=split)
    view = evaluation.views[0]
    assert (view.alerts, view.incidents) == (summary.evaluation_span.alerts["spend"], 1) == (1, 1)
    [incident] = rows_of(tmp_path, "incidents")
    assert view.incident_alerts.value == incident["alerts"] > 1


def test_monitors_may_be_called_what_they_like(tmp_path: Path) -> None:
    """No name of a monitor meets one that judging uses."""
    name = "id"
    text = CONFIG.replace('name = "spend"', f'name = "{name}"')
    second = text[text.index("[[monitors]]") :].replace(f'"{name}"', '"spend"', 1)
    _, evaluation = run(tmp_path, [*NO_ALERT, *ATTACK], FRAUDS, text + second)
    assert [view.name for view in evaluation.views] == ["all", name, "spend"]
    assert {view.levels["events"].alerted for view in evaluation.views} == {7}


def test_no_monitor_has_the_name_of_the_total() -> None:
    """The view of everything has that name."""
    with pytest.raises(ConfigError, match="it means all monitors"):
        config(CONFIG.replace('name = "spend"', 'name = "all"'))


def test_a_verdict_is_known_from_its_first_label_on(tmp_path: Path) -> None:
    """Saying it again changes nothing; what was contradicted in between begins anew."""
    at = [START_MS + day * DAY_MS for day in range(6)]
    labels = [fraud("e1", at[1]), fraud("e1", at[5]), fraud("e2", at[1])]
    labels += [fraud("e2", at[2], "honest"), fraud("e2", at[3]), fraud("e2", at[4])]
    run(
        tmp_path,
        [*NO_ALERT, payment(9_000, "b1", 5.0)],
        sorted(labels, key=lambda one: one["known_at"]),
    )
    known = {row["event_id"]: row for row in rows_of(tmp_path, "labels")}
    assert {row["verdict"] for row in known.values()} == {"fraud"}
    days = {id_: row["known_time"].day - 2 for id_, row in known.items()}
    assert days == {"e1": 1, "e2": 3}


def test_cents_are_the_same_however_they_are_made() -> None:
    """Amounts become whole cents in SQL as they do in arrays, ties and absurd ones included."""
    rng = np.random.default_rng(3)
    amount = np.append(
        rng.lognormal(3, 2, 20_000).round(3), [0.125, 0.375, -0.125, 2.675, 0.005, 1e300]
    )
    made = duckdb.from_arrow(pa.table({"amount": amount})).project(f"{CENTS} AS h")
    found = made.to_arrow_table()["h"].to_numpy()
    assert np.array_equal(found, in_cents(amount))


@pytest.mark.parametrize("two", [False, True], ids=["one", "two"])
@pytest.mark.parametrize("hop", [False, True], ids=["direct", "hop"])
def test_outcomes_per_event_equal_the_policys_counts(tmp_path: Path, hop: bool, two: bool) -> None:
    """At the position of every alert, and nowhere else, stands that it was published, and all adds
    up to the counters, over internal logs, and where several monitors report an event, too."""
    text = ASSESSED.replace("p_max = 1e-12", "p_max = 1e-3").replace("= 20 }", "= 2 }")
    if two:
        spend = text[text.index("[[monitors]]") : text.index("[assess]")]
        text = text.replace(spend, spend + spend.replace('"spend"', '"again"'))
    if hop:
        text = text.replace('inputs = ["shop"]', 'inputs = ["shop"]\npartitions = 2').replace(
            "[assess]\n", "[assess]\npartitions = 2\n"
        )
    attacks = [payment(100 + i, f"a{i % 4}", 150.0) for i in range(40)]
    summary, _ = run(tmp_path, [*NO_ALERT, *attacks], FRAUDS, text)
    scores = {tuple(row[k] for k in PLACE): row for row in rows_of(tmp_path, "scores")}
    assert len(scores) == 140
    for scorer in ("spend", "assess"):
        became = Counter(row[f"activity_{scorer}"] for row in scores.values())
        alerts = [a for a in rows_of(tmp_path, "alerts") if a["monitor"] == scorer]
        assert len(alerts) == became["opened"] + became["updated"] > 0
        for alert in alerts:
            row = scores[tuple(alert[k] for k in PLACE)]
            assert row[f"activity_{scorer}"] == alert["activity"]
            assert row["event_id"] == alert["event_id"]
        counts = summary.monitors[scorer]
        assert became["held_back"] == counts["alerts_held_back"] > 0
        assert became["suppressed"] == counts["alerts_suppressed"]
    assert Counter(row["activity_spend"] for row in scores.values())["suppressed"] > 0
