"""The command line in a process that kills itself, by SIGKILL, at a point that a test names.

    EDDY_DIE_AT=POINT EDDY_DIE_AFTER=n python -m tests.broker.dying run CONFIG ...

It wraps functions of the worker and then runs it as it is: no option of the worker's own leads
here. The n-th call that counts dies, counted from 1.
"""

import os
import signal
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

from stream.checkpoints import loading
from stream.checkpoints.store import Folder
from stream.cli import main
from stream.worker import Holding


def die(*_: object) -> NoReturn:
    """End at once, with nothing tidied up."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def half_a_block(folder: Folder, digest: str, packed: bytes) -> NoReturn:
    """Write half of a block under its name: as a store would that does not write at once."""
    folder._put(f"blocks/{digest}", packed[: len(packed) // 2])
    die()


class Point(NamedTuple):
    """A function, by its owner and name, and what the call that dies does instead of it.

    counts: asked with a call's arguments whether it counts; where `before` is None, the call does
    what it always does, and then dies.
    """

    owner: Any
    name: str
    before: Callable[..., NoReturn] | None
    counts: Callable[..., bool] = lambda *_: True


def is_re_learning(holding: Holding, *_: object) -> bool:
    """Whether what comes next is not published."""
    return holding.left() > 0


POINTS = {
    "in a block": Point(Folder, "put_block", half_a_block),
    "before the manifest": Point(Folder, "put_manifest", die),
    "behind the manifest": Point(Folder, "put_manifest", None),
    "before collecting": Point(Folder, "collect", die),
    "while collecting": Point(Folder, "_delete", die),
    "while loading": Point(loading, "_fill", die),
    "while re-learning": Point(Holding, "take", None, is_re_learning),
}
"""What a test may name. "before the manifest" all blocks are written and none is referred to;
"behind the manifest" no offset names it yet."""


def arm(point: Point, left: int) -> None:
    """Have the call that comes after so many - 1 others be the last that this process makes."""
    whole = getattr(point.owner, point.name)

    def dying(*arguments: Any) -> Any:
        nonlocal left
        left -= point.counts(*arguments)
        if not left and point.before is not None:
            point.before(*arguments)
        found = whole(*arguments)
        if not left:
            die()
        return found

    setattr(point.owner, point.name, dying)


if __name__ == "__main__":
    arm(POINTS[os.environ["EDDY_DIE_AT"]], int(os.environ.get("EDDY_DIE_AFTER", "1")))
    main()
