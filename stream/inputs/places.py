"""Where the files of an input are: paths, folders, globs, and addresses of object stores.

Finds them and opens them, whatever they hold; what is in a store is read in ranges, and never
downloaded whole.
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
from stream.inputs.folders import HIDDEN, Folder, Keys, data_files, entries_of, keys_in
from stream.place import Place, without_credentials

BUFFER_BYTES: Final = 1024 * 1024
"""Read at once from a file, and fetched at once from a store where less is asked for."""
WILD: Final = frozenset("*?[")
STANDARD_INPUT: Final = "/dev/stdin"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class File:
    """A file to be read.

    name: its path from the root, or its address. open: from its beginning, as often as one likes.
    content: identifies its content: xxh3 of 128 bits, or in a store the ETag. keys: the
    columns in its folders' names.
    """

    name: str
    size_bytes: int
    open: Callable[[], BufferedReader]
    content: Callable[[], str]
    keys: Keys = field(default_factory=dict)


def files_at(text: str) -> list[File]:
    """The files that a path, a folder, a glob or an address names, sorted by name.

    Of a folder all data files below it, see `folders`; of a glob likewise, unless its pattern names
    hidden files. Raises InputError where there is none.
    """
    path = Place.of(text).path
    try:
        files = _stored(text) if path is None else [_local(one) for one in sorted(_paths(path))]
    except (BaseError, OSError, ValueError) as error:
        raise InputError(f"{text}: {_first_line(error)}") from error
    if not files:
        raise InputError(f"{text}: no such file, nor a folder or a glob with a file in it")
    return files


def is_pipe(text: str) -> bool:
    """Whether a path is read only once: "-" (standard input), a pipe or a device."""
    path = Place.of(text).path
    if text == "-" or path is None:
        return text == "-"
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode) or stat.S_ISSOCK(mode)


def spooled(text: str, opened: ExitStack) -> File:
    """A pipe as a file: read to its end, into a temporary file that `opened` removes. A replay reads
    its inputs more than once. Raises InputError."""
    name = STANDARD_INPUT if text == "-" else text
    copy = Path(opened.enter_context(TemporaryDirectory(prefix="eddy-"))) / "input"
    try:
        with Path(name).open("rb") as source, copy.open("wb") as target:
            shutil.copyfileobj(source, target, BUFFER_BYTES)
    except OSError as error:
        raise InputError(
            f"{name}: cannot be read into a temporary file, {copy}: {error.strerror}; a pipe can be "
            "read once, so it is kept there: expected room (TMPDIR), or a file"
        ) from error
    return replace(_local(copy), name=name, keys={})


def _is_wild(text: str) -> bool:
    return bool(WILD & set(text))


def _first_line(error: BaseException) -> str:
    """What a store says, without the debug output behind it."""
    return next(iter(str(error).splitlines()), type(error).__name__)


# -- on disk --------------------------------------------------------------------------------------


def _paths(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
        return
    root = path if path.is_dir() else Path(*_fixed(path.parts))
    pattern = [] if path.is_dir() else list(path.parts[len(root.parts) :])
    if pattern and not _is_wild(str(path)):
        return
    found = root.glob(str(Path(*pattern))) if pattern else root.rglob("*")
    files = [each for each in found if each.is_file()]
    below = [each.relative_to(root).parts for each in files]
    yield from _shown(
        files, below, pattern, lambda folder, name: root.joinpath(*folder, name).exists()
    )


def _fixed(parts: Sequence[str]) -> list[str]:
    """The parts of a path before the first that is a pattern."""
    return list(takewhile(lambda part: not _is_wild(part), parts))


def _shown(
    files: list[T],
    below: Sequence[Sequence[str]],
    pattern: Sequence[str],
    holds: Callable[[Folder, str], bool],
) -> list[T]:
    """The files that are data. below: the path of each from the folder. pattern: below that."""
    if any(part.startswith(HIDDEN) for part in pattern):
        return files
    return list(compress(files, data_files(below, holds)))


def _local(path: Path) -> File:
    size_bytes = path.stat().st_size
    keys = keys_in(path.parts)
    return File(str(path), size_bytes, lambda: path.open("rb"), lambda: _content(path), keys)


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
    folder = _fixed(parts)
    listed = [one for page in obstore.list(store, "/".join(folder) or None) for one in page]
    below = [one["path"].split("/")[len(folder) :] for one in listed]
    pattern = parts[len(folder) :]
    found = [one for one, name in zip(listed, below, strict=True) if _matches(name, pattern)]
    names = [name for name in below if _matches(name, pattern)]
    chosen = sorted(
        _shown(found, names, pattern, entries_of(below)), key=lambda one: str(one["path"])
    )
    return [_object(store, root, one) for one in chosen]


def _matches(name: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a name matches a glob, part by part; without a glob every name does."""
    return not pattern or (len(name) == len(pattern) and all(map(fnmatchcase, name, pattern)))


def _object(store: ObjectStore, root: str, meta: Any) -> File:
    path, size_bytes = meta["path"], meta["size"]
    known = meta["e_tag"] or meta["last_modified"].isoformat()
    return File(
        f"{without_credentials(root)}/{path}",
        size_bytes,
        lambda: BufferedReader(_ObjectReader(store, path)),
        lambda: f"store:{known}",
        keys_in(path.split("/")),
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
