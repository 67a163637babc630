"""Columns beyond what Python can show lose no row, whichever way a table comes in."""

from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from stream.replay import compare_runs, replay
from tests.replay.test_labels import config, label, payments

COUNT = 200


def odd_texts(size: int) -> pa.StringArray:
    """Texts that are not UTF-8."""
    raw = pa.array([b"a\xff"] * size)
    return pa.Array.from_buffers(pa.string(), size, raw.buffers())


def written(path: Path, rows: list[dict[str, Any]], **options: bool) -> Path:
    """Rows as Parquet, beside columns that nobody maps, one row without an id."""
    size = len(rows)
    columns = {
        "nanos": pa.array([1772668800123456789] * size, pa.timestamp("ns")),
        "far": pa.array([2**60] * size, pa.timestamp("us")),
        "last": pa.array([253_402_214_400_000_000] * size, pa.timestamp("us")),
        "text": odd_texts(size),
        "span": pa.array([1] * size, pa.duration("ns")),
        "zone": pa.array([1] * size, pa.timestamp("us", "No/Where")),
    }
    table = pa.Table.from_pylist(rows)
    for name, column in columns.items():
        if not (options and name in {"nanos", "far", "zone"}):  # which INT96 cannot hold
            table = table.append_column(name, column)
    pq.write_table(table, path, **options)
    return path


def dead_letters_of(out: Path) -> list[dict[str, Any]]:
    """What the dead letters of a run hold."""
    lines = (out / "dead_letters.ndjson").read_bytes().splitlines()
    return [orjson.loads(orjson.loads(line)["value"]) for line in lines]


def test_every_row_of_every_format_is_an_event_or_a_dead_letter(tmp_path: Path) -> None:
    """Replay, labels and a comparison: nanoseconds, times beyond the year 9999, INT96, an unknown zone
    and bytes that are not UTF-8 are text in the dead letter of a bad row."""
    rows = payments(COUNT)
    known = [label(f"e{i}", rows[i]["at"] + 5) for i in range(0, COUNT, 10)]
    known = [
        one | {"known_at": str(pa.scalar(one["known_at"], pa.timestamp("ms")))} for one in known
    ]
    rows[7] |= {"id": None}
    rows[8] |= {"amount": float("nan")}
    known[3] |= {"known_at": None}
    for name, options in (("plain", {}), ("int96", {"use_deprecated_int96_timestamps": True})):
        shop = written(tmp_path / f"{name}.parquet", rows, **options)
        labels = written(tmp_path / f"{name}.labels.parquet", known, **options)
        given = [("shop", shop)], [("verdicts", labels)]
        out = tmp_path / f"out-{name}"
        summary = replay(config(), given[0], out, lambda *_: None, given[1])
        counts = summary.inputs["shop"]
        assert counts["passed"] == summary.events == COUNT - 1
        assert counts["dead_letter_missing_id"] == 1
        found = summary.labels["verdicts"]
        assert (found["read"], found["dead_letters"]) == (len(known), 1)
        shown = dead_letters_of(out)
        assert {"e8", None} <= {one["id"] for one in shown if "id" in one}
        assert all(one["text"] == "a\\xff" and "9999-12-31" in one["last"] for one in shown)
        assert name == "int96" or {one["nanos"] for one in shown} == {
            "2026-03-05 00:00:00.123456789"
        }
    candidates = [compare_runs.Candidate(name, config(), given[1]) for name in ("a", "b")]
    compare_runs.compare(candidates, given[0], tmp_path / "compared", lambda *_: None)
    assert dead_letters_of(tmp_path / "compared" / "b") == shown
