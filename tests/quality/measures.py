"""The Handbook's protocol: which payments of a test week are judged. No model here."""

from datetime import UTC, date, datetime
from typing import Final

import numpy as np

from schemas.columns import I64, Bools

DAY_MS: Final = 86_400_000
KNOWN_AFTER_DAYS: Final = 7
LOOK_BACK_DAYS: Final = 14


def handbook_week(time_ms: I64, card: I64, fraud: Bools, start: date) -> Bools:
    """The payments of the test week: on each day, cards already known as defrauded are left out.

    Known on a day are frauds between 14 days before the week and 8 days before that day, since
    labels come 7 days late.
    """
    day = time_ms // DAY_MS
    first = int(datetime(start.year, start.month, start.day, tzinfo=UTC).timestamp()) // 86_400
    chosen = np.zeros(len(fraud), np.bool_)
    for today in range(first, first + 7):
        known = np.zeros(int(card.max()) + 1, np.bool_)
        labelled = (day >= first - LOOK_BACK_DAYS) & (day < today - KNOWN_AFTER_DAYS)
        known[card[labelled & fraud]] = True
        chosen |= (day == today) & ~known[card]
    return chosen
