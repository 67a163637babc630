"""The format of checkpoints: the manifest, its name, and the pointer in a committed offset.

A manifest holds everything needed to continue from a state: the position, the configuration under
which the state was learned, and each array's blocks by their hashes.
"""

import math
import re
from collections.abc import Iterator
from typing import Annotated, Any, Final, NamedTuple

import msgspec
import numpy as np
import xxhash
from msgspec import Meta

from stream.config.topology import Log
from stream.errors import CheckpointCorrupt, CheckpointIncompatible

FORMAT: Final = 2
"""Incremented when the meaning of a manifest or of a block's bytes changes."""

SUPERSEDED_MAX: Final = 64
"""How many fingerprints of a group's earlier configurations are kept."""


NAME: Final = re.compile(r"\d{19}-[0-9a-f]{16}")
BLOCK_BYTES_MAX: Final = 64 * 1024 * 1024
"""The largest block of more than one row."""

Offset = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Fingerprint = Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]
Digest = Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]
CheckpointName = Annotated[str, Meta(pattern=f"^{NAME.pattern}$")]


class StoredArray(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An array: its rows in blocks of `block_rows`, the blocks by their hashes, in order. dtype: as
    numpy writes it."""

    name: Annotated[str, Meta(min_length=1)]
    dtype: Annotated[str, Meta(pattern="^[<|][biuf][1248]$")]
    shape: Annotated[list[Offset], Meta(min_length=1, max_length=16)]
    block_rows: Annotated[int, Meta(ge=1, le=2**63 - 1)]
    blocks: list[Digest]

    def problem(self) -> str:
        """A contradiction in its fields, "" where there is none. Python's integers do not overflow."""
        try:
            row_bytes = np.dtype(self.dtype).itemsize * math.prod(self.shape[1:])
        except TypeError:
            return f"its dtype is {self.dtype}"
        if self.block_rows > 1 and self.block_rows * row_bytes > BLOCK_BYTES_MAX:
            return f"a block of {self.block_rows} rows of {row_bytes} bytes"
        if len(self.blocks) != (expected := -(-self.shape[0] // self.block_rows)):
            return f"{len(self.blocks)} blocks; expected {expected}"
        return ""


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A checkpoint of one partition's state.

    state_config: the settings under which the state was learned; the secret only as a keyed hash.
    superseded: fingerprints of the group's earlier configurations, oldest first. log: as configured
    then. first_offset: the first record that the state includes, None for a migrated or saved
    state, which the log alone cannot rebuild. offset: the next record to process. created_at: ISO
    8601. resumed_from: the offset at which a saved state was continued. until_ms: for a state saved
    from files, whose offset is 0, the time of the last event; None where there was none. dropped:
    checkpoints whose state was dropped on purpose; they are never removed.
    """

    format: int = FORMAT
    state_version: int
    fingerprint: Fingerprint
    state_config: dict[str, Any]
    superseded: list[Fingerprint]
    log: Log
    partition: Offset
    first_offset: Offset | None
    offset: Offset
    created_at: str
    resumed_from: Offset | None = None
    until_ms: int | None = None
    dropped: list[CheckpointName] = []
    arrays: list[StoredArray] = []

    def blocks(self) -> set[str]:
        """The hashes of all its blocks."""
        return {block for array in self.arrays for block in array.blocks}

    def has_state(self) -> bool:
        """Whether its state includes a record, so that an offset was committed for it."""
        first = self.first_offset if self.resumed_from is None else self.resumed_from
        return first is None or self.offset > first


class _Format(msgspec.Struct):
    format: int


def encode(manifest: Manifest) -> tuple[str, bytes]:
    """Name and bytes. Names sort by offset; their second half is a hash of the bytes."""
    body = msgspec.json.encode(manifest)
    return f"{manifest.offset:019d}-{xxhash.xxh3_64_hexdigest(body)}", body


def decode(name: str, body: bytes) -> Manifest:
    """The manifest of that name. Raises CheckpointCorrupt and CheckpointIncompatible."""
    if name.partition("-")[2] != xxhash.xxh3_64_hexdigest(body):
        raise CheckpointCorrupt(f"checkpoint {name}: the manifest has changed since it was written")
    try:
        written = msgspec.json.decode(body, type=_Format).format
        if written != FORMAT:
            raise CheckpointIncompatible(
                f"checkpoint {name}: format {written}; this version reads format {FORMAT}"
            )
        manifest = msgspec.json.decode(body, type=Manifest)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise CheckpointCorrupt(f"checkpoint {name}: {error}") from error
    for problem in _contradictions(name, manifest):
        raise CheckpointCorrupt(f"checkpoint {name}: {problem}")
    return manifest


def _contradictions(name: str, manifest: Manifest) -> Iterator[str]:
    """Contradictions in a manifest. A matching hash does not show who wrote it, so its sizes are checked
    before memory is allocated."""
    if offset_of(name) != manifest.offset:
        yield f"its manifest is of offset {manifest.offset}"
    names = [array.name for array in manifest.arrays]
    if len(set(names)) != len(names):
        yield "two arrays have the same name"
    yield from (
        f"array {array.name}: {problem}"
        for array in manifest.arrays
        if (problem := array.problem())
    )


def offset_of(name: str) -> int:
    """The offset in a checkpoint's name."""
    return int(name.partition("-")[0])


_POINTER: Final = re.compile(
    rf"eddy2 from=(\d+|-) config=([0-9a-f]{{32}}) checkpoint=({NAME.pattern})"
)


class Pointer(NamedTuple):
    """The metadata of a committed offset: the checkpoint from which its state can be rebuilt.

    first_offset: as in the manifest. fingerprint: the configuration's.
    """

    first_offset: int | None
    fingerprint: str
    checkpoint: str


def commit_metadata(pointer: Pointer) -> str:
    """The metadata to commit: about 115 bytes; brokers accept 4,096."""
    first = "-" if pointer.first_offset is None else pointer.first_offset
    return f"eddy2 from={first} config={pointer.fingerprint} checkpoint={pointer.checkpoint}"


def parse_pointer(text: str) -> Pointer | None:
    """The pointer in an offset's metadata; None where Eddy did not write it."""
    match = _POINTER.fullmatch(text)
    if match is None:
        return None
    return Pointer(None if match[1] == "-" else int(match[1]), match[2], match[3])
