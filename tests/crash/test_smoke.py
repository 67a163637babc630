"""`make crash` runs to its end: a point and a seed, by the target's own code."""

from pathlib import Path

import orjson
import pytest

from tests.crash.__main__ import main


@pytest.mark.broker
@pytest.mark.slow
def test_a_scenario_and_a_seed_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The table names both, and the figures are numbers in a flat file."""
    assert main(["--points", "after-consume", "--seed", "2"], out=tmp_path) == 0
    printed = capsys.readouterr().out
    assert "after-consume" in printed
    assert "seed-2" in printed
    found = orjson.loads((tmp_path / "crash.json").read_bytes())
    assert found.pop("seconds") > 0
    assert found == {"points_passed": 1, "points_failed": 0, "seeds_passed": 1, "seeds_failed": 0}
