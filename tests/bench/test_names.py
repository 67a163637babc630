"""Functions that the benches time or replace exist in Eddy's code, and are called there."""

import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from detectors.monitor import Monitor
from detectors.numeric.hashing import hash_key
from stream.config import parse
from stream.runtime import start
from tests.bench import at_least_once, engine, profile
from tests.bench.events import document, monitor_document
from tests.broker import bugs

ROOT = Path(__file__).resolve().parents[2]
SOURCES = {
    path.stem: path.read_text()
    for package in ("schemas", "detectors", "stream")
    for path in (ROOT / package).rglob("*.py")
}


def is_called(owner: ModuleType, name: str) -> bool:
    """Whether a replaced function of a module would be called: by its bare name in the module
    itself, or as an attribute of the module anywhere."""
    module = owner.__name__.rpartition(".")[2]
    bare = re.compile(rf"(?<![\w.])(?<!def ){name}\(")
    return bool(bare.search(Path(str(owner.__file__)).read_text())) or any(
        f"{module}.{name}(" in text for text in SOURCES.values()
    )


def missing(places: list[tuple[Any, str]]) -> list[tuple[str, str]]:
    """Those that are not there, or whose replacement nothing would call."""
    return [
        (str(owner), name)
        for owner, name in places
        if not hasattr(owner, name)
        or (
            isinstance(owner, ModuleType)
            and callable(getattr(owner, name))
            and not is_called(owner, name)
        )
    ]


def test_every_step_of_the_profile_names_an_existing_function() -> None:
    """A function that has moved is no step any more: `make bench` would end, or time nothing."""
    assert missing([(owner, name) for owner, name, _ in profile.TIMED_CALLS]) == []


def test_every_step_of_the_engine_names_an_existing_function() -> None:
    """The same of the engine's table."""
    detectors: list[dict[str, Any]] = [{"kind": "tail"}]
    [spec] = parse(document([monitor_document(100, detectors)]), {}).monitors
    steps = engine.steps_of(Monitor(spec, hash_key("bench")))
    assert missing([(owner, name) for owner, name, _ in steps]) == []


def test_the_at_least_once_replacements_exist_in_the_worker() -> None:
    """The worker makes its sink and its source by these names."""
    assert missing([(start, name) for name in at_least_once.REPLACEMENTS]) == []


@pytest.mark.parametrize("broken", bugs.BUGS)
def test_every_injected_bug_replaces_an_existing_function(
    broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A guarantee that is broken in a function that has moved would not be broken at all."""
    replaced: list[tuple[Any, str]] = []
    monkeypatch.setattr(bugs, "_replace", lambda owner, name, _by: replaced.append((owner, name)))
    bugs.BUGS[broken]()
    assert replaced
    assert missing(replaced) == []
