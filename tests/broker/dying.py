"""The command line in a process that kills itself, by SIGKILL, at a point that a test names.

    EDDY_DIE_AT=POINT EDDY_DIE_AFTER=n python -m tests.broker.dying run CONFIG ...

It wraps functions of the worker and then runs it as it is: no option of the worker's own leads
here. The n-th call dies, counted from 1. Points are named for what has happened by then.
"""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from stream.checkpoints import loading
from stream.checkpoints.keeping import Keeper
from stream.checkpoints.store import Folder
from stream.cli import main
from stream.worker import Holding


class Point(NamedTuple):
    """Where: the owner of a function, its name, and whether to die before or behind it.

    when: asked with the call's arguments, whether this call counts.
    """

    owner: Any
    name: str
    before: bool
    when: Callable[..., bool] = lambda *_: True


def _half(folder: Folder, digest: str, packed: bytes) -> int:
    """Write half of a block, under its name, and die: as a store without atomic writes would."""
    folder._put(f"blocks/{digest}", packed[: len(packed) // 2])
    die()
    raise AssertionError


POINTS = {
    "behind a block": Point(Folder, "put_block", before=False),
    "before the manifest": Point(Folder, "put_manifest", before=True),
    "behind the manifest": Point(Folder, "put_manifest", before=False),
    "while loading": Point(loading, "_fill", before=True),
    "while re-learning": Point(
        Holding, "take", before=False, when=lambda holding, _: holding.left() > 0
    ),
    "before collecting": Point(Folder, "collect", before=True),
    "while collecting": Point(Folder, "_delete", before=True),
    "behind a checkpoint at the end": Point(Keeper, "take_now", before=False),
}
"""What the crash tests may name, with "in a block"."""


def die() -> None:
    """End at once, with nothing tidied up."""
    os.kill(os.getpid(), signal.SIGKILL)


def arm(point: Point, after: int) -> None:
    """Have the n-th call of that function be the last thing that this process does."""
    whole = getattr(point.owner, point.name)
    left = after

    def dying(*arguments: Any) -> Any:
        nonlocal left
        counts = point.when(*arguments)
        left -= counts
        if counts and not left and point.before:
            die()
        found = whole(*arguments)
        if counts and not left:
            die()
        return found

    setattr(point.owner, point.name, dying)


if __name__ == "__main__":
    where, after = os.environ["EDDY_DIE_AT"], int(os.environ.get("EDDY_DIE_AFTER", "1"))
    if where == "in a block":
        arm(Point(Folder, "put_block", before=True), after + 1)
        whole_put, count = Folder.put_block, after

        def put(folder: Folder, digest: str, packed: bytes) -> int:
            """Halve the n-th block."""
            global count
            count -= 1
            return whole_put(folder, digest, packed) if count else _half(folder, digest, packed)

        Folder.put_block = put  # type: ignore[method-assign]
    else:
        arm(POINTS[where], after)
    sys.argv[0] = "eddy"
    main()
