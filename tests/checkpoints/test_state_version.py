"""The state version, which is raised by hand whenever the layout of a state changes."""

import tomllib
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final

import pytest
import xxhash

from detectors.monitor import Monitor
from detectors.state import STATE_VERSION, Arrays
from stream.config import parse
from stream.config.stage_graph import logs
from stream.pipeline.alerting import RunInfo
from stream.pipeline.shard import ShardFactory
from tests.laws.registry import MONITORS
from tests.laws.test_laws import KEY

ROOT: Final = Path(__file__).resolve().parents[2]
READY: Final = (ROOT / "deploy" / "configs" / "shop.toml").read_text()
ASSESS: Final = """
[inputs.labels]
topic = "labels"
type = "label"

[assess]
subject = "account"
partitions = 2

[assess.learning]
inputs = ["labels"]
features = ["account.amount"]
"""

VERSION_AND_LAYOUT: Final = (10, "8422850fa1f11826")
"""The version, and the hash of what every empty state holds under it."""


def layout(state: Arrays) -> list[str]:
    """Each array's name, type and shape."""
    return sorted(f"{name} {a.dtype.str} {a.shape}" for name, a in state.items())


def test_a_changed_state_layout_raises_the_version() -> None:
    """Over every monitor of the laws and every shard of the shop: names, types and shapes of all
    arrays are those of this version. Where this fails, raise `STATE_VERSION` and write both
    here."""
    if entry_points(group="eddy.detectors") or entry_points(group="eddy.features"):
        pytest.skip("other packages add features or detectors of their own here")
    found = [
        line
        for name in sorted(MONITORS)
        for line in [name, *layout(Monitor(MONITORS[name], KEY).save())]
    ]
    config = parse(tomllib.loads(READY.replace("partitions = 1", "partitions = 4") + ASSESS), {})
    shards = ShardFactory(config, RunInfo("live", "one", lambda: "2026-01-01T00:00:00Z"))
    for log in logs(config):
        found += [log.name, *layout(shards.make(log).save())]
    assert (
        STATE_VERSION,
        xxhash.xxh3_64_hexdigest("\n".join(found).encode()),
    ) == VERSION_AND_LAYOUT
