"""A mapping's mistakes are all found before anything runs."""

import pytest

from schemas.events import FIELDS, FIELDS_OF
from schemas.mapping import (
    LOG_FIELDS,
    Class,
    CodecName,
    FieldsSpec,
    Place,
    TypeAt,
    TypeSpec,
    available,
    compile_mapping,
    parse_path,
    problems,
)

BASE: FieldsSpec = {"event_id": "id", "time": "t"}


@pytest.mark.parametrize(
    ("text", "path"),
    [("a", ("a",)), ("a.b", ("a", "b")), (r"a\.b.c", ("a.b", "c")), ("ü -", ("ü -",))],
)
def test_paths_are_keys_joined_by_dots(text: str, path: tuple[str, ...]) -> None:
    """Dots nest; an escaped dot belongs to its key."""
    assert parse_path(text) == path


@pytest.mark.parametrize("text", ["", ".", "a.", "a..b", 'a"', "a\\b", "a\n"])
def test_paths_that_no_key_can_have_are_refused(text: str) -> None:
    """Empty keys, quotes, backslashes and control characters are named as mistakes."""
    with pytest.raises(ValueError, match="expected keys"):
        parse_path(text)


@pytest.mark.parametrize(
    ("fields", "where", "part"),
    [
        ({}, "fields.time", "missing"),
        ({**BASE, "acount": "a"}, "fields.acount", "nearest: account"),
        ({**BASE, "account": Place()}, "fields.account", "exactly one"),
        ({**BASE, "account": Place(path="a", constant="b")}, "fields.account", "exactly one"),
        ({**BASE, "account": Place(position=True)}, "fields.account", "only for event_id"),
        ({**BASE, "account": Place(path="a", unit="s")}, "fields.account", "only to time"),
        ({**BASE, "amount": Place(path="a", values={"a": "b"})}, "fields.amount", "only texts"),
        ({**BASE, "amount": Place(constant="x")}, "fields.amount", "expected a number"),
        ({**BASE, "account": Place(constant=1.5)}, "fields.account", "expected a text"),
        ({**BASE, "time": Place(constant=1)}, "fields.time", "same for all events"),
        ({**BASE, "account": []}, "fields.account", "at least one"),
        ({**BASE, "account": "a..b"}, "fields.account", "none of them empty"),
        ({**BASE, "account": "t"}, "fields.account", "as a text"),
        ({**BASE, "account": "id.x"}, "fields.account", "cannot hold"),
    ],
)
def test_each_mistake_is_named_where_it_stands(fields: FieldsSpec, where: str, part: str) -> None:
    """A mistake in a mapping is told with its key and what was expected."""
    assert any(where == at and part in text for at, text in problems("json", "login", fields))


def test_mistakes_are_found_all_at_once() -> None:
    """One mistake does not hide another."""
    fields: FieldsSpec = {"event_id": "id", "acount": "x", "account": "id.y", "amount": []}
    found = {where for where, _ in problems("json", TypeAt(), fields)}
    assert found == {"type", "fields.time", "fields.acount", "fields.account", "fields.amount"}


@pytest.mark.parametrize(
    ("type_spec", "fields"),
    [("login", None), (None, BASE)],
)
def test_an_access_log_has_its_own_fields_and_type(
    type_spec: TypeSpec | None, fields: FieldsSpec | None
) -> None:
    """Neither another type nor another place for its own fields can be given for an access log."""
    assert problems("access_log", type_spec, fields)
    assert problems("access_log", None, None) == []


def test_what_an_input_can_fill() -> None:
    """Mapped fields if there is a mapping, else those of the input's type or of an access log."""
    assert available("json", None, {**BASE, "card": "c"}) == ["card"]
    assert set(available("json", "login", None)) == set(FIELDS_OF["login"])
    assert available("json", None, None) == list(FIELDS)
    assert set(available("access_log", None, None)) == set(LOG_FIELDS)


def test_only_what_is_wanted_is_read() -> None:
    """A field that nobody reads is not among the paths that are decoded."""
    mapping = compile_mapping("json", "login", {**BASE, "card": "c", "ip": "i"}, ["ip"])
    assert mapping.leaves() == {("id",): "text", ("t",): "number", ("i",): "text"}


DERIVED: dict[str, Place] = {
    "route": Place(path="path", classes=[Class(name="page", pattern="html$")]),
    "item": Place(path="path", extract=r"/item/(?P<id>\d+)"),
    "session": Place(path=["ip", "user_agent"], joined=True),
}


@pytest.mark.parametrize("codec", ["json", "access_log"])
def test_fields_can_be_made_of_texts(codec: CodecName) -> None:
    """Classes, parts and joined texts of what a record or a log line holds are sound fields."""
    base = BASE if codec == "json" else {}
    assert problems(codec, None, {**base, **DERIVED}) == []


@pytest.mark.parametrize(
    "place",
    [
        Place(path="path", classes=[Class(name="page", pattern="(")]),
        Place(path="path", extract=r"/item/(\d+)"),
        Place(path="path", extract=r"(?P<a>.)(?P<b>.)"),
        Place(constant="x", joined=True),
    ],
)
def test_a_pattern_that_cannot_serve_is_named(place: Place) -> None:
    """A pattern must be one, an extract must name one group, and both need a text to work on."""
    assert [where for where, _ in problems("json", None, {**BASE, "route": place})] == [
        "fields.route"
    ]


def test_a_number_can_only_be_extracted() -> None:
    """A class is no number, and an access log's number needs an extract."""
    classes = [Class(name="1", pattern="")]
    wrong = {"item": Place(path="path", classes=classes)}
    assert problems("json", None, {**BASE, **wrong})
    assert problems("access_log", None, {"item": Place(path="path")})


def test_what_an_access_log_does_not_tell_is_no_path() -> None:
    """A field made of an access log names one of the log's own fields."""
    found = problems("access_log", None, {"route": Place(path="pth")})
    assert [where for where, _ in found] == ["fields.route"]
    assert "nearest: path" in found[0][1]
