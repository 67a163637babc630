"""Folders as data lakes have them are read as what they mean."""

import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from threading import Thread

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stream.config import InputSpec
from stream.errors import InputError
from stream.inputs import FileReader
from stream.inputs.files import find_files, is_pipe, spool_pipe
from stream.replay import TimeSplit, compare_runs, replay
from tests.inputs.test_inputs import bucket
from tests.replay.test_labels import config, label_table, ndjson, payments, verdicts

__all__ = ["bucket"]

TREE = (
    "dt=2026-03-01/part-0.ndjson",
    "dt=2026-03-02/part-0.ndjson",
    "_kind=x/part-0.ndjson",
    "_SUCCESS",
    "_committed_123",
    "_started_123",
    "_delta_log/0.json",
    "dt=2026-03-01/_temporary/0/part-1.ndjson",
    "dt=2026-03-01/.part-0.ndjson.crc",
    ".hidden/part.ndjson",
    "out/manifest.json",
    "out/summary.json",
    "out/alerts.ndjson",
    "compared/comparison.json",
    "compared/today/scores.parquet",
    "killed/work.part/x",
    "killed/alerts.ndjson.part",
)
DATA = ["_kind=x/part-0.ndjson", "dt=2026-03-01/part-0.ndjson", "dt=2026-03-02/part-0.ndjson"]


def test_a_folder_stands_for_its_data_files(tmp_path: Path, bucket: dict[str, bytes]) -> None:
    """Names that begin with an underscore or a dot, and results of Eddy, are left out: on disk, in an
    object store, and for globs. A file that is named itself is read."""
    for name in TREE:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}\n")
        bucket[f"lake/{name}"] = b"{}\n"

    def named(text: str) -> list[str]:
        return [f.name.replace("s3://bucket/lake", str(tmp_path)) for f in find_files(text)]

    expected = [f"{tmp_path}/{name}" for name in DATA]
    assert named(str(tmp_path)) == expected
    assert named(f"{tmp_path}/**/*") == expected
    assert named("s3://bucket/lake") == expected
    assert named(f"{tmp_path}/*/*.ndjson") == expected
    assert named("s3://bucket/lake/*/*.ndjson") == expected
    assert named(f"{tmp_path}/out") == [
        f"{tmp_path}/out/{n.split('/')[1]}" for n in sorted(TREE) if n.startswith("out/")
    ]
    assert named(f"{tmp_path}/_delta_log/*") == [f"{tmp_path}/_delta_log/0.json"]
    assert named("s3://bucket/lake/_comm*") == [f"{tmp_path}/_committed_123"]
    assert named(f"{tmp_path}/_SUCCESS") == [f"{tmp_path}/_SUCCESS"]
    with pytest.raises(InputError, match="no such file"):
        find_files(f"{tmp_path}/.hid*/nothing")


def tables(path: Path, spec: InputSpec) -> list[dict[str, object]]:
    """The rows of a folder."""
    reading = FileReader("shop", find_files(str(path)), spec)
    found = [part.values for parts in reading for part in parts]
    return [
        row
        for values in found
        for row in (map(orjson.loads, values) if isinstance(values, list) else values.to_pylist())
    ]


@pytest.mark.parametrize("format_", ["csv", "parquet", "ndjson"])
def test_key_value_folders_are_columns(tmp_path: Path, format_: str) -> None:
    """Integers where all values are, else texts, decoded; the default partition is null, and a
    column of the file goes first."""
    folders = ["shop=a%2Fb/hour=05/own=x", "shop=__HIVE_DEFAULT_PARTITION__/hour=6/own=y"]
    for i, folder in enumerate(folders):
        path = tmp_path / folder / f"part.{format_}"
        path.parent.mkdir(parents=True)
        row = {"event_id": f"e{i}", "time": str(i), "own": "file"}
        if format_ == "parquet":
            pq.write_table(pa.Table.from_pylist([row]), path)
        elif format_ == "csv":
            path.write_text("event_id,time,own\n" + ",".join(row.values()) + "\n")
        else:
            path.write_bytes(orjson.dumps(row))
    fields = {"event_id": "event_id", "time": "time", "account": "shop"}
    spec = InputSpec(
        topic="shop", type="transaction", fields={**fields, "device": "own", "amount": "hour"}
    )
    first, second = tables(tmp_path, spec)
    assert (first["shop"], first["hour"], first["own"]) == ("a/b", 5, "file")
    assert (second.get("shop"), second["hour"], second["own"]) == (None, 6, "file")


def test_folder_columns_are_texts_where_one_value_is_no_integer(tmp_path: Path) -> None:
    """The type is that of all files of the input, so that they can be merged."""
    for value in ("1", "x"):
        (tmp_path / f"k={value}").mkdir()
        (tmp_path / f"k={value}" / "a.csv").write_text(f"event_id,time\n{value},1\n")
    rows = tables(tmp_path, InputSpec(topic="shop"))
    assert [row["k"] for row in rows] == ["1", "x"]


@pytest.mark.slow
def test_a_pipe_is_read_once_and_shared(tmp_path: Path) -> None:
    """A replay that looks for its first event, hashes its input and joins labels to it, and a
    comparison, give what a file of the same content gives."""
    rows = payments(300)
    shop = ndjson(tmp_path / "shop", rows)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    def through(run: Callable[[Path], object]) -> None:
        writer = Thread(target=lambda: pipe.write_bytes(shop.read_bytes()))
        writer.start()
        run(pipe)
        writer.join()

    known = [("verdicts", label_table(tmp_path / "labels", verdicts(rows)))]
    split = TimeSplit(warm_up_s=60.0)

    def replayed(path: Path) -> None:
        out = tmp_path / f"out-{path.name}"
        replay(config(), [("shop", path)], out, lambda *_: None, known, split)

    through(replayed)
    replayed(shop)
    for name in ("scores.parquet", "labels.parquet", "alerts.parquet"):
        one, other = (tmp_path / f"out-{path.name}" / name for path in (pipe, shop))
        assert one.read_bytes() == other.read_bytes()
    candidates = [compare_runs.Candidate(name, config()) for name in ("a", "b")]

    def compared(path: Path) -> None:
        compare_runs.compare(candidates, [("shop", path)], tmp_path / "compared", lambda *_: None)

    through(compared)
    assert pq.read_table(tmp_path / "compared/b/scores.parquet").num_rows == len(rows)


def test_standard_input_is_an_input(tmp_path: Path) -> None:
    """Under "-" and as /dev/stdin."""
    assert is_pipe("-")
    read, write = os.pipe()
    saved = os.dup(0)
    try:
        os.dup2(read, 0)
        os.write(write, b'{"a": 1}\n')
        os.close(write)
        with ExitStack() as opened:
            file = spool_pipe("-", opened)
            with file.open() as content:
                assert (file.name, content.read()) == ("/dev/stdin", b'{"a": 1}\n')
    finally:
        os.dup2(saved, 0)
        os.close(read)
        os.close(saved)
    assert not is_pipe(str(tmp_path))
    assert not is_pipe(str(tmp_path / "none"))
