"""The manifest of a run: all that its results follow from, and their hashes, so that it can be repeated
and compared. It holds no clock time and no secret: two runs of the same inputs have the same one.
"""

import platform
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Final, Literal, NamedTuple

import llvmlite.binding  # type: ignore[import-untyped]
import msgspec
import xxhash

import detectors
import schemas
import stream
from stream.config import Config, StateConfig, state_config, with_state_config
from stream.errors import InputError
from stream.inputs.files import file_digest
from stream.replay.time_split import TimeSplit

MANIFEST: Final = "manifest.json"
VERSION: Final = 3
LIBRARIES: Final = ("eddywatch", "numpy", "numba", "llvmlite", "pyarrow", "river", "orjson")


class ManifestFile(NamedTuple):
    """A file that was read. content_id: identifies the content, see `InputFile.content_id`."""

    name: str
    size_bytes: int
    content_id: str


class ManifestInput(NamedTuple):
    """One input. locations: paths and addresses; of a topic its offsets, by partition, in which case
    there are no files."""

    name: str
    locations: list[str]
    files: list[ManifestFile]


class Provenance(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that determines the results of a run.

    code: versions, a hash of Eddy's own sources, and the processor, by what each is of. group, mode:
    the configuration's, from which ids of alerts are built; the group also names internal topics.
    writes_features: whether features.parquet is written.
    """

    version: int = VERSION
    code: dict[str, str]
    group: str
    mode: Literal["live", "shadow"]
    config: StateConfig
    inputs: list[ManifestInput]
    labels: list[ManifestInput]
    split: TimeSplit
    writes_features: bool


class RunManifest(Provenance, frozen=True, kw_only=True):
    """The same, and the hash of each file that came of it, but of those that hold how long it
    took."""

    outputs: dict[str, str]


def provenance(
    config: Config,
    inputs: list[ManifestInput],
    labels: list[ManifestInput],
    split: TimeSplit,
    writes_features: bool,
) -> Provenance:
    """The provenance of a run that is about to begin."""
    return Provenance(
        code=dict(code()),
        group=config.group,
        mode=config.mode,
        config=state_config(config),
        inputs=inputs,
        labels=labels,
        split=split,
        writes_features=writes_features,
    )


def manifest(of: Provenance, outputs: Mapping[str, Path]) -> bytes:
    """The bytes of a manifest. outputs: files by their final names."""
    found = {name: file_digest(path) for name, path in outputs.items()}
    whole = RunManifest(**msgspec.structs.asdict(of), outputs=found)
    return msgspec.json.format(msgspec.json.encode(whole), indent=2) + b"\n"


def read(path: Path) -> RunManifest:
    """A manifest, or that of a run's folder. Raises InputError."""
    path = path / MANIFEST if path.is_dir() else path
    try:
        found = msgspec.json.decode(path.read_bytes(), type=RunManifest)
    except (OSError, msgspec.MsgspecError) as error:
        raise InputError(f"{path}: {error}; expected the manifest of a replay") from error
    if found.version != VERSION:
        raise InputError(f"{path}: is of version {found.version}; expected {VERSION}")
    return found


def rebuild_config(found: RunManifest, provided: Config | None) -> Config:
    """The configuration of a run. provided: the source of its secret and broker.

    Raises InputError where the secret is another one.
    """
    own = found.config
    base = provided or Config(inputs=own.inputs, monitors=own.monitors)
    config = with_state_config(
        msgspec.structs.replace(base, group=found.group, mode=found.mode), own
    )
    if state_config(config).secret != own.secret:
        raise InputError(
            "the run had another secret, which its manifest does not hold; expected CONFIG beside "
            "--rerun, with the secret that the run had"
        )
    return config


def input_differences(found: RunManifest, now: Provenance) -> list[str]:
    """Differences between the inputs now and those of the run."""
    pairs = zip([*found.inputs, *found.labels], [*now.inputs, *now.labels], strict=True)
    return [line for pair in pairs for line in _file_differences(*pair)]


def _file_differences(then: ManifestInput, now: ManifestInput) -> Iterator[str]:
    before, after = ({file.name: file for file in one.files} for one in (then, now))
    for name in sorted(before.keys() | after.keys()):
        if name not in after:
            yield f"{then.name}: {name} is missing"
        elif name not in before:
            yield f"{then.name}: {name} is new"
        elif before[name] != after[name]:
            was, now_is = before[name], after[name]
            yield (
                f"{then.name}: {name} has changed: {now_is.size_bytes} bytes, {now_is.content_id}; "
                f"expected {was.size_bytes} bytes, {was.content_id}"
            )


def code_differences(found: RunManifest) -> list[str]:
    """Differences between the code that runs now and that of the run."""
    now = code()
    return [
        f"{name} is {now.get(name, 'missing')}, was {found.code.get(name, 'missing')}"
        for name in sorted(now.keys() | found.code.keys())
        if now.get(name) != found.code.get(name)
    ]


def changed_outputs(found: RunManifest, again: RunManifest) -> list[str]:
    """The files whose bytes differ."""
    names = sorted(found.outputs.keys() | again.outputs.keys())
    return [name for name in names if found.outputs.get(name) != again.outputs.get(name)]


@cache
def code() -> Mapping[str, str]:
    """Versions of Eddy, of Python, the processor and the libraries."""
    groups = ("eddy.features", "eddy.detectors")
    own = [one for group in groups for one in entry_points(group=group)]
    return {
        "sources": _sources_digest(),
        "python": platform.python_version(),
        "processor": f"{platform.machine()} {llvmlite.binding.get_host_cpu_name()}",
        **{name: version(name) for name in LIBRARIES},
        **{one.dist.name: one.dist.version for one in own if one.dist is not None},
    }


def _sources_digest() -> str:
    found = xxhash.xxh3_128()
    for package in (schemas, detectors, stream):
        root = Path(package.__path__[0])
        for path in sorted(root.rglob("*.py")):
            found.update(f"{package.__name__}/{path.relative_to(root)}\0".encode())
            found.update(path.read_bytes())
    return found.hexdigest()
