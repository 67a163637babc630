"""The target's exit code, its table and its file, on parts made up for it."""

from pathlib import Path

import numpy as np
import orjson
import pytest

from tests.quality import __main__ as target
from tests.quality.figures import Row, table_lines
from tests.quality.intervals import Draws


def drawn(value: float) -> Draws:
    """A figure whose draws all move alike, so that two of them differ for certain."""
    return Draws(value + np.append(0.0, np.linspace(-0.2, 0.2, 60)), 50)


def run(monkeypatch: pytest.MonkeyPatch, out: Path, rows: list[Row]) -> int:
    """The target with one part, which has these rows."""
    monkeypatch.setattr(target, "PARTS", {"made_up": lambda data: rows})
    return target.main(["made_up"], data=out, out=out / "out")


def test_a_figure_below_its_best_simple_base_is_marked_and_ends_with_1(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file is written all the same, with the base that is best."""
    bases = {"weak": drawn(0.3), "strong": drawn(0.6)}
    assert run(monkeypatch, tmp_path, [Row("ap", "AP", drawn(0.5), 0.0, "", bases=bases)]) == 1
    assert "below the best simple base: ap" in capsys.readouterr().out
    written = orjson.loads((tmp_path / "out" / "quality.json").read_bytes())
    assert written["ap"] == 0.5
    assert written["ap_best_simple_base"] == 0.6
    assert "ap_batch" not in written


def test_a_batch_model_decides_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A better one is written with its interval; the code stays 0."""
    bases = {"weak": drawn(0.3)}
    row = Row("ap", "AP", drawn(0.5), 0.4, "", bases=bases, batch=drawn(0.9))
    assert run(monkeypatch, tmp_path, [row]) == 0
    written = orjson.loads((tmp_path / "out" / "quality.json").read_bytes())
    assert written["ap_batch_low"] < written["ap_batch"] == 0.9 < written["ap_batch_high"]


def test_a_part_that_fails_takes_no_figures_of_another(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What was measured before it is in the file."""

    def fails(data: Path) -> list[Row]:
        raise OSError(data)

    monkeypatch.setattr(
        target, "PARTS", {"one": lambda data: [Row("ap", "", drawn(0.5), 0.0, "")], "two": fails}
    )
    with pytest.raises(OSError, match=str(tmp_path)):
        target.main(["one", "two"], data=tmp_path, out=tmp_path / "out")
    assert orjson.loads((tmp_path / "out" / "quality.json").read_bytes())["ap"] == 0.5


def test_the_table_shows_every_base_beside_eddy() -> None:
    """Each with its figure and what Eddy has more, paired; the best one is marked."""
    row = Row("ap", "AP", drawn(0.5), 0.4, "seen", bases={"a": drawn(0.3), "b": drawn(0.6)})
    lines = list(table_lines(row._replace(batch=drawn(0.7))))
    assert [line[0].strip() for line in lines] == ["AP", "a", "b", "batch model"]
    assert [line[1][:5] for line in lines] == ["0.500", "0.300", "0.600", "0.700"]
    assert [line[2][:6] for line in lines] == ["", "0.200", "-0.100", "-0.200"]
    assert [("BETTER" in line[4]) for line in lines] == [False, False, True, False]
    fine = row._replace(bases={"a": drawn(0.3)})
    assert next(line[4] for line in table_lines(fine) if line[2]) == "best simple base"
