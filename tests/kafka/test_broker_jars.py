"""The development broker runs exactly the jars that are pinned."""

import hashlib
import importlib.util
import os
import re
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import BROKER


@pytest.fixture(name="script")
def _script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module, with two pinned jars; Maven is a script that writes two files."""
    spec = importlib.util.spec_from_file_location("broker", BROKER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(__import__("sys").modules, "broker", module)  # its dataclasses look there
    spec.loader.exec_module(module)
    pinned = tmp_path / "jars.sha256"
    pinned.write_text(
        "".join(f"{hashlib.sha256(one.encode()).hexdigest()}  {one}.jar\n" for one in ("a", "b"))
    )
    monkeypatch.setattr(module, "JARS", pinned)
    maven(tmp_path, monkeypatch, b="b")
    return module


def maven(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **content: str) -> None:
    """From now on Maven brings a jar "a" and these."""
    lines = [f"printf {text} > $libs/{name}.jar" for name, text in {"a": "a", **content}.items()]
    folder = tmp_path / "bin"
    folder.mkdir(exist_ok=True)
    (folder / "mvn").write_text(
        "#!/bin/sh\nfor each; do case $each in -DoutputDirectory=*) libs=${each#*=};; esac; done\n"
        f"mkdir -p $libs\necho fetched >> {tmp_path}/fetched\n" + "\n".join(lines) + "\n"
    )
    (folder / "mvn").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def fetched(tmp_path: Path) -> int:
    """How often Maven ran."""
    return len((tmp_path / "fetched").read_text().splitlines())


def test_pinned_jars_are_fetched_once(script: ModuleType, tmp_path: Path) -> None:
    """Jars that are there and whole are used."""
    for _ in range(2):
        libs = script.fetch_jars(tmp_path / "home")
        assert {one.name for one in libs.glob("*.jar")} == {"a.jar", "b.jar"}
    assert fetched(tmp_path) == 1


@pytest.mark.parametrize("change", ["other", "missing", "more"])
def test_present_jars_that_differ_are_fetched_again(
    script: ModuleType, tmp_path: Path, change: str
) -> None:
    """One that was changed, removed or added."""
    libs = script.fetch_jars(tmp_path / "home")
    if change == "missing":
        (libs / "b.jar").unlink()
    else:
        (libs / ("b.jar" if change == "other" else "c.jar")).write_text("x")
    assert script.fetch_jars(tmp_path / "home") == libs
    assert fetched(tmp_path) == 2
    assert script.differing_jars(libs) == []


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ({"b": "x"}, r"b\.jar: got SHA-256 \w{64}; expected \w{64}"),
        ({}, r"b\.jar: missing"),
        ({"b": "b", "c": "c"}, r"c\.jar: got SHA-256 \w{64}; expected no such jar"),
    ],
)
def test_fetched_jars_that_are_not_those_pinned_are_refused(
    script: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    content: dict[str, str],
    line: str,
) -> None:
    """The broker does not start, and the jar is named."""
    maven(tmp_path, monkeypatch, **content)
    with pytest.raises(script.BrokerError, match=line):
        script.fetch_jars(tmp_path / "home")


def test_every_image_is_pinned_and_every_service_limited() -> None:
    """Images by digest or by a version to its last number; memory, processors and processes of all
    services have limits."""
    deploy = BROKER.parents[1]
    compose = (deploy / "compose.yaml").read_text()
    images = re.findall(r"^\s*image: (\S+)$", compose, re.MULTILINE)
    images += re.findall(r"^FROM (\S+)", (deploy / "Dockerfile").read_text(), re.MULTILINE)
    outside = [one for one in images if one != "eddy"]  # what is built here
    assert len(outside) == 4
    for image in outside:
        assert re.search(r"@sha256:[0-9a-f]{64}$|:\d+\.\d+\.\d+(-[a-z0-9.-]+)?$", image), image
    services = re.findall(r"^  \w+:$", compose.partition("\nvolumes:")[0], re.MULTILINE)
    for key in ("mem_limit", "cpus", "pids_limit"):
        assert len(re.findall(rf"^    {key}: ", compose, re.MULTILINE)) == len(services) == 3, key
