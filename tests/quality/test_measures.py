"""The Handbook's protocol by hand-worked cases."""

from datetime import UTC, date, datetime

import numpy as np

from tests.quality.measures import DAY_MS, handbook_week


def test_the_handbooks_week_leaves_out_known_cards() -> None:
    """A card with a fraud ten days before a test day is out on that day; a newer fraud is
    unknown."""
    start = int(datetime(2018, 8, 8, tzinfo=UTC).timestamp() * 1000) // DAY_MS
    day = np.array([start - 10, start, start - 3, start + 4, start + 5, start + 7])
    card = np.array([0, 0, 1, 1, 1, 2])
    fraud = np.array([True, False, True, False, False, False])
    chosen = handbook_week(day * DAY_MS, card, fraud, date(2018, 8, 8))
    assert chosen.tolist() == [False, False, False, True, False, False]
