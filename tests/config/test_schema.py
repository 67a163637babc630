"""The JSON Schema of a configuration, and the errors for keys of earlier versions."""

import json
import tomllib
from copy import deepcopy
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from typer.testing import CliRunner

from stream.cli import app
from stream.config import parse
from stream.config.renamed import Renamed, renamed_problems
from stream.config.schema import declared_tables, json_schema, key_descriptions
from stream.errors import ConfigError
from tests.config.test_every_key import full_configuration

READY = sorted((Path(__file__).parents[2] / "deploy" / "configs").glob("*.toml"))


def validate(document: dict[str, Any]) -> None:
    """Check a document against the schema."""
    jsonschema.Draft202012Validator(json_schema()).validate(document)


def test_every_key_has_a_description() -> None:
    """Each key of each table has a text of its own, and each table has one."""
    for cls in declared_tables():
        keys = set(getattr(cls, "__struct_encode_fields__", ()))
        assert key_descriptions(cls).keys() == keys, cls
        assert all(text.endswith(".") for text in key_descriptions(cls).values()), cls
    assert len(declared_tables()) > 20
    tables = json_schema()["$defs"].values()
    assert all(table["description"].endswith(".") for table in tables)
    described = [key for table in tables for key in table["properties"].values()]
    assert all(key.get("description") or key.keys() <= {"enum", "const"} for key in described)


def test_the_command_prints_the_schema() -> None:
    """`eddy config schema` prints the schema as JSON, and it is a valid schema."""
    printed = CliRunner().invoke(app, ["config", "schema"]).output
    assert json.loads(printed) == json_schema()
    jsonschema.Draft202012Validator.check_schema(json.loads(printed))


@pytest.mark.parametrize("path", READY, ids=lambda path: path.stem)
def test_ready_configurations_validate(path: Path) -> None:
    """Every ready configuration is valid under the schema."""
    validate(tomllib.loads(path.read_text()))


def test_the_schema_allows_every_key_and_a_value_of_the_environment() -> None:
    """A configuration with every key is valid, and so is a reference where a pattern applies."""
    document = full_configuration()
    document["inputs"]["payments"] = deepcopy(next(iter(document["inputs"].values())))
    document["inputs"]["payments"]["topic"] = "${TOPIC}"
    validate(document)


@pytest.mark.parametrize(
    ("key", "value"), [("grop", "a"), ("group", "a b"), ("revision", -1), ("mode", "test")]
)
def test_the_schema_refuses_mistakes(key: str, value: object) -> None:
    """An unknown key, a text of another form, a number out of bounds and an unknown choice are
    invalid."""
    with pytest.raises(jsonschema.ValidationError):
        validate({**full_configuration(), key: value})


def test_a_renamed_value_is_named_with_its_new_name() -> None:
    """A value of an earlier version is one mistake, which says what to write instead."""
    document = full_configuration()
    river = next(
        (i, j)
        for i, monitor in enumerate(document["monitors"])
        for j, detector in enumerate(monitor.get("detectors", []))
        if detector["kind"] == "river"
    )
    document["monitors"][river[0]]["detectors"][river[1]]["feed"] = "place"
    with pytest.raises(ConfigError) as caught:
        parse(document, {})
    where = f"monitors[{river[0]}].detectors[{river[1]}].feed"
    assert caught.value.problems == [
        f'{where}: got "place", which was renamed; expected "scaled"',
    ]


def test_a_renamed_key_is_named_with_its_new_name() -> None:
    """A key of an earlier version is found at any depth, whatever its value."""
    table = (Renamed(r"inputs\.[^.]+\.topics", None, "topic"),)
    found = list(renamed_problems({"inputs": {"a": {"topics": 1}, "b": {"topic": "t"}}}, table))
    assert found == [("inputs.a.topics", "got this key, which was renamed; expected topic")]
