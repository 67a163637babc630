"""The tutorials work: each page's blocks are run in order, and print what the page says they print.

A block with a caption is a file, which is written. A `bash` block is run, in one shell for the whole
page. A `text` block behind it is what it prints: "…" stands for anything, and white space does not
count. Blocks of `make` and `source` are set-up, and are not run.
"""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, SOURCES, Block, blocks

SET_UP = ("make ", "source ")
END = "@@end of block"


def run(page: Path, folder: Path, changed: dict[str, str]) -> list[tuple[Block, Block | None, str]]:
    """Run the page's blocks in a folder: each bash block, its expected output, and what it printed.

    changed: texts to be replaced in every block, such as a port.
    """
    steps: list[tuple[Block, Block | None]] = []
    for written in blocks(page):
        text = written.text
        for old, new in changed.items():
            text = text.replace(old, new)
        block = written._replace(text=text)
        if block.caption:
            (folder / block.caption).write_text(text)
        elif block.language == "bash" and not text.startswith(SET_UP):
            steps.append((block, None))
        elif block.language == "text" and steps:
            steps[-1] = (steps[-1][0], block)
    (folder / "deploy").symlink_to(ROOT / "deploy")
    script = "".join(f"{step.text}\necho '{END}'\n" for step, _ in steps)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    printed = done.stdout.split(f"{END}\n")
    return [(step, want, out) for (step, want), out in zip(steps, printed, strict=False)]


def matches(expected: str, printed: str) -> bool:
    """Whether an output is as a page says: "…" is anything, white space and rules do not count."""
    words = [re.escape(" ".join(part.split())) for part in expected.split("…")]
    plain = " ".join(printed.replace("─", " ").split())
    return re.fullmatch(r"\s*" + r".*?".join(words) + r"\s*", plain) is not None


def check(page: str, folder: Path, changed: dict[str, str] | None = None) -> None:
    """Run a tutorial, and compare what each block printed with the page."""
    for block, expected, printed in run(SOURCES / "tutorials" / page, folder, changed or {}):
        if expected is not None:
            assert matches(expected.text, printed), f"{block}\n{printed}"


@pytest.mark.slow
@pytest.mark.parametrize("page", ["first-alert.md", "first-backtest.md"])
def test_tutorial_without_kafka(page: str, tmp_path: Path) -> None:
    """Each block of the tutorial runs, and prints what the page shows."""
    check(page, tmp_path)


@pytest.mark.slow
def test_tutorial_of_a_live_worker(
    broker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same on a real broker, with names and a port of its own."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
    monkeypatch.setenv("EDDY_KAFKA_BOOTSTRAP", broker)
    check("first-live-worker.md", tmp_path, {"9464": port})


def test_outputs_are_compared() -> None:
    """An output with another number, or with a line too few, is not the one on the page."""
    assert matches("8 alerts in … s\n", "8  alerts in 1.2 s")
    assert not matches("8 alerts in … s\n", "9 alerts in 1.2 s")
    assert not matches("8 alerts\n…\n3 cards\n", "8 alerts\n")
