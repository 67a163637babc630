"""The tables of a run: the same bytes each time, ids shown as alerts show them, alerts and features
as they were."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import orjson
import pyarrow.parquet as pq
import pytest

from stream.evaluation.queries import EVENTS_SHOWN
from stream.replay import Summary, TimeSplit, replay
from stream.replay.tables import surprising_names
from tests.evaluation.conftest import SCORE_FROM_MS, shop, write_shop
from tests.evaluation.test_evaluate import ms
from tests.report.test_page import Parsed


def rows(run: Path, name: str) -> list[dict[str, Any]]:
    """The rows of a table."""
    found: list[dict[str, Any]] = pq.read_table(run / f"{name}.parquet").to_pylist()
    return found


@pytest.mark.slow
def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    """Two replays of the same files differ in no byte of any table, nor in what is judged."""
    made, known = write_shop(tmp_path, 20_000)
    split = TimeSplit(from_ms=SCORE_FROM_MS)
    for name in ("one", "two"):
        given = [("shop", made)], tmp_path / name, lambda *_: None, [("labels", known)], split
        replay(shop(), *given, writes_features=True)
    one, two = tmp_path / "one", tmp_path / "two"
    tables = sorted(one.glob("*.parquet"))
    assert len(tables) == 6
    for table in tables:
        assert table.read_bytes() == (two / table.name).read_bytes(), table.name
    judged = [orjson.loads((run / "summary.json").read_bytes())["evaluation"] for run in (one, two)]
    assert judged[0] == judged[1]
    assert judged[0]["frauds"] > 50


def test_alerts_are_the_same_as_text_and_as_a_table(run: Path) -> None:
    """A row of alerts.parquet for each line of alerts.ndjson, in its order, with its contributions;
    each entity is one of scores.parquet's."""
    lines = [orjson.loads(line) for line in (run / "alerts.ndjson").read_bytes().splitlines()]
    table = rows(run, "alerts")
    assert [row["alert_id"] for row in table] == [line["alert_id"] for line in lines]
    by_event = {row["event_id"]: row for row in rows(run, "scores")}
    for row, line in zip(table, lines, strict=True):
        assert row["contributions"] == line["contributions"]
        assert row["counterfactual"] == line["counterfactual"]
        assert row["event_id"] == line["evidence"][0]["event_id"]
        assert (row["score"], row["threshold"]) == (line["score"], line["threshold"])
        assert (
            row["entity"] == line["entity"]["id"] == by_event[row["event_id"]][row["entity_type"]]
        )
        score = by_event[row["event_id"]][f"score_{row['monitor']}"]
        assert row["score"] == pytest.approx(score, rel=1e-5)


def test_ids_that_are_not_revealed_stand_as_pseudonyms(tmp_path: Path) -> None:
    """Without `reveal` no raw account, card or address stands in any table; one account has one
    pseudonym, the one that its alerts have."""
    import msgspec

    made, known = write_shop(tmp_path, 8_000)
    hidden = msgspec.structs.replace(shop(), reveal=[])
    replay(hidden, [("shop", made)], tmp_path / "run", lambda *_: None, [("labels", known)])
    events = {line["event_id"]: line for line in map(orjson.loads, made.read_bytes().splitlines())}
    shown: dict[str, set[str]] = {}
    for row in rows(tmp_path / "run", "scores"):
        raw = events[row["event_id"]].get("account")
        assert (row["account"] is None) == (raw is None)
        if raw is not None:
            shown.setdefault(raw, set()).add(row["account"])
    assert len(shown) > 500
    assert all(len(ids) == 1 and len(min(ids)) == 32 for ids in shown.values())
    assert len({min(ids) for ids in shown.values()}) == len(shown)
    for table in sorted((tmp_path / "run").glob("*.parquet")):
        text = str(pq.read_table(table).to_pylist())
        assert "acct-" not in text, table.name
        assert "card-" not in text, table.name


def test_features_are_those_in_alerts(run: Path) -> None:
    """What an alert's contributions call actual and p-value, features.parquet has for its event;
    where a monitor did not judge an event, it has nothing."""
    features = {row["event_id"]: row for row in rows(run, "features")}
    scores = rows(run, "scores")
    assert [*features] == [row["event_id"] for row in scores]
    told = 0
    for alert in rows(run, "alerts"):
        row = features[alert["event_id"]]
        for one in alert["contributions"]:
            name = f"{alert['monitor']}__{one['feature']}"
            assert row[name] == pytest.approx(one["actual"], rel=1e-5)
            p = row[f"{name}__p"]
            assert (1.0 if p is None else p) == pytest.approx(one["p_value"], rel=1e-5)
            told += 1
    assert told > 50
    silent = [row["event_id"] for row in scores if row["score_card"] is None]
    of_card = [name for name in next(iter(features.values())) if name.startswith("card__")]
    assert of_card
    assert all(features[one][name] is None for one in silent[:2_000] for name in of_card)


def test_any_number_of_features_may_have_been_surprised() -> None:
    """Of more features than a byte has bits each is named where it is set, in their order; null
    where the monitor did not judge."""
    names = [f"f{i}" for i in range(20)]
    surprised = np.random.default_rng(1).random((20, 500)) < 0.2
    judged = np.arange(500) % 7 > 0
    found = surprising_names(names, surprised, judged).to_pylist()
    for i, one in enumerate(found):
        expected = ",".join(
            name for name, is_set in zip(names, surprised[:, i], strict=True) if is_set
        )
        assert one == (expected if judged[i] else None)


def test_incidents_have_their_first_events(run: Path) -> None:
    """The first events of each incident's entity from opening to last stand in the summary, in
    order, with time, amount and their monitor's score, and on the page."""
    summary = msgspec.json.decode((run / "summary.json").read_bytes(), type=Summary)
    scores = [row | {"ms": ms(row["event_time"])} for row in rows(run, "scores")]
    told = Parsed((run / "index.html").read_text("utf-8")).said
    sizes = set()
    for one in summary.incidents:
        inside = [
            (row["ms"], row["event_id"], row["amount"], row[f"score_{one.monitor}"])
            for row in scores
            if row[one.entity.type] == one.entity.id and one.first_ms <= row["ms"] <= one.last_ms
        ]
        found = [(e.time_ms, e.event_id, e.amount, e.score) for e in one.first_events]
        assert found == sorted(inside, key=lambda event: event[:2])[:EVENTS_SHOWN]
        assert all(event.event_id in told for event in one.first_events)
        sizes.add(len(inside))
    assert min(sizes) < EVENTS_SHOWN < max(sizes)
