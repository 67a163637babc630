"""What alerts and tables show of ids."""

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.columns import EventBatch
from stream.alerting import RAW_BYTES_MAX, RunInfo, Teller

IDS = st.one_of(
    st.text(max_size=8),
    st.integers(RAW_BYTES_MAX // 2 - 3, RAW_BYTES_MAX + 2).map(lambda n: "a" * n),
    st.integers(RAW_BYTES_MAX // 4 - 3, RAW_BYTES_MAX // 2 + 2).map(lambda n: '"' * n),
    st.sampled_from(["\x7f", "\n", "é", "a\u200b", "c1"]),
)


@settings(deadline=None)
@given(st.lists(IDS, min_size=1, max_size=6), st.booleans())
def test_a_column_of_ids_is_shown_as_alerts_show_each(ids: list[str], revealed: bool) -> None:
    """Whatever the ids are, the tables of a run and its alerts name an entity alike."""
    size = len(ids)
    none = np.zeros(size, np.int64)
    batch = EventBatch(
        sources=(("in", 0),),
        source=none.astype(np.int32),
        offset=none,
        time_ms=none,
        type_code=none.astype(np.uint8),
        event_id=pa.array(ids, pa.string()),
        text={"card": pa.array(ids, pa.string())},
        number={},
    )
    teller = Teller((1, 2), frozenset(["card"] if revealed else []), RunInfo("replay", "x", str))
    shown = teller.shown("card", batch.text["card"]).to_pylist()
    assert shown == [teller.entity("card", batch, row).id for row in range(size)]
    assert teller.shown("card", pa.nulls(1, pa.string())).to_pylist() == [None]
