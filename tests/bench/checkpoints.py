"""Part `checkpoints`: what it costs a shard to write a gigabyte of state while it goes on, what an
unchanged state costs, and how fast a state is loaded and re-learned.

In a process of its own. Entities are drawn evenly from all, so that every block is written to: the
worst that can happen to a state that is being read. Re-learning is the same shard with nothing to
publish; what a worker does beside is alike in both.
"""

import re
import sys
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Final, NamedTuple

import numpy as np
import orjson
from obstore.store import LocalStore

from detectors.spec import seconds
from schemas.records import Records
from stream.checkpoints.manager import DUE_DIVISOR, CheckpointManager, PartitionCheckpoints
from stream.checkpoints.recovered import RecoveredState, StartContext
from stream.checkpoints.recovery import recover
from stream.checkpoints.store import Folder
from stream.clock import now_text
from stream.config import CheckpointsSpec, parse
from stream.config.stage_graph import logs
from stream.kafka.positions import CommittedOffset, Partition
from stream.pipeline.alerting import RunInfo
from stream.telemetry import logging
from stream.telemetry.collector import MetricsCollector
from tests.bench import broker, end_to_end, launching
from tests.bench.events import (
    START_MS,
    document,
    monitor_document,
    payments,
    skewed,
    toml,
)
from tests.bench.figures import Figures

GIB: Final = 2**30


class Sizes(NamedTuple):
    """How much is measured. entities: with state; batch: events in one; quiet: batches of a turn
    without a checkpoint, and made: at most so many while one is written, all made before the clock
    runs; relearned: records of a restart."""

    entities: int = 320_000
    batch: int = 10_000
    turns: int = 3
    quiet: int = 25
    made: int = 60
    relearned: int = 1_500_000


FULL: Final = Sizes()
WHERE: Final = Partition("bench", 0)
RUN: Final = RunInfo("live", "bench", now_text)
WAIT_MAX_S: Final = 1_200
NEVER: Final[dict[str, Any]] = {"interval": "7d", "rewind_records_max": 10**12}
"""No checkpoint but the empty one, so that a restart re-learns everything."""


def run(figures: Figures, sizes: Sizes = FULL) -> None:
    """Measure in a process of its own, and show what it found."""
    asked = [orjson.dumps(tuple(sizes)).decode()]
    printed = launching.output_of("tests.bench.checkpoints", asked, WAIT_MAX_S)
    found: dict[str, Any] = orjson.loads(printed)
    for name in (
        "checkpoint_1gib_throughput_loss_pct",
        "checkpoint_longest_batch_ratio",
    ):
        figures.spread(name, found.pop(name))
    shown = {
        "checkpoint_state_gib": "state, GiB",
        "checkpoint_unchanged_pct": "written when nothing changed, % of a full one",
        "checkpoint_compressed_share": "a full one compressed, share of the state",
        "checkpoint_seconds": "seconds from its begin to its manifest",
        "checkpoint_copied_at_once_ms": "of which the loop stands still at first, ms",
        "checkpoint_slowdown_pct": "throughput lost while it is written, %",
        "checkpoint_median_batch_ms": f"median batch of {sizes.batch:,} without one, ms",
        "checkpoint_longest_batch_ms": "longest batch while it is written, ms",
        "checkpoint_interval_s": "seconds between two at full speed",
        "checkpoint_aside_gib": "memory for rows that changed before they were read, GiB",
        "checkpoint_load_s": "seconds to load and check it",
    }
    for name, meaning in shown.items():
        figures.put(name, found[name])
        figures.row("checkpoints", ("", "found"), meaning, f"{found[name]:,.4g}")
    figures.say("checkpoints measured")
    _relearning(figures, sizes)


def _relearning(figures: Figures, sizes: Sizes) -> None:
    """Live over a topic; killed; the same again in silence, from the empty state."""
    with ExitStack() as stack:
        try:
            bootstrap = stack.enter_context(broker.running_broker())
        except broker.NoBrokerError as error:
            figures.notes.append(f"re-learning was not measured: {error}")
            return
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="eddy-bench-")))
        topic = broker.unused_name("bench")
        broker.make_outputs(bootstrap)
        broker.make_topics(bootstrap, topic)
        broker.fill(bootstrap, topic, payments(skewed(20_000, sizes.relearned, 7), 7, 4_000))
        live, silent = [], []
        for turn in range(sizes.turns):
            config = folder / f"{topic}-{turn}.toml"
            written = document(
                [monitor_document(100_000, end_to_end.DEFAULT)],
                *(topic, config.stem),
                kafka={"bootstrap.servers": bootstrap, "session.timeout.ms": 6_000},
                worker={"http_port": 0},
                checkpoints={"url": str(folder / "store"), **NEVER},
            )
            config.write_text(toml(written))
            live.append(_records_per_s(config, sizes.relearned))
            silent.append(_records_per_s(config, sizes.relearned))
            figures.say(f"re-learned, turn {turn + 1} of {sizes.turns}")
        figures.ratio("relearn_vs_live", silent, live)
        figures.row("checkpoints", ("", "found"), "live, records/s", f"{median(live):,.0f}")
        figures.row(
            "checkpoints", ("", "found"), "re-learning, records/s", f"{median(silent):,.0f}"
        )


def _records_per_s(config: Path, records: int) -> float:
    """A worker's rate by its own count, which it renews twice a second: from when its first reading
    was seen to when the last before the end was; then it is killed. So few records that there is no
    reading in between count from the worker's start."""
    with end_to_end.worker(config) as process:
        started = time.perf_counter()
        seen: list[tuple[float, float]] = []
        deadline = time.monotonic() + broker.WAIT_MAX_S
        while time.monotonic() < deadline:
            time.sleep(0.01)
            done, now = _records_read(config), time.perf_counter()
            if done == records:
                process.kill()
                if len(seen) < 2:
                    return records / (now - started)
                (first, began), (last, ended) = seen[0], seen[-1]
                return (last - first) / (ended - began)
            if done and (not seen or done > seen[-1][0]):
                seen.append((done, now))
        raise AssertionError(config.with_suffix(".log").read_text())


def _records_read(config: Path) -> float:
    """What the worker's metrics say; 0 while it serves none."""
    said = config.with_suffix(".log").read_text()
    address = re.search(r'"address": "([^"]+)"', said)
    if address is None:
        return 0.0
    with urllib.request.urlopen(f"http://{address[1]}/metrics", timeout=10) as answer:
        found = re.search(r"^eddy_records_total\{.*\} (\S+)$", answer.read().decode(), re.MULTILINE)
    return float(found[1]) if found else 0.0


# -- in the probe's process -----------------------------------------------------------------------


class Stream:
    """Batches of records, each behind the last, of entities drawn evenly."""

    def __init__(self, sizes: Sizes) -> None:
        self._sizes = sizes
        self._made = 0
        self._now_ms = START_MS
        self._draw = np.random.Generator(np.random.PCG64(1))

    def every(self) -> list[Records]:
        """Two events of every entity."""
        order = self._draw.permutation(self._sizes.entities)
        return self._records(np.concatenate([order, order]))

    def some(self, batches: int) -> list[Records]:
        """So many batches."""
        events = batches * self._sizes.batch
        return self._records(self._draw.integers(0, self._sizes.entities, events))

    def _records(self, accounts: Any) -> list[Records]:
        events = payments(accounts, self._made, 2.0, self._made, self._now_ms)
        self._made += len(events)
        self._now_ms = int(events.time_ms[-1])
        whole = events.records()
        batch = self._sizes.batch
        return [
            whole.slice(start, min(start + batch, len(whole)))
            for start in range(0, len(whole), batch)
        ]


class Probe:
    """A shard with a gigabyte of state, its checkpoints, and the stream that it reads."""

    def __init__(self, folder: Path, sizes: Sizes) -> None:
        trees: dict[str, Any] = {"kind": "half_space_trees", "min_events": 1}
        detectors = [{"kind": "tail"}, trees]
        self.config = parse(document([monitor_document(sizes.entities, detectors)]), {})
        self.objects = LocalStore(folder)
        self.sizes = sizes
        self.stream = Stream(sizes)
        self.metrics = MetricsCollector()
        self.spec = CheckpointsSpec()
        self.manager = CheckpointManager(self.spec, self.metrics)
        self.kept = PartitionCheckpoints(self._folder(), self.start(None), time.monotonic())
        self.offset = 0
        self.manager.write_first(self.kept, 0)
        self.kept.mark_published()

    def _folder(self) -> Folder:
        return Folder(self.objects, "bench", *WHERE)

    def start(self, committed: CommittedOffset | None) -> RecoveredState:
        """What a worker makes of what is there."""
        [log] = logs(self.config)
        asked = (self.config, RUN, log, WHERE.partition, self._folder(), committed, 0, 2**40)
        return recover(StartContext(*asked, beat=lambda: None))

    def process(self, records: Records) -> float:
        """Fold a batch; the seconds it took."""
        started = time.perf_counter()
        self.kept.state.shard.process(records)
        self.offset = int(records.offset[-1]) + 1
        return time.perf_counter() - started

    def written_bytes(self) -> float:
        """Compressed bytes written so far."""
        return self.metrics._counted["eddy_checkpoint_bytes"]

    def written(self) -> float:
        """Wait for the checkpoint that is being written; compressed bytes written so far."""
        while not self.manager.is_idle():
            time.sleep(0.005)
        self.kept.mark_published()
        return self.written_bytes()


def probe(folder: Path, sizes: Sizes) -> dict[str, Any]:
    """Fill, then measure in turns."""
    one = Probe(folder, sizes)
    for records in one.stream.every():
        one.process(records)
    state = one.kept.state.shard.save()
    state_bytes = sum(array.nbytes for array in state.values())
    say(f"{state_bytes / GIB:.2f} GiB of state")
    found: dict[str, Any] = {"checkpoint_state_gib": state_bytes / GIB}
    turns = [turn(one) for _ in range(sizes.turns)]
    for name in turns[0]:
        values = [each[name] for each in turns]
        spread = name in {"checkpoint_1gib_throughput_loss_pct", "checkpoint_longest_batch_ratio"}
        found[name] = values if spread else median(values)
    before = one.written_bytes()
    one.manager.start(one.kept, one.offset)
    full = one.written() - before
    size_before = size_of(folder)
    one.manager.start(one.kept, one.offset)
    one.written()
    found["checkpoint_unchanged_pct"] = 100.0 * (size_of(folder) - size_before) / full
    found["checkpoint_compressed_share"] = full / state_bytes
    started = time.perf_counter()
    one.start(CommittedOffset(one.offset, one.kept.metadata()))
    found["checkpoint_load_s"] = time.perf_counter() - started
    one.manager.close()
    return found


def turn(one: Probe) -> dict[str, float]:
    """Batches without a checkpoint, then as many as one takes."""
    sizes = one.sizes
    batches = one.stream.some(sizes.quiet + sizes.made)
    quiet = [one.process(records) for records in batches[: sizes.quiet]]
    usual_s = median(quiet)
    started = time.perf_counter()
    one.manager.start(one.kept, one.offset)
    standing_s = time.perf_counter() - started
    assert one.manager._job is not None
    snapshot = one.manager._job.snapshot
    took: list[float] = []
    for records in batches[sizes.quiet :]:
        took.append(one.process(records))
        if one.manager.is_idle():
            break
    wall_s = time.perf_counter() - started
    if not one.manager.is_idle():
        say(f"the checkpoint took longer than {sizes.made} batches")
    one.written()
    # The first batch comes behind the copying: to whoever waits for it, both are one.
    longest_s = max(took[0] + standing_s, *took[1:])
    lost_s = wall_s - len(took) * sum(quiet) / len(quiet)
    interval_s = seconds(one.spec.interval)
    interval_s = min(
        interval_s, one.spec.rewind_records_max / DUE_DIVISOR / (sizes.batch / usual_s)
    )
    say(
        f"{len(took)} batches, median {usual_s:.3f} s, longest {longest_s:.3f} s, lost {lost_s:.2f} s"
    )
    return {
        "checkpoint_1gib_throughput_loss_pct": 100.0 * lost_s / interval_s,
        "checkpoint_longest_batch_ratio": longest_s / usual_s,
        "checkpoint_seconds": wall_s,
        "checkpoint_copied_at_once_ms": 1e3 * standing_s,
        "checkpoint_slowdown_pct": 100.0 * lost_s / wall_s,
        "checkpoint_median_batch_ms": 1e3 * usual_s,
        "checkpoint_longest_batch_ms": 1e3 * longest_s,
        "checkpoint_interval_s": interval_s,
        "checkpoint_aside_gib": snapshot.copied_bytes / GIB,
    }


def size_of(folder: Path) -> int:
    """Bytes in all of a folder's files."""
    return sum(each.stat().st_size for each in folder.rglob("*") if each.is_file())


def say(text: str) -> None:
    """Progress, to the terminal."""
    print(f"        {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    logging.configure_logging("warning")
    with TemporaryDirectory(prefix="eddy-checkpoints-") as name:
        asked = Sizes(*orjson.loads(sys.argv[1]))
        print(orjson.dumps(probe(Path(name), asked)).decode())
