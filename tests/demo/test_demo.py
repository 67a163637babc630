"""The demo: attackers are named, honest people seldom, and what it says adds up."""

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
    """A demo that ran, with what it printed where there is no terminal."""

    def __init__(self, out: Path) -> None:
        stream = io.StringIO()
        console = Console(file=stream, width=100)
        self.out = out
        self.outcome: DemoResult = run_demo(load(SHOP), out, EVENTS, 7, console)
        self.text = stream.getvalue()


@pytest.fixture(scope="module")
def demo_output(tmp_path_factory: pytest.TempPathFactory) -> DemoOutput:
    """The demo as `make demo` runs it."""
    return DemoOutput(tmp_path_factory.mktemp("demo"))


@pytest.mark.slow
def test_attackers_are_named(demo_output: DemoOutput) -> None:
    """Every simulated attack has an alert that names its attacker."""
    missed = [one.entity for one in demo_output.outcome.attack_results if not one.naming_alerts]
    assert len(demo_output.outcome.attack_results) == 9
    assert missed == []


@pytest.mark.slow
def test_few_alerts_name_honest_entities(demo_output: DemoOutput) -> None:
    """Most alerts are on events of attackers."""
    on_attackers = {id(alert) for one in demo_output.outcome.attack_results for alert in one.alerts}
    assert len(on_attackers) > 0.6 * len(demo_output.outcome.alerts)


@pytest.mark.slow
def test_summary_names_every_attack(demo_output: DemoOutput) -> None:
    """The last lines name each attacker with its verdict, the counts, and where the page is."""
    for one in demo_output.outcome.attack_results:
        assert one.entity.split()[1] in demo_output.text
    assert f"{len(demo_output.outcome.alerts)} alerts" in demo_output.text
    assert "index.html" in demo_output.text.replace("\n", "")


@pytest.mark.slow
def test_plain_lines_without_a_terminal(demo_output: DemoOutput) -> None:
    """Where there is no terminal every alert is one line, and no control code is written."""
    assert "\x1b" not in demo_output.text
    for alert in demo_output.outcome.alerts:
        lines = [line for line in demo_output.text.splitlines() if alert.entity.id in line]
        assert any(f" {alert.monitor} " in line for line in lines)


@pytest.mark.slow
def test_counts_add_up(demo_output: DemoOutput) -> None:
    """Every event is scored by a monitor or does not apply to it; the simulator makes no fault."""
    for name in ("account", "card", "ip"):
        counts = demo_output.outcome.counts[name]
        assert counts["scored"] + counts["not_applicable"] == EVENTS
        published = counts["alerts_opened"] + counts["alerts_updated"]
        assert published == sum(alert.monitor == name for alert in demo_output.outcome.alerts)


@pytest.mark.slow
def test_files(demo_output: DemoOutput) -> None:
    """The alerts file holds the alerts in order, and the page shows each entity."""
    lines = (demo_output.out / "alerts.ndjson").read_bytes().splitlines()
    assert [orjson.loads(line)["alert_id"] for line in lines] == [
        alert.alert_id for alert in demo_output.outcome.alerts
    ]
    text = (demo_output.out / "index.html").read_text("utf-8")
    assert all(alert.entity.id in text for alert in demo_output.outcome.alerts)


def test_terminal_table(tmp_path: Path) -> None:
    """In a terminal a short demo without attacks runs through and says so."""
    stream = io.StringIO()
    console = Console(file=stream, width=120, force_terminal=True, _environ={"TERM": "xterm"})
    outcome = run_demo(load(SHOP), tmp_path, 3_000, 1, console)
    assert outcome.attack_results == []
    assert "3000/3000" in stream.getvalue()
    assert "0 of 0 attackers named" in stream.getvalue()
