"""Problems of a mapping are all found before anything runs."""

import pytest

from schemas.codecs.access_log import ACCESS_LOG_FIELDS, AccessLogSpec
from schemas.events import FIELDS, FIELDS_OF
from schemas.mapping import (
    FieldMapping,
    FieldMappings,
    RecordLayout,
    TextClass,
    TypeLocation,
    TypeSpec,
    available_fields,
    compile_mapping,
    parse_path,
)
from schemas.mapping_checks import mapping_problems

BASE: FieldMappings = {"event_id": "id", "time": "t"}


@pytest.mark.parametrize(
    ("text", "path"),
    [("a", ("a",)), ("a.b", ("a", "b")), (r"a\.b.c", ("a.b", "c")), ("ü -", ("ü -",))],
)
def test_paths_are_keys_joined_by_dots(text: str, path: tuple[str, ...]) -> None:
    """Dots nest; an escaped dot belongs to its key."""
    assert parse_path(text) == path


@pytest.mark.parametrize("text", ["", ".", "a.", "a..b", 'a"', "a\\b", "a\n"])
def test_paths_that_no_key_can_have_are_refused(text: str) -> None:
    """Empty keys, quotes, backslashes and control characters are problems."""
    with pytest.raises(ValueError, match="expected keys"):
        parse_path(text)


@pytest.mark.parametrize(
    ("fields", "where", "part"),
    [
        ({}, "fields.time", "missing"),
        ({**BASE, "acount": "a"}, "fields.acount", "nearest: account"),
        ({**BASE, "account": FieldMapping()}, "fields.account", "exactly one"),
        (
            {**BASE, "account": FieldMapping(path="a", constant="b")},
            "fields.account",
            "exactly one",
        ),
        ({**BASE, "account": FieldMapping(position=True)}, "fields.account", "only to event_id"),
        ({**BASE, "account": FieldMapping(path="a", unit="s")}, "fields.account", "only to time"),
        (
            {**BASE, "amount": FieldMapping(path="a", values={"a": "b"})},
            "fields.amount",
            "only to texts",
        ),
        ({**BASE, "amount": FieldMapping(constant="x")}, "fields.amount", "expected a number"),
        ({**BASE, "account": FieldMapping(constant=1.5)}, "fields.account", "expected a text"),
        ({**BASE, "time": FieldMapping(constant=1)}, "fields.time", "same for all events"),
        ({**BASE, "account": []}, "fields.account", "at least one"),
        ({**BASE, "account": "a..b"}, "fields.account", "none of them empty"),
        ({**BASE, "account": "t"}, "fields.account", "as a text"),
        ({**BASE, "account": "id.x"}, "fields.account", "cannot hold"),
    ],
)
def test_each_problem_is_named_with_its_key(fields: FieldMappings, where: str, part: str) -> None:
    """A problem in a mapping is reported with its key and what was expected."""
    assert any(
        where == at and part in text
        for at, text in mapping_problems(RecordLayout(), "login", fields)
    )


def test_problems_are_reported_all_at_once() -> None:
    """One mistake does not hide another."""
    fields: FieldMappings = {"event_id": "id", "acount": "x", "account": "id.y", "amount": []}
    found = {where for where, _ in mapping_problems(RecordLayout(), TypeLocation(), fields)}
    assert found == {"type", "fields.time", "fields.acount", "fields.account", "fields.amount"}


@pytest.mark.parametrize(
    ("type_spec", "fields"),
    [("login", None), (None, BASE)],
)
def test_an_access_log_has_its_own_fields_and_type(
    type_spec: TypeSpec | None, fields: FieldMappings | None
) -> None:
    """An access log accepts neither another type nor a mapping of its own fields."""
    assert mapping_problems(AccessLogSpec.layout, type_spec, fields)
    assert mapping_problems(AccessLogSpec.layout, None, None) == []


def test_fields_an_input_can_map() -> None:
    """Mapped fields if there is a mapping, else those of the input's type or of an access log."""
    assert available_fields(RecordLayout(), None, {**BASE, "card": "c"}) == ["card"]
    assert set(available_fields(RecordLayout(), "login", None)) == set(FIELDS_OF["login"])
    assert available_fields(RecordLayout(), None, None) == list(FIELDS)
    assert set(available_fields(AccessLogSpec.layout, None, None)) == set(ACCESS_LOG_FIELDS)


def test_only_requested_fields_are_read() -> None:
    """A field that nobody reads is not among the paths that are decoded."""
    mapping = compile_mapping(RecordLayout(), "login", {**BASE, "card": "c", "ip": "i"}, ["ip"])
    assert mapping.path_kinds() == {("id",): "text", ("t",): "number", ("i",): "text"}


DERIVED: dict[str, FieldMapping] = {
    "route": FieldMapping(path="path", classes=[TextClass(name="page", pattern="html$")]),
    "item": FieldMapping(path="path", extract=r"/item/(?P<id>\d+)"),
    "session": FieldMapping(path=["ip", "user_agent"], joined=True),
}


@pytest.mark.parametrize("layout", [RecordLayout(), AccessLogSpec.layout])
def test_fields_can_be_derived_from_texts(layout: RecordLayout) -> None:
    """Classes, extracts and joined texts of a record or a log line are valid fields."""
    base = BASE if layout.fields is None else {}
    assert mapping_problems(layout, None, {**base, **DERIVED}) == []


@pytest.mark.parametrize(
    "place",
    [
        FieldMapping(path="path", classes=[TextClass(name="page", pattern="(")]),
        FieldMapping(path="path", extract=r"/item/(\d+)"),
        FieldMapping(path="path", extract=r"(?P<a>.)(?P<b>.)"),
        FieldMapping(constant="x", joined=True),
    ],
)
def test_an_unusable_pattern_is_named(place: FieldMapping) -> None:
    """A pattern must be valid, an extract must name one group, and both need a text."""
    assert [
        where for where, _ in mapping_problems(RecordLayout(), None, {**BASE, "route": place})
    ] == ["fields.route"]


def test_a_number_can_only_be_extracted() -> None:
    """A class is no number, and a number of an access log needs an extract."""
    classes = [TextClass(name="1", pattern="")]
    wrong = {"item": FieldMapping(path="path", classes=classes)}
    assert mapping_problems(RecordLayout(), None, {**BASE, **wrong})
    assert mapping_problems(AccessLogSpec.layout, None, {"item": FieldMapping(path="path")})


def test_fields_an_access_log_lacks_are_no_paths() -> None:
    """A field derived from an access log names one of the log's own fields."""
    found = mapping_problems(AccessLogSpec.layout, None, {"route": FieldMapping(path="pth")})
    assert [where for where, _ in found] == ["fields.route"]
    assert "nearest: path" in found[0][1]
