"""Runs are asked in SQL and without, and only asked."""

import csv
import io
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from schemas.repairs import shorten
from stream.cli import app
from stream.errors import ExtraMissing, QueryError
from stream.evaluation import queries
from stream.simulator import Shop, lines, shop_config
from tests.evaluation.conftest import EVENTS

EXAMPLE = (
    "SELECT account, sum(amount) AS missed FROM missed GROUP BY account "
    "ORDER BY missed DESC LIMIT 10"
)


def invoke(*arguments: str | Path) -> Result:
    """What a command printed."""
    result = CliRunner().invoke(app, [str(one) for one in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def rows(result: Result) -> list[dict[str, Any]]:
    """The objects of an answer as JSON."""
    return [orjson.loads(line) for line in result.stdout.splitlines()]


def of(run: Path, name: str) -> list[dict[str, Any]]:
    """A table of the run."""
    found: list[dict[str, Any]] = pq.read_table(run / f"{name}.parquet").to_pylist()
    return found


def missed(run: Path) -> dict[str, float]:
    """The value behind the missed frauds of each account, by hand."""
    sums: dict[str, float] = defaultdict(float)
    for row in of(run, "frauds"):
        if row["evaluated"] and not row["caught"] and row["amount"] is not None:
            sums[row["account"]] += row["amount"]
    return sums


def test_one_query_ranks_accounts_by_missed_fraud_value(run: Path) -> None:
    """The example of the help, word for word, gives what adding up by hand gives."""
    words = " ".join(invoke("query", "--help").stdout.replace("│", " ").split())
    assert EXAMPLE in words
    by_hand = missed(run)
    most = sorted(by_hand.values(), reverse=True)[:10]
    assert len(most) == 10
    by_sql = rows(invoke("query", run, EXAMPLE, "--format", "json"))
    by_top = rows(invoke("top", run, "--by", "missed", "--entity", "account", "--format", "json"))
    for found in (by_sql, by_top):
        assert [row["missed"] for row in found] == pytest.approx(most)
        assert [by_hand[row["account"]] for row in found] == pytest.approx(most)


def test_formats_hold_the_same_rows(run: Path) -> None:
    """Table, CSV and JSON say the same; lists and structures are JSON in the flat ones."""
    sql = "SELECT event_id, amount, event_time, account FROM scores ORDER BY event_id LIMIT 3"
    as_json = rows(invoke("query", run, sql, "--format", "json"))
    text = invoke("query", run, sql, "--format", "csv").stdout
    as_csv = list(csv.DictReader(io.StringIO(text)))
    assert [{k: "" if v is None else str(v) for k, v in row.items()} for row in as_json] == as_csv
    table = invoke("query", run, sql).stdout
    assert all(row["event_id"] in table for row in as_json)
    assert as_json[0]["event_time"].endswith("Z")
    nested = invoke("query", run, "SELECT contributions FROM alerts LIMIT 1", "--format", "csv")
    [cell] = list(csv.DictReader(io.StringIO(nested.stdout)))
    assert orjson.loads(cell["contributions"])[0]["share"] > 0


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT to_timestamp(0) AS a", {"a": "1970-01-01T00:00:00.000Z"}),
        (
            'SELECT to_timestamp(0) AS "é;"; -- that\'s all; ü',
            {"é;": "1970-01-01T00:00:00.000Z"},
        ),
        (
            'SELECT [to_timestamp(0)] AS "a ""b", 1 AS a, 2 AS a; ',
            {'a "b': ["1970-01-01T00:00:00.000Z"], "a": 1, "a_2": 2},
        ),
        ("SELECT map {to_timestamp(0): 2} AS a", {"a": {"1970-01-01T00:00:00.000Z": 2}}),
        ("SELECT map {1: 2, 3: NULL} AS a", {"a": {"1": 2, "3": None}}),
        ("SELECT (1::HUGEINT << 70) AS a, 7::HUGEINT AS b", {"a": str(2**70), "b": 7}),
        ("SELECT 1 AS a, 2 AS a, 3 AS a_2", {"a": 1, "a_2": 2, "a_2_2": 3}),
        ("SELECT 12.50::DECIMAL(9, 2) AS a, 'nan'::DOUBLE AS b", {"a": 12.5, "b": None}),
        (
            "PIVOT (SELECT 'x' AS k, 5 AS v) ON k IN ('x', 'y') USING sum(v)",
            {"x": 5, "y": None},
        ),
    ],
)
def test_any_value_has_its_place_in_json(run: Path, sql: str, expected: dict[str, Any]) -> None:
    """Times of a zone, numbers beyond 64 bits, keys that are no texts and columns with the same name
    are told, in every format."""
    assert rows(invoke("query", run, sql, "--format", "json")) == [expected]
    for format_ in ("csv", "table"):
        shown = invoke("query", run, sql, "--format", format_).stdout
        assert all(str(v) in shown for v in expected.values() if isinstance(v, str | int))


def test_several_runs_are_distinguished_by_a_column(run: Path, tmp_path: Path) -> None:
    """The same tables of several runs are one, and `run` says which row is whose; a table that one
    of them lacks is the others'."""
    other = tmp_path / "other"
    other.mkdir()
    for name in ("scores.parquet", "alerts.parquet", "incidents.parquet", "summary.json"):
        (other / name).write_bytes((run / name).read_bytes())
    sql = "SELECT run, count(*) AS n FROM {} GROUP BY run ORDER BY run"
    found = rows(invoke("query", run, other, sql.format("scores"), "--format", "json"))
    size = pq.read_metadata(run / "scores.parquet").num_rows
    assert sorted((row["run"], row["n"]) for row in found) == sorted(
        [(str(run), size), (str(other), size)]
    )
    frauds = rows(invoke("query", run, other, sql.format("frauds"), "--format", "json"))
    assert [row["run"] for row in frauds] == [str(run)]


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("DROP VIEW scores", "only read"),
        ("SELECT 1; SELECT 2", "only read"),
        ("PIVOT scores ON account USING sum(amount)", "IN .'a', 'b'.*have to write"),
        (
            "COPY (PIVOT scores ON account USING sum(amount)) TO '{run}/x'",
            "have to write|only read",
        ),
        ("COPY scores TO '{run}/scores.parquet' (FORMAT parquet)", "only read"),
        ("INSTALL httpfs", "only read"),
        ("SET enable_external_access = true", "only read"),
        ("SELECT * FROM read_csv('/etc/passwd')", "disabled"),
        ("SELECT * FROM read_parquet('https://example.org/a.parquet')", "disabled|httpfs"),
        ("SELECT * FROM read_parquet('{run}/scores.parquet')", "disabled"),
        ("SELECT * FROM run", "run does not exist"),
        ("ATTACH '{run}/new.duckdb' AS other", "only read"),
        ("EXPORT DATABASE '{run}/exported'", "only read"),
        ("SELECT nothing FROM scores", "nothing"),
        ("SELEC 1", "syntax error"),
        ("SELECT CAST(event_id AS INTEGER) FROM scores", "convert"),
    ],
)
def test_runs_are_only_read(run: Path, sql: str, message: str) -> None:
    """Nothing else can be read, nothing written, no setting changed, no extension loaded; mistakes
    are errors that say what is wrong."""
    before = {file.name: file.read_bytes() for file in run.iterdir()}
    with pytest.raises(QueryError, match=message):
        invoke("query", run, sql.format(run=run))
    assert {file.name: file.read_bytes() for file in run.iterdir()} == before


WRITES = (
    "COPY (SELECT 1) TO '{path}'",
    "COPY (SELECT 1) TO '{path}' (USE_TMP_FILE true)",
    "COPY (SELECT 1) TO '{path}' (USE_TMP_FILE false)",
    "COPY (SELECT 1) TO '{path}' (FORMAT parquet, USE_TMP_FILE false)",
    "ATTACH '{path}' AS other",
    "EXPORT DATABASE '{path}'",
)


@pytest.mark.parametrize("statement", [*WRITES, "INSTALL httpfs", "LOAD httpfs"])
@pytest.mark.parametrize("before", ["EXPLAIN ANALYZE ", "explain /* */ analyze ", ""])
@pytest.mark.parametrize("name", ["alerts.parquet", "index.html", "new", "../new"])
def test_nothing_is_written_by_an_explained_statement(
    run: Path, statement: str, before: str, name: str
) -> None:
    """EXPLAIN ANALYZE runs what it explains: no form of it writes, in the run's folder or beside."""
    folder = run.parent
    contents = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    with queries.open_runs([run]) as tables, pytest.raises(QueryError):
        list(tables.query(before + statement.format(path=run / name)).rows)
    assert {f: f.read_bytes() for f in folder.rglob("*") if f.is_file()} == contents


def test_every_column_is_described(run: Path) -> None:
    """Each column of each table that a run writes has a meaning, and --columns shows them."""
    listed = queries.columns([run])
    assert {one.table for one in listed} == set(queries.TABLES)
    unsaid = [f"{one.table}.{one.column}" for one in listed if not one.meaning]
    assert not unsaid
    shown = rows(invoke("query", "--columns", run, "--format", "json"))
    assert shown == [one._asdict() for one in listed]


def test_top_ranks_entities_by_what_is_asked(run: Path) -> None:
    """By score, alerts or amount of their incidents, of one type or all."""
    incidents = of(run, "incidents")
    for by, column in (("score", "top_score"), ("alerts", "alerts"), ("amount", "amount")):
        found = rows(invoke("top", run, "--by", by, "--format", "json", "--limit", "5"))
        values = [row[column] for row in found]
        assert values == sorted(values, key=lambda v: -(v or 0))
    assert rows(invoke("top", run, "--format", "json"))[0]["top_score"] == max(
        one["top_score"] for one in incidents
    )
    only = rows(invoke("top", run, "--entity", "ip", "--limit", "1000", "--format", "json"))
    entities = {one["entity"] for one in incidents if one["entity_type"] == "ip"}
    assert {row["entity"] for row in only} == entities
    with pytest.raises(QueryError, match="no monitor watches seller"):
        invoke("top", run, "--entity", "seller")


def test_an_alert_is_explained_by_its_id_its_incident_and_its_entity(run: Path) -> None:
    """What was surprising stands there with what was expected, the incident and its events."""
    worst = max(of(run, "alerts"), key=lambda alert: alert["score"])
    by_id = invoke("explain", run, worst["alert_id"]).stdout
    for one in worst["contributions"]:
        assert one["feature"] in by_id
    assert worst["incident_id"] in by_id
    assert worst["event_id"] in by_id
    assert worst["entity"] in by_id
    assert invoke("explain", run, worst["entity"]).stdout == by_id
    assert worst["entity"] in invoke("explain", run, worst["incident_id"]).stdout
    with pytest.raises(QueryError, match="nobody: no alert, incident, event or entity"):
        invoke("explain", run, "nobody")


def test_an_event_or_entity_without_an_alert_is_explained(run: Path) -> None:
    """A missed fraud, an event that was only scored and an entity without any alert each show the
    event's position, every monitor's report and the features with the smallest p."""
    missed_fraud = next(row for row in of(run, "frauds") if not row["caught"])
    alerts = of(run, "alerts")
    alerted = {row["entity"] for row in alerts}
    entity = next(
        row["account"] for row in of(run, "scores") if row["account"] not in {None, *alerted}
    )
    shown = invoke("explain", run, missed_fraud["event_id"]).stdout
    assert f"event {missed_fraud['event_id']}: no alert" in shown
    gap = f"nearest to an alert was {missed_fraud['nearest']}, by a score difference of {missed_fraud['gap']:.2f}"
    assert gap in shown
    shown = invoke("explain", run, entity).stdout
    own = [row for row in of(run, "scores") if row["account"] == entity]
    top = max(own, key=lambda row: (row["evaluated"], row["score"]))
    assert f"account {entity}: no alert in {len(own):,} events" in shown
    assert f"event {top['event_id']}" in shown
    assert f"[{top['partition']}] at {top['offset']}" in shown
    assert f"{top['score_account']:.2f}" in shown
    features = next(row for row in of(run, "features") if row["event_id"] == top["event_id"])
    least = min((p, name) for name, p in features.items() if name.endswith("__p") and p is not None)
    assert least[1].removesuffix("__p").replace("__", ".") in shown


def test_an_alerted_event_is_explained_by_its_id(run: Path) -> None:
    """The event's id leads to the alert that was raised on it."""
    alert = max(of(run, "alerts"), key=lambda one: one["score"])
    assert invoke("explain", run, alert["event_id"]).stdout == (
        invoke("explain", run, alert["alert_id"]).stdout
    )


def test_a_pseudonym_leads_from_a_raw_id_into_the_run(run: Path) -> None:
    """`eddy pseudonym` prints the name that the run's alerts have of a device that is not revealed."""
    alert, device = next(
        (alert, one["id"])
        for alert in of(run, "alerts")
        for one in alert["related"]
        if one["type"] == "device" and one["pseudonym"]
    )
    made = (orjson.loads(line.value) for line in lines(Shop(EVENTS, 7)) if line.value)
    raw = next(one["device"] for one in made if one.get("event_id") == alert["event_id"])
    assert invoke("pseudonym", shop_config(), "device", raw).stdout.strip() == device
    with pytest.raises(QueryError, match="got type shoe; expected one of account"):
        invoke("pseudonym", shop_config(), "shoe", "42")


@pytest.mark.parametrize(
    ("field", "written", "read"),
    [
        ("ip", "::FFFF:203.0.113.1", "203.0.113.1"),
        ("ip", "[2001:DB8::1]:443", "2001:db8::1"),
        ("account", "a\udcff", "a\ufffd"),
        ("account", "a" * 300, shorten("account", "a" * 300, 256)),
    ],
)
def test_a_pseudonym_is_that_of_the_id_as_events_have_it(
    field: str, written: str, read: str
) -> None:
    """An address in any form, a byte that is not UTF-8 and a text too long lead to the entity that
    they are in a run."""
    config = shop_config()
    assert invoke("pseudonym", config, field, written).stdout == (
        invoke("pseudonym", config, field, read).stdout
    )


def test_an_empty_id_has_no_pseudonym() -> None:
    """It names nobody: an event has no entity then."""
    with pytest.raises(QueryError, match="empty id"):
        invoke("pseudonym", shop_config(), "account", "")


HOSTILE = "\x1b]0;owned\x07\x9b31m\u202e=cmd|' /C calc'!A0"


def test_untrusted_text_is_no_escape_sequence_and_no_formula(run: Path) -> None:
    """Control characters become escapes in every format; in CSV a text that begins like a formula
    gets an apostrophe, a number none; JSON gives the text back unchanged."""
    codes = " || ".join(f"chr({ord(c)})" for c in HOSTILE)
    sql = f"SELECT {codes} AS a, '=1+1' AS b, -5 AS c, '-5' AS d, '@x' AS \"=e\""
    for format_ in ("table", "csv", "json"):
        shown = invoke("query", run, sql, "--format", format_).stdout
        assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(shown)
        assert "\\u001b" in shown
    as_json = rows(invoke("query", run, sql, "--format", "json"))
    assert as_json == [{"a": HOSTILE, "b": "=1+1", "c": -5, "d": "-5", "=e": "@x"}]
    text = invoke("query", run, sql, "--format", "csv").stdout
    [line] = csv.DictReader(io.StringIO(text))
    assert (line["b"], line["c"], line["d"], line["'=e"]) == ("'=1+1", "-5", "'-5", "'@x")


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    """A folder without a summary is no run, and SQL without a run is no question."""
    with pytest.raises(QueryError, match="is not a run"):
        invoke("query", tmp_path, "SELECT 1")
    with pytest.raises(QueryError, match="is not a run"):
        invoke("query", tmp_path, "--columns")
    with pytest.raises(QueryError, match="expected at least one run"):
        invoke("query", "SELECT 1")


@pytest.mark.slow
def test_a_folders_name_is_no_pattern(run: Path, tmp_path: Path) -> None:
    """Runs in folders with signs that stand for others elsewhere are read by their own names."""
    for name in ("a1", "a[1]", "a*"):
        shutil.copytree(run, tmp_path / name)
    (tmp_path / "a1" / "scores.parquet").unlink()
    shutil.copy(tmp_path / "a1" / "alerts.parquet", tmp_path / "a1" / "scores.parquet")
    counts = [
        rows(
            invoke("query", tmp_path / name, "SELECT count(*) AS n FROM scores", "--format", "json")
        )
        for name in ("a[1]", "a*", "a1")
    ]
    assert counts[0] == counts[1] != counts[2]


def test_without_duckdb_the_error_says_what_to_install(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Queries need the extra."""
    monkeypatch.setitem(__import__("sys").modules, "duckdb", None)
    with pytest.raises(ExtraMissing, match="duckdb is not installed"):
        invoke("query", run, "SELECT 1")


def test_without_labels_nothing_was_missed_that_is_known(run: Path, tmp_path: Path) -> None:
    """A run without labels says so, and names the option."""
    for name in ("scores.parquet", "incidents.parquet", "summary.json"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    with pytest.raises(QueryError, match="without --labels"):
        invoke("top", tmp_path, "--by", "missed")


def test_a_table_that_was_not_asked_for_names_its_option(run: Path, tmp_path: Path) -> None:
    """Of a run without labels and features, SQL over those tables says which option writes them."""
    for name in ("scores.parquet", "summary.json"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    for table, option in (
        ("features", "--features"),
        ("frauds", "--labels"),
        ("missed", "--labels"),
    ):
        with pytest.raises(
            QueryError, match=f"no table {table}: eddy replay writes it with {option}"
        ):
            invoke("query", tmp_path, f"FROM {table}")


def test_a_run_named_twice_is_refused(run: Path) -> None:
    """Its rows would count twice, however the folder is spelt."""
    with pytest.raises(QueryError, match="was named twice"):
        invoke("query", run, run / ".." / run.name, "SELECT count(*) FROM scores")
