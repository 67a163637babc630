"""Readiness of a worker while its broker is away, and while it reads no events."""

from pathlib import Path

import orjson
import pytest

from stream.inputs.diagnostics import RECORDS_MIN
from tests.broker.own_broker import own_broker
from tests.broker.shop import WorkerProcess, make_shop, read, send, wait_for, worker

pytestmark = pytest.mark.broker


def ready(process: WorkerProcess) -> bool:
    """Whether the worker is ready."""
    return process.get("/readyz")[0] == 200


def test_a_worker_that_reads_no_event_is_not_ready_until_it_does(
    broker: str, tmp_path: Path
) -> None:
    """The reason names an example, the log has a line, and one event ends it; alerts on old events
    are marked as stale."""
    shop = make_shop(broker, tmp_path, "odd", 1)
    with worker(shop) as process:
        wait_for(lambda: process.has_logged("partition taken"), "an assignment")
        wait_for(lambda: ready(process), "readiness")
        send(shop, [b"{"] * RECORDS_MIN)
        wait_for(lambda: not ready(process), "the reason")
        status, reasons = process.get("/readyz")
        assert status == 503
        assert reasons.startswith("shop: the last 1,000 records were all dead letters, such as")
        assert process.has_logged("input problem")
        shop.feed(5_000)
        shop.wait_until_caught_up()
        wait_for(lambda: ready(process), "readiness")
        metrics = process.get("/metrics")[1]
        assert 'eddy_partitions_configured{input="shop"} 1.0' in metrics
        assert 'eddy_partitions_assigned{input="shop"} 1.0' in metrics
        assert process.stop() == 0
    runs = [orjson.loads(one.value)["run"] for one in read(broker, f"{shop.group}-alerts")]
    assert runs
    assert {(one["enforceable"], one["reason"]) for one in runs} == {(False, "stale")}


@pytest.mark.long
def test_a_worker_without_a_broker_is_not_ready(broker: str, tmp_path: Path) -> None:
    """Half a minute after the broker's last answer, though its connections stay; and ready again
    when it answers."""
    with own_broker(tmp_path / "data") as own:
        shop = make_shop(own.bootstrap, tmp_path, "away", 1)
        with worker(shop) as process:
            wait_for(lambda: process.has_logged("partition taken"), "an assignment")
            wait_for(lambda: ready(process), "readiness")
            own.freeze()
            wait_for(lambda: not ready(process), "the reason")
            assert process.get("/readyz")[1].startswith("no broker has answered for ")
            assert process.get("/healthz")[0] == 200
            own.thaw()
            wait_for(lambda: ready(process), "readiness")
            assert process.stop() == 0
