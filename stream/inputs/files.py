"""The files of an input: paths, folders, globs, pipes and addresses of object stores.

Finds and opens files of any format. Objects of a store are read in ranges, never downloaded as a
whole.
"""

import io
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from io import BufferedReader
from itertools import compress, takewhile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, TypeVar
from urllib.parse import unquote, urlsplit

import obstore
import xxhash
from obstore.exceptions import BaseError
from obstore.store import ObjectStore, from_url

from stream.checkpoints.store import REMOTE
from stream.errors import InputError
from stream.inputs.folders import (
    HIDDEN_PREFIXES,
    Folder,
    FolderColumns,
    are_data_files,
    folder_contains,
    parse_folder_columns,
)
from stream.location import Location, hide_credentials

BUFFER_BYTES: Final = 1024 * 1024
"""Size of reads from a file, and smallest size of requests to a store."""
GLOB_CHARACTERS: Final = frozenset("*?[")
STANDARD_INPUT: Final = "/dev/stdin"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file to read.

    name: absolute path or address. open: opens it at its beginning; may be called repeatedly.
    content_id: identifies its content, by xxh3 (128 bits) or a store's ETag. folder_columns: the
    columns in the names of its folders.
    """

    name: str
    size_bytes: int
    open: Callable[[], BufferedReader]
    content_id: Callable[[], str]
    folder_columns: FolderColumns = field(default_factory=dict)


def find_files(text: str) -> list[InputFile]:
    """The files that a path, a folder, a glob or an address names, sorted by name.

    For a folder, all data files below it (see `folders`); likewise for a glob, unless its pattern
    names hidden files. Raises InputError where there is none.
    """
    path = Location.of(text).path
    try:
        files = (
            _stored_files(text)
            if path is None
            else [_local_file(each) for each in sorted(_paths(path))]
        )
    except (BaseError, OSError, ValueError) as error:
        raise InputError(f"{text}: {_first_line(error)}") from error
    if not files:
        raise InputError(f"{text}: no such file, and no folder or glob with files")
    return files


def is_pipe(text: str) -> bool:
    """Whether a path can be read only once: "-" (standard input), a pipe or a device."""
    path = Location.of(text).path
    if text == "-" or path is None:
        return text == "-"
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode) or stat.S_ISSOCK(mode)


def spool_pipe(text: str, exit_stack: ExitStack) -> InputFile:
    """Copy a pipe into a temporary file, which `exit_stack` removes, since a replay reads its inputs more
    than once. Raises InputError."""
    name = STANDARD_INPUT if text == "-" else text
    copy = Path(exit_stack.enter_context(TemporaryDirectory(prefix="eddy-"))) / "input"
    try:
        with Path(name).open("rb") as source, copy.open("wb") as target:
            shutil.copyfileobj(source, target, BUFFER_BYTES)
    except OSError as error:
        raise InputError(
            f"{name}: cannot be copied to a temporary file, {copy}: {error.strerror}; expected free "
            "space there (TMPDIR), or a file instead of a pipe, which can be read only once"
        ) from error
    return replace(_local_file(copy), name=name, folder_columns={})


def _is_glob(text: str) -> bool:
    return bool(GLOB_CHARACTERS & set(text))


def _first_line(error: BaseException) -> str:
    """The first line of a store's error, without its debug output."""
    return next(iter(str(error).splitlines()), type(error).__name__)


# -- on disk --------------------------------------------------------------------------------------


def _paths(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
        return
    root = path if path.is_dir() else Path(*_fixed_parts(path.parts))
    pattern = [] if path.is_dir() else list(path.parts[len(root.parts) :])
    if pattern and not _is_glob(str(path)):
        return
    entries = root.glob(str(Path(*pattern))) if pattern else root.rglob("*")
    files = [entry for entry in entries if entry.is_file()]
    relative_paths = [file.relative_to(root).parts for file in files]
    yield from _data_only(
        files, relative_paths, pattern, lambda folder, name: root.joinpath(*folder, name).exists()
    )


def _fixed_parts(parts: Sequence[str]) -> list[str]:
    """The parts of a path before the first pattern."""
    return list(takewhile(lambda part: not _is_glob(part), parts))


def _data_only(
    files: list[T],
    relative_paths: Sequence[Sequence[str]],
    pattern: Sequence[str],
    contains: Callable[[Folder, str], bool],
) -> list[T]:
    """The files that are data. relative_paths: the path of each, relative to the folder. pattern: the glob
    relative to the folder."""
    if any(part.startswith(HIDDEN_PREFIXES) for part in pattern):
        return files
    return list(compress(files, are_data_files(relative_paths, contains)))


def _local_file(path: Path) -> InputFile:
    size_bytes = path.stat().st_size
    columns = parse_folder_columns(path.parts)
    return InputFile(
        str(path), size_bytes, lambda: path.open("rb"), lambda: _content_id(path), columns
    )


def _content_id(path: Path) -> str:
    """The id of a file's content. Raises InputError where it cannot be read."""
    try:
        return f"xxh3:{file_digest(path)}"
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error


def file_digest(path: Path) -> str:
    """The XXH3-128 hash of a file's content, as 32 hex digits."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while chunk := file.read(BUFFER_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


# -- in an object store ---------------------------------------------------------------------------


def _stored_files(text: str) -> list[InputFile]:
    """The objects at an address: the object of that name, else all below it."""
    address = urlsplit(text)
    root, path = f"{address.scheme}://{address.netloc}", unquote(address.path).strip("/")
    store = from_url(root, **REMOTE)
    if not _is_glob(path):
        try:
            return [_stored_file(store, root, obstore.head(store, path))]
        except FileNotFoundError:
            pass
    parts = path.split("/") if path else []
    folder = _fixed_parts(parts)
    objects = [meta for page in obstore.list(store, "/".join(folder) or None) for meta in page]
    relative_paths = [meta["path"].split("/")[len(folder) :] for meta in objects]
    pattern = parts[len(folder) :]
    matches = [_matches(path, pattern) for path in relative_paths]
    matching = list(compress(objects, matches))
    matching_paths = list(compress(relative_paths, matches))
    data_files = _data_only(matching, matching_paths, pattern, folder_contains(relative_paths))
    data_files.sort(key=lambda meta: str(meta["path"]))
    return [_stored_file(store, root, meta) for meta in data_files]


def _matches(name: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a name matches a glob, part by part; without a glob every name does."""
    return not pattern or (len(name) == len(pattern) and all(map(fnmatchcase, name, pattern)))


def _stored_file(store: ObjectStore, root: str, meta: Any) -> InputFile:
    path, size_bytes = meta["path"], meta["size"]
    content_id = meta["e_tag"] or meta["last_modified"].isoformat()
    return InputFile(
        f"{hide_credentials(root)}/{path}",
        size_bytes,
        lambda: BufferedReader(_ObjectReader(store, path)),
        lambda: f"store:{content_id}",
        parse_folder_columns(path.split("/")),
    )


class _ObjectReader(io.RawIOBase):
    """An object of a store as a file, with read-ahead."""

    def __init__(self, store: ObjectStore, path: str) -> None:
        self._reader = obstore.open_reader(store, path, buffer_size=BUFFER_BYTES)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        with _as_os_error():
            return self._reader.seek(offset, whence)

    def readinto(self, buffer: Any) -> int:
        with _as_os_error():
            read = self._reader.read(len(buffer))
        buffer[: len(read)] = memoryview(read)
        return len(read)


@contextmanager
def _as_os_error() -> Iterator[None]:
    """Raise a store's errors as OSError."""
    try:
        yield
    except BaseError as error:
        raise OSError(_first_line(error)) from error
