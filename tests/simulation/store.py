"""An object store in memory, with the calls that checkpoints make, and its faults."""

from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from obstore.exceptions import GenericError

from tests.simulation.world import Process

EPOCH: Final = datetime(2026, 1, 1, tzinfo=UTC)
SLOW: Final = 30.0
"""A call to a slow store takes so many times as long."""


@dataclass(slots=True)
class Objects:
    """All objects, by path, each with the simulated time when it was written. slow_until: calls
    take long until then. failing_until: writes are refused until then."""

    found: dict[str, tuple[bytes, float]] = field(default_factory=dict)
    slow_until: float = 0.0
    failing_until: float = 0.0
    _paths: list[str] = field(default_factory=list)

    def put(self, path: str, body: bytes, at_s: float) -> None:
        """Write an object."""
        if path not in self.found:
            insort(self._paths, path)
        self.found[path] = (body, at_s)

    def remove(self, path: str) -> bool:
        """Remove an object; whether it was there."""
        if self.found.pop(path, None) is None:
            return False
        del self._paths[bisect_left(self._paths, path)]
        return True

    def below(self, prefix: str) -> Sequence[str]:
        """The paths below another one, sorted."""
        after = f"{prefix}0"  # the character after the slash
        return self._paths[bisect_left(self._paths, f"{prefix}/") : bisect_left(self._paths, after)]


class Found:
    """An object that was read."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.meta = {"size": len(body)}

    def bytes(self) -> bytes:
        """Its content."""
        return self._body


class MemoryStore:
    """The store as one process calls it."""

    def __init__(self, process: Process, objects: Objects) -> None:
        self._process = process
        self._objects = objects

    def _step(self, name: str) -> None:
        slow = SLOW if self._process.world.now < self._objects.slow_until else 1.0
        self._process.step("store", name, slow)

    def put(self, path: str, file: bytes, *, use_multipart: bool | None = None) -> None:
        """Write an object, whole or not at all."""
        self._step(f"put {path}")
        if self._process.world.now < self._objects.failing_until:
            raise GenericError("set to fail by the schedule")
        self._objects.put(path, bytes(file), self._process.world.now)
        self._step("put done")

    def get(self, path: str) -> Found:
        """Read an object. Raises FileNotFoundError."""
        self._step(f"get {path}")
        if path not in self._objects.found:
            raise FileNotFoundError(path)
        return Found(self._objects.found[path][0])

    def list(self, prefix: str | None = None) -> Iterator[Sequence[dict[str, Any]]]:
        """The objects below a path, in pages."""
        self._step(f"list {prefix}")
        found = self._objects.found
        yield [
            {"path": path, "last_modified": EPOCH + timedelta(seconds=found[path][1])}
            for path in self._objects.below(prefix or "")
        ]

    def list_with_delimiter(self, prefix: str) -> Mapping[str, Sequence[str]]:
        """The folders directly below a path."""
        self._step(f"list {prefix}")
        depth = prefix.count("/") + 2
        below = self._objects.below(prefix)
        return {"common_prefixes": sorted({"/".join(p.split("/")[:depth]) for p in below})}

    def delete(self, paths: Sequence[str]) -> None:
        """Remove objects. Raises FileNotFoundError where one is gone."""
        self._step("delete")
        missing = [path for path in paths if not self._objects.remove(path)]
        if missing:
            raise FileNotFoundError(missing[0])
