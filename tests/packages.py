"""Packages that a test installs beside Eddy, as pip would leave them."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def install(site: Path, package: str, modules: Mapping[str, str], entry_points: str) -> None:
    """Write a package with these modules, by name, and its metadata into a folder of packages."""
    folder = site / package
    folder.mkdir()
    for name, source in {"__init__": "", **modules}.items():
        (folder / f"{name}.py").write_text(source)
    info = site / f"{package}-1.0.dist-info"
    info.mkdir()
    name = package.replace("_", "-")
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entry_points)


def python(site: Path | None, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python in the project's folder, with the packages of a folder or without."""
    path = os.pathsep.join(map(str, [*([site] if site else []), ROOT]))
    environment = {**os.environ, "PYTHONPATH": path}
    environment.pop("EDDY_REQUIRE_BROKER", None)  # the inner run has no broker test to require
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
