"""A disk without room ends a replay with a clear error, and leaves nothing that is not whole."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stream.errors import OutputFailure, StoreFailure
from stream.replay import compare_runs, replay
from tests.replay.test_labels import config, label, label_table, ndjson, payments
from tests.replay.test_labels import run as run_with_labels

ROWS = payments(1_500)


@contextmanager
def room(size_bytes: int) -> Iterator[None]:
    """No file may become larger than that."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(scope="module")
def sizes(tmp_path_factory: pytest.TempPathFactory) -> list[int]:
    """Sizes that some file of a run exceeds. Files say how long the run took, so that the same run
    may leave a page that is some bytes shorter."""
    folder = tmp_path_factory.mktemp("whole")
    known = [label(row["id"], row["at"] + 1) for row in ROWS[::7]]
    run_with_labels(folder, ROWS, known)
    return sorted(
        {0, 4, 5_000, *(max(path.stat().st_size - 100, 0) for path in (folder / "out").iterdir())}
    )


def test_every_file_of_a_run_may_find_no_room(tmp_path: Path, sizes: list[int]) -> None:
    """Whichever file is the first without room, the error is the same, and no part is left."""
    known = [label(row["id"], row["at"] + 1) for row in ROWS[::7]]
    shop, known_file = ndjson(tmp_path / "shop", ROWS), label_table(tmp_path / "labels", known)
    out = tmp_path / "out"
    for size in sizes:
        with pytest.raises(OutputFailure, match="cannot be written"), room(size):
            replay(config(), [("shop", shop)], out, lambda *_: None, [("verdicts", known_file)])
        assert not list(out.iterdir()), size


def test_a_comparison_may_find_no_room(tmp_path: Path) -> None:
    """Its runs and its own page are written alike."""
    shop = ndjson(tmp_path / "shop", ROWS)
    candidates = [compare_runs.Candidate(name, config()) for name in ("a", "b")]
    for size in (0, 5_000, 30_000):
        with pytest.raises(OutputFailure, match="cannot be written"), room(size):
            compare_runs.compare(candidates, [("shop", shop)], tmp_path / "out", lambda *_: None)
        assert not list(tmp_path.glob("out/**/*.part"))


def test_a_saved_state_may_find_no_room(tmp_path: Path) -> None:
    """The store's own error says so."""
    shop = ndjson(tmp_path / "shop", ROWS)
    url = str(tmp_path / "state")
    with pytest.raises(StoreFailure), room(40_000):
        replay(config(), [("shop", shop)], tmp_path / "out", lambda *_: None, save_state=url)
