"""Shards in processes of their own lead to the same bytes as in one."""

import os
import signal
import threading
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from schemas.records import Records
from stream.config import Config, logs, parse
from stream.errors import ForeignRecord, JobLost
from stream.pipeline.alerting import RunInfo
from stream.pipeline.shard import ShardFactory, ShardOutput
from stream.pipeline.stages.watch import NO_SCORES, ScoreColumns
from stream.replay import jobs as jobs_module
from stream.replay import replay
from stream.replay.jobs import Jobs, _decoder, _encoded, _Judge
from tests.replay.test_manifest import bytes_in
from tests.replay.test_replay import CONFIG, config, events, ndjson
from tests.streams import batch, same

KEYED = 'topic = "shop"\npartitions = 5\nkeyed_by = "account"\npartitioner = "murmur2"'
BY_PARTITION = CONFIG.replace('topic = "shop"', KEYED)
ASSESSED = '\n[assess]\nsubject = "account"\npartitions = 2\npolicy = { p_max = 1e-2, warm_up_events = 100 }\n'
OVER_LOGS = (
    CONFIG.replace('topic = "shop"', KEYED.replace('"account"', '"ip"'))
    .replace('inputs = ["shop"]', 'inputs = ["shop"]\npartitions = 3')
    .replace('[[monitors]]\nname = "ip"', '[[monitors]]\nname = "device"')
    .replace('entity = "ip"\ninputs = ["site"]', 'entity = "device"\ninputs = ["shop"]')
    + ASSESSED
)


def rows() -> list[dict[str, object]]:
    """Payments with addresses and devices."""
    return [
        row | {"ip": f"10.0.0.{i % 7}", "device": f"d{i % 30}"}
        for i, row in enumerate(events(3_000))
    ]


def outcome(using: Config, path: Path, out: Path, jobs: int) -> dict[str, bytes]:
    """What a replay with so many processes wrote, and its counters."""
    told = lambda _records, _share: None  # noqa: E731
    summary = replay(using, [("shop", path)], out, told, jobs=jobs)
    assert all(summary.adds_up.values())
    counters = orjson.dumps([summary.inputs, summary.monitors, summary.alerts])
    return bytes_in(out) | {"counters": counters}


@pytest.mark.slow
@pytest.mark.parametrize("text", [BY_PARTITION, OVER_LOGS], ids=["by-partition", "over-logs"])
def test_jobs_change_no_byte(tmp_path: Path, text: str) -> None:
    """Alerts, dead letters, scores, counters and manifest are the same in one process and in three,
    of partitions that monitors read directly, and of internal logs up to assess."""
    path = ndjson(tmp_path / "shop", rows(), (b"{", b'{"event_id": "x"}', b"[]"))
    one, three = (outcome(config(text), path, tmp_path / f"{jobs}", jobs) for jobs in (1, 3))
    assert one == three
    assert len(one["dead_letters.ndjson"].splitlines()) == 3
    monitors = {orjson.loads(line)["monitor"] for line in one["alerts.ndjson"].splitlines()}
    assert monitors >= ({"account", "assess"} if text is OVER_LOGS else {"account"})


@pytest.mark.slow
def test_tables_go_to_other_processes_too(tmp_path: Path) -> None:
    """Columns of Parquet and CSV files lead to the same bytes there."""
    table = pa.Table.from_pylist(rows())
    pq.write_table(table, tmp_path / "shop.parquet")
    pa_csv.write_csv(table, tmp_path / "shop.csv")
    for name in ("shop.parquet", "shop.csv"):
        one, two = (
            outcome(config(BY_PARTITION), tmp_path / name, tmp_path / f"{name}-{jobs}", jobs)
            for jobs in (1, 2)
        )
        assert one == two


def test_outputs_survive_the_process_boundary() -> None:
    """Every array comes with its type, its bits and memory that may be written; strings with their
    nulls."""
    sent = batch(seed=1, events=500, hostile=True)
    activity = np.array([0, 4], np.uint8)
    surprised, told = np.array([[True, False]]), np.array([[1.0, np.nan]])
    said = ScoreColumns(np.array([np.nan, 0.5]), activity, surprised, told)
    output = ShardOutput(sent, [], [], {"m": said}, [])
    there: ShardOutput = _decoder(ShardOutput).decode(_encoded(output))
    assert there.events.sources == sent.sources
    pairs: Iterator[tuple[NDArray[Any], NDArray[Any]]] = zip(said, there.scores["m"], strict=True)
    for mine, theirs in pairs:
        assert same(theirs, mine)
        assert theirs.flags.writeable
    for name in ("offset", "time_ms", "type_code", "source"):
        assert same(getattr(there.events, name), getattr(sent, name))
    assert all(there.events.text[name].equals(column) for name, column in sent.text.items())
    assert all(same(there.events.number[name], column) for name, column in sent.number.items())


def records(log_topic: str, value: bytes) -> Records:
    """One record of partition 0."""
    return Records(log_topic, 0, np.array([7]), np.array([-1]), [value])


@pytest.mark.slow
def test_a_state_can_be_fetched_from_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard's state in another process is that of one here that has read the same, under a
    secret of the environment; and what reads answers was made by this thread alone."""
    made: list[threading.Thread] = []

    def noted(kind: Any, make: Callable[[Any], Any] = jobs_module._decoder) -> Any:
        made.append(threading.current_thread())
        return make(kind)

    monkeypatch.setattr(jobs_module, "_decoder", noted)
    text = 'secret = "${SECRET}"\n' + BY_PARTITION
    using = parse(tomllib.loads(text), {"SECRET": "swordfish"})
    run = RunInfo("replay", "r", str)
    value = orjson.dumps(events(1)[0])
    here = ShardFactory(using, run).source("shop")
    here.process(records("shop", value))
    with Jobs(2) as jobs:
        there = jobs.making(using, run, {"shop": "shop", "site": "site"}, NO_SCORES).source("shop")
        there.process(records("shop", value))
        state, counts = there.save(), there.counts()
    assert counts == here.counts()
    expected = here.save()
    assert state.keys() == expected.keys()
    assert [name for name in state if not same(state[name], expected[name])] == []
    assert set(made) == {threading.current_thread()}


@pytest.mark.slow
def test_errors_of_other_processes_are_raised() -> None:
    """An error of Eddy's is raised as what it is, another with where it happened; and a process
    that is gone is told, not waited for."""
    using, run = config(OVER_LOGS), RunInfo("replay", "r", str)
    topics = {name: spec.topic for name, spec in using.inputs.items()}
    [log] = [one for one in logs(using) if one.name == "account"]
    with Jobs(1) as jobs:
        making = jobs.making(using, run, topics, NO_SCORES)
        with pytest.raises(ForeignRecord, match=r"\[0\]: the record at offset 7"):
            making.internal(log).process(records(log.topic, b"nothing of Eddy's"))
        shard: Any = making.source("shop")
        with pytest.raises(RuntimeError, match="AssertionError"):
            shard._job.ask(_Judge(shard._number, batch(seed=1, events=1)), ShardOutput).result()
        shard.process(records("shop", b"{"))
        forked = Path(f"/proc/{jobs._process.pid}/task/{jobs._process.pid}/children")
        os.kill(int(forked.read_text()), signal.SIGKILL)
        with pytest.raises(JobLost, match="exit code 137"):
            shard.process(records("shop", b"{"))
    with pytest.raises(ProcessLookupError):
        os.killpg(jobs._process.pid, 0)
