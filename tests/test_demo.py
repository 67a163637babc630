"""The demo: attackers are named, honest people seldom, and what it says adds up."""

import io
from pathlib import Path

import orjson
import pytest
from rich.console import Console

from stream.config import load
from stream.demo import Outcome, run_demo

SHOP = Path(__file__).parents[1] / "deploy" / "configs" / "shop.toml"
EVENTS = 60_000


class Told:
    """A demo that ran, with what it printed where there is no terminal."""

    def __init__(self, out: Path) -> None:
        stream = io.StringIO()
        console = Console(file=stream, width=100)
        self.out = out
        self.outcome: Outcome = run_demo(load(SHOP), out, EVENTS, 7, console)
        self.text = stream.getvalue()


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    """The demo as `make demo` runs it."""
    return Told(tmp_path_factory.mktemp("demo"))


@pytest.mark.slow
def test_attackers_are_named(told: Told) -> None:
    """Every simulated attack has an alert that names its attacker."""
    missed = [one.entity for one in told.outcome.findings if not one.naming]
    assert len(told.outcome.findings) == 9
    assert missed == []


@pytest.mark.slow
def test_honest_people_are_seldom_named(told: Told) -> None:
    """Most alerts are on events of attackers."""
    on_attackers = {id(alert) for one in told.outcome.findings for alert in one.alerts}
    assert len(on_attackers) > 0.6 * len(told.outcome.alerts)


@pytest.mark.slow
def test_summary_names_every_attack(told: Told) -> None:
    """The last lines name each attacker with its verdict, the counts, and where the page is."""
    for one in told.outcome.findings:
        assert one.entity.split()[1] in told.text
    assert f"{len(told.outcome.alerts)} alerts" in told.text
    assert "index.html" in told.text.replace("\n", "")


@pytest.mark.slow
def test_plain_lines_without_a_terminal(told: Told) -> None:
    """Where there is no terminal every alert is one line, and no control code is written."""
    assert "\x1b" not in told.text
    for alert in told.outcome.alerts:
        lines = [line for line in told.text.splitlines() if alert.entity.id in line]
        assert any(f" {alert.monitor} " in line for line in lines)


@pytest.mark.slow
def test_counts_add_up(told: Told) -> None:
    """Every event is scored by a monitor or does not apply to it; the simulator makes no fault."""
    for name in ("account", "card", "ip"):
        counts = told.outcome.counts[name]
        assert counts["scored"] + counts["not_applicable"] == EVENTS
        published = counts["alerts_opened"] + counts["alerts_updated"]
        assert published == sum(alert.monitor == name for alert in told.outcome.alerts)


@pytest.mark.slow
def test_files(told: Told) -> None:
    """The alerts file holds the alerts in order, and the page shows each entity."""
    lines = (told.out / "alerts.ndjson").read_bytes().splitlines()
    assert [orjson.loads(line)["alert_id"] for line in lines] == [
        alert.alert_id for alert in told.outcome.alerts
    ]
    text = (told.out / "index.html").read_text("utf-8")
    assert all(alert.entity.id in text for alert in told.outcome.alerts)


def test_terminal_table(tmp_path: Path) -> None:
    """In a terminal a short demo without attacks runs through and says so."""
    stream = io.StringIO()
    console = Console(file=stream, width=120, force_terminal=True, _environ={"TERM": "xterm"})
    outcome = run_demo(load(SHOP), tmp_path, 3_000, 1, console)
    assert outcome.findings == []
    assert "3000/3000" in stream.getvalue()
    assert "0 of 0 attackers named" in stream.getvalue()
