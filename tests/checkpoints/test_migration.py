"""Which stages keep their state under another configuration."""

from typing import Any

import pytest

from stream.checkpoints.migration import migration_results
from stream.config import Config, state_config
from tests.checkpoints.shop import config, monitor

OTHER_INPUT = {"topic": "shop-events", "type": {"field": "kind"}}
ANOTHER = "swordfish"
A_FEATURE = monitor("account")["features"][0]["name"]


def learning(new: Config) -> dict[str, str]:
    """Stage → why it does not keep its state, "" where it does."""
    results = migration_results(state_config(config()), state_config(new))
    return {one.stage: one.reason for one in results if one.stage != "route"}


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"policy": {"p_max": 1e-6}}, ""),
        ({"rules": [{"name": "busy", "at_least": {A_FEATURE: 9.0}}]}, ""),
        ({"session_gap": "30min"}, "its session_gap changed"),
        ({"capacity": 300}, "its capacity changed"),
        ({"where": {"type": "login"}}, "its where changed"),
        ({"lateness_max": "2h"}, "its lateness_max changed"),
        (
            {"features": [{"name": "n", "kind": "count", "half_life": "1h"}], "entity": "card"},
            "its entity changed, its features changed",
        ),
        ({"detectors": [{"kind": "tail", "half_life": "1h"}]}, "its detectors changed"),
    ],
)
def test_a_monitor_keeps_its_state_while_its_inputs_stay(changed: dict[str, Any], why: str) -> None:
    """A change of any key that it learns from resets the monitor, with the key as the reason; the
    other monitor keeps its state."""
    account = {**monitor("account"), **changed}
    assert learning(config(account, monitor("ip"))) == {"account": why, "ip": ""}


def test_a_change_to_a_shared_setting_affects_every_monitor() -> None:
    """The secret with which entities are hashed, and the mapping of their input."""
    assert set(learning(config(secret=ANOTHER)).values()) == {"the secret changed"}
    other = config(inputs={"shop": OTHER_INPUT})
    assert set(learning(other).values()) == {"inputs.shop changed"}


def test_monitors_come_and_go() -> None:
    """A new monitor has no state to keep, a removed one's state is dropped; settings that are not
    learned from change nothing."""
    found = learning(config(monitor("ip"), monitor("card")))
    assert found == {"ip": "", "card": "it is new", "account": "it was removed"}
    same = config(limits={"time_ahead_max": "1h"}, reveal=["ip"], revision=3)
    assert set(learning(same).values()) == {""}
