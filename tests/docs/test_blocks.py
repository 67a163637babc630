"""Every TOML and JSON block of the documentation is valid, and every link to a command exists."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from jsonschema import Draft202012Validator

from schemas import alerts, events
from stream.config import parse
from tests.docs.pages import Block, blocks_in

BASE = tomllib.loads("""
secret = "a secret of the documentation"

[inputs.payments]
topic = "payments"
type = "transaction"

[inputs.payments.fields]
event_id = "id"
time = "time"
account = "account"
card = "card"
country = "country"
device = "device"
ip = "ip"
product = "product"
kind = "kind"
route = "route"
referrer = "referrer"
amount = "amount"

[[monitors]]
name = "card"
entity = "card"
inputs = ["payments"]
features = [{ name = "amount", kind = "value", field = "amount" }]
""")
"""What a block that shows only a part of a configuration is completed with."""
REFERENCE = re.compile(r"\$\{(\w+)")


def completed(part: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    """The base with a part of a configuration in it. Lists of tables are appended; a monitor without
    a name is a part of the base's first."""
    merged = dict(base)
    for key, value in part.items():
        if key == "monitors" and isinstance(value, dict):  # [[monitors.features]] alone
            merged[key] = [completed(value, base[key][0])]
        elif isinstance(value, dict) and isinstance(base.get(key), dict):
            merged[key] = completed(value, base[key])
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            merged[key] = [*base.get(key, []), *value]
        else:
            merged[key] = value
    return merged


def name_of(block: Block) -> str:
    """A test's name."""
    return str(block)


@pytest.mark.parametrize("block", blocks_in("toml"), ids=name_of)
def test_toml_block_is_a_configuration(block: Block) -> None:
    """Each TOML block, completed where it is only a part, is a configuration without a mistake."""
    document = tomllib.loads(block.text)
    if "project" in document:
        return  # a package's own pyproject.toml
    whole = {"inputs", "monitors"} <= document.keys()
    environment = dict.fromkeys(REFERENCE.findall(block.text), "a value of the environment")
    parse(document if whole else completed(document, BASE), environment)


@pytest.mark.parametrize("block", blocks_in("json"), ids=name_of)
def test_json_block_parses(block: Block) -> None:
    """Each JSON block parses; one that is an alert or an event is valid by its schema."""
    document = json.loads(block.text)
    if "alert_id" in document:
        Draft202012Validator(alerts.json_schema()).validate(document)
        assert alerts.alert_record(msgspec.convert(document, alerts.Alert)).value
    elif document.get("type") in events.TYPES:
        Draft202012Validator(events.json_schema()).validate(document)


def test_blocks_are_found() -> None:
    """The parser finds a block with a caption, and the text of a block without one."""
    toml = blocks_in("toml")
    assert {"payments.toml", "live.toml"} <= {block.caption for block in toml}
    assert any(Path(block.page).name == "README.md" for block in toml)
