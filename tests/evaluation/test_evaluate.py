"""What is judged of a whole run, against the same worked out by hand from its tables."""

from collections import Counter, defaultdict
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn import metrics

from detectors.scoring.explain import score_of_p
from stream.evaluation.evaluate import TOP_K
from stream.evaluation.results import Estimate, Evaluation, Level, LevelMeasures, View
from tests.evaluation.conftest import shop

Row = dict[str, Any]
DAY_MS = 86_400_000
MONITORS = ("account", "card", "ip")
VIEWS = ("all", *MONITORS)


@cache
def table(path: Path, name: str) -> list[Row]:
    """The rows of one of the run's tables, times as milliseconds."""
    rows: list[Row] = pq.read_table(path / f"{name}.parquet").to_pylist()
    for row in rows:
        row |= {k: ms(v) for k, v in row.items() if hasattr(v, "timestamp")}
    return rows


def ms(time: Any) -> int:
    """Milliseconds since 1970."""
    since = (time - type(time)(1970, 1, 1)).total_seconds()
    return round(1000 * float(since))


@cache
def evaluation(path: Path) -> Evaluation:
    """What the summary says."""
    summary = msgspec.json.decode((path / "summary.json").read_bytes())
    return msgspec.convert(summary["evaluation"], Evaluation)


def view(path: Path, name: str) -> View:
    """One view of the run."""
    return next(one for one in evaluation(path).views if one.name == name)


@cache
def events(path: Path, name: str) -> list[Row]:
    """The judged events of a view: score, entity, fraud, alerted, published, caught; and the kind of
    fraud."""
    entity = "account" if name == "all" else name
    labels = {row["event_id"]: row for row in table(path, "labels")}
    alerts = [a for a in table(path, "alerts") if name in ("all", a["monitor"])]
    on = {(alert["topic"], alert["partition"], alert["offset"]) for alert in alerts}
    scorers = MONITORS if name == "all" else (name,)
    held = defaultdict(list)
    for alert in alerts:
        until = alert["event_time"] + 1000 * alert["ttl_s"]
        held[alert["entity_type"], alert["entity"]].append((alert["event_time"], until))
    found = []
    for row in table(path, "scores"):
        label, at = labels.get(row["event_id"]), row["event_time"]
        under = any(
            since <= at < until for f in MONITORS for since, until in held[f, row[f]] if row[f]
        )
        score = row["score" if name == "all" else f"score_{name}"]
        fraud = label is not None and label["verdict"] == "fraud"
        became = {row[f"activity_{scorer}"] for scorer in scorers}
        alerted = bool(became & {"opened", "updated", "counted"})
        published = (row["topic"], row["partition"], row["offset"]) in on
        assert published == bool(became & {"opened", "updated"})
        more = {
            "value": score,
            "entity": row[entity],
            "fraud": fraud,
            "kind": label["scenario"] if fraud and label else None,
            "known": label["known_time"] if label else None,
            "alerted": alerted,
            "published": published,
            "caught": alerted or under,
            "day": at // DAY_MS,
        }
        if score is not None:
            found.append(row | more)
    return found


def seen(path: Path, name: str) -> list[Row]:
    """Those that are judged."""
    return [row for row in events(path, name) if row["evaluated"]]


def level(path: Path, name: str, which: Level) -> LevelMeasures:
    """The figures of one level of a view."""
    return view(path, name).levels[which]


def same_ranking(found: LevelMeasures, rows: list[Row]) -> None:
    """The figures are those of scikit-learn, and of counting."""
    truth, score = [r["fraud"] for r in rows], [r["value"] for r in rows]
    alerted, published = ([r for r in rows if r[how]] for how in ("alerted", "published"))
    hits, true = (sum(r["fraud"] for r in some) for some in (alerted, published))
    counts = len(rows), sum(truth), len(alerted), hits, len(published), true
    assert counts == (
        *(found.count, found.frauds, found.alerted, found.frauds_alerted),
        *(found.published, found.frauds_published),
    )
    assert found.roc_auc.value == pytest.approx(metrics.roc_auc_score(truth, score))
    precision = metrics.average_precision_score(truth, score)
    assert found.average_precision.value == pytest.approx(precision)
    assert found.precision.value == (true / len(published) if published else None)
    assert found.recall.value == hits / sum(truth)
    for figure in (found.roc_auc, found.average_precision, found.recall):
        holds(figure)


def holds(figure: Estimate) -> None:
    """The interval lies around the value, and is one; of four days there is none."""
    if figure.low is None:
        return
    assert figure.low is not None
    assert figure.value is not None
    assert figure.high is not None
    assert figure.low <= figure.value <= figure.high
    assert figure.low < figure.high


def grouped(rows: list[Row], *keys: str) -> list[Row]:
    """The highest score of each group that has an entity, whether any is fraud, any alerted."""
    groups = defaultdict(list)
    for row in rows:
        if row["entity"] is not None:
            groups[tuple(row[key] for key in keys)].append(row)
    return [
        dict(zip(keys, key, strict=True))
        | {
            "value": max(r["value"] for r in group),
            "fraud": any(r["fraud"] for r in group),
            "alerted": any(r["alerted"] for r in group),
            "published": any(r["published"] for r in group),
        }
        for key, group in groups.items()
    ]


def compromised_on(path: Path, name: str) -> set[tuple[str, int]]:
    """Entities and days on which they are known as compromised."""
    first = min(row["day"] for row in seen(path, name))
    last = max(row["day"] for row in seen(path, name))
    return {
        (row["entity"], day)
        for row in events(path, name)
        if row["fraud"]
        for day in range(first, last + 1)
        if row["compromised"] // DAY_MS < day
        and row["compromised"] // DAY_MS >= day - (day - first) % 7 - 7
    }


@pytest.mark.parametrize("name", VIEWS)
def test_events_and_entities_are_ranked_as_scikit_learn_ranks_them(run: Path, name: str) -> None:
    """AUC, average precision, and precision and recall as alerted are right on every level."""
    rows = seen(run, name)
    assert sum(row["fraud"] for row in rows) > 100
    same_ranking(level(run, name, "events"), rows)
    same_ranking(level(run, name, "entities"), grouped(rows, "entity"))
    same_ranking(level(run, name, "entity_days"), grouped(rows, "entity", "day"))
    compromised = compromised_on(run, name)
    new = [row for row in rows if (row["entity"], row["day"]) not in compromised]
    # an attacker's address is never seen again
    assert len(new) == len(rows) if name == "ip" else len(new) < len(rows)
    same_ranking(level(run, name, "new_events"), new)


@pytest.mark.parametrize("name", VIEWS)
def test_the_top_of_each_day_is_counted_by_the_handbooks_protocol(run: Path, name: str) -> None:
    """Of the k entities with the highest scores of a day, those known, and those found earlier in
    the week, left out, the frauds are counted."""
    compromised = compromised_on(run, name)
    days = defaultdict(list)
    for row in grouped(seen(run, name), "entity", "day"):
        if (row["entity"], row["day"]) not in compromised:
            days[row["day"]].append(row)
    for at, k in enumerate(TOP_K):
        found: set[str] = set()
        shares = []
        for day in sorted(days):
            ranked = sorted(days[day], key=lambda row: (-row["value"], row["entity"]))
            top = [row for row in ranked if row["entity"] not in found][:k]
            new = {row["entity"] for row in top if row["fraud"]}
            shares.append(len(new) / k)
            found |= new
        assert view(run, name).precision_at_k[at].precision.value == pytest.approx(np.mean(shares))
        measured = [day.precision_at_k[at] for day in view(run, name).days]
        assert measured == pytest.approx(shares)
    assert max(shares) > 0


@pytest.mark.parametrize("name", VIEWS)
def test_amounts_are_caught_by_alerts_and_while_their_actions_stand(run: Path, name: str) -> None:
    """An amount is caught where its event has an alert or an alert's action stands; the days and
    the kinds of fraud add up to the whole."""
    frauds = [row for row in seen(run, name) if row["fraud"]]
    caught = sum(row["amount"] or 0 for row in frauds if row["caught"])
    total = sum(row["amount"] or 0 for row in frauds)
    found = view(run, name)
    assert found.amount.caught == pytest.approx(caught)
    assert found.amount.fraud == pytest.approx(total)
    assert found.amount.missed == pytest.approx(total - caught)
    assert found.amount.caught_share.value == pytest.approx(caught / total)
    assert sum(day.amount_caught for day in found.days) == pytest.approx(caught)
    assert sum(day.alerts for day in found.days) == level(run, name, "events").published
    assert sum(day.alerted for day in found.days) == level(run, name, "events").frauds_alerted
    for kind in found.scenarios:
        of_kind = [row for row in frauds if row["kind"] == kind.name]
        assert kind.frauds == len(of_kind)
        assert kind.caught == sum(row["caught"] for row in of_kind)
        assert kind.amount == pytest.approx(sum(row["amount"] or 0 for row in of_kind))
        rows = [row for row in seen(run, name) if row["kind"] in (None, kind.name)]
        truth, score = [row["fraud"] for row in rows], [row["value"] for row in rows]
        assert kind.roc_auc == pytest.approx(metrics.roc_auc_score(truth, score))
        precision = metrics.average_precision_score(truth, score)
        assert kind.average_precision == pytest.approx(precision)
    assert sum(kind.frauds for kind in found.scenarios) == len(frauds)


@pytest.mark.parametrize("name", VIEWS)
def test_a_delay_is_from_the_first_fraud_to_the_next_alert(run: Path, name: str) -> None:
    """Alerts before the first fraud do not count; entities without a later one are counted as
    never."""
    since: dict[str, int] = {}
    for row in seen(run, name):
        if row["fraud"] and row["entity"] is not None:
            since[row["entity"]] = min(row["event_time"], since.get(row["entity"], 2**62))
    delays: dict[str, float] = {}
    for row in events(run, name):
        after = row["event_time"] - since.get(row["entity"], 2**62)
        if row["alerted"] and after >= 0:
            delays[row["entity"]] = min(after / 1000, delays.get(row["entity"], 2**62))
    found = view(run, name).delay
    assert found.entities == len(since)
    assert found.never.value == pytest.approx(1 - len(delays) / len(since))
    quartiles = np.quantile([*delays.values()], [0.25, 0.5, 0.75], method="inverted_cdf")
    measured = (found.first_quartile_s, found.median_s.value, found.third_quartile_s)
    assert measured == tuple(quartiles)


def test_incidents_are_frauds_where_one_of_their_events_is(run: Path) -> None:
    """An incident holds its entity's events from opening to last; its verdict, amounts and counts
    are theirs, and the level of the incidents counts them."""
    rows = events(run, "all")
    for incident in table(run, "incidents"):
        field = incident["entity_type"]
        inside = [
            row
            for row in rows
            if row[field] == incident["entity"]
            and incident["opened"] <= row["event_time"] <= incident["last"]
        ]
        frauds = [row for row in inside if row["fraud"]]
        assert incident["events"] == len(inside) > 0
        assert incident["frauds"] == len(frauds)
        assert incident["verdict"] == ("fraud" if frauds else "honest")
        assert incident["amount"] == (
            pytest.approx(sum(row["amount"] or 0 for row in inside))
            if any(row["amount"] is not None for row in inside)
            else None
        )
        alerts = [a for a in table(run, "alerts") if a["incident_id"] == incident["incident_id"]]
        assert incident["alerts"] == len(alerts)
        assert incident["top_score"] == max(alert["score"] for alert in alerts)
        became = [row[f"activity_{incident['monitor']}"] for row in inside]
        assert incident["suppressed"] == became.count("counted")
        assert incident["last"] == max(
            r["event_time"]
            for r, b in zip(inside, became, strict=True)
            if b in {"opened", "updated", "counted"}
        )
    judged_from = min(row["event_time"] for row in seen(run, "all"))
    counted = [one for one in table(run, "incidents") if one["opened"] >= judged_from]
    found = level(run, "all", "incidents")
    assert found.count == found.alerted == len(counted) > 5
    assert found.frauds == sum(one["verdict"] == "fraud" for one in counted)
    total = view(run, "all")
    assert total.incidents == len(counted)
    assert total.alerts == sum(a["event_time"] >= judged_from for a in table(run, "alerts"))


def test_calibration_counts_honest_events_below_each_p(run: Path) -> None:
    """Observed is the share of honest events with a p-value at most p."""
    for name in MONITORS:
        honest = [10 ** -row["value"] for row in seen(run, name) if not row["fraud"]]
        for point in view(run, name).calibration:
            below = sum(p <= point.p * (1 + 1e-9) for p in honest)
            assert point.events == below
            assert point.observed.value == below / len(honest)


def why_missed(row: Row) -> str:
    """The name of a missed fraud's band."""
    needed = {monitor.name: score_of_p(monitor.policy.p_max) for monitor in shop().monitors}
    gaps = [least - row[f"score_{m}"] for m, least in needed.items() if row[f"score_{m}"]]
    if any(row[f"activity_{monitor}"] == "held_back" for monitor in needed):
        return "held back"
    if not gaps:
        return "not scored"
    if min(gaps) <= 0:
        return "budget"
    ends = (0.5, 1, 2, 4)
    over = [end for end in (0, *ends) if min(gaps) > end]
    return f"{over[-1]} to {ends[len(over) - 1]}" if len(over) <= len(ends) else "more than 4"


def test_missed_frauds_show_the_gap_and_the_silent_monitors(run: Path) -> None:
    """Missed frauds are those not caught; their gap is to the least score that alerts, what the
    budget held back is told apart, and a feature is silent where its own p-value in features.parquet is not below 0.1."""
    frauds = [row for row in seen(run, "all") if row["fraud"]]
    missed = {row["event_id"]: row for row in frauds if not row["caught"]}
    found = evaluation(run).missed
    assert found.frauds == len(missed) > 0
    assert found.amount == pytest.approx(sum(row["amount"] or 0 for row in missed.values()))
    measured = {one.name: one.frauds for one in found.bands if one.frauds}
    assert measured == Counter(map(why_missed, missed.values()))
    features = {row["event_id"]: row for row in table(run, "features")}
    for one in (*found.nearest, *found.by_amount):
        row = missed[one.event_id]
        gaps = {
            said.monitor: said.min_alert_score - said.score for said in one.monitors if said.score
        }
        held = {s.monitor for s in one.monitors if s.held_back}
        assert held == {m for m in MONITORS if row[f"activity_{m}"] == "held_back"}
        assert one.gap == (min(gaps.values()) if gaps else None)
        assert one.nearest == (min(gaps, key=gaps.__getitem__) if gaps else None)
        for said in one.monitors:
            assert said.score == row[f"score_{said.monitor}"]
            if said.score is None:
                continue
            p = {
                name.split("__")[1]: value
                for name, value in features[one.event_id].items()
                if name.startswith(f"{said.monitor}__") and name.endswith("__p")
            }
            assert {*said.surprising} == {k for k, v in p.items() if v is not None and v < 0.1}
            assert {*said.surprising, *said.ordinary} == {*p}
    amounts = [one.amount or 0 for one in found.by_amount]
    assert amounts == sorted(amounts, reverse=True)
    assert amounts[0] == max(row["amount"] or 0 for row in missed.values())
