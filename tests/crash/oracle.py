"""Where what workers left differs from what one thread makes of the same log: alerts, dead letters,
states. An empty list means that every byte is the oracle's.
"""

from collections import Counter
from collections.abc import Iterator
from itertools import zip_longest
from typing import Final

import orjson
import xxhash
from obstore.store import LocalStore

from detectors.fusion.model_state import HARMONIC, active_model
from detectors.state import Arrays
from stream.checkpoints.loading import load
from stream.checkpoints.manifest import parse_pointer
from stream.checkpoints.store import Folder
from stream.kafka.positions import Partition
from stream.pipeline.shard import Shard
from stream.pipeline.stages.assess import Assess
from tests.broker.shop import Outputs, Published, Reference, Shop, reference

OUTPUTS_MIN: Final = 20
"""A log that leads to fewer alerts and dead letters proves nothing."""


def assert_equals_oracle(shop: Shop) -> None:
    """Fail, and say what differs, unless everything is the oracle's."""
    found = differences(shop, reference(shop))
    assert not found, "\n".join(found)


def differences(shop: Shop, expected: Reference) -> list[str]:
    """One line for each difference; after a clean stop of the last worker."""
    return [*outputs_differ(shop, expected), *states_differ(shop, expected.shards)]


def uses_learned_model(shards: dict[Partition, Shard]) -> bool:
    """Whether somewhere what was learned from labels speaks, not the harmonic mean."""
    return any(
        active_model(stage.assessment.learner) != HARMONIC
        for shard in shards.values()
        for stage in shard.stages.values()
        if isinstance(stage, Assess)
    )


def outputs_differ(shop: Shop, expected: Reference) -> Iterator[str]:
    """What a read_committed reader sees, against what should be there."""
    alerts, letters = shop.alerts(expected.read_at), shop.dead_letters()
    count = sum(map(len, [*expected.alerts.values(), *expected.dead_letters.values()]))
    if count < OUTPUTS_MIN:
        yield f"the oracle emits {count} records, too few to prove anything"
    if not any(expected.alerts.values()):
        yield "the oracle emits no alert, which is what all this is about"
    ids = Counter(orjson.loads(one.value)["alert_id"] for some in alerts.values() for one in some)
    yield from (f"alert {name} stands {n} times" for name, n in ids.items() if n > 1)
    yield from _records_differ("alert", expected.alerts, alerts)
    yield from _records_differ("dead letter", expected.dead_letters, letters)


def _records_differ(what: str, expected: Outputs, found: Outputs) -> Iterator[str]:
    for where in sorted(expected.keys() | found.keys()):
        wanted, there = expected.get(where, []), found.get(where, [])
        if wanted == there:
            continue
        missing, extra = _missing_from(wanted, there), _missing_from(there, wanted)
        yield (
            f"{what}s of {where}: {len(there)}, expected {len(wanted)}; "
            f"{len(missing)} missing, {len(extra)} too many"
        )
        pairs = enumerate(zip_longest(wanted, there))
        at, (one, other) = next((i, pair) for i, pair in pairs if pair[0] != pair[1])
        yield f"  the first that differs is number {at}:\n    {other}\n    expected {one}"


def _missing_from(some: list[Published], others: list[Published]) -> Counter[str]:
    return Counter(map(repr, some)) - Counter(map(repr, others))


def states_differ(shop: Shop, shards: dict[Partition, Shard]) -> Iterator[str]:
    """The checkpoint that each committed offset names, against the oracle's state."""
    for place, shard in shards.items():
        [at] = shop.offsets([place])
        pointer = parse_pointer(at.metadata or "")
        if pointer is None:
            yield f"{place}: offset {at.offset} names no checkpoint"
            continue
        folder = Folder(LocalStore(shop.store), shop.group, *place)
        manifest = folder.manifest(pointer.checkpoint)
        if manifest.offset != at.offset:
            yield f"{place}: checkpoint at {manifest.offset}, offset {at.offset}"
            continue
        wanted, there = (fingerprints(x) for x in (shard.save(), load(folder, manifest, _ignore)))
        for name in sorted(wanted.keys() | there.keys()):
            if wanted.get(name) != there.get(name):
                yield (f"{place}: array {name} is {there.get(name)}; expected {wanted.get(name)}")


def fingerprints(state: Arrays) -> dict[str, str]:
    """Each array's type, shape and hash."""
    return {
        name: f"{a.dtype.str} {a.shape} {xxhash.xxh3_128_hexdigest(a.tobytes())}"
        for name, a in state.items()
    }


def _ignore() -> None:
    """Nobody waits."""
