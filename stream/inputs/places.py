"""Where the files of an input are: paths, folders, globs, and addresses of object stores.

Finds them and opens them, whatever they hold; what is in a store is read in ranges, and never
downloaded whole.
"""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from io import BufferedReader
from itertools import takewhile
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import obstore
import xxhash
from obstore.exceptions import BaseError
from obstore.store import ObjectStore, from_url

from stream.checkpoints.store import REMOTE
from stream.errors import InputError
from stream.place import Place, without_credentials

BUFFER_BYTES: Final = 1024 * 1024
"""Read at once from a file, and fetched at once from a store where less is asked for."""
WILD: Final = frozenset("*?[")


@dataclass(frozen=True, slots=True)
class File:
    """A file to be read.

    name: its path from the root, or its address. open: from its beginning, as often as one likes.
    content: what its content is known by, xxh3 of 128 bits, or in a store what that says.
    """

    name: str
    size_bytes: int
    open: Callable[[], BufferedReader]
    content: Callable[[], str]


def files_at(text: str) -> list[File]:
    """The files that a path, a folder, a glob or an address names, sorted by name.

    Of a folder all that lies below it, but for names that begin with a dot. Raises InputError where
    there is none.
    """
    path = Place.of(text).path
    try:
        files = _stored(text) if path is None else [_local(one) for one in sorted(_paths(path))]
    except (BaseError, OSError, ValueError) as error:
        raise InputError(f"{text}: {_first_line(error)}") from error
    if not files:
        raise InputError(f"{text}: no such file, nor a folder or a glob with a file in it")
    return files


def _is_wild(text: str) -> bool:
    return bool(WILD & set(text))


def _first_line(error: BaseException) -> str:
    """What a store says, without the debug output behind it."""
    return next(iter(str(error).splitlines()), type(error).__name__)


# -- on disk --------------------------------------------------------------------------------------


def _paths(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    elif path.is_dir():
        yield from (each for each in path.rglob("*") if each.is_file() and _shown(path, each))
    elif _is_wild(str(path)):
        below = path.relative_to(path.anchor)
        yield from (each for each in Path(path.anchor).glob(str(below)) if each.is_file())


def _shown(folder: Path, path: Path) -> bool:
    return not any(part.startswith(".") for part in path.relative_to(folder).parts)


def _local(path: Path) -> File:
    size_bytes = path.stat().st_size
    return File(str(path), size_bytes, lambda: path.open("rb"), lambda: _content(path))


def _content(path: Path) -> str:
    """What a file's content is known by. Raises InputError where it cannot be read."""
    try:
        return f"xxh3:{digest(path)}"
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error


def digest(path: Path) -> str:
    """32 hex digits of a file's content."""
    found = xxhash.xxh3_128()
    with path.open("rb") as file:
        while chunk := file.read(BUFFER_BYTES):
            found.update(chunk)
    return found.hexdigest()


# -- in an object store ---------------------------------------------------------------------------


def _stored(text: str) -> list[File]:
    """The objects at an address: the one of that name, else all below it."""
    address = urlsplit(text)
    root, path = f"{address.scheme}://{address.netloc}", unquote(address.path).strip("/")
    store = from_url(root, **REMOTE)
    if not _is_wild(path):
        try:
            return [_object(store, root, obstore.head(store, path))]
        except FileNotFoundError:
            pass
    parts = path.split("/") if path else []
    folder = list(takewhile(lambda part: not _is_wild(part), parts))
    found = (one for page in obstore.list(store, "/".join(folder) or None) for one in page)
    chosen = (one for one in found if _matches(one["path"].split("/"), folder, parts))
    return [_object(store, root, one) for one in sorted(chosen, key=lambda one: one["path"])]


def _matches(name: list[str], folder: list[str], parts: list[str]) -> bool:
    """Whether a name matches a glob; without a glob, whether it is shown in that folder."""
    if parts == folder:
        return not any(part.startswith(".") for part in name[len(folder) :])
    return len(name) == len(parts) and all(map(fnmatchcase, name, parts))


def _object(store: ObjectStore, root: str, meta: Any) -> File:
    path, size_bytes = meta["path"], meta["size"]
    known = meta["e_tag"] or meta["last_modified"].isoformat()
    return File(
        f"{without_credentials(root)}/{path}",
        size_bytes,
        lambda: BufferedReader(_ObjectReader(store, path)),
        lambda: f"store:{known}",
    )


class _ObjectReader(io.RawIOBase):
    """An object as a file: what is asked for is fetched, and some more."""

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
    """A store's own errors as those that a file raises."""
    try:
        yield
    except BaseError as error:
        raise OSError(_first_line(error)) from error
