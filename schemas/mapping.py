"""Where each field of an event lives in the user's own records, so that no producer must change.

Holds how a mapping is declared, what can be wrong with a declaration, and its compiled form, which
the codecs read. Decodes nothing itself.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Final, Literal

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from schemas.events import FIELDS, FIELDS_OF, TYPES, EventType

CodecName = Literal["json", "access_log"]
TimeUnit = Literal["ms", "s", "us", "iso"]
ValueKind = Literal["text", "choice", "number"]
"""As what a path is read; a choice is a text that the mapping translates, and may be a boolean."""
Path = tuple[str, ...]
"""Keys from the record's root inwards."""
Problem = tuple[str, str]
"""Where (relative to the input, such as "fields.time") and what is wrong there."""

ACCESS_LOG_FIELDS: Final = ("ip", "method", "path", "status", "bytes", "referrer", "user_agent")
"""What a combined access log tells about a request, besides its time; in its mapping these names
are also the paths."""


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


@dataclass(frozen=True, slots=True)
class CompiledField:
    """Compiled place: the first present of `paths`, or all of them `joined`; without paths,
    `constant`. extract, classes (name, pattern), values: see `FieldMapping`, in that order."""

    paths: tuple[Path, ...] = ()
    constant: str | int | float | None = None
    values: dict[str, str] = field(default_factory=dict)
    joined: bool = False
    extract: str | None = None
    classes: tuple[tuple[str, str], ...] = ()

    @property
    def derived(self) -> bool:
        """Whether the field is made of the text at its paths, and not that itself."""
        return self.joined or self.extract is not None or bool(self.classes)

    @property
    def kind(self) -> ValueKind | None:
        """As what its paths are read, where the field does not say it."""
        return "choice" if self.values else "text" if self.derived else None


@dataclass(frozen=True, slots=True)
class Mapping:
    """Where everything that is wanted of a record comes from.

    event_id: None means its position. type_header: the header that tells the type; `type` then
    only translates. fields: in the order of `events.FIELDS`, only what is wanted.
    """

    event_id: CompiledField | None
    time: CompiledField
    unit: TimeUnit
    type: CompiledField
    type_header: str | None
    fields: dict[str, CompiledField]

    def leaves(self) -> dict[Path, ValueKind]:
        """Every path that is read, and as what."""
        reads: list[tuple[CompiledField, ValueKind]] = [
            (self.type, "text"),
            (self.event_id or CompiledField(), "text"),
            (self.time, "text" if self.unit == "iso" else "number"),
            *((source, source.kind or FIELDS[name].kind) for name, source in self.fields.items()),
        ]
        return {path: kind for source, kind in reads for path in source.paths}


def parse_path(text: str) -> Path:
    """The keys of a path: dots nest, a backslash before a dot takes it literally.

    Raises ValueError for what no JSON key of ours can be.
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
    """A hint "; nearest: …" at the known name that looks most like this one; may be empty."""
    close = get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; nearest: {close[0]}" if close else ""


def available_fields(
    codec: CodecName, type_spec: TypeSpec | None, fields: FieldMappings | None
) -> list[str]:
    """The event fields that an input can fill, in the order of `events.FIELDS`."""
    if codec == "access_log":
        return [name for name in FIELDS if name in ACCESS_LOG_FIELDS or name in (fields or {})]
    if fields is not None:
        return [name for name in FIELDS if name in fields]
    if isinstance(type_spec, str):
        return [name for name in FIELDS if name in FIELDS_OF[type_spec]]
    return list(FIELDS)


def compile_mapping(
    codec: CodecName,
    type_spec: TypeSpec | None,
    fields: FieldMappings | None,
    wanted: Iterable[str],
) -> Mapping:
    """The mapping of an input whose declaration has no `mapping_problems`, reduced to wanted fields.

    Without `fields` it is the identity: Eddy's own names, `time` in milliseconds, the type in
    `type`. An access log has the fields that it has, the type request, and ids by position; its
    `fields` are made of those.
    """
    names = [name for name in available_fields(codec, type_spec, fields) if name in set(wanted)]
    given: FieldMappings = {name: name for name in ("event_id", "time", *names)}
    if fields is not None:
        given = {**given, **fields} if codec == "access_log" else fields
    id_place, time_place = _place(given["event_id"]), _place(given["time"])
    positional = codec == "access_log" or id_place.position
    if type_spec is None:
        type_spec = "request" if codec == "access_log" else TypeLocation(field="type")
    return Mapping(
        event_id=None if positional else _source(id_place),
        time=_source(time_place),
        unit=time_place.unit or "ms",
        type=_type_source(type_spec),
        type_header=type_spec.header if isinstance(type_spec, TypeLocation) else None,
        fields={name: _source(_place(given[name])) for name in names},
    )


def mapping_problems(
    codec: CodecName, type_spec: TypeSpec | None, fields: FieldMappings | None
) -> list[Problem]:
    """Everything that is wrong with a mapping's declaration."""
    found = list(_type_problems(type_spec)) if isinstance(type_spec, TypeLocation) else []
    if codec == "access_log":
        if type_spec not in (None, "request"):
            found.append(("type", "an access log holds requests; remove it"))
        found += _log_problems(fields or {})
        return found
    if fields is None:
        return found
    for name in ("event_id", "time"):
        if name not in fields:
            found.append((f"fields.{name}", f"missing; expected where an event's {name} is found"))
    places: dict[str, FieldMapping] = {}
    for name, place in ((name, _place(spec)) for name, spec in fields.items()):
        wrong = list(_place_problems(name, place))
        found += ((f"fields.{name}", text) for text in wrong)
        if not wrong:
            places[name] = place
    sound = type_spec if not any(where.startswith("type") for where, _ in found) else None
    return [*found, *_clashes(sound, places)]


def _place(spec: str | list[str] | FieldMapping) -> FieldMapping:
    return spec if isinstance(spec, FieldMapping) else FieldMapping(path=spec)


def _source(place: FieldMapping) -> CompiledField:
    return CompiledField(
        paths=tuple(parse_path(text) for text in _paths(place.path)),
        constant=place.constant,
        values=place.values,
        joined=place.joined,
        extract=place.extract,
        classes=tuple((one.name, one.pattern) for one in place.classes),
    )


def _type_source(spec: TypeSpec) -> CompiledField:
    if isinstance(spec, str):
        return CompiledField(constant=spec)
    return CompiledField(
        tuple(parse_path(text) for text in _paths(spec.field)), values=dict(spec.values)
    )


def _paths(path: str | list[str] | None) -> list[str]:
    return [] if path is None else [path] if isinstance(path, str) else path


def _type_problems(spec: TypeLocation) -> Iterator[Problem]:
    if (spec.field is None) == (spec.header is None):
        yield "type", f"expected one of {', '.join(TYPES)}, or either a field or a header"
    yield from (("type.field", text) for text in _path_problems(spec.field))


def _log_problems(fields: FieldMappings) -> Iterator[Problem]:
    """What is wrong with what is made of an access log's own fields."""
    for name, place in ((name, _place(spec)) for name, spec in fields.items()):
        where = f"fields.{name}"
        if name in {*ACCESS_LOG_FIELDS, "event_id", "time"}:
            yield where, "an access log has it of its own; remove it"
            continue
        yield from ((where, text) for text in _place_problems(name, place))
        for path in _paths(place.path):
            if path not in ACCESS_LOG_FIELDS:
                expected = ", ".join(ACCESS_LOG_FIELDS)
                yield (
                    where,
                    f"got {path}; expected one of {expected}{nearest_hint(path, ACCESS_LOG_FIELDS)}",
                )
        is_number = name in FIELDS and FIELDS[name].kind == "number"
        if is_number and place.path is not None and place.extract is None:
            yield where, "is a number; expected what to extract from the text"


def _place_problems(name: str, place: FieldMapping) -> Iterator[str]:
    if name not in FIELDS and name not in {"event_id", "time"}:
        yield f"unknown field{nearest_hint(name, ['event_id', 'time', *FIELDS])}"
        return
    ways = [place.path is not None, place.constant is not None, place.position]
    if sum(ways) != 1:
        yield "expected exactly one of path, constant and position"
    yield from _path_problems(place.path)
    if place.path == []:
        yield "got no path; expected at least one"
    if place.position and name != "event_id":
        yield "position stands only for event_id; remove it"
    if place.unit is not None and name != "time":
        yield "unit belongs only to time; remove it"
    is_text = name in FIELDS and FIELDS[name].kind == "text"
    if place.values and not is_text:
        yield "values translate only texts; remove them"
    yield from _making_problems(name, place)
    if place.constant is None:
        return
    if name not in FIELDS:
        yield "cannot be the same for all events; expected a path"
    elif is_text and isinstance(place.constant, float):
        yield "constant: expected a text"
    elif not is_text and isinstance(place.constant, str):
        yield "constant: expected a number"


def _making_problems(name: str, place: FieldMapping) -> Iterator[str]:
    """What is wrong with how a field is made of the text at its paths."""
    if not _derived(place):
        return
    if name not in FIELDS or place.path is None:
        yield "joined, extract and classes make a field of the text at a path"
        return
    if FIELDS[name].kind == "number" and (place.extract is None or place.classes):
        yield "joined and classes make texts; expected only what to extract, as it is a number"
    groups = [] if place.extract is None else [place.extract]
    for pattern in (*groups, *(one.pattern for one in place.classes)):
        try:
            pc.match_substring_regex(pa.array([""]), pattern)
        except pa.ArrowInvalid as error:
            yield f"pattern '{pattern}': {error}"
            return
    if place.extract is not None and not _names_one_group(place.extract):
        yield f"extract: got '{place.extract}'; expected one named group, as in '/item/(?P<id>\\d+)'"


def _derived(place: FieldMapping) -> bool:
    return place.joined or place.extract is not None or bool(place.classes)


def _names_one_group(pattern: str) -> bool:
    try:
        found = pc.extract_regex(pa.array([""]), pattern)
    except pa.ArrowInvalid:
        return False
    return bool(found.type.num_fields == 1)


def _path_problems(path: str | list[str] | None) -> Iterator[str]:
    for text in _paths(path):
        try:
            parse_path(text)
        except ValueError as error:
            yield str(error)


def _clashes(type_spec: TypeSpec | None, places: dict[str, FieldMapping]) -> Iterator[Problem]:
    """Paths that cannot both be read: one as a value that the other goes through, or is typed."""
    reads = {
        f"fields.{name}": (_paths(place.path), _kind(name, place)) for name, place in places.items()
    }
    if isinstance(type_spec, TypeLocation):
        reads["type.field"] = (_paths(type_spec.field), "text")
    seen: dict[Path, tuple[str, ValueKind]] = {}
    for where, (texts, kind) in reads.items():
        for text, path in ((text, parse_path(text)) for text in texts):
            for other, (owner, other_kind) in seen.items():
                common = min(len(path), len(other))
                if path == other and kind != other_kind:
                    yield where, f"reads {text} as a {kind}, but {owner} as a {other_kind}"
                elif path != other and path[:common] == other[:common]:
                    outer, inner = sorted((path, other), key=len)
                    yield (
                        where,
                        f"{'.'.join(outer)} is a value and cannot hold {'.'.join(inner)} ({owner})",
                    )
            seen.setdefault(path, (where, kind))


def _kind(name: str, place: FieldMapping) -> ValueKind:
    if name == "event_id" or (name == "time" and place.unit == "iso") or _derived(place):
        return "text"
    return "number" if name == "time" else FIELDS[name].kind
