"""Folders of a data lake: which of their files are data, and the columns in folder names.

Names that begin with a dot or an underscore are hidden, as in Hive and Spark, unless they are
`key=value`: such a folder adds a column to all rows below it.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Final
from urllib.parse import unquote

import pyarrow as pa

HIDDEN_PREFIXES: Final = (".", "_")
HIVE_NULL: Final = "__HIVE_DEFAULT_PARTITION__"
INTEGER_PATTERN: Final = re.compile(r"[+-]?\d{1,18}", re.ASCII)
RESULT_FILES: Final = ({"manifest.json", "summary.json"}, {"comparison.json"}, {"work.part"})
"""Files that mark a folder as a result of Eddy: of a run, a comparison, or an unfinished run."""

FolderColumns = dict[str, str | None]
"""The columns in the names of a file's folders, as texts; None for Hive's null."""


Folder = tuple[str, ...]
"""A folder's path, in parts, relative to the named folder."""


def are_data_files(
    paths: Iterable[Sequence[str]], contains: Callable[[Folder, str], bool]
) -> list[bool]:
    """Whether each file is data: not hidden, and not in a result folder of Eddy.

    paths: parts of each path from the named folder. contains: whether a folder has an entry.
    """

    @cache
    def is_results(folder: Folder) -> bool:
        return any(all(contains(folder, name) for name in names) for names in RESULT_FILES)

    return [
        not any(_is_hidden(part) for part in path)
        and not any(is_results(tuple(path[:depth])) for depth in range(1, len(path)))
        for path in paths
    ]


def folder_contains(paths: Iterable[Sequence[str]]) -> Callable[[Folder, str], bool]:
    """A function that returns whether a folder has an entry, by the files below it."""
    entries = {tuple(path[:depth]) for path in paths for depth in range(1, len(path) + 1)}
    return lambda folder, name: (*folder, name) in entries


def parse_folder_columns(path: Sequence[str]) -> FolderColumns:
    """The columns in the folder names of a path, given in parts."""
    pairs = (part.partition("=") for part in path[:-1])
    return {unquote(key): _folder_value(value) for key, equals, value in pairs if key and equals}


def folder_column_types(files: Iterable[FolderColumns]) -> dict[str, pa.DataType]:
    """The columns of all files and their types: integers if every value is one, else texts."""
    values: dict[str, list[str]] = {}
    for columns in files:
        for key, value in columns.items():
            values.setdefault(key, []).extend([] if value is None else [value])
    return {
        key: pa.int64() if texts and all(map(INTEGER_PATTERN.fullmatch, texts)) else pa.string()
        for key, texts in values.items()
    }


def folder_column_value(columns: FolderColumns, name: str, kind: pa.DataType) -> pa.Scalar:
    """A file's value of a column."""
    value = columns.get(name)
    return pa.scalar(int(value) if value is not None and pa.types.is_integer(kind) else value, kind)


def _is_hidden(part: str) -> bool:
    return part.startswith(HIDDEN_PREFIXES) and (part.startswith(".") or "=" not in part)


def _folder_value(text: str) -> str | None:
    return None if text == HIVE_NULL else unquote(text)
