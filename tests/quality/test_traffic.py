"""What is done to a log before a monitor may read it."""

from datetime import UTC, datetime

from tests.quality.traffic import moved, whole, without_agent

LINE = '10.0.0.7 - - [22/Dec/2016:{} +0300] "GET /a HTTP/1.1" 200 5 "http://x/" "Googlebot/2.1"'


def test_no_agent_reaches_the_monitors() -> None:
    """The agent is gone from the line, and all else is as it was."""
    line = LINE.format("16:30:52")
    assert without_agent(line) == line.replace("Googlebot/2.1", "-")


def test_a_scan_keeps_its_pace_where_it_is_moved() -> None:
    """Lines come in the order of their times, the first at the new beginning, gaps as before."""
    start = datetime(2015, 5, 18, 12, tzinfo=UTC)
    lines = moved([LINE.format("16:30:52"), LINE.format("16:28:53")], start)
    assert [line.split("[")[1].split("]")[0] for line in lines] == [
        "18/May/2015:12:00:00 +0000",
        "18/May/2015:12:01:59 +0000",
    ]


def test_a_truncated_line_is_left_out() -> None:
    """A line that ends before its time, or within it, is none of the log's."""
    line = LINE.format("16:30:52")
    assert whole([line, line[:20], line[:30], ""]) == [line]
