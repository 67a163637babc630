"""The demo: every attacker is named, few honest entities are, and the counts add up."""

import io
from pathlib import Path

import orjson
import pytest
from rich.console import Console

from stream.config import load
from stream.demo import DemoResult, run_demo

SHOP = Path(__file__).parents[2] / "deploy" / "configs" / "shop.toml"
EVENTS = 60_000


class DemoOutput:
    """A finished demo and what it printed without a terminal."""

    def __init__(self, out: Path) -> None:
        stream = io.StringIO()
        console = Console(file=stream, width=100)
        self.out = out
        self.result: DemoResult = run_demo(load(SHOP), out, EVENTS, 7, console)
        self.text = stream.getvalue()


@pytest.fixture(scope="module")
def demo_output(tmp_path_factory: pytest.TempPathFactory) -> DemoOutput:
    """The demo as `make demo` runs it."""
    return DemoOutput(tmp_path_factory.mktemp("demo"))


@pytest.mark.slow
def test_attackers_are_named(demo_output: DemoOutput) -> None:
    """Every simulated attack has an alert that names its attacker."""
    missed = [one.entity for one in demo_output.result.attack_results if not one.naming_alerts]
    assert len(demo_output.result.attack_results) == 9
    assert missed == []


@pytest.mark.slow
def test_few_alerts_name_honest_entities(demo_output: DemoOutput) -> None:
    """Of 51 alerts 4 are on events of honest people."""
    assert (len(demo_output.result.alerts), demo_output.result.alerts_on_attacks) == (51, 47)
    attacked = {id(alert) for one in demo_output.result.attack_results for alert in one.alerts}
    assert len(attacked) == 47


@pytest.mark.slow
def test_summary_names_every_attack(demo_output: DemoOutput) -> None:
    """The last lines hold each attacker, the number of alerts and the page's path."""
    for one in demo_output.result.attack_results:
        assert one.entity.split()[1] in demo_output.text
    assert f"{len(demo_output.result.alerts)} alerts" in demo_output.text
    assert "index.html" in demo_output.text.replace("\n", "")


@pytest.mark.slow
def test_plain_lines_without_a_terminal(demo_output: DemoOutput) -> None:
    """Without a terminal every alert is one line, without control codes."""
    assert "\x1b" not in demo_output.text
    for alert in demo_output.result.alerts:
        lines = [line for line in demo_output.text.splitlines() if alert.entity.id in line]
        assert any(f" {alert.monitor} " in line for line in lines)


@pytest.mark.slow
def test_counts_add_up(demo_output: DemoOutput) -> None:
    """Each monitor scores an event or counts it as not applicable; the simulator makes no bad record."""
    for name in ("account", "card", "ip"):
        counts = demo_output.result.counts[name]
        assert counts["scored"] + counts["not_applicable"] == EVENTS
        published = counts["alerts_opened"] + counts["alerts_updated"]
        assert published == sum(alert.monitor == name for alert in demo_output.result.alerts)


@pytest.mark.slow
def test_files(demo_output: DemoOutput) -> None:
    """The alerts file holds the alerts in order, and the page shows each entity."""
    lines = (demo_output.out / "alerts.ndjson").read_bytes().splitlines()
    assert [orjson.loads(line)["alert_id"] for line in lines] == [
        alert.alert_id for alert in demo_output.result.alerts
    ]
    text = (demo_output.out / "index.html").read_text("utf-8")
    assert all(alert.entity.id in text for alert in demo_output.result.alerts)


def test_terminal_table(tmp_path: Path) -> None:
    """In a terminal a demo shows its progress; a short one has no attacks."""
    stream = io.StringIO()
    console = Console(file=stream, width=120, force_terminal=True, _environ={"TERM": "xterm"})
    result = run_demo(load(SHOP), tmp_path, 3_000, 1, console)
    assert result.attack_results == []
    assert "3000/3000" in stream.getvalue()
    assert "0 of 0 attackers named" in stream.getvalue()
