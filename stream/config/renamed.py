"""Keys and values of earlier versions: an old configuration gets an error that names the new one."""

import re
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from stream.config.document import key_path


class Renamed(NamedTuple):
    """A key, or one of its values, of an earlier version.

    path: regular expression of the key's path. old: the value, or None for the key itself.
    remedy: what to write now.
    """

    path: str
    old: str | None
    remedy: str


RENAMED: Final = (Renamed(r"monitors\[\d+\]\.detectors\[\d+\]\.feed", "place", '"scaled"'),)


def renamed_problems(
    document: Any, table: tuple[Renamed, ...] = RENAMED
) -> Iterator[tuple[str, str]]:
    """The path of each renamed key or value in a document, and the remedy."""
    for path, value in _entries(document, ""):
        for renamed in table:
            if re.fullmatch(renamed.path, path) and renamed.old in {None, str(value)}:
                got = "this key" if renamed.old is None else f'"{renamed.old}"'
                yield path, f"got {got}, which was renamed; expected {renamed.remedy}"


def _entries(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Every key of a document, by path, with its value."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key_path(path, key), inner
            yield from _entries(inner, key_path(path, key))
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from _entries(inner, f"{path}[{i}]")
