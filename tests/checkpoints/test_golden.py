"""States that were saved once and are kept: this version reproduces its own, and refuses older
ones."""

from pathlib import Path

import pytest

from detectors.state import STATE_VERSION
from stream.errors import StateWouldBeDropped
from tests.checkpoints.golden import FOLDER, outcome, read

VERSIONS = sorted(int(file.stem) for file in FOLDER.glob("*.zip"))
BYTES_MAX = 100_000


def test_every_version_has_its_file() -> None:
    """From version 9 on; a version that is raised needs one: python -m tests.checkpoints.golden."""
    assert list(range(9, STATE_VERSION + 1)) == VERSIONS
    assert all(file.stat().st_size < BYTES_MAX for file in FOLDER.glob("*.zip"))


def test_this_version_reproduces_its_scores(tmp_path: Path) -> None:
    """From the saved state on, the same records lead to the same alerts and the same state."""
    group, expected = read(FOLDER / f"{STATE_VERSION}.zip", tmp_path)
    recovered = group.start()
    assert (recovered.head.state_version, recovered.live_from) == (STATE_VERSION, 400)
    assert recovered.checkpoint is not None
    found = outcome(recovered.shard)
    assert found["alerts"] == expected["alerts"] != []
    assert found["state"] == pytest.approx(expected["state"], rel=1e-9)


@pytest.mark.parametrize("version", VERSIONS[:-1])
def test_an_older_version_is_refused_with_the_remedy(version: int, tmp_path: Path) -> None:
    """Exit code 4; it names what would be dropped, the argument that allows it, and how to keep it;
    nothing is written."""
    group, _ = read(FOLDER / f"{version}.zip", tmp_path)
    before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    with pytest.raises(StateWouldBeDropped) as caught:
        group.start()
    assert caught.value.exit_code == 4
    assert all("--drop-state all@" in line for line in caught.value.lines)
    assert "eddy replay CONFIG" in caught.value.remedy
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == before
