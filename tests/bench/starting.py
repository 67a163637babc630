"""Part `start`: from nothing to the first batch done, with a warm, a cold and no kernel cache.

Each start is a process of its own: the imports of `eddy run`, a shard with default detectors and
twelve features, and one batch through it. The packages are a copy in a folder of its own, so that
what is cached elsewhere does not help.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import orjson

from tests.bench.broker import ROOT
from tests.bench.figures import Figures

PACKAGES: Final = ("schemas", "detectors", "stream", "tests")
WAIT_MAX_S: Final = 300


SHOWN: Final = {
    "cold": "empty cache",
    "warm": "warm cache",
    "no_cache": "no writable folder",
}


def run(figures: Figures) -> None:
    """Start three times."""
    with TemporaryDirectory(prefix="eddy-start-") as name:
        site = Path(name) / "site"
        for package in PACKAGES:
            shutil.copytree(
                ROOT / package, site / package, ignore=shutil.ignore_patterns("__pycache__")
            )
        cache = Path(name) / "cache"
        cache.mkdir()
        for kind in ("cold", "warm"):
            show(figures, kind, start(site, {"NUMBA_CACHE_DIR": str(cache)}))
        show(figures, "no_cache", _nowhere_to_cache(site))


def show(figures: Figures, kind: str, found: dict[str, Any]) -> None:
    """Put a start's figures down. kind: of `SHOWN`."""
    header = ("start", "import s", "shard s", "first batch s", "all s", "kernels compiled")
    seconds = [found[part] for part in ("import_s", "build_s", "batch_s")]
    cells = [f"{one:.2f}" for one in (*seconds, sum(seconds))]
    figures.row("start-up", header, SHOWN[kind], *cells, f"{found['compiled']}")
    figures.put(f"{kind}_start_s", sum(seconds))
    figures.put(f"{kind}_start_compiled", found["compiled"])
    figures.say(f"started: {SHOWN[kind]}")


def _nowhere_to_cache(site: Path) -> dict[str, Any]:
    """Start where numba can make none of its folders: a file stands wherever it would look.

    File modes would not do: this may run as root.
    """
    for package in {path.parent for path in site.rglob("*.py")}:
        (package / "__pycache__").touch()
    nowhere = "/dev/null/nowhere"
    return start(site, {"HOME": nowhere, "XDG_CACHE_HOME": nowhere, "NUMBA_CACHE_DIR": nowhere})


def start(site: Path, environment: dict[str, str]) -> dict[str, Any]:
    """Seconds of a start's parts in a process of its own, and how many kernels were compiled."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.start_probe"],
        cwd=site,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        timeout=WAIT_MAX_S,
        check=True,
    )
    found: dict[str, Any] = orjson.loads(done.stdout)
    return found
