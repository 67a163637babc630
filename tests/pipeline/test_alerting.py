"""What alerts and tables show of ids, and when an alert may be enforced."""

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.columns import EventBatch
from stream.cli.run import live_run
from stream.clock import parse_time_ms
from stream.config import load
from stream.pipeline.alerting import RAW_BYTES_MAX, AlertBuilder, Identity, RunInfo

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
    run = RunInfo("replay", "x", str)
    alert_builder = AlertBuilder(
        (1, 2), frozenset(["card"] if revealed else []), run, Identity("eddy", "live")
    )
    shown = alert_builder.display_ids("card", batch.text["card"]).to_pylist()
    assert shown == [alert_builder.entity("card", batch, row).id for row in range(size)]
    assert alert_builder.display_ids("card", pa.nulls(1, pa.string())).to_pylist() == [None]


LATE = RunInfo("live", "run", lambda: "2026-03-05T05:40:00.000Z", 900_000.0)
NOW_MS = 1_772_689_200_000


@pytest.mark.parametrize(
    ("run", "warm", "age_ms", "reason"),
    [
        (LATE, True, 900_000, None),
        (LATE, True, 900_001, "stale"),
        (LATE, False, 900_001, "stale"),
        (LATE, False, 0, "warming"),
        (LATE, True, -3_600_000, None),
        (replace(LATE, mode="shadow"), True, 900_001, "shadow"),
        (replace(LATE, mode="replay"), True, 900_001, "replay"),
        (replace(LATE, stale_after_ms=60_000.0), True, 60_001, "stale"),
        (replace(LATE, stale_after_ms=None), True, 900_001, None),
    ],
)
def test_an_alert_on_an_old_event_is_not_enforceable(
    run: RunInfo, warm: bool, age_ms: int, reason: str | None
) -> None:
    """Older than stale_after by the injected clock; `run.reason` says so."""
    assert parse_time_ms(LATE.now()) == NOW_MS
    alert_builder = AlertBuilder((1, 2), frozenset(), run, Identity("eddy", "live"))
    found = alert_builder.run(warm, NOW_MS - age_ms)
    assert (found.enforceable, found.reason) == (reason is None, reason)


def test_a_live_worker_knows_how_old_an_alert_may_be() -> None:
    """The configuration's stale_after, 15 minutes by default, is in what `eddy run` starts with."""
    config = load(Path(__file__).parents[2] / "deploy" / "configs" / "shop.toml")
    assert live_run(config, "run").stale_after_ms == 900_000.0
    outputs = msgspec.structs.replace(config.outputs, stale_after="2min")
    other = msgspec.structs.replace(config, outputs=outputs, mode="shadow")
    assert live_run(other, "run").stale_after_ms == 120_000.0
    assert live_run(other, "run").mode == "shadow"
