"""The documentation site builds without a warning, and its reference is complete."""

import html
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.core
import typer.main

import stream.errors
from detectors.features import KINDS
from detectors.models import DETECTORS
from schemas import alerts, dead_letters, events, repairs
from stream.cli import app
from stream.config.schema import json_schema
from stream.telemetry.metrics import METRICS
from tests.docs.pages import SOURCES

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built site; warnings are errors, as in `make docs`."""
    folder = tmp_path_factory.mktemp("site")
    command = (sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going")
    where = ("-d", str(folder / "doctrees"), str(SOURCES), str(folder / "html"))
    done = subprocess.run([*command, *where], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "html"


def plain(markup: str) -> str:
    """The text of a piece of HTML."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", markup)).split())


def text_of(site: Path, page: str) -> str:
    """What a page of the reference says, without markup."""
    article = (site / "reference" / f"{page}.html").read_text().partition("<article")[2]
    return html.unescape(re.sub(r"<[^>]+>", "", article))


FIRST_CELL = re.compile(r"<tr[^>]*>\s*<td>(.*?)</td>", re.DOTALL)
HEADING = re.compile(r"<h2>(.*?)<a ", re.DOTALL)


def names_in(site: Path, page: str, pattern: re.Pattern[str]) -> set[str]:
    """The names set as code in the first cells of a page's tables, or in its headings."""
    markup = (site / "reference" / f"{page}.html").read_text()
    return {
        html.unescape(re.sub(r"<[^>]+>", "", name))
        for piece in pattern.findall(markup)
        for name in re.findall(r"<code[^>]*>(.*?)</code>", piece)
    }


ENTRY = re.compile(
    r'<dt class="sig[^>]*id="confval-[^>]*>(.*?)</dt>\s*<dd>(.*?)</dd></dl>', re.DOTALL
)


def entries_of(site: Path) -> dict[str, str]:
    """Every key in the reference of the configuration, by its whole path, with what is said of it."""
    page = (site / "reference" / "configuration.html").read_text()
    found = [(plain(name).strip("¶# "), plain(text)) for name, text in ENTRY.findall(page)]
    assert len(dict(found)) == len(found)
    return dict(found)


def test_each_configuration_key_stands_in_the_reference(site: Path) -> None:
    """Each key of each table has an entry with type, default and meaning."""
    entries = entries_of(site)
    schema = json_schema()
    names = {path.rsplit(".", 1)[-1] for path in entries}
    for definition in (schema, *schema["$defs"].values()):
        of = definition["properties"]
        assert {key for key in of if len(of[key].get("enum", ())) != 1} <= names
    for path in ("inputs.NAME.fields.FIELD.position", "inputs.NAME.fields.FIELD.values"):
        assert path in entries
    for path, text in entries.items():
        assert re.fullmatch(r"Type : .+ Default : \S.* \w.{8,}[.!?]", text), (path, text)


def test_each_feature_and_detector_stands_in_the_reference(site: Path) -> None:
    """Each kind that a configuration may name."""
    assert KINDS.keys() <= names_in(site, "features", FIRST_CELL)
    assert DETECTORS.keys() <= names_in(site, "detectors", HEADING)


def test_each_metric_stands_in_the_reference(site: Path) -> None:
    """Each metric, with what to do."""
    text = " ".join(text_of(site, "metrics").split())
    for metric in METRICS:
        assert metric.name in text
        assert " ".join(metric.action.split())[1:] in text, metric.name


def test_each_error_stands_in_the_reference(site: Path) -> None:
    """Each error by name with its remedy, and each exit code with its meaning."""
    names = names_in(site, "errors", HEADING)
    text = " ".join(text_of(site, "errors").split())
    known = [stream.errors.EddyError]
    for one in known:
        known += one.__subclasses__()
    assert {one.__name__ for one in known} <= names
    for exit_code, meaning in stream.errors.EXIT_CODES.items():
        assert f"{exit_code} {meaning}" in text
    for one in known:
        assert " ".join(one.remedy.replace("`", "").split())[1:] in text, one.__name__


def commands_of(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Every command with its whole name."""
    if isinstance(command, typer.core.TyperGroup):
        for one in command.commands.values():
            yield from commands_of(one, f"{name} {one.name}")
    else:
        yield name, command


def test_each_command_stands_in_the_reference(site: Path) -> None:
    """Each command has a section, and each of its options that is not hidden an entry."""
    text = text_of(site, "cli")
    for name, command in commands_of(typer.main.get_command(app), "eddy"):
        _, found, section = text.partition(f"\n{name}")
        assert found, name
        options = [o for p in command.params if not getattr(p, "hidden", False) for o in p.opts]
        for option in options:
            if option.startswith("--") and option != "--help":
                assert option in section, (name, option)


def test_each_field_and_code_stands_in_the_reference(site: Path) -> None:
    """Each field of an event and of an alert, each code of a dead letter and of a repair."""
    assert events.FIELDS.keys() <= names_in(site, "event", FIRST_CELL)
    assert {*dead_letters.CODES, *repairs.CODES} <= names_in(site, "dead-letter", FIRST_CELL)
    fields = {name.rsplit(".", 1)[-1] for name in names_in(site, "alert", FIRST_CELL)}
    for name, definition in alerts.json_schema()["$defs"].items():
        own = definition["properties"].keys()
        assert own <= fields | {
            "type",
            "id",
            "pseudonym",
            "event_id",
            "topic",
            "partition",
            "offset",
        }, name
