"""A replay has nothing to write to Kafka with: no producer within reach of its modules, no group
joined, nothing committed. What it leaves on a broker is looked at in tests/broker/test_replay.py.
"""

import subprocess
import sys

import pytest

from tests.test_tidy import ROOT, modules

ENTRIES = ("stream.replay", "stream.inputs", "stream.cli.replay")
FORBIDDEN = {"stream.kafka.sink", "stream.runtime.worker", "stream.checkpoints.manager"}


def imports() -> dict[str, set[str]]:
    """By module of `stream`, which of its modules it imports, wherever in the file."""
    names = {
        m.path.removesuffix(".py").removesuffix("/__init__").replace("/", "."): m
        for m in modules()
        if m.package == "stream"
    }
    return {
        name: {
            found
            for _, full, _ in module.imports()
            for found in (full, full.rpartition(".")[0])
            if found in names
        }
        for name, module in names.items()
    }


@pytest.mark.slow
def test_no_module_of_replay_reaches_one_that_writes() -> None:
    """From the replay, its inputs and its command, by whatever import, nobody comes to the
    producers, to the worker, or to what keeps live's checkpoints."""
    known = imports()
    waiting = [name for name in known if name.startswith(ENTRIES)]
    reached: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += known[name]
    assert {"stream.pipeline.cluster", "stream.kafka.topic_reader"} <= reached
    assert not reached & FORBIDDEN
    assert known.keys() >= FORBIDDEN


@pytest.mark.slow
def test_nothing_that_writes_is_loaded_by_it() -> None:
    """The same as Python sees it: what is imported when all of replay is."""
    code = (
        "import sys, stream.replay, stream.cli.replay\n"
        f"print(sorted(set({sorted(FORBIDDEN)}) & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_its_reader_joins_no_group_and_commits_nothing() -> None:
    """The module that reads stretches of topics names none of the calls that leave a trace."""
    [module] = [m for m in modules() if m.path == "stream/kafka/topic_reader.py"]
    calls = {use.name.rpartition(".")[2] for use in module.uses() if use.call is not None}
    assert {"assign", "consume"} <= calls
    traces = {"subscribe", "commit", "store_offsets", "Producer", "produce", "send_offsets"}
    assert not calls & traces
    own = {full for _, full, _ in module.imports() if full.startswith("confluent_kafka")}
    assert own <= {f"confluent_kafka.{name}" for name in ("Consumer", "Message", "TopicPartition")}
