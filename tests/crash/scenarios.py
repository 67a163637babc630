"""The points at which a worker dies, by SIGKILL, and what must hold after: each a small story.

Every story ends with a worker that does what is left and stops, and a comparison of alerts, dead
letters and states with the oracle's. A story that did not come to its point fails.
"""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Final

import orjson

from stream.checkpoints.migration import migrate
from stream.config import fingerprint, load, state_config
from stream.kafka.positions import Partition
from stream.pipeline.alerting import RunInfo
from stream.pipeline.shard import ShardFactory
from stream.simulator import START_MS
from stream.simulator import Shop as Simulated
from stream.simulator.attacks import EVENTS_MIN
from stream.simulator.visits import DAY_MS
from tests.broker.own_broker import own_broker
from tests.broker.shop import (
    Outputs,
    Published,
    Reference,
    Shop,
    as_records,
    messages,
    published_alert,
    reference,
    send,
)
from tests.crash.environment import (
    BROKER_SETTINGS,
    Environment,
    delete_before,
    feed,
    feed_day,
    feed_labels,
    finish_and_check,
    finish_with_one_worker,
    make_crash_shop,
    wait_until_caught_up,
)
from tests.crash.oracle import differences, outputs_differ, uses_learned_model
from tests.crash.processes import ForkedWorker, running_worker, wait_for

EVENTS: Final = 3_000
LEARNING_DAYS: Final = 5
"""It is taught on the second, trees are fitted on the third and found to be better on the fourth, so
that what was learned speaks at the latest on the fifth."""
BROKEN_BYTES: Final = b"\xff\xfe{" + b"[" * 5_000
POISON: Final = (
    b"",
    b"null",
    BROKEN_BYTES,
    b'{"type": "login", "account": ' + b'"x' * 200_000,
    b'{"a":' * 3_000 + b"1" + b"}" * 3_000,
    b'{"type": "transaction", "amount": 1e999}',
    b"[" * 100_000,
)


def run_until_killed(
    shop: Shop, *plan: tuple[str, int], slot: str = "one", bug: str = ""
) -> ForkedWorker:
    """A worker that kills itself where the plan says. broken: see `running_worker`."""
    with running_worker(shop, slot, plan, bug) as worker:
        code = worker.wait_for_exit()
    assert code == -signal.SIGKILL, f"it never came to {plan}, ended with {code}: {worker.log_file}"
    return worker


def die(point: str, after: int, environment: Environment) -> None:
    """A worker dies there in mid-stream."""
    shop = make_crash_shop(environment, point)
    feed(shop, EVENTS)
    run_until_killed(shop, (point, after))
    finish_and_check(shop)


def die_between_stages(point: str, after: int, events: int, environment: Environment) -> None:
    """Over internal topics: a worker dies where the next stage has been handed what the one before
    it has sent, and so does its successor; another one goes on."""
    shop = make_crash_shop(environment, point, 2, internal_topics=True)
    feed(shop, events)
    for _ in range(2):
        run_until_killed(shop, (point, after))
    finish_and_check(shop, "two")


def die_learning(point: str, after: int, environment: Environment) -> None:
    """Assess learns from labels a day late, and on each day that brings some a worker dies; what was
    learned speaks in the end, however labels and events came together."""
    shop = make_crash_shop(environment, point, 1, internal_topics=True, labels=True)
    days = [Simulated(EVENTS_MIN, k, START_MS + k * DAY_MS) for k in range(LEARNING_DAYS)]
    feed_day(shop, days[0])
    finish_with_one_worker(shop)
    for yesterday, today in pairwise(days):
        feed_labels(shop, yesterday)
        feed_day(shop, today)
        run_until_killed(shop, (point, after))
        finish_with_one_worker(shop)
    expected = reference(shop)
    found = differences(shop, expected)
    assert not found, "\n".join(found)
    assert uses_learned_model(expected.shards), "the harmonic mean still speaks: nothing is proved"


def die_committing(environment: Environment) -> None:
    """Three workers in turn die while the broker is being asked to commit, ever later."""
    shop = make_crash_shop(environment, "during commit")
    feed(shop, EVENTS)
    for point in ("commit begun", "in the commit", "late in the commit"):
        run_until_killed(shop, (point, 5))
    finish_and_check(shop)


def die_recovering(point: str, after: int, environment: Environment) -> None:
    """A worker dies behind a checkpoint, and its successor while it makes the state again."""
    shop = make_crash_shop(environment, point)
    feed(shop, EVENTS)
    run_until_killed(shop, ("far from a checkpoint", 1))
    run_until_killed(shop, (point, after))
    worker = finish_and_check(shop)
    assert worker.has_logged("re-learned"), "nothing was left to re-learn"


def die_revoking(environment: Environment) -> None:
    """A worker that is to give partitions to another dies before, in and after its last commit."""
    shop = make_crash_shop(environment, "on_revoke", 4)
    for seed, point in enumerate(("at on_revoke", "in on_revoke", "late in on_revoke")):
        feed(shop, EVENTS // 2, seed)
        with running_worker(shop, f"old-{seed}", [(point, 1)]) as one:
            wait_for(lambda one=one: partitions_taken(one) == 4, "all partitions", one)  # type: ignore[misc]
            with running_worker(shop, f"new-{seed}"):
                assert one.wait_for_exit() == -signal.SIGKILL
    finish_and_check(shop)


def _noticed(worker: ForkedWorker) -> bool:
    """Whether a resumed worker has ended or taken partitions again."""
    return not worker.is_alive() or partitions_taken(worker) > 4


def partitions_taken(worker: ForkedWorker) -> int:
    """How often it has taken a partition."""
    return sum(line["event"] == "partition taken" for line in worker.log())


@contextmanager
def frozen_and_replaced(
    shop: Shop, *plan: tuple[str, int], name: str = "", bug: str = ""
) -> Iterator[tuple[ForkedWorker, ForkedWorker]]:
    """A worker that stands still where the plan says, and another that has all four partitions.
    broken: see `running_worker`; of the first."""
    with running_worker(shop, f"old{name}", plan, bug) as one:
        wait_for(one.is_frozen, "it to freeze", one)
        with running_worker(shop, f"new{name}") as other:
            wait_for(lambda: len(other.owned_partitions()) == 4, "another owner", other)
            yield one, other


def die_losing(environment: Environment) -> None:
    """A worker stands still until its partitions are another's, learns that, and dies of it."""
    shop = make_crash_shop(environment, "on_lost", 4, kafka={"transaction.timeout.ms": 30_000})
    for seed, point in enumerate(("at on_lost", "after on_lost")):
        feed(shop, EVENTS // 2, seed)
        plan = (("frozen between batches", 3), (point, 1))
        with frozen_and_replaced(shop, *plan, name=f"-{seed}") as (one, other):
            one.send_signal(signal.SIGCONT)
            assert one.wait_for_exit() == -signal.SIGKILL, one.log_file
            wait_until_caught_up(shop)
            assert other.stop() == 0
    finish_and_check(shop)


def zombie(environment: Environment) -> None:
    """A worker freezes between offsets and commit until the broker has ended its transaction and
    another has gone on; when it comes back its commit is refused."""
    for protocol in ("classic", "consumer"):
        shop = make_crash_shop(environment, f"zombie {protocol}", 4, protocol)
        feed(shop, EVENTS)
        with frozen_and_replaced(shop, ("frozen in a transaction", 4)) as (one, other):
            wait_until_caught_up(shop)
            one.send_signal(signal.SIGCONT)
            feed(shop, EVENTS // 4, 8)
            wait_for(partial(_noticed, one), "it to notice")
            wait_until_caught_up(shop)
            if one.is_alive():
                assert one.stop() == 0
            assert other.stop() == 0
        said = [line["event"] for line in one.log()]
        assert "partition lost" in said or "stopped" not in said, "it never noticed"
        finish_and_check(shop)


def slow_assignment(environment: Environment) -> None:
    """A worker freezes when it has asked what the group has committed, nothing yet, and comes back
    when another has had its partitions and has left checkpoints: it goes on from these."""
    for protocol in ("classic", "consumer"):
        shop = make_crash_shop(environment, f"late to take {protocol}", 4, protocol)
        feed(shop, EVENTS)
        with frozen_and_replaced(shop, ("frozen while taking", 1)) as (one, other):
            wait_until_caught_up(shop)
            assert other.stop() == 0
            one.send_signal(signal.SIGCONT)
            feed(shop, EVENTS // 4, 8)
            wait_until_caught_up(shop)
            assert one.has_logged("another worker committed meanwhile: recovering again")
            assert one.stop() == 0
        finish_and_check(shop)


def broker_restart(environment: Environment) -> None:
    """The broker is killed and comes back under load, while a worker is killed, too."""
    with own_broker(environment.folder / "restarted", BROKER_SETTINGS) as broker:
        own = Environment(broker.bootstrap, environment.folder)
        shop = make_crash_shop(own, "broker restart", 4, kafka={"transaction.timeout.ms": 30_000})
        feed(shop, EVENTS)
        with running_worker(shop, "one") as one, running_worker(shop, "two") as two:
            wait_for(lambda: sum(shop.committed().values()) > EVENTS // 10, "commits", one, two)
            broker.kill()
            two.stop(signal.SIGKILL)
            time.sleep(1)
            broker.start()
            feed(shop, EVENTS // 3, 8)
            wait_until_caught_up(shop)
            assert one.stop() == 0
        finish_and_check(shop, "two")


def damaged_checkpoint(environment: Environment) -> None:
    """A checkpoint with a changed block, one with a truncated block, one with a truncated manifest:
    each is replaced by the one before it, loudly."""
    for damage in (change_a_block, truncate_a_block, truncate_the_manifest):
        shop = make_crash_shop(environment, damage.__name__)
        feed(shop, EVENTS)
        run_until_killed(shop, ("far from a second checkpoint", 1))
        damage(shop)
        worker = finish_and_check(shop)
        assert worker.has_logged("checkpoint is damaged: falling back to an earlier one"), (
            worker.log_file
        )
        assert worker.has_logged("re-learned")


def newest_manifest(shop: Shop) -> Path:
    """The manifest of the checkpoint that the committed offset of the first partition names."""
    return next(shop.store.rglob(f"{shop.committed_checkpoint()}.json"))


def newest_blocks(shop: Shop) -> list[Path]:
    """The blocks that only the newest checkpoint refers to."""
    newest = newest_manifest(shop).read_text()
    others = "".join(
        each.read_text()
        for each in shop.store.rglob("*.json")
        if each.stem < newest_manifest(shop).stem
    )
    blocks = [each for each in shop.store.rglob("blocks/*") if each.name in newest]
    return [each for each in blocks if each.name not in others]


def change_a_block(shop: Shop) -> None:
    """One byte in the middle is another."""
    block = newest_blocks(shop)[0]
    body = bytearray(block.read_bytes())
    body[len(body) // 2] ^= 1
    block.write_bytes(body)


def truncate_a_block(shop: Shop) -> None:
    """The second half is gone."""
    block = newest_blocks(shop)[-1]
    block.write_bytes(block.read_bytes()[: block.stat().st_size // 2])


def truncate_the_manifest(shop: Shop) -> None:
    """The end is gone."""
    manifest = newest_manifest(shop)
    manifest.write_bytes(manifest.read_bytes()[:-10])


def retention_gap(environment: Environment) -> None:
    """Records that are gone before they were learned again end the worker; what was published
    stays as it was, and nothing is added."""
    shop = make_crash_shop(environment, "retention gap")
    feed(shop, EVENTS, malformed=0.1)
    run_until_killed(shop, ("far from a checkpoint", 1))
    expected = outputs_before(reference(shop), shop.committed()[0])
    stands = int(newest_manifest(shop).name.partition("-")[0])
    delete_before(shop, stands + 10)
    with running_worker(shop) as worker:
        assert worker.wait_for_exit() == 4, worker.log_file
    said = worker.log_file.read_text()
    assert f"is at offset {stands}" in said, said
    assert f"the log now begins at {stands + 10}" in said, said
    found = list(outputs_differ(shop, expected))
    assert not found, "\n".join(found)


def outputs_before(expected: Reference, offset: int) -> Reference:
    """What the oracle emits for the records before that offset of the only partition."""

    def source_offset(one: Published) -> int:
        headers = dict(one.headers)
        if "eddy-offset" in headers:
            return int(headers["eddy-offset"])
        return int(orjson.loads(one.value)["evidence"][0]["offset"])

    def before(outputs: Outputs) -> Outputs:
        return {at: [o for o in some if source_offset(o) < offset] for at, some in outputs.items()}

    return replace(
        expected, alerts=before(expected.alerts), dead_letters=before(expected.dead_letters)
    )


def poison(environment: Environment) -> None:
    """Records that nobody could read are dead letters, before and after a death between them."""
    shop = make_crash_shop(environment, "poison")
    for seed in range(3):
        feed(shop, EVENTS // 3, seed)
        send(shop, list(POISON))
    run_until_killed(shop, ("mid-batch", 60))
    run_until_killed(shop, ("after offsets", 3))
    finish_and_check(shop)


def rebalance_during_recovery(environment: Environment) -> None:
    """Another worker joins while partitions are made again; then the first dies, re-learning."""
    shop = make_crash_shop(
        environment, "rebalance while re-learning", 4, kafka={"session.timeout.ms": 6_000}
    )
    feed(shop, 2 * EVENTS)
    run_until_killed(shop, ("far from a checkpoint", 1))
    run_until_killed(shop, ("far from a checkpoint", 5), slot="two")
    plan = [("frozen while re-learning", 3), ("while re-learning", 30)]
    with running_worker(shop, "one", plan) as one:
        wait_for(one.is_frozen, "it to freeze", one)
        with running_worker(shop, "two") as two:
            wait_for(lambda: two.has_logged("starting"), "another worker", two)
            time.sleep(0.5)
            one.send_signal(signal.SIGCONT)
            wait_for(lambda: partitions_taken(two) > 0, "a rebalance", two)
            one.stop(signal.SIGKILL)
            wait_until_caught_up(shop)
            assert two.stop() == 0
    assert one.has_logged("partition revoked") or one.process.poll() == -signal.SIGKILL
    finish_and_check(shop)


def changed_configuration(environment: Environment) -> None:
    """What was committed is re-learned under the former configuration, in spite of a death in it,
    then converted, in spite of a death before the first checkpoint under the new one."""
    shop = make_crash_shop(environment, "another configuration")
    feed(shop, EVENTS)
    run_until_killed(shop, ("far from a checkpoint", 1))
    old_config, change_offset = load(shop.config), shop.committed()[0]
    text = shop.config.read_text()
    at = text.index('entity = "card"')
    shop.config.write_text(text[:at] + text[at:].replace("capacity = ", "capacity = 1", 1))
    shop.drops.append(f"card@{fingerprint(old_config)}")
    run_until_killed(shop, ("while re-learning", 2))
    run_until_killed(shop, ("after the manifest", 1))
    worker = finish_with_one_worker(shop)
    assert worker.has_logged("re-learned")
    assert worker.has_logged("configuration changed: stage starts with nothing learned")
    assert worker.has_logged("configuration changed: state kept")

    first = Partition(shop.topic, 0)
    log, run = messages(shop.bootstrap, shop.topic), RunInfo("live", "reference", str)
    configs = (old_config, load(shop.config))
    one, other = (ShardFactory(config, run).input_shard("shop") for config in configs)
    before = [message for message in log if (message.offset() or 0) < change_offset]
    outputs = [one.process(as_records(shop.topic, before))]
    migrate(one.save(), state_config(old_config), state_config(configs[1]), other)
    outputs.append(other.process(as_records(shop.topic, log[len(before) :])))
    alerts = [published_alert(a) for some in outputs for a in some.alerts]
    expected = Reference({first: alerts}, shop.dead_letters(), {first: other}, {}, {})
    letters = sum(len(some.dead_letters) for some in outputs)
    assert letters == sum(map(len, expected.dead_letters.values()))
    found = differences(shop, expected)
    assert not found, "\n".join(found)


Scenario = Callable[[Environment], None]

POINTS: Final[dict[str, Scenario]] = {
    "after-consume": partial(die, "after consume", 7),
    "mid-batch": partial(die, "mid-batch", 20),
    "after-begin": partial(die, "after begin", 6),
    "after-produce-before-offsets": partial(die, "after produce", 6),
    "after-offsets": partial(die, "after delivery", 6),
    "during-commit": die_committing,
    "after-commit-before-outbox-cleared": partial(die, "after commit", 6),
    "in-a-checkpoint-block": partial(die, "in a block", 45),
    "blocks-without-manifest": partial(die, "before the manifest", 3),
    "manifest-without-commit": partial(die, "after the manifest", 3),
    "while-collecting": partial(die, "while collecting", 2),
    "while-loading": partial(die_recovering, "while loading", 20),
    "while-re-learning": partial(die_recovering, "while re-learning", 2),
    "inside-on_revoke": die_revoking,
    "on_lost": die_losing,
    "between-route-and-watch": partial(die_between_stages, "between route and watch", 4, EVENTS),
    "between-watch-and-assess": partial(
        die_between_stages, "between watch and assess", 2, 3 * EVENTS
    ),
    "at-labels": partial(die_learning, "at labels", 1),
    "after-labels": partial(die_learning, "after labels", 1),
    "between-days-of-learning": partial(die_learning, "between days of learning", 1),
    "zombie-after-transaction-time-out": zombie,
    "slow-assignment": slow_assignment,
    "broker-restart": broker_restart,
    "damaged-checkpoint": damaged_checkpoint,
    "retention-gap": retention_gap,
    "poison-record": poison,
    "rebalance-during-recovery": rebalance_during_recovery,
    "configuration-change-while-re-learning": changed_configuration,
}
"""What `--points` may name."""
