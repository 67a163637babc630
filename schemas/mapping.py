"""Field mapping: where each field of an event is found in a user's own records.

Holds the declarations that a configuration makes and the compiled form that codecs read. What can
be wrong with a declaration is in `mapping_checks`. Decodes nothing.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Literal, NamedTuple

import msgspec

from schemas.events import FIELDS, FIELDS_OF, EventType

TimeUnit = Literal["ms", "s", "us", "iso"]
ValueKind = Literal["text", "choice", "number"]
"""The type that a path is read as. A choice is a text with a table of `values`; it may be a boolean
in the record."""
Path = tuple[str, ...]
"""Keys from the record's root inwards."""


class TextClass(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A class of texts."""

    name: str
    """Name of the class; it becomes the field's value."""
    pattern: str
    """Regular expression (RE2) that is found somewhere in the texts of the class."""


class FieldMapping(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where one event field comes from: exactly one of `path`, `constant` and `position`. A text
    that the field may not hold is absent."""

    path: str | list[str] | None = None
    r"""Path in the record, or several of which the first that is present counts. Dots lead into
    nested objects; `\.` is a dot that belongs to a key."""
    joined: bool = False
    """Join the texts at all paths that are present, with a space between them."""
    constant: str | int | float | None = None
    """The same value for every event."""
    extract: str | None = None
    """Regular expression (RE2) with one named group, whose match becomes the value; absent where it
    is not found."""
    classes: list[TextClass] = []
    """The name of the first class whose pattern is found becomes the value; absent where none is."""
    values: dict[str, str] = {}
    """Translation of the record's values into Eddy's; others are kept. Booleans are written `true`
    and `false`."""
    unit: TimeUnit | None = None
    """How `time` is written: `ms`, `s` or `us` since 1970, or `iso`. ISO times without an offset
    are UTC."""
    position: bool = False
    """Use `topic:partition:offset` as the event's id, for data without ids. Only for `event_id`."""

    @property
    def paths(self) -> list[str]:
        """The paths as a list; empty where none is given."""
        return [] if self.path is None else [self.path] if isinstance(self.path, str) else self.path

    @property
    def derived(self) -> bool:
        """Whether the field is derived from the text at its paths."""
        return self.joined or self.extract is not None or bool(self.classes)


class TypeLocation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a record of several types names its type: a field or a header."""

    field: str | None = None
    """Path of the type in the record."""
    header: str | None = None
    """Kafka header that holds the type."""
    values: dict[str, EventType] = {}
    """Translation of the record's type names into Eddy's; others must be Eddy's already."""


TypeSpec = EventType | TypeLocation
FieldMappings = dict[str, str | list[str] | FieldMapping]


class RecordLayout(NamedTuple):
    """What a codec's records hold, apart from any mapping.

    fields: the names of the values that every record has; event fields among them need no mapping,
        and other fields can only be derived from them. None: a record has any paths.
    type: the event type of all records; None: the input's declaration or the record names it.
    has_ids: whether records can hold event ids; otherwise an event's id is its position.
    """

    fields: tuple[str, ...] | None = None
    type: EventType | None = None
    has_ids: bool = True


@dataclass(frozen=True, slots=True)
class CompiledField:
    """A compiled `FieldMapping`: the first present of `paths`, or all of them `joined`; without
    paths, `constant`. Then extract, classes (name, pattern) and values apply, in that order."""

    paths: tuple[Path, ...] = ()
    constant: str | int | float | None = None
    values: dict[str, str] = field(default_factory=dict)
    joined: bool = False
    extract: str | None = None
    classes: tuple[tuple[str, str], ...] = ()

    @property
    def derived(self) -> bool:
        """Whether the field is derived from the text at its paths."""
        return self.joined or self.extract is not None or bool(self.classes)

    @property
    def kind(self) -> ValueKind | None:
        """The type that its paths are read as; None: the event field's own."""
        return "choice" if self.values else "text" if self.derived else None


@dataclass(frozen=True, slots=True)
class Mapping:
    """A compiled mapping: where every wanted part of a record comes from.

    event_id: None for an event whose id is its position. type_header: the header that holds the
    type; `type` then only translates. fields: the wanted ones, in the order of `events.FIELDS`.
    """

    event_id: CompiledField | None
    time: CompiledField
    unit: TimeUnit
    type: CompiledField
    type_header: str | None
    fields: dict[str, CompiledField]

    def path_kinds(self) -> dict[Path, ValueKind]:
        """Every path that is read, with the type that it is read as."""
        reads: list[tuple[CompiledField, ValueKind]] = [
            (self.type, "text"),
            (self.event_id or CompiledField(), "text"),
            (self.time, "text" if self.unit == "iso" else "number"),
            *((source, source.kind or FIELDS[name].kind) for name, source in self.fields.items()),
        ]
        return {path: kind for source, kind in reads for path in source.paths}


def parse_path(text: str) -> Path:
    """The keys of a path: dots nest, a backslash before a dot makes it part of a key.

    Raises ValueError for a key that is empty or holds quotes, backslashes or control characters.
    """
    keys = tuple(re.sub(r"\\\.", ".", key) for key in re.split(r"(?<!\\)\.", text))
    if not all(keys):
        raise ValueError(f'got "{text}"; expected keys joined by dots, none of them empty')
    if any('"' in key or "\\" in key or min(key) < " " for key in keys):
        raise ValueError(
            f"got {text!r}; expected keys without quotes, backslashes (but for \\. ) and "
            "control characters"
        )
    return keys


def nearest_hint(name: str, known: Iterable[str]) -> str:
    """A hint "; nearest: …" at the known name most similar to this one; "" where none is."""
    close = get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; nearest: {close[0]}" if close else ""


def as_mapping(spec: str | list[str] | FieldMapping) -> FieldMapping:
    """The full form of a field's declaration."""
    return spec if isinstance(spec, FieldMapping) else FieldMapping(path=spec)


def available_fields(
    layout: RecordLayout, type_spec: TypeSpec | None, fields: FieldMappings | None
) -> list[str]:
    """The event fields that an input can fill, in the order of `events.FIELDS`."""
    if layout.fields is not None:
        return [name for name in FIELDS if name in {*layout.fields, *(fields or {})}]
    if fields is not None:
        return [name for name in FIELDS if name in fields]
    if isinstance(type_spec, str):
        return [name for name in FIELDS if name in FIELDS_OF[type_spec]]
    return list(FIELDS)


def compile_mapping(
    layout: RecordLayout,
    type_spec: TypeSpec | None,
    fields: FieldMappings | None,
    wanted: Iterable[str],
) -> Mapping:
    """The mapping of an input whose declaration has no problems, reduced to wanted fields.

    Without `fields` it is the identity: Eddy's own names, `time` in milliseconds, the type in
    `type`. Where the codec's layout names its fields, `fields` adds to the identity.
    """
    names = [name for name in available_fields(layout, type_spec, fields) if name in set(wanted)]
    given: FieldMappings = {name: name for name in ("event_id", "time", *names)}
    if fields is not None:
        given = fields if layout.fields is None else {**given, **fields}
    event_id, time = as_mapping(given["event_id"]), as_mapping(given["time"])
    location = type_spec or layout.type or TypeLocation(field="type")
    return Mapping(
        event_id=None if event_id.position or not layout.has_ids else _compiled(event_id),
        time=_compiled(time),
        unit=time.unit or "ms",
        type=_compiled_type(location),
        type_header=location.header if isinstance(location, TypeLocation) else None,
        fields={name: _compiled(as_mapping(given[name])) for name in names},
    )


def _compiled(mapping: FieldMapping) -> CompiledField:
    return CompiledField(
        paths=tuple(map(parse_path, mapping.paths)),
        constant=mapping.constant,
        values=mapping.values,
        joined=mapping.joined,
        extract=mapping.extract,
        classes=tuple((text_class.name, text_class.pattern) for text_class in mapping.classes),
    )


def _compiled_type(spec: TypeSpec) -> CompiledField:
    if isinstance(spec, str):
        return CompiledField(constant=spec)
    paths = () if spec.field is None else (parse_path(spec.field),)
    return CompiledField(paths, values=dict(spec.values))
