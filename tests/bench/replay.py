"""Part `replay`: the Handbook's 1.3 million payments, with labels where the configuration has them,
from files to a whole run folder; and a file ten times as long, for what grows with it.

Each in a process of its own, whose peak of resident memory counts. The copies follow each other in
time, each with ids of its own, so that every customer goes on living.
"""

import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, NamedTuple

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stream.config import label_inputs, load
from stream.replay import replay
from tests.bench import launching
from tests.bench.broker import ROOT
from tests.bench.figures import Figures
from tests.bench.timing import time_spent

DATA: Final = ROOT.parent / "shared" / "data" / "transactions"
CONFIG: Final = ROOT / "deploy" / "configs" / "handbook-labels.toml"
EVENTS, LABELS = "handbook", "handbook_labels"
TIMES: Final = {EVENTS: "ts", LABELS: "available_at"}
PERIOD_DAYS: Final = 140
"""From one copy to the next: the data's 136 days, and some to tell them apart."""
BATCH_ROWS: Final = 100_000
WAIT_MAX_S: Final = 1800
MIB: Final = 2**20


class Sizes(NamedTuple):
    """How much is measured. data: the folder of the Handbook's files; times_as_long: the long file."""

    data: Path = DATA
    times_as_long: int = 10


FULL: Final = Sizes()


def run(figures: Figures, sizes: Sizes = FULL) -> None:
    """The plain loop, one file, and the long one."""
    source = sizes.data
    if not source.is_dir():
        figures.notes.append(f"part replay did not run: there is no folder {source}")
        return
    with TemporaryDirectory(prefix="eddy-bench-") as name:
        folder = Path(name)
        plain_s = _plain(source / f"{EVENTS}.parquet", folder)
        figures.put("replay_plain_orjson_s", plain_s)
        for data in TIMES:  # so that no kernel is compiled where memory is measured
            first = pq.read_table(source / f"{data}.parquet").slice(0, BATCH_ROWS)
            pq.write_table(first, folder / f"{data}.parquet")
        _probe(folder, folder / "out")
        once = _probe(source, folder / "out")
        figures.say("replay of the Handbook measured")
        for data in TIMES:
            short, long_one = (where / f"{data}.parquet" for where in (source, folder))
            _lengthen(short, long_one, TIMES[data], sizes.times_as_long)
        long = _probe(folder, folder / "out")
        figures.say(f"replay of {sizes.times_as_long} times the Handbook measured")
    figures.put("replay_s", once["seconds"])
    figures.put("replay_events_per_s", once["events"] / once["seconds"])
    figures.put("replay_vs_plain_orjson", once["seconds"] / plain_s)
    figures.put("replay_peak_mib", once["peak_mib"])
    figures.put("replay_peak_growth_at_10x", long["peak_mib"] / once["peak_mib"] - 1.0)
    header = ("events", "seconds", "events/s", "peak MiB")
    for found in (once, long):
        cells = (found["events"], found["seconds"], found["events"] / found["seconds"])
        figures.row(
            "replay, report written", header, *(f"{x:,.0f}" for x in (*cells, found["peak_mib"]))
        )


def _plain(events: Path, folder: Path) -> float:
    """Seconds of a loop that decodes the same events as NDJSON and does nothing else."""
    path = folder / "handbook.ndjson"
    with path.open("wb") as file:
        for batch in pq.ParquetFile(events).iter_batches(BATCH_ROWS):
            file.writelines(orjson.dumps(row) + b"\n" for row in batch.to_pylist())

    def loop() -> None:
        with path.open("rb") as file:
            for line in file:
                orjson.loads(line)

    took = time_spent(1, loop)
    path.unlink()
    return took.wall_s


def _lengthen(source: Path, target: Path, time_column: str, times: int) -> None:
    """Copies of a file one behind the other, batch by batch."""
    schema = pq.read_schema(source).remove_metadata()
    with pq.ParquetWriter(target, schema, compression="zstd") as writer:
        for batch in _copies(source, time_column, times):
            writer.write_batch(batch.cast(schema))


def _copies(source: Path, time_column: str, times: int) -> Iterator[pa.RecordBatch]:
    for copy in range(times):
        later = pa.scalar(copy * PERIOD_DAYS * 86_400_000, pa.duration("ms"))
        for batch in pq.ParquetFile(source).iter_batches(BATCH_ROWS):
            table = pa.Table.from_batches([batch])
            at = table.schema.get_field_index(time_column)
            shifted = pc.add(table.column(at), later)
            table = table.set_column(at, time_column, shifted)
            own = pc.binary_join_element_wise(
                table.column("transaction_id"),
                pa.scalar(f"-{copy}", pa.large_string()),
                pa.scalar("", pa.large_string()),
            )
            at = table.schema.get_field_index("transaction_id")
            yield from table.set_column(at, "transaction_id", own).to_batches()


def _probe(data: Path, out: Path) -> dict[str, Any]:
    """Replay in a process of its own."""
    printed = launching.output_of("tests.bench.replay", [str(data), str(out)], WAIT_MAX_S)
    found: dict[str, Any] = orjson.loads(printed)
    return found


# -- in the probe's process -----------------------------------------------------------------------


def probe(data: Path, out: Path) -> dict[str, Any]:
    """What a replay took, from the process's start to the last file."""
    config = load(CONFIG)
    inputs = [("transaction", data / f"{EVENTS}.parquet")]
    labels = [(name, data / f"{LABELS}.parquet") for name in label_inputs(config)]
    began = time.perf_counter()
    summary = replay(config, inputs, out, lambda _records, _share: None, labels)
    seconds = time.perf_counter() - began
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"events": summary.events, "seconds": seconds, "peak_mib": peak_bytes / MIB}


if __name__ == "__main__":
    sys.stdout.buffer.write(orjson.dumps(probe(Path(sys.argv[1]), Path(sys.argv[2]))))
