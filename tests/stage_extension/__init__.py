"""A package that adds stages, and its installation for tests."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stream.config.stage_graph import declared_stages

ROOT = Path(__file__).resolve().parents[2]
ENTRY_POINTS = """[eddy.stages]
alert_counts = tests.stage_extension.alert_counts:ALERT_COUNTS
event_counts = tests.stage_extension.event_counts:EVENT_COUNTS
"""


def install(folder: Path) -> Path:
    """Leave the package in a folder of installed packages, as pip would; the folder."""
    info = folder / "alert_counts-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: alert-counts\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    return folder


@contextmanager
def installed_here(folder: Path) -> Iterator[None]:
    """This process finds the package while the block runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        declared_stages.cache_clear()
        yield
    declared_stages.cache_clear()


def environment(folder: Path) -> dict[str, str]:
    """The environment of a process that finds the package."""
    path = os.pathsep.join([str(folder), str(ROOT)])
    return {**os.environ, "PYTHONPATH": path}


def eddy(folder: Path, *arguments: str) -> str:
    """Run the command with the package installed; its output. Fails unless it succeeds."""
    command = [sys.executable, "-m", "stream.cli", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(folder), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
