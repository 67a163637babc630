"""A pytest plugin that measures coverage in every process that shares the tests (`make coverage`);
not in the processes that tests start."""

from pathlib import Path
from typing import Final

import coverage
import pytest

ROOT: Final = Path(__file__).resolve().parents[1]
COVERAGE: Final = coverage.Coverage(
    config_file=str(ROOT / "pyproject.toml"), data_suffix=True, messages=False
)
COVERAGE.start()  # before any conftest.py, which may import what is measured


def pytest_unconfigure(config: pytest.Config) -> None:
    """Save what this process has reached; the leading process runs no test."""
    COVERAGE.stop()
    COVERAGE.save()
