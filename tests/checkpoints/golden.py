"""Writes the golden state of this version: `python -m tests.checkpoints.golden`.

tests/checkpoints/golden/VERSION.zip holds a group's store after 400 records, the committed offset,
the configuration, and what the records after it lead to. It is written once, when `STATE_VERSION`
is raised, and stays; tests hold every version to its file.
"""

import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import orjson
from obstore.store import LocalStore

from detectors.state import STATE_VERSION
from schemas.alerts import Alert, alert_record, without_run
from stream.kafka.positions import CommittedOffset
from stream.pipeline.shard import Shard
from tests.checkpoints.shop import Group, config, monitor
from tests.checkpoints.test_saving import HISTORY, later
from tests.laws.golden_scores import sums

FOLDER: Final = Path(__file__).with_name("golden")
POLICY: Final = {"p_max": 0.01, "alerts_per_day": 100_000, "warm_up_events": 0}
MONITORS: Final = [
    monitor(
        "account",
        policy=POLICY,
        features=[
            {"name": "amount", "kind": "value", "field": "amount"},
            {"name": "events", "kind": "count", "half_life": "1h"},
            {"name": "gap", "kind": "gap"},
            {"name": "addresses", "kind": "distinct", "field": "ip", "half_life": "1d"},
        ],
        detectors=[{"kind": "tail"}, {"kind": "half_space_trees", "trees": 5, "height": 4}],
    ),
    monitor("ip", policy=POLICY),
]


def outcome(shard: Shard) -> dict[str, Any]:
    """What the records after the checkpoint lead to: alerts, and the state at the end, by array."""
    alerts: list[Alert] = shard.process(later()).alerts
    state = {name: array.reshape(1, -1) for name, array in shard.save().items()}
    return {
        "alerts": [orjson.loads(without_run(alert_record(one).value)) for one in alerts],
        "state": {name: numbers[0] for name, numbers in sums(state).items()},
    }


def write(path: Path) -> None:
    """Write the file."""
    with TemporaryDirectory() as folder, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        group = Group(LocalStore(folder), config(*MONITORS))
        group.work(0, HISTORY, [HISTORY])
        assert group.committed is not None
        expected = outcome(group.start().shard)
        for file in sorted(Path(folder).rglob("*")):
            if file.is_file():
                out.write(file, f"store/{file.relative_to(folder)}")
        out.writestr("committed.json", orjson.dumps(group.committed._asdict()))
        out.writestr("monitors.json", orjson.dumps(MONITORS))
        out.writestr("outcome.json", orjson.dumps(expected))


def read(path: Path, folder: Path) -> tuple[Group, dict[str, Any]]:
    """The group as the file has it, its store unpacked into a folder; and the outcome."""
    with zipfile.ZipFile(path) as file:
        file.extractall(folder)
    made = config(*orjson.loads((folder / "monitors.json").read_bytes()))
    group = Group(LocalStore(folder / "store"), made)
    group.committed = CommittedOffset(**orjson.loads((folder / "committed.json").read_bytes()))
    expected: dict[str, Any] = orjson.loads((folder / "outcome.json").read_bytes())
    return group, expected


if __name__ == "__main__":
    write(FOLDER / f"{STATE_VERSION}.zip")
