"""Likely mistakes in a live worker's inputs: log lines, metrics and readiness."""

import numpy as np
import orjson
import pytest
from structlog.testing import capture_logs

from schemas.records import Records
from stream.config import Config, parse
from stream.config.stage_graph import logs
from stream.config.topology import Log
from stream.inputs.diagnostics import RECORDS_MIN, InputDiagnostics, InputProblem
from stream.pipeline.alerting import RunInfo
from stream.pipeline.shard import ShardFactory
from stream.telemetry.collector import MetricsCollector

CARD = "4111111111111111"
START_MS = 1_767_225_600_000
DOCUMENT = {
    "group": "t",
    "inputs": {
        "pay": {
            "topic": "payments",
            "type": {"field": "kind"},
            "fields": {
                "event_id": "id",
                "time": "at",
                "card": "card.token",
                "amount": "amount",
                "verdict": "verdict",
            },
        }
    },
    "monitors": [
        {
            "name": "cards",
            "entity": "card",
            "inputs": ["pay"],
            "capacity": 64,
            "features": [{"name": "amount", "kind": "value", "field": "amount"}],
            "detectors": [{"kind": "tail"}],
        }
    ],
}


class Worker:
    """A shard of an input and its diagnostics, as in a worker."""

    def __init__(self) -> None:
        self.config: Config = parse(DOCUMENT, {})
        self.shard = ShardFactory(self.config, RunInfo("live", "r", str)).input_shard("pay")
        self.diagnostics = InputDiagnostics(self.config, MetricsCollector())
        self.next_offset = 0

    def read(self, *values: object, size: int = 10_000) -> None:
        """Process these records, in batches of that size."""
        [log] = logs(self.config)
        for start in range(0, len(values), size):
            part = values[start : start + size]
            n = len(part)
            raw: list[bytes | None] = [
                one if isinstance(one, bytes) else orjson.dumps(one) for one in part
            ]
            offsets = np.arange(self.next_offset, self.next_offset + n)
            records = Records("payments", 0, offsets, np.full(n, START_MS), raw)
            self.next_offset += n
            self.diagnostics.observe(log, records, self.shard.process(records))

    def odd(self) -> dict[tuple[str, str, str], InputProblem]:
        """The problems by their first three fields: of, kind, about."""
        return {one[:3]: one for one in self.diagnostics.problems([self.shard.counts()])}

    def reasons_not_ready(self) -> list[str]:
        """Why the worker is not ready."""
        return self.diagnostics.reasons_not_ready(self.odd().values())


def event(i: int, **other: object) -> dict[str, object]:
    """A payment, with other values for some fields."""
    plain = {"id": f"e{i}", "at": START_MS + i, "kind": "transaction", "amount": 1.0}
    return plain | {"card": {"token": CARD}} | other


def test_an_ordinary_input_is_not_odd() -> None:
    """Nothing is logged, and the worker is ready."""
    worker = Worker()
    with capture_logs() as lines:
        worker.read(*(event(i) for i in range(2 * RECORDS_MIN)))
        assert worker.odd() == {}
    assert lines == []


def test_a_mapped_path_found_nowhere_is_noticed_after_enough_records() -> None:
    """With its path, an example's position, and the monitor that scores nothing without it; no
    longer once it is present."""
    worker = Worker()
    worker.read(*(event(i, card={"tokn": CARD}) for i in range(RECORDS_MIN - 1)))
    assert worker.odd() == {}
    with capture_logs() as lines:
        worker.read(event(RECORDS_MIN, card={"tokn": CARD}))
        assert set(worker.odd()) == {
            ("pay", "field_absent", "card"),
            ("cards", "monitor_scores_nothing", ""),
        }
        worker.odd()
    assert [line["event"] for line in lines] == ["input problem"] * 2
    assert "card, mapped from card.token, such as payments[0] at offset 0" in lines[0]["detail"]
    assert "monitor cards scored none of 1,000 events" in lines[1]["detail"]
    assert CARD not in str(lines)
    worker.read(event(-1))
    assert worker.odd() == {}
    assert worker.reasons_not_ready() == []


def test_seconds_taken_for_milliseconds_are_noticed() -> None:
    """Events of January 1970 are most often that."""
    worker = Worker()
    worker.read(*(event(i, at=START_MS // 1000 + i) for i in range(RECORDS_MIN)))
    [odd] = worker.odd().values()
    assert odd.kind == "times_in_seconds"
    assert "is of 1970-01-21" in odd.text
    assert 'unit = "s"' in odd.text


def test_untranslated_verdicts_are_noticed_without_their_text() -> None:
    """A verdict's text may be anything, so that only its position is shown."""
    worker = Worker()
    worker.read(event(1), event(2, kind="label", verdict=CARD))
    worker.read(event(3, kind="label", verdict="fraud"))
    [odd] = worker.odd().values()
    assert odd.kind == "labels_unclear"
    assert "1 labels are neither fraud nor honest, such as payments[0] at offset 1" in odd.text
    assert CARD not in odd.text


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_a_worker_is_not_ready_while_the_last_records_are_all_dead_letters(size: int) -> None:
    """From the thousandth in a row on, in batches of any size, until one is an event."""
    worker = Worker()
    worker.read(*(event(i) for i in range(5)), *[b"{"] * (RECORDS_MIN - 1), size=size)
    assert worker.reasons_not_ready() == []
    with capture_logs() as lines:
        worker.read(b"{", size=size)
        [line] = worker.reasons_not_ready()
    assert line.startswith(
        "pay: the last 1,000 records were all dead letters, such as payments[0] at offset 1004: "
    )
    assert [one["problem"] for one in lines if one["event"] == "input problem"] == [
        "all_dead_letters"
    ]
    worker.read(event(9), b"{", size=size)
    assert worker.reasons_not_ready() == []


def test_dead_letters_are_logged_at_powers_of_ten_with_an_example() -> None:
    """By code: the first, the tenth, the hundredth, so that many dead letters give few lines."""
    worker = Worker()
    with capture_logs() as lines:
        worker.read(*[b"{"] * 150, event(1, at="soon", card={"token": CARD}))
    assert [(line["code"], line["count"]) for line in lines] == [
        ("malformed", 1),
        ("malformed", 10),
        ("malformed", 100),
        ("bad_time", 1),
    ]
    assert lines[1]["example"].startswith("payments[0] at offset 9: ")
    assert CARD not in str(lines)


def test_a_value_with_a_registrys_prefix_is_explained() -> None:
    """JSON after a zero byte and a schema's number is what Confluent's serializers write."""
    worker = Worker()
    with capture_logs() as lines:
        worker.read(b"\0\0\0\0\7" + orjson.dumps(event(1)))
    assert (
        "begins with a zero byte, like values written with a schema registry" in lines[0]["example"]
    )


def test_a_repaired_field_is_logged_once_without_a_dead_letter() -> None:
    """Its record is an event; the log has an example of each field and code."""
    worker = Worker()
    bad = [event(i, amount="ten") for i in range(RECORDS_MIN)]
    with capture_logs() as lines:
        worker.read(*bad[:-1], size=100)
        worker.read({**bad[-1], "card": {"token": CARD}, "amount": [CARD]})
        assert worker.reasons_not_ready() == []
    repaired = [line for line in lines if line["event"] == "field repaired"]
    assert [(line["field"], line["code"]) for line in repaired] == [("amount", "wrong_type")]
    assert repaired[0]["example"].startswith("payments[0] at offset 0: ")
    assert not any(line["event"] == "dead letters" for line in lines)
    assert CARD not in str(lines)


def test_internal_topics_are_not_odd() -> None:
    """Their events were checked in the input that they came from."""
    worker = Worker()
    records = Records("payments", 0, np.arange(1), np.full(1, START_MS), [b"{"])
    with capture_logs() as lines:
        worker.diagnostics.observe(
            Log("cards", "t-cards-events", 1, True), records, worker.shard.process(records)
        )
    assert lines == []


def test_a_monitor_that_scores_nothing_is_a_problem() -> None:
    """Nothing scored of enough events is a problem, over all parts of a worker together; one event
    sent to the monitor's internal topic, or scored, is none, even where both counts are equal."""
    diagnostics = InputDiagnostics(Worker().config, MetricsCollector())
    nothing = {"cards": {"not_applicable": RECORDS_MIN}}
    half = {"cards": {"not_applicable": RECORDS_MIN // 2}}
    few = {"cards": {"not_applicable": RECORDS_MIN // 2 - 1}}
    scored, sent = {"cards": {"scored": 3}}, {"cards": {"sent": 3}}
    for parts, problem in (
        ([nothing], True),
        ([half, half], True),
        ([half, few], False),
        ([nothing, scored], False),
        ([sent, nothing], False),
        ([scored, sent, nothing], False),
    ):
        found = [one.kind for one in diagnostics.problems(parts)]
        assert found == ["monitor_scores_nothing"] * problem
