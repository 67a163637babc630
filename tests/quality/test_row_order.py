"""What a file's order, or the number of earlier sessions, could tell of a label, and does not."""

import numpy as np

from schemas.columns import I64
from tests.quality.row_order import drawn_among_equals
from tests.quality.traffic import earlier_sessions


def test_rows_are_by_time_and_those_of_one_time_in_random_order() -> None:
    """Every row once; frauds that come first within their second in the file do so half the time."""
    time_ms: I64 = np.repeat(np.arange(2_000), 2)
    fraud = np.tile([True, False], 2_000)
    order = drawn_among_equals(time_ms)
    assert sorted(order) == list(range(4_000))
    assert (np.diff(time_ms[order]) >= 0).all()
    assert 0.45 < fraud[order][::2].mean() < 0.55
    assert (order == drawn_among_equals(time_ms)).all()


def test_humans_and_bots_are_scored_after_as_many_sessions() -> None:
    """Of people alone, and never after itself; each of them is left out for some bot."""
    bot = {f"s{i}": i % 3 == 0 for i in range(30)}
    sessions = sorted(bot)
    earlier = earlier_sessions(sessions, bot)
    assert {len(own) for own in earlier.values()} == {19}
    assert not any(bot[one] for own in earlier.values() for one in own)
    assert not any(session in own for session, own in earlier.items())
    humans = {session for session in sessions if not bot[session]}
    left_out = [humans - earlier[session] for session in sessions if bot[session]]
    assert len({one for own in left_out for one in own}) == 10
