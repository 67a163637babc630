"""A labelled run of the simulated shop, made once: what is judged, asked and explained here."""

from pathlib import Path

import msgspec
import pytest

from stream.config import Config, load
from stream.replay import TimeSplit, replay
from stream.replay.inputs import with_label_input
from stream.report.run_page import render_run
from stream.simulator import START_MS, Shop, labels, lines, shop_config

EVENTS = 60_000
SCORE_FROM_MS = START_MS + 86_400_000


def shop() -> Config:
    """The ready configuration of the shop, with an input of labels, and devices not shown."""
    config = with_label_input(load(shop_config()))
    return msgspec.structs.replace(config, reveal=["account", "card", "ip"])


def write_shop(folder: Path, events: int, seed: int = 7) -> tuple[Path, Path]:
    """The shop's events and its labels, a file each."""
    made, known = folder / "shop.ndjson", folder / "labels.ndjson"
    of = Shop(events, seed)
    made.write_bytes(b"".join(line.value + b"\n" for line in lines(of)))
    known.write_bytes(b"".join(line + b"\n" for line in labels(of)))
    return made, known


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the run: the first day is learned, four are judged, features are written."""
    folder = tmp_path_factory.mktemp("evaluated")
    made, known = write_shop(folder, EVENTS)
    split = TimeSplit(from_ms=SCORE_FROM_MS)
    out = folder / "run"
    given = [("shop", made)], out, lambda *_: None, [("labels", known)], split
    replay(shop(), *given, writes_features=True, render=render_run)
    return out
