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

from stream.alerting import RunInfo
from stream.checkpoints.conversion import convert
from stream.config import fingerprint, load, steering
from stream.kafka.positions import Partition
from stream.shard import Shards
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
from tests.crash.ground import (
    BROKER_SETTINGS,
    Ground,
    delete_before,
    feed,
    feed_day,
    feed_labels,
    finish,
    finish_and_check,
    open_shop,
    wait_until_done,
)
from tests.crash.oracle import differences, learned, outputs_differ
from tests.crash.processes import Forked, forked, wait_for

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


def killed(shop: Shop, *plan: tuple[str, int], slot: str = "one", broken: str = "") -> Forked:
    """A worker that kills itself where the plan says. broken: see `forked`."""
    with forked(shop, slot, plan, broken) as worker:
        code = worker.ended()
    assert code == -signal.SIGKILL, f"it never came to {plan}, ended with {code}: {worker.log_file}"
    return worker


def die(point: str, after: int, ground: Ground) -> None:
    """A worker dies there in mid-stream."""
    shop = open_shop(ground, point)
    feed(shop, EVENTS)
    killed(shop, (point, after))
    finish_and_check(shop)


def die_between(point: str, after: int, events: int, ground: Ground) -> None:
    """Over internal topics: a worker dies where the next stage has been handed what the one before
    it has sent, and so does its successor; another one goes on."""
    shop = open_shop(ground, point, 2, hop=True)
    feed(shop, events)
    for _ in range(2):
        killed(shop, (point, after))
    finish_and_check(shop, "two")


def die_learning(point: str, after: int, ground: Ground) -> None:
    """Assess learns from labels a day late, and on each day that brings some a worker dies; what was
    learned speaks in the end, however labels and events came together."""
    shop = open_shop(ground, point, 1, hop=True, labels=True)
    before_ms = int(time.time() * 1000) // DAY_MS * DAY_MS - LEARNING_DAYS * DAY_MS
    days = [Simulated(EVENTS_MIN, seed, before_ms + seed * DAY_MS) for seed in range(LEARNING_DAYS)]
    feed_day(shop, days[0])
    finish(shop)
    for yesterday, today in pairwise(days):
        feed_labels(shop, yesterday)
        feed_day(shop, today)
        killed(shop, (point, after))
        finish(shop)
    expected = reference(shop)
    found = differences(shop, expected)
    assert not found, "\n".join(found)
    assert learned(expected.shards), "the harmonic mean still speaks: nothing is proved"


def die_committing(ground: Ground) -> None:
    """Three workers in turn die while the broker is being asked to commit, ever later."""
    shop = open_shop(ground, "during commit")
    feed(shop, EVENTS)
    for point in ("commit begun", "in the commit", "late in the commit"):
        killed(shop, (point, 5))
    finish_and_check(shop)


def die_recovering(point: str, after: int, ground: Ground) -> None:
    """A worker dies behind a checkpoint, and its successor while it makes the state again."""
    shop = open_shop(ground, point)
    feed(shop, EVENTS)
    killed(shop, ("far from a checkpoint", 1))
    killed(shop, (point, after))
    worker = finish_and_check(shop)
    assert worker.has_logged("re-learned"), "nothing was left to re-learn"


def die_revoking(ground: Ground) -> None:
    """A worker that is to give partitions to another dies before, in and after its last commit."""
    shop = open_shop(ground, "on_revoke", 4)
    for seed, point in enumerate(("at on_revoke", "in on_revoke", "late in on_revoke")):
        feed(shop, EVENTS // 2, seed)
        with forked(shop, f"old-{seed}", [(point, 1)]) as one:
            wait_for(lambda one=one: takes(one) == 4, "all partitions", one)  # type: ignore[misc]
            with forked(shop, f"new-{seed}"):
                assert one.ended() == -signal.SIGKILL
    finish_and_check(shop)


def takes(worker: Forked) -> int:
    """How often it has taken a partition."""
    return sum(line["event"] == "partition taken" for line in worker.log())


@contextmanager
def overtaken(
    shop: Shop, *plan: tuple[str, int], name: str = "", broken: str = ""
) -> Iterator[tuple[Forked, Forked]]:
    """A worker that stands still where the plan says, and another that has all four partitions.
    broken: see `forked`; of the first."""
    with forked(shop, f"old{name}", plan, broken) as one:
        wait_for(one.frozen, "it to freeze", one)
        with forked(shop, f"new{name}") as other:
            wait_for(lambda: len(other.owned()) == 4, "another owner", other)
            yield one, other


def die_losing(ground: Ground) -> None:
    """A worker stands still until its partitions are another's, learns that, and dies of it."""
    shop = open_shop(ground, "on_lost", 4, kafka={"transaction.timeout.ms": 30_000})
    for seed, point in enumerate(("at on_lost", "after on_lost")):
        feed(shop, EVENTS // 2, seed)
        plan = (("frozen between batches", 3), (point, 1))
        with overtaken(shop, *plan, name=f"-{seed}") as (one, other):
            one.send(signal.SIGCONT)
            assert one.ended() == -signal.SIGKILL, one.log_file
            wait_until_done(shop)
            assert other.stop() == 0
    finish_and_check(shop)


def zombie(ground: Ground) -> None:
    """A worker freezes between offsets and commit until the broker has ended its transaction and
    another has gone on; when it comes back its commit is refused."""
    for protocol in ("classic", "consumer"):
        shop = open_shop(ground, f"zombie {protocol}", 4, protocol)
        feed(shop, EVENTS)
        with overtaken(shop, ("frozen in a transaction", 4)) as (one, other):
            wait_until_done(shop)
            one.send(signal.SIGCONT)
            feed(shop, EVENTS // 4, 8)
            wait_for(lambda one=one: not one.alive() or takes(one) > 4, "it to notice")  # type: ignore[misc]
            wait_until_done(shop)
            if one.alive():
                assert one.stop() == 0
            assert other.stop() == 0
        said = [line["event"] for line in one.log()]
        assert "partition lost" in said or "stopped" not in said, "it never noticed"
        finish_and_check(shop)


def late_to_take(ground: Ground) -> None:
    """A worker freezes when it has asked what the group has committed, nothing yet, and comes back
    when another has had its partitions and has left checkpoints: it goes on from these."""
    for protocol in ("classic", "consumer"):
        shop = open_shop(ground, f"late to take {protocol}", 4, protocol)
        feed(shop, EVENTS)
        with overtaken(shop, ("frozen while taking", 1)) as (one, other):
            wait_until_done(shop)
            assert other.stop() == 0
            one.send(signal.SIGCONT)
            feed(shop, EVENTS // 4, 8)
            wait_until_done(shop)
            assert one.has_logged("another has gone on here, looking again")
            assert one.stop() == 0
        finish_and_check(shop)


def broker_restart(ground: Ground) -> None:
    """The broker is killed and comes back under load, while a worker is killed, too."""
    with own_broker(ground.folder / "restarted", BROKER_SETTINGS) as broker:
        own = Ground(broker.bootstrap, ground.folder)
        shop = open_shop(own, "broker restart", 4, kafka={"transaction.timeout.ms": 30_000})
        feed(shop, EVENTS)
        with forked(shop, "one") as one, forked(shop, "two") as two:
            wait_for(lambda: sum(shop.committed().values()) > EVENTS // 10, "commits", one, two)
            broker.kill()
            two.stop(signal.SIGKILL)
            time.sleep(1)
            broker.start()
            feed(shop, EVENTS // 3, 8)
            wait_until_done(shop)
            assert one.stop() == 0
        finish_and_check(shop, "two")


def not_whole(ground: Ground) -> None:
    """A checkpoint with a changed block, one with a truncated block, one with a truncated manifest:
    each is replaced by the one before it, loudly."""
    for damage in (change_a_block, truncate_a_block, truncate_the_manifest):
        shop = open_shop(ground, damage.__name__)
        feed(shop, EVENTS)
        killed(shop, ("far from a second checkpoint", 1))
        damage(shop)
        worker = finish_and_check(shop)
        assert worker.has_logged("checkpoint is not whole, falling back"), worker.log_file
        assert worker.has_logged("re-learned")


def named(shop: Shop) -> Path:
    """The manifest of the checkpoint that the committed offset of the first partition names."""
    return next(shop.store.rglob(f"{shop.named()}.json"))


def newest_blocks(shop: Shop) -> list[Path]:
    """The blocks that only the newest checkpoint refers to."""
    newest = named(shop).read_text()
    others = "".join(
        each.read_text() for each in shop.store.rglob("*.json") if each.stem < named(shop).stem
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
    manifest = named(shop)
    manifest.write_bytes(manifest.read_bytes()[:-10])


def retention_gap(ground: Ground) -> None:
    """Records that are gone before they were learned again end the worker; what was published
    stays as it was, and nothing is added."""
    shop = open_shop(ground, "retention gap")
    feed(shop, EVENTS, malformed=0.1)
    killed(shop, ("far from a checkpoint", 1))
    expected = until(reference(shop), shop.committed()[0])
    stands = int(named(shop).name.partition("-")[0])
    delete_before(shop, stands + 10)
    with forked(shop) as worker:
        assert worker.ended() == 4, worker.log_file
    said = worker.log_file.read_text()
    assert f"stands at offset {stands}" in said, said
    assert f"the log now begins at {stands + 10}" in said, said
    found = list(outputs_differ(shop, expected))
    assert not found, "\n".join(found)


def until(expected: Reference, offset: int) -> Reference:
    """What the oracle emits for the records before that offset of the only partition."""

    def made_of(one: Published) -> int:
        headers = dict(one.headers)
        if "eddy-offset" in headers:
            return int(headers["eddy-offset"])
        return int(orjson.loads(one.value)["evidence"][0]["offset"])

    def before(outputs: Outputs) -> Outputs:
        return {at: [o for o in some if made_of(o) < offset] for at, some in outputs.items()}

    return replace(
        expected, alerts=before(expected.alerts), dead_letters=before(expected.dead_letters)
    )


def poison(ground: Ground) -> None:
    """Records that nobody could read are dead letters, before and after a death between them."""
    shop = open_shop(ground, "poison")
    for seed in range(3):
        feed(shop, EVENTS // 3, seed)
        send(shop, list(POISON))
    killed(shop, ("mid-batch", 60))
    killed(shop, ("after offsets", 3))
    finish_and_check(shop)


def rebalance_while_re_learning(ground: Ground) -> None:
    """Another worker joins while partitions are made again; then the first dies, re-learning."""
    shop = open_shop(ground, "rebalance while re-learning", 4, kafka={"session.timeout.ms": 6_000})
    feed(shop, 2 * EVENTS)
    killed(shop, ("far from a checkpoint", 1))
    killed(shop, ("far from a checkpoint", 5), slot="two")
    plan = [("frozen while re-learning", 3), ("while re-learning", 30)]
    with forked(shop, "one", plan) as one:
        wait_for(one.frozen, "it to freeze", one)
        with forked(shop, "two") as two:
            wait_for(lambda: two.has_logged("starting"), "another worker", two)
            time.sleep(0.5)
            one.send(signal.SIGCONT)
            wait_for(lambda: takes(two) > 0, "a rebalance", two)
            one.stop(signal.SIGKILL)
            wait_until_done(shop)
            assert two.stop() == 0
    assert one.has_logged("partition given back") or one.process.poll() == -signal.SIGKILL
    finish_and_check(shop)


def another_configuration(ground: Ground) -> None:
    """What was committed is re-learned under the former configuration, in spite of a death in it,
    then converted, in spite of a death before the first checkpoint under the new one."""
    shop = open_shop(ground, "another configuration")
    feed(shop, EVENTS)
    killed(shop, ("far from a checkpoint", 1))
    former, turned_at = load(shop.config), shop.committed()[0]
    text = shop.config.read_text()
    at = text.index('entity = "card"')
    shop.config.write_text(text[:at] + text[at:].replace("capacity = ", "capacity = 1", 1))
    shop.drops.append(f"card@{fingerprint(former)}")
    killed(shop, ("while re-learning", 2))
    killed(shop, ("behind the manifest", 1))
    worker = finish(shop)
    assert worker.has_logged("re-learned")
    assert worker.has_logged("another configuration: starting anew")
    assert worker.has_logged("another configuration: state kept")

    first = Partition(shop.topic, 0)
    log, run = messages(shop.bootstrap, shop.topic), RunInfo("live", "reference", str)
    configs = (former, load(shop.config))
    one, other = (Shards(config, run).source("shop") for config in configs)
    before = [message for message in log if (message.offset() or 0) < turned_at]
    emitted = [one.process(as_records(shop.topic, before))]
    convert(one.save(), steering(former), steering(configs[1]), other)
    emitted.append(other.process(as_records(shop.topic, log[len(before) :])))
    alerts = [published_alert(a) for some in emitted for a in some.alerts]
    expected = Reference({first: alerts}, shop.dead_letters(), {first: other}, {})
    letters = sum(len(some.dead_letters) for some in emitted)
    assert letters == sum(map(len, expected.dead_letters.values()))
    found = differences(shop, expected)
    assert not found, "\n".join(found)


Story = Callable[[Ground], None]

POINTS: Final[dict[str, Story]] = {
    "after-consume": partial(die, "after consume", 7),
    "mid-batch": partial(die, "mid-batch", 20),
    "after-begin": partial(die, "after begin", 6),
    "after-produce-before-offsets": partial(die, "after produce", 6),
    "after-offsets": partial(die, "after delivery", 6),
    "during-commit": die_committing,
    "after-commit-before-outbox-cleared": partial(die, "after commit", 6),
    "in-a-checkpoint-block": partial(die, "in a block", 45),
    "blocks-without-manifest": partial(die, "before the manifest", 3),
    "manifest-without-commit": partial(die, "behind the manifest", 3),
    "while-collecting": partial(die, "while collecting", 2),
    "while-loading": partial(die_recovering, "while loading", 20),
    "while-re-learning": partial(die_recovering, "while re-learning", 2),
    "inside-on_revoke": die_revoking,
    "on_lost": die_losing,
    "between-route-and-watch": partial(die_between, "between route and watch", 4, EVENTS),
    "between-watch-and-assess": partial(die_between, "between watch and assess", 2, 3 * EVENTS),
    "at-labels": partial(die_learning, "at labels", 1),
    "behind-labels": partial(die_learning, "behind labels", 1),
    "between-days-of-learning": partial(die_learning, "between days of learning", 1),
    "zombie-after-transaction-time-out": zombie,
    "late-to-take": late_to_take,
    "broker-restart": broker_restart,
    "checkpoint-not-whole": not_whole,
    "retention-gap": retention_gap,
    "poison-record": poison,
    "rebalance-while-re-learning": rebalance_while_re_learning,
    "configuration-change-while-re-learning": another_configuration,
}
"""What `--points` may name."""
