"""Problems of a mapping's declaration, all of them found before anything runs."""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from schemas.events import FIELDS, TYPES
from schemas.mapping import (
    FieldMapping,
    FieldMappings,
    Path,
    RecordLayout,
    TypeLocation,
    TypeSpec,
    ValueKind,
    as_mapping,
    nearest_hint,
    parse_path,
)

Problem = tuple[str, str]
"""A key, relative to the input, such as "fields.time", and what is wrong with its value."""


def mapping_problems(
    layout: RecordLayout, type_spec: TypeSpec | None, fields: FieldMappings | None
) -> list[Problem]:
    """Every problem of a mapping's declaration."""
    problems = list(_type_problems(type_spec)) if isinstance(type_spec, TypeLocation) else []
    if layout.type is not None and type_spec not in (None, layout.type):
        problems.append(("type", f"the codec's records are all of type {layout.type}; remove it"))
    if layout.fields is not None:
        return [*problems, *_derived_problems(layout.fields, fields or {})]
    if fields is None:
        return problems
    for name in ("event_id", "time"):
        if name not in fields:
            problems.append((f"fields.{name}", f"missing; expected the path of an event's {name}"))
    valid: dict[str, FieldMapping] = {}
    for name, mapping in ((name, as_mapping(spec)) for name, spec in fields.items()):
        wrong = list(_field_problems(name, mapping))
        problems += ((f"fields.{name}", text) for text in wrong)
        if not wrong:
            valid[name] = mapping
    valid_type = None if any(key.startswith("type") for key, _ in problems) else type_spec
    return [*problems, *_path_conflicts(valid_type, valid)]


def _type_problems(spec: TypeLocation) -> Iterator[Problem]:
    if (spec.field is None) == (spec.header is None):
        yield "type", f"expected one of {', '.join(TYPES)}, or either a field or a header"
    if spec.field is not None:
        yield from (("type.field", text) for text in _path_problems([spec.field]))


def _derived_problems(record_values: tuple[str, ...], fields: FieldMappings) -> Iterator[Problem]:
    """Problems of fields that are derived from the values that every record has. record_values:
    their names."""
    for name, mapping in ((name, as_mapping(spec)) for name, spec in fields.items()):
        key = f"fields.{name}"
        if name in {*record_values, "event_id", "time"}:
            yield key, "the codec fills this field itself; remove it"
            continue
        yield from ((key, text) for text in _field_problems(name, mapping))
        for path in mapping.paths:
            if path not in record_values:
                hint = nearest_hint(path, record_values)
                yield key, f"got {path}; expected one of {', '.join(record_values)}{hint}"
        is_number = name in FIELDS and FIELDS[name].kind == "number"
        if is_number and mapping.path is not None and mapping.extract is None:
            yield key, "is a number; expected extract, which takes it out of the text"


def _field_problems(name: str, mapping: FieldMapping) -> Iterator[str]:
    if name not in FIELDS and name not in {"event_id", "time"}:
        yield f"unknown field{nearest_hint(name, ['event_id', 'time', *FIELDS])}"
        return
    given = [mapping.path is not None, mapping.constant is not None, mapping.position]
    if sum(given) != 1:
        yield "expected exactly one of path, constant and position"
    yield from _path_problems(mapping.paths)
    if mapping.path == []:
        yield "got no path; expected at least one"
    if mapping.position and name != "event_id":
        yield "position applies only to event_id; remove it"
    if mapping.unit is not None and name != "time":
        yield "unit applies only to time; remove it"
    is_text = name in FIELDS and FIELDS[name].kind == "text"
    if mapping.values and not is_text:
        yield "values apply only to texts; remove them"
    yield from _derivation_problems(name, mapping)
    if mapping.constant is None:
        return
    if name not in FIELDS:
        yield "cannot be the same for all events; expected a path"
    elif is_text and isinstance(mapping.constant, float):
        yield "constant: expected a text"
    elif not is_text and isinstance(mapping.constant, str):
        yield "constant: expected a number"


def _derivation_problems(name: str, mapping: FieldMapping) -> Iterator[str]:
    """Problems of a field that is derived from the text at its paths."""
    if not mapping.derived:
        return
    if name not in FIELDS or mapping.path is None:
        yield "joined, extract and classes apply to an event field with a path"
        return
    if FIELDS[name].kind == "number" and (mapping.extract is None or mapping.classes):
        yield "joined and classes give texts; expected only extract, since the field is a number"
    extracts = [] if mapping.extract is None else [mapping.extract]
    for pattern in (*extracts, *(text_class.pattern for text_class in mapping.classes)):
        try:
            pc.match_substring_regex(pa.array([""]), pattern)
        except pa.ArrowInvalid as error:
            yield f"pattern '{pattern}': {error}"
            return
    if mapping.extract is not None and not _names_one_group(mapping.extract):
        got = f"extract: got '{mapping.extract}'"
        yield f"{got}; expected one named group, as in '/item/(?P<id>\\d+)'"


def _names_one_group(pattern: str) -> bool:
    try:
        groups = pc.extract_regex(pa.array([""]), pattern)
    except pa.ArrowInvalid:
        return False
    return bool(groups.type.num_fields == 1)


def _path_problems(paths: list[str]) -> Iterator[str]:
    for text in paths:
        try:
            parse_path(text)
        except ValueError as error:
            yield str(error)


def _path_conflicts(
    type_spec: TypeSpec | None, mappings: dict[str, FieldMapping]
) -> Iterator[Problem]:
    """Pairs of paths that cannot both be read: of two types, or one inside the other's value."""
    reads = {
        f"fields.{name}": (mapping.paths, _kind(name, mapping))
        for name, mapping in mappings.items()
    }
    if isinstance(type_spec, TypeLocation) and type_spec.field is not None:
        reads["type.field"] = ([type_spec.field], "text")
    seen: dict[Path, tuple[str, ValueKind]] = {}
    for key, (texts, kind) in reads.items():
        for text, path in ((text, parse_path(text)) for text in texts):
            for other, (other_key, other_kind) in seen.items():
                common = min(len(path), len(other))
                if path == other and kind != other_kind:
                    yield key, f"reads {text} as a {kind}, but {other_key} as a {other_kind}"
                elif path != other and path[:common] == other[:common]:
                    outer, inner = (".".join(parts) for parts in sorted((path, other), key=len))
                    yield key, f"{outer} is a value and cannot hold {inner} ({other_key})"
            seen.setdefault(path, (key, kind))


def _kind(name: str, mapping: FieldMapping) -> ValueKind:
    if name == "event_id" or (name == "time" and mapping.unit == "iso") or mapping.derived:
        return "text"
    return "number" if name == "time" else FIELDS[name].kind
