"""The files of checkpoints, in a local folder or an object store: one folder a partition.

    GROUP/TOPIC/PARTITION/manifests/NAME.json
    GROUP/TOPIC/PARTITION/blocks/HASH

A state that a replay saves has a store of its own, in which GROUP/TOPIC is
state/(input|internal)-NAME. A block's name is the xxh3 hash (128 bits) of its uncompressed content,
which serves as its checksum, and because of which an unchanged block is never written twice.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, Protocol

import structlog
import xxhash
import zstandard
from obstore.exceptions import BaseError
from obstore.store import LocalStore, from_url

from stream.checkpoints.manifest import NAME, Manifest, decode, encode, offset_of
from stream.config.topology import Log
from stream.errors import CheckpointCorrupt, ConfigError, StoreFailure
from stream.location import Location

logger = structlog.stdlib.get_logger(__name__)

REMOTE: Final[dict[str, Any]] = {
    "client_options": {"timeout": "30s", "connect_timeout": "5s", "allow_http": True},
    "retry_config": {"max_retries": 6, "retry_timeout": timedelta(seconds=45)},
}
"""Every request is retried, with growing random pauses, before it fails. The endpoint's URL decides
whether TLS is used."""

CHECKPOINTS_KEPT: Final = 2
"""How many published checkpoints are kept: the last, and one to fall back to."""

ORPHAN_AGE: Final = timedelta(days=1)
"""A block without a manifest is removed at this age; a younger one may belong to a checkpoint that
another worker is writing."""

MANIFEST_BYTES_MAX: Final = 256 * 1024 * 1024
"""Enough for the block names of several terabytes."""

ZSTD_LEVEL: Final = 1
DELETE_BATCH: Final = 1_000


class ObjectStorage(Protocol):
    """What checkpoints need of an object store: these methods of `obstore.store.ObjectStore`.

    They raise FileNotFoundError where a path does not exist, and OSError or BaseError on failure.
    """

    def put(self, path: str, file: bytes, *, use_multipart: bool | None = None) -> Any:
        """Write an object."""

    def get(self, path: str) -> Any:
        """Read an object: `meta["size"]`, and its content by `bytes()`."""

    def list(self, prefix: str | None = None) -> Any:
        """Iterate over lists of the objects below a path: each with `path`, `last_modified`."""

    def list_with_delimiter(self, prefix: str) -> Any:
        """The folders directly below a path, as `common_prefixes`."""

    def delete(self, paths: Sequence[str]) -> Any:
        """Delete objects."""


def open_store(url: str, key: str = "checkpoints.url") -> ObjectStorage:
    """Open the store at a path, or at a URL such as s3://bucket/prefix.

    key: the configuration key or option that holds the URL, for errors. Raises ConfigError.
    """
    path = Location.of(url).path
    try:
        if path is not None:
            return LocalStore(path, mkdir=True)
        return from_url(url, **({} if url.startswith("memory://") else REMOTE))
    except (BaseError, OSError, ValueError) as error:
        expected = "a writable folder, or a URL such as s3://bucket/prefix"
        line = f'{key}: got "{url}"; expected {expected}: {_first_line(error)}'
        raise ConfigError([line]) from error


def saved_folder(objects: ObjectStorage, log: Log, partition: int) -> "Folder":
    """The folder of a log's partition in a store of saved states."""
    kind = "internal" if log.internal else "input"
    return Folder(objects, "state", f"{kind}-{log.name}", partition)


def topics_of(objects: ObjectStorage, group: str) -> list[str]:
    """The topics of which there are checkpoints of the group."""
    with _map_store_errors(f"listing {_path_element(group)}"):
        prefixes = objects.list_with_delimiter(_path_element(group))["common_prefixes"]
    return sorted(Path(prefix).name for prefix in prefixes)


class Folder:
    """The checkpoints of one partition. Methods raise StoreFailure if the store fails.

    stored_blocks: hashes of blocks that are known to be stored.
    """

    def __init__(self, objects: ObjectStorage, group: str, topic: str, partition: int) -> None:
        self._objects = objects
        self._topic_path = f"{_path_element(group)}/{_path_element(topic)}"
        self.path = f"{self._topic_path}/{partition}"
        self.stored_blocks: set[str] = set()

    # -- manifests --------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """The names of all checkpoints, newest first."""
        return sorted(self._manifests(self.path), reverse=True)

    def put_manifest(self, manifest: Manifest) -> str:
        """Write a manifest, after its blocks; return its name."""
        name, body = encode(manifest)
        self._put(f"manifests/{name}.json", body)
        self.stored_blocks = manifest.blocks()
        return name

    def manifest(self, name: str) -> Manifest:
        """Read and check a manifest. Raises CheckpointCorrupt and CheckpointIncompatible."""
        return self._manifest(f"{self.path}/manifests/{name}.json", name)

    def newest_of_topic(self) -> Manifest | None:
        """The newest manifest of all partitions of the topic; None where there is none."""
        paths = self._manifests(self._topic_path)
        if not paths:
            return None
        name = max(paths)
        return self._manifest(paths[name], name)

    def _manifests(self, path: str) -> dict[str, str]:
        """Name → path of all manifests under a path."""
        paths: dict[str, str] = {}
        with _map_store_errors(f"listing {path}"):
            for each in self._listed(path):
                name = Path(each["path"]).stem
                if "/manifests/" in each["path"] and NAME.fullmatch(name):
                    paths[name] = each["path"]
        return paths

    def _manifest(self, path: str, name: str) -> Manifest:
        body = self._get(path, MANIFEST_BYTES_MAX)
        if body is None:
            raise CheckpointCorrupt(f"checkpoint {name}: {path} is missing")
        return decode(name, body)

    # -- blocks -----------------------------------------------------------------------------------

    def put_block(self, digest: str, compressed: bytes) -> int:
        """Write a compressed block; return its size in bytes."""
        self._put(f"blocks/{digest}", compressed)
        return len(compressed)

    def block(self, digest: str, size_bytes: int) -> bytes:
        """Read, decompress and check a block. Raises CheckpointCorrupt."""
        path = f"{self.path}/blocks/{digest}"
        compressed = self._get(path, compressed_bytes_max(size_bytes))
        if compressed is None:
            raise CheckpointCorrupt(f"{path} is missing")
        try:
            # zstandard allocates the size that a frame declares: check it first.
            if zstandard.get_frame_parameters(compressed).content_size != size_bytes:
                raise CheckpointCorrupt(f"{path}: its frame does not declare {size_bytes} bytes")
            raw = zstandard.ZstdDecompressor().decompress(compressed)
        except zstandard.ZstdError as error:
            raise CheckpointCorrupt(f"{path}: {error}") from error
        if len(raw) != size_bytes or digest_of(raw) != digest:
            raise CheckpointCorrupt(f"{path}: its content has changed since it was written")
        return raw

    # -- collecting -------------------------------------------------------------------------------

    def collect(
        self, published: list[str], still_owned: Callable[[], bool], protected: Collection[str] = ()
    ) -> int:
        """Remove the checkpoints that later published ones replace; return how many blocks.

        published: their names, newest first. still_owned: asked before each deletion; if it returns
        False, nothing more is removed. protected: names that are never removed. Checkpoints at or
        after the offset of the oldest one to keep stay: they may belong to another worker, which owns
        the partition now.

        If a worker is suspended between that question and the deletion, and the next owner writes a
        block with the same content meanwhile, that block is deleted; the next load then finds it
        missing, and falls back. No lock of an object store could prevent that.
        """
        least = offset_of(published[:CHECKPOINTS_KEPT][-1])
        names = self._manifests(self.path)
        dropped = [name for name in names if offset_of(name) < least and name not in protected]
        used = set(self.stored_blocks)
        for name in sorted(names.keys() - set(dropped)):
            used |= self._blocks_of(name)
        to_delete = self._orphans()
        for name in dropped:
            to_delete |= self._blocks_of(name)
        to_delete -= used
        paths = [names[name] for name in dropped]
        paths += (f"{self.path}/blocks/{digest}" for digest in sorted(to_delete))
        self._delete(paths, still_owned)
        return len(to_delete)

    def _blocks_of(self, name: str) -> set[str]:
        """A manifest's blocks; empty if it cannot be read, since nobody can use them."""
        try:
            return self.manifest(name).blocks()
        except CheckpointCorrupt as error:
            logger.warning("a checkpoint cannot be read", error=error.message)
            return set()

    def _orphans(self) -> set[str]:
        """Blocks that are old by the store's clock, including those in use."""
        with _map_store_errors(f"listing {self.path}"):
            blocks = list(self._listed(f"{self.path}/blocks"))
            newest = max((each["last_modified"] for each in blocks), default=None)
            return {
                Path(each["path"]).name
                for each in blocks
                if newest is not None and newest - each["last_modified"] > ORPHAN_AGE
            }

    def _delete(self, paths: list[str], still_owned: Callable[[], bool]) -> None:
        for start in range(0, len(paths), DELETE_BATCH):
            if not still_owned():
                return
            removing = f"removing old blocks of {self.path}"
            # Another worker may have deleted them.
            with _map_store_errors(removing), suppress(FileNotFoundError):
                self._objects.delete(paths[start : start + DELETE_BATCH])

    # -- objects ----------------------------------------------------------------------------------

    def _put(self, path: str, body: bytes) -> None:
        with _map_store_errors(f"writing {self.path}/{path}"):
            self._objects.put(f"{self.path}/{path}", body, use_multipart=False)

    def _get(self, path: str, bytes_max: int) -> bytes | None:
        """An object's bytes, None where it is missing. Raises CheckpointCorrupt if it is larger."""
        with _map_store_errors(f"reading {path}"):
            try:
                stored = self._objects.get(path)
                if stored.meta["size"] > bytes_max:
                    size = stored.meta["size"]
                    raise CheckpointCorrupt(f"{path}: {size} bytes; expected at most {bytes_max}")
                return bytes(stored.bytes())
            except FileNotFoundError:
                return None

    def _listed(self, path: str) -> Iterator[Any]:
        for page in self._objects.list(path):
            yield from page


def digest_of(raw: Any) -> str:
    """32 hex digits: the name and checksum of a block's bytes."""
    return xxhash.xxh3_128_hexdigest(raw)


def compressed_bytes_max(size_bytes: int) -> int:
    """The largest compressed size of a block of so many bytes."""
    return size_bytes + size_bytes // 128 + 1024


def compress(raw: Any) -> bytes:
    """Compress a block as it is stored."""
    return zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(raw)


@contextmanager
def _map_store_errors(operation: str) -> Iterator[None]:
    """Translate the store's errors to StoreFailure, with their cause."""
    try:
        yield
    except (BaseError, OSError) as error:  # a missing object is handled where it is asked for
        raise StoreFailure(f"{operation}: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    """The store's message without its debug output: the first line, and an S3 error's code."""
    text = str(error)
    line = next(iter(text.splitlines()), type(error).__name__).partition("<?xml")[0].rstrip(": ")
    code = re.search(r"<Code>(\w+)</Code>", text)
    return f"{line}: {code[1]}" if code else line


def _path_element(name: str) -> str:
    """A name as one path element, whatever its characters; no two names give the same."""
    return re.sub(r"[^A-Za-z0-9._-]|^\.+$", _hex_bytes, name)


def _hex_bytes(match: re.Match[str]) -> str:
    return "".join(f"={byte:02x}" for byte in match[0].encode())


def each_block(rows: int, block_rows: int) -> Iterable[tuple[int, int]]:
    """(First row, row after the last) of each block of an array."""
    return ((start, min(start + block_rows, rows)) for start in range(0, rows, block_rows))
