"""The page: one file that says everything, and that hostile names cannot turn against its
reader."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.alerts import Action, Alert, Contribution, Entity, Evidence, Run
from stream.formatting import (
    format_contribution,
    format_duration,
    format_number,
    format_percent,
    format_ratio,
    format_score,
    format_time,
)
from stream.replay.incidents import INCIDENTS_MAX, TopIncidents
from stream.replay.traffic import Traffic
from stream.report.charts import traffic_chart
from stream.report.demo import AttackResult, DemoFacts, first_alert_text, render_demo

START_MS = 1_772_409_600_000
HOUR_MS = 3_600_000


def alert(number: int = 0, entity: str = "203.0.113.1", **changed: Any) -> Alert:
    """An alert as a monitor would write it."""
    made = Alert(
        alert_id=f"{number:032x}",
        revision=1,
        activity="opened",
        run=Run(mode="live", enforceable=False, reason="warming", run_id="r", detected_at="x"),
        monitor="ip",
        detector="tail",
        fingerprint="f",
        entity=Entity(type="ip", id=entity, pseudonym=False),
        related=[Entity(type="account", id="acct-1", pseudonym=False)],
        event_time_ms=START_MS + number * HOUR_MS,
        window_s=3_600,
        score=5.31,
        p_value=4.9e-6,
        threshold=1e-4,
        severity="high",
        alerts_per_day=50.0,
        budget_per_day=50.0,
        budget_used=0.06,
        held_back=0,
        contributions=[
            Contribution(
                feature="payments_1h",
                actual=41.0,
                expected_low=0.0,
                expected_high=6.0,
                p_value=1e-6,
                share=0.61,
            ),
            Contribution(
                feature="gap_s",
                actual=1.24,
                expected_low=60.0,
                expected_high=8_000.0,
                p_value=1e-3,
                share=0.39,
            ),
        ],
        counterfactual=["payments_1h"],
        incident_id=f"incident-{number}",
        dedup_key="d",
        source="eddy/eddy/live/ip",
        suppressed=4,
        first_seen_ms=START_MS,
        last_seen_ms=START_MS + number * HOUR_MS,
        action=Action(type="review", scope="ip", ttl_s=3_600, reason_code="payments_1h_high"),
        evidence=[Evidence(event_id="e7-1", topic="shop-events", partition=0, offset=1)],
    )
    return msgspec.structs.replace(made, **changed)


def demo_facts(alerts: list[Alert], attack_results: list[AttackResult] | None = None) -> DemoFacts:
    """A day of traffic with those alerts."""
    incidents = TopIncidents()
    incidents.add(alerts)
    return DemoFacts(
        title="Eddy: demo",
        lead="A day.",
        figures=[("60 000", "events")],
        traffic=Traffic(START_MS, HOUR_MS, {"request": [40] * 24, "login": [9] * 24}, {}),
        alerts=alerts,
        attack_results=attack_results or [],
        incidents=incidents.top(),
        incidents_opened=incidents.opened,
    )


def attack_result(alerts: list[Alert], name: str = "card testing") -> AttackResult:
    """An attack found by those alerts."""
    first = START_MS + 5 * HOUR_MS
    return AttackResult(
        name, "tries cards", "ip 203.0.113.1", first, first + HOUR_MS, alerts, alerts[:1]
    )


class Parsed(HTMLParser):
    """Every element and attribute that a browser would make of the page, and its texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.said = ""
        """The texts but for style and scripts."""
        self.data = ""
        self._in_data = False
        self._is_said = True
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep the element."""
        self.elements.append((tag, dict(attrs)))
        self._in_data = dict(attrs).get("id") == "data"
        self._is_said = tag not in {"style", "script"}

    def handle_endtag(self, tag: str) -> None:
        """Leave the data element, or a style or a script."""
        self._in_data = False
        self._is_said = True

    def handle_data(self, data: str) -> None:
        """Keep the text."""
        if self._in_data:
            self.data += data
        else:
            self.texts.append(data)
        if self._is_said:
            self.said += f"{data} "


def elements(parsed: Parsed) -> list[tuple[str, tuple[str, ...]]]:
    """Elements and the names of their attributes: what must not depend on any name shown."""
    return [(tag, tuple(attributes)) for tag, attributes in parsed.elements]


def test_page_loads_nothing() -> None:
    """No element of the page points anywhere, and its policy forbids every load."""
    parsed = Parsed(render_demo(demo_facts([alert()], [attack_result([alert()])])))
    assert not [a for _, a in parsed.elements if {"src", "action", "data"} & a.keys()]
    assert all(str(a["href"]).startswith("#") for _, a in parsed.elements if "href" in a)
    policy = next(a for _, a in parsed.elements if "http-equiv" in a)["content"]
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "'unsafe-inline'" not in policy.partition("script-src")[2]


def test_the_page_shows_an_alert() -> None:
    """Monitor, entity, surprise, counterfactual, action and evidence of an alert are all there."""
    text = " ".join(Parsed(render_demo(demo_facts([alert(3)], [attack_result([alert(3)])]))).texts)
    for told in (
        *(
            "payments_1h: 41 seen, 0–6 expected (61\N{NO-BREAK SPACE}%)",
            "203.0.113.1",
            "Mon 02 Mar 2026 00:00:00",
        ),
        *(
            "no alert if payments_1h had expected values",
            "review ip for 1 h",
            "e7-1 (shop-events/0/1)",
        ),
        *("not enforceable: warming", "5.3", "named", "1 sent, 4 suppressed", "account acct-1"),
    ):
        assert told in text


HOSTILE = (
    "</script><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "<!--<script>",
    "javascript:alert(1)//'\"&lt;b&gt;",
    "\u2028\u2029\x00]]>",
)


def _everywhere(name: str) -> str:
    part = Contribution(
        feature=name, actual=1.0, expected_low=None, expected_high=None, p_value=0.1, share=1.0
    )
    one = alert(
        entity=name,
        monitor=name,
        detector=name,
        related=[Entity(type=name, id=name, pseudonym=False)],
        contributions=[part],
        counterfactual=[name],
        action=Action(type="review", scope=name, ttl_s=1, reason_code=name),
        evidence=[Evidence(event_id=name, topic=name, partition=0, offset=0)],
        run=Run(mode="live", enforceable=False, reason=name, run_id=name, detected_at=name),
    )
    found = AttackResult(name, name, name, START_MS, START_MS, [one], [one])
    told = demo_facts([one], [found])
    traffic = Traffic(START_MS, HOUR_MS, {name: [1]}, {})
    return render_demo(
        replace(told, title=name, lead=name, figures=[(name, name)], traffic=traffic)
    )


HARMLESS_SHAPE = elements(Parsed(_everywhere("harmless")))


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_stay_text(name: str) -> None:
    """A name made to break out of text, attribute or script adds no element and no attribute."""
    assert elements(Parsed(_everywhere(name))) == HARMLESS_SHAPE


@settings(max_examples=15, deadline=None)
@given(st.text(alphabet="<>/'\"&!-=scriptx \\\u2028", max_size=40))
def test_any_name_stays_text(name: str) -> None:
    """Whatever an entity is called, the page has the same elements, and its data are JSON."""
    parsed = Parsed(_everywhere(name))
    assert elements(parsed) == HARMLESS_SHAPE
    assert json.loads(parsed.data)["traffic"]["types"] == [name]
    assert not set("<>&") & set(parsed.data)


def test_alerts_of_an_incident_share_a_row() -> None:
    """An incident is one row, told by its worst alert, under its highest severity."""
    first = alert(1, incident_id="same", severity="low", score=4.0)
    second = alert(
        2, incident_id="same", severity="critical", score=7.5, revision=2, activity="updated"
    )
    told = " ".join(Parsed(render_demo(demo_facts([first, second]))).texts)
    table = told.partition("What was surprising")[2]
    assert table.count("203.0.113.1") == 1
    assert "critical" in table
    assert "7.5" in table
    assert "2 sent" in table
    assert format_time(START_MS) in table


def test_long_lists_are_cut_with_a_note() -> None:
    """Beyond the limit the incidents with the lowest scores are left out, and the page says how
    many there are."""
    many = [alert(n, f"shop-{n}", score=4 + n / 100) for n in range(INCIDENTS_MAX + 1)]
    text = " ".join(Parsed(render_demo(demo_facts(many))).texts)
    assert f"There are {INCIDENTS_MAX + 1} incidents; these have the highest scores." in text
    assert "shop-1 " in text
    assert "shop-0 " not in text


def test_missed_attacks_are_shown() -> None:
    """An attack without an alert is shown as missed."""
    text = render_demo(demo_facts([], [attack_result([])]))
    assert "missed" in text
    assert "No alert was raised on any of its events." in text


def test_first_alert_may_come_before() -> None:
    """A card named while it was tested was named before it was used, and the page says so."""
    assert first_alert_text(attack_result([alert(6)])) == "after 1 h"
    assert first_alert_text(attack_result([alert(3)])) == "2 h before it began"
    assert "First alert 2 h before it began; 1 alert on ip" in render_demo(
        demo_facts([], [attack_result([alert(3)])])
    )


def test_attacks_close_together_share_a_label() -> None:
    """Windows that would overlap in the chart become one with a label from first to last."""
    attack_results = [attack_result([]), attack_result([]), attack_result([])]
    windows = json.loads(Parsed(render_demo(demo_facts([], attack_results))).data)["traffic"][
        "windows"
    ]
    assert [window["label"] for window in windows] == ["1–3"]


def test_the_table_of_a_traffic_chart_has_its_numbers() -> None:
    """A row for each time bucket with events or alerts, a column for each type of event and each
    severity of alerts, the lowest first."""
    traffic = Traffic(
        START_MS,
        HOUR_MS,
        {"login": [1_200, 0, 3, 0], "request": [4, 0, 0, 0]},
        {"medium": [0, 0, 2, 0], "critical": [1, 0, 0, 5]},
    )
    chart = traffic_chart(traffic, [])
    assert chart.columns == ["From", "login", "request", "medium alerts", "critical alerts"]
    assert chart.rows == [
        ("Mon 02 Mar 2026 00:00:00", "1\N{NO-BREAK SPACE}200", "4", "0", "1"),
        ("Mon 02 Mar 2026 02:00:00", "3", "0", "2", "0"),
        ("Mon 02 Mar 2026 03:00:00", "0", "0", "0", "5"),
    ]


def test_a_demo_without_alerts_has_a_page() -> None:
    """No events, no alerts and no attacks still make a page."""
    text = render_demo(replace(demo_facts([]), traffic=Traffic(START_MS, HOUR_MS, {}, {})))
    assert re.search("No alert was raised.", text)


def test_numbers_and_times_are_formatted_for_people() -> None:
    """Numbers, spans and surprises read as a person would write them."""
    assert [format_number(v) for v in (0, 41, 1.239, 0.01239, 12_345.6, -3.5)] == [
        *("0", "41", "1.2", "0.012", "12\N{NO-BREAK SPACE}346", "-3.5"),
    ]
    assert [format_duration(ms) for ms in (900, 240_000, 5_400_000, 181_440_000)] == [
        *("1 s", "4 min", "1.5 h", "2.1 d"),
    ]
    assert [
        format_percent(v) for v in (0.0, 1e-5, 9.99e-4, 0.001, 0.0735, 1.0, 1.25, -0.5, None)
    ] == [
        *(f"{text}\N{NO-BREAK SPACE}%" for text in ("0", "0.001", "0.100", "0.1", "7.3", "100")),
        *("125.0\N{NO-BREAK SPACE}%", "-50.0\N{NO-BREAK SPACE}%", "–"),
    ]
    assert [format_ratio(v) for v in (0.0, 0.4834, 1.0, 10.0, None)] == [
        *(".000", ".483", "1.000", "10.000", "–"),
    ]
    one_sided = Contribution(
        feature="amount", actual=950.0, expected_low=None, expected_high=80.5, p_value=0.1, share=1
    )
    assert (
        format_contribution(one_sided)
        == "amount: 950 seen, at most 80.5 expected (100\N{NO-BREAK SPACE}%)"
    )


def test_a_duration_changes_its_unit_exactly() -> None:
    """A unit begins at one of it; ten of it and more have no decimal; below a minute there are
    seconds."""
    expected = {
        0: "0 s",
        59_499: "59 s",
        59_999: "60 s",
        60_000: "1 min",
        90_000: "1.5 min",
        599_999: "10 min",
        600_000: "10 min",
        654_000: "11 min",
        3_599_999: "60 min",
        3_600_000: "1 h",
        35_640_000: "9.9 h",
        37_800_000: "10 h",
        86_399_999: "24 h",
        86_400_000: "1 d",
        864_000_000 + 43_200_001: "11 d",
    }
    assert {ms: format_duration(ms) for ms in expected} == expected


def test_a_score_below_the_limit_never_looks_equal_to_it() -> None:
    """Scores beside their limit are cut to hundredths, never rounded up."""
    assert (
        format_score(3.951),
        format_score(3.9999),
        format_score(4.0),
        format_score(4.1 + 0.2),
    ) == (
        "3.95",
        "3.99",
        "4",
        "4.3",
    )


def test_fraud_is_red_and_honest_is_green() -> None:
    """A verdict has the colour of its risk: the class of a critical severity, or of a caught
    attack."""
    for verdict, kind in (("fraud", "worse"), ("honest", "better")):
        incidents = TopIncidents()
        incidents.add([alert()])
        [worst] = incidents.top()
        page = render_demo(
            replace(demo_facts([alert()]), incidents=[replace(worst, verdict=verdict)])
        )
        assert f'<span class="pill {kind}">{verdict}</span>' in page
    colours = (files("stream.report") / "page.css").read_text()
    assert ".missed, .critical, .worse" in colours
    assert ".named, .better" in colours
