"""Sign-ups: simulated registrations, of which one in twenty is fraud; the label column is not read.

Settings were chosen on the same file, looking at both halves: no part is set aside.
"""

import csv
import tempfile
from datetime import datetime
from pathlib import Path

import numpy as np

from stream.config import load
from tests.quality.bases.accounts import signup_bases
from tests.quality.figures import Row
from tests.quality.intervals import by_day, ranking
from tests.quality.replay_file import CONFIGS, replay_file, skipped_remark


def signups(data: Path) -> list[Row]:
    """Average precision over all registrations."""
    with (data / "signups" / "registrations.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if None not in row.values()]
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "registrations.csv"
        with whole.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        found = replay_file(load(CONFIGS / "signups.toml"), "signup", whole)
    score = found.scores_of([row["event_id"] for row in rows])
    read = ~np.isnan(score)
    fraud = np.array([row["EVENT_LABEL"] == "fraud" for row in rows])[read]
    at = [datetime.fromisoformat(row["EVENT_TIMESTAMP"]) for row in rows]
    time_ms = np.array([1000 * int(one.timestamp()) for one in at], np.int64)[read]
    address = [row["ip_address"] for row, good in zip(rows, read, strict=True) if good]
    of = by_day(time_ms, address)
    remark = f"chance {fraud.mean():.3f}" + skipped_remark(read)
    ours = ranking(score[read], fraud, of).ap
    bases = {
        name: ranking(own, fraud, of).ap for name, own in signup_bases(address, time_ms).items()
    }
    return [Row("signups_ap", "sign-ups, AP", ours, 0.0, remark, bases=bases)]
