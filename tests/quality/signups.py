"""Sign-ups: simulated registrations, of which one in twenty is fraud; the label column is not read.

Beside ours stand chance (the prevalence) and a rule: the fewer registrations an address had before,
the worse. Settings were chosen on the same file, looking at both halves: no part is set aside.
"""

from collections import Counter
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.csv

from stream.config import load
from stream.judging.measures import average_precision
from tests.quality.replayed import CONFIGS, DATA, replayed
from tests.quality.rows import Row

FILE: Final = DATA / "signups" / "registrations.csv"


def signups() -> list[Row]:
    """Average precision over all registrations."""
    table = pa.csv.read_csv(FILE)
    fraud = np.array([label == "fraud" for label in table["EVENT_LABEL"].to_pylist()])
    found = replayed(load(CONFIGS / "signups.toml"), "signup", FILE)
    ap = average_precision(found.of(table["event_id"].to_pylist()), fraud)
    before: Counter[str] = Counter()
    rule = []
    for ip in table["ip_address"].to_pylist():
        rule.append(-float(before[ip]))
        before[ip] += 1
    base = average_precision(np.array(rule), fraud)
    remark = f"rule, few registrations of the address before: {base:.3f}; chance {fraud.mean():.3f}"
    return [Row("signups_ap", "sign-ups, AP", ap, 0.0, remark)]
