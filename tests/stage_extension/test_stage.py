"""A package adds a stage: declared once, it is planned, replayed, checkpointed and measured without a
change outside the package."""

import math
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import orjson
import pytest

from schemas.alerts import Alert
from schemas.records import Records
from stream.checkpoints.migration import migration_results
from stream.config import Config, parse, state_config
from stream.config.stage_graph import declared_stages, nodes
from stream.errors import ConfigError
from stream.pipeline.alert_batches import entity_key
from stream.pipeline.alerting import RunInfo
from stream.pipeline.cluster import InMemoryCluster
from stream.pipeline.stages import OutputRecord
from stream.runtime.topics import permissions, required_topics
from stream.simulator import Shop, lines
from tests.stage_extension import eddy, install, installed_here

READY = Path(__file__).resolve().parents[2] / "deploy" / "configs" / "shop.toml"
PARTITIONS = 3
ASSESSED = """
[assess]
subject = "account"
[assess.policy]
p_max = 1e-3
alerts_per_day = 100
warm_up_events = 0
"""
COUNTED = """
[stages.alert_counts]
topic = "alert-counts"
partitions = 2
"""
EVENTS = 12_000


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package."""
    return install(tmp_path_factory.mktemp("site"))


@pytest.fixture
def installed(site: Path) -> Iterator[None]:
    """This process finds the package."""
    with installed_here(site):
        yield


def text(partitions: int = PARTITIONS) -> str:
    """The shop's configuration: several partitions, frequent alerts, assess and the stage."""
    ready = READY.read_text().replace("p_max = 1e-5", "p_max = 1e-3")
    return ready.replace("partitions = 1", f"partitions = {partitions}") + ASSESSED + COUNTED


def config(partitions: int = PARTITIONS) -> Config:
    """That configuration."""
    return parse(tomllib.loads(text(partitions)), {})


def replayed(of: Config, step: int) -> tuple[list[Alert], list[OutputRecord], InMemoryCluster]:
    """The shop's alerts, the stage's records, and the shards. step: records of a batch."""
    values = [line.value for line in lines(Shop(EVENTS, seed=3), 0.01)]
    spec = of.inputs["shop"]
    cluster = InMemoryCluster(of, RunInfo("replay", "one", str))
    alerts: list[Alert] = []
    records: list[OutputRecord] = []
    for start in range(0, EVENTS, step):
        reached_ms = math.inf
        for partition in range(spec.partitions):
            own: list[bytes | None] = [*values[partition :: spec.partitions]]
            n = len(own)
            log = Records(spec.topic, partition, np.arange(n), np.full(n, -1), own)
            if start >= n:
                continue
            output = cluster.process_and_enqueue("shop", log.slice(start, min(start + step, n)))
            alerts += output.alerts
            records += output.output_records
            reached_ms = min(reached_ms, float(output.events.time_ms.max(initial=-1)))
        advanced = cluster.advance(reached_ms)
        alerts += advanced.alerts
        records += advanced.records
    advanced = cluster.advance(math.inf)
    return alerts + advanced.alerts, records + advanced.records, cluster


@pytest.mark.usefixtures("installed")
def test_the_graph_takes_the_stage_in() -> None:
    """It comes after the stages whose alerts it reads; its topics, with partitions and cleanup
    policy, are required, and a worker needs permissions for them."""
    order = [*declared_stages()]
    assert order.index("alert_counts") > max(order.index("watch"), order.index("assess"))
    assert nodes(config())[-1].name == "alert_counts"
    required = {one.topic: one for one in required_topics(config())}
    internal = required["eddy-shop-alert_counts-alerts"]
    assert (internal.kind, internal.partitions) == ("internal", 2)
    counts = required["alert-counts"]
    assert (counts.kind, counts.settings) == ("output", {"cleanup.policy": "compact"})
    allowed = [line for line in permissions(config()) if line.endswith("--topic alert-counts")]
    assert allowed == [
        "--operation Write --operation Describe --operation DescribeConfigs --topic alert-counts"
    ]


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("partitions", [1, PARTITIONS])
def test_it_counts_every_alert_of_every_stage(partitions: int) -> None:
    """Inline or over internal topics, by the batch or by the thousand: the last record of each entity
    is its number of alerts, and the counters add up."""
    alerts, records, cluster = replayed(config(partitions), 1_000)
    assert {"assess", "ip"} <= {alert.monitor for alert in alerts}
    expected = Counter(map(entity_key, alerts))
    assert len(expected) > 20
    latest = {record.key.decode(): int(record.value or b"") for record in records}
    assert latest == expected
    counts = [
        stages["alert_counts"] for log, stages in cluster.counts() if log.name == "alert_counts"
    ]
    assert sum(one["alerts_counted"] for one in counts) == len(alerts)
    _, others, _ = replayed(config(partitions), 177)
    for key in {record.key for record in records}:
        assert [r for r in others if r.key == key] == [r for r in records if r.key == key]


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("partitions", [1, PARTITIONS])
def test_a_stage_with_options_reads_the_events_of_every_input(partitions: int) -> None:
    """Its internal topic receives every event that route passes, and it counts each once."""
    table = "[stages.event_counts]\npartitions = 2\n"
    counting = parse(tomllib.loads(text(partitions) + table), {})
    [node] = [node for node in nodes(counting) if node.name == "event_counts"]
    assert node.inputs == ("shop",)
    _, _, cluster = replayed(counting, 1_000)
    counts = [(log.name, stages) for log, stages in cluster.counts()]
    passed = sum(stages["route"]["passed"] for name, stages in counts if name == "shop")
    counted = [
        stages["event_counts"]["events_counted"]
        for name, stages in counts
        if name == "event_counts"
    ]
    assert len(counted) == 2
    assert sum(counted) == passed > EVENTS // 2


@pytest.mark.usefixtures("installed")
def test_its_state_goes_on_where_it_was_saved() -> None:
    """A shard that loads the state of another counts on from there."""
    of = config()
    alerts, _, cluster = replayed(of, 1_000)
    first = next(one for one in cluster.states() if one.log.name == "alert_counts")
    other = next(one for one in replayed(of, EVENTS)[2].states() if one.log.name == "alert_counts")
    assert {n: a.tobytes() for n, a in other.shard.save().items()} == {
        n: a.tobytes() for n, a in first.shard.save().items()
    }
    fresh = InMemoryCluster(of, RunInfo("replay", "one", str))._shards.make(first.log)
    fresh.load(first.shard.save())
    assert fresh.counts() == first.shard.counts()
    assert len(alerts) > sum(fresh.counts()["alert_counts"].values()) > 0


@pytest.mark.usefixtures("installed")
def test_its_options_determine_its_state_and_mistakes_in_them_are_named() -> None:
    """Other options drop its state; an unknown key, a wrong type and an unknown stage are named."""
    other = parse(tomllib.loads(text().replace('"alert-counts"', '"counts"')), {})
    results = migration_results(state_config(config()), state_config(other))
    dropped = {one.stage: one.reason for one in results if one.drops_state()}
    assert dropped == {"alert_counts": "its options changed"}
    wrong = text().replace('topic = "alert-counts"', "topics = 1") + "[stages.alert_count]\n"
    with pytest.raises(ConfigError) as raised:
        parse(tomllib.loads(wrong), {})
    where = [line.partition(": ")[0] for line in raised.value.problems]
    assert where == [
        "stages.alert_counts.topics",
        "stages.alert_counts.topic",
        "stages.alert_count",
    ]


def test_without_the_package_the_table_is_a_mistake() -> None:
    """No stage of that name is installed."""
    with pytest.raises(ConfigError, match="no stage is named alert_counts"):
        config()


@pytest.mark.slow
def test_the_commands_take_it_in(site: Path, tmp_path: Path) -> None:
    """`eddy config check` names its topic, and `eddy replay` of a file its counters."""
    path, log, out = tmp_path / "shop.toml", tmp_path / "shop.ndjson", tmp_path / "out"
    path.write_text(text(1))
    log.write_bytes(b"\n".join(line.value for line in lines(Shop(EVENTS, seed=3), 0.0)))
    said = eddy(site, "config", "check", str(path))
    assert "alert_counts: over the internal topic eddy-shop-alert_counts-alerts" in said
    eddy(site, "replay", str(path), "--input", f"shop={log}", "--out", str(out))
    summary = orjson.loads((out / "summary.json").read_bytes())
    alerts = (out / "alerts.ndjson").read_bytes().splitlines()
    assert summary["monitors"]["alert_counts"] == {"alerts_counted": len(alerts)}
    assert len(alerts) > 20
