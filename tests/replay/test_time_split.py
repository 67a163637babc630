"""The time split of a replay: what lies outside of it is learned, and not judged."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from stream.cli.options import parse_duration_option, parse_time_option
from stream.errors import InputError
from stream.replay import Summary, TimeSplit, replay
from stream.replay.time_split import NO_SPLIT
from tests.replay.test_replay import START_MS, config, events, ndjson, without_run

HOUR_MS = 3_600_000


def run(folder: Path, split: TimeSplit = NO_SPLIT, count: int = 2_000) -> Summary:
    """Replay payments, ten seconds apart, and judge what the split says."""
    folder.mkdir(exist_ok=True)
    shop = ndjson(folder / "shop", events(count))
    return replay(config(), [("shop", shop)], folder / "out", lambda *_: None, split=split)


@pytest.mark.parametrize(
    ("split", "first", "stop"),
    [
        (TimeSplit(), 0, 2_000),
        (TimeSplit(warm_up_s=3_600.0), 360, 2_000),
        (TimeSplit(from_ms=START_MS + HOUR_MS), 360, 2_000),
        (TimeSplit(from_ms=START_MS + HOUR_MS + 1, until_ms=START_MS + 2 * HOUR_MS), 361, 720),
        (TimeSplit(warm_up_s=1.0, until_ms=START_MS + 10_000 * 720 + 1), 1, 721),
        (TimeSplit(until_ms=START_MS), 0, 0),
        (TimeSplit(warm_up_s=1e15), 0, 0),
    ],
)
def test_only_events_in_the_span_are_evaluated(
    tmp_path: Path, split: TimeSplit, first: int, stop: int
) -> None:
    """From the first bound on and before the second one, to the millisecond; the counts of the
    summary are those of the column."""
    summary = run(tmp_path, split)
    judged = pq.read_table(tmp_path / "out" / "scores.parquet").column("evaluated").to_pylist()
    assert judged == [first <= i < stop for i in range(2_000)]
    assert summary.evaluation_span.events == stop - first
    assert summary.events == 2_000
    alerts = without_run(tmp_path / "out")
    held = [one for one in alerts if first <= (one["event_time_ms"] - START_MS) / 10_000 < stop]
    assert summary.evaluation_span.alerts == {"account": len(held), "ip": 0}
    assert summary.alerts["account"] == len(alerts) > 3


def test_events_outside_the_evaluation_are_still_learned(tmp_path: Path) -> None:
    """A split changes no score, no alert, and no count but of what is judged."""
    whole = run(tmp_path / "whole")
    part = run(tmp_path / "part", TimeSplit(warm_up_s=3_600.0, until_ms=START_MS + 3 * HOUR_MS))
    tables = [
        pq.read_table(tmp_path / name / "out" / "scores.parquet") for name in ("whole", "part")
    ]
    one, other = (table.drop_columns("evaluated") for table in tables)
    assert one.equals(other)
    assert without_run(tmp_path / "whole" / "out") == without_run(tmp_path / "part" / "out")
    assert whole.alerts == part.alerts
    assert part.evaluation_span.from_time == "2026-03-02T01:00:00.000Z"
    assert part.evaluation_span.until_time == "2026-03-02T03:00:00.000Z"
    assert 0 < part.evaluation_span.alerts["account"] < part.alerts["account"]


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (TimeSplit(warm_up_s=60.0, from_ms=START_MS), "--warm-up and --score-from both"),
        (TimeSplit(from_ms=START_MS, until_ms=START_MS), "expected --score-until behind that"),
        (
            TimeSplit(warm_up_s=60.0, until_ms=START_MS + 60_000),
            "begin at 2026-03-02T00:01:00.000Z",
        ),
    ],
)
def test_a_split_that_makes_no_sense_is_refused(
    tmp_path: Path, split: TimeSplit, message: str
) -> None:
    """Before anything is written."""
    with pytest.raises(InputError, match=message):
        run(tmp_path, split, count=10)
    assert not (tmp_path / "out").exists()


def test_times_and_durations_of_the_command_line() -> None:
    """A time without an offset is UTC; what is none is named with its option."""
    assert parse_time_option("--score-from", "2026-03-02") == START_MS
    assert parse_time_option("--score-from", "2026-03-02T01:00:00+01:00") == START_MS
    assert parse_duration_option("--warm-up", "90d") == 90 * 86_400
    with pytest.raises(InputError, match=r"--score-until: got \"noon\"; expected a time"):
        parse_time_option("--score-until", "noon")
    with pytest.raises(InputError, match='--warm-up: got "a day"'):
        parse_duration_option("--warm-up", "a day")
