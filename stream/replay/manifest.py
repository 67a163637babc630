"""The manifest of a run: everything that determines the results, and the hashes of its files, so that the
run can be repeated and compared. It holds no clock time and no secret: two runs of the same inputs have
the same manifest.
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
    """One input. locations: paths and addresses; for a topic, with the offsets of each partition. files:
    empty for a topic."""

    name: str
    locations: list[str]
    files: list[ManifestFile]


class Provenance(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that determines the results of a run.

    code: name → version, with a hash of Eddy's sources and the processor. group, mode: of the
    configuration; alert ids contain them, and the group also names internal topics.
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
    """The provenance, and the hash of each file of the run except those that hold run times."""

    outputs: dict[str, str]


def provenance(
    config: Config,
    inputs: list[ManifestInput],
    labels: list[ManifestInput],
    split: TimeSplit,
    writes_features: bool,
) -> Provenance:
    """The provenance of a run, before it begins."""
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


def encode_manifest(provenance: Provenance, outputs: Mapping[str, Path]) -> bytes:
    """The bytes of a manifest. outputs: files by their final names."""
    hashes = {name: file_digest(path) for name, path in outputs.items()}
    manifest = RunManifest(**msgspec.structs.asdict(provenance), outputs=hashes)
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def read(path: Path) -> RunManifest:
    """Read a manifest. path: of the file or of the run's folder. Raises InputError."""
    path = path / MANIFEST if path.is_dir() else path
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=RunManifest)
    except (OSError, msgspec.MsgspecError) as error:
        raise InputError(f"{path}: {error}; expected the manifest of a replay") from error
    if manifest.version != VERSION:
        raise InputError(f"{path}: is of version {manifest.version}; expected {VERSION}")
    return manifest


def rebuild_config(recorded: RunManifest, provided: Config | None) -> Config:
    """The configuration of a recorded run. provided: holds its secret and brokers.

    Raises InputError if the provided secret differs from the run's.
    """
    settings = recorded.config
    base = provided or Config(inputs=settings.inputs, monitors=settings.monitors)
    config = with_state_config(
        msgspec.structs.replace(base, group=recorded.group, mode=recorded.mode), settings
    )
    if state_config(config).secret != settings.secret:
        raise InputError(
            "the run had another secret, which its manifest does not hold; expected CONFIG with the "
            "secret of the run, in addition to --rerun"
        )
    return config


def input_differences(recorded: RunManifest, current: Provenance) -> list[str]:
    """Differences between the recorded and the current inputs, a line each."""
    pairs = zip(
        [*recorded.inputs, *recorded.labels], [*current.inputs, *current.labels], strict=True
    )
    return [line for pair in pairs for line in _file_differences(*pair)]


def _file_differences(recorded: ManifestInput, current: ManifestInput) -> Iterator[str]:
    before, after = ({file.name: file for file in each.files} for each in (recorded, current))
    for name in sorted(before.keys() | after.keys()):
        if name not in after:
            yield f"{recorded.name}: {name} is missing"
        elif name not in before:
            yield f"{recorded.name}: {name} is new"
        elif before[name] != after[name]:
            old, new = before[name], after[name]
            yield (
                f"{recorded.name}: {name} has changed: {new.size_bytes} bytes, {new.content_id}; "
                f"expected {old.size_bytes} bytes, {old.content_id}"
            )


def code_differences(recorded: RunManifest) -> list[str]:
    """Differences between the recorded and the current code, a line each."""
    current = code()
    return [
        f"{name} is {current.get(name, 'missing')}, was {recorded.code.get(name, 'missing')}"
        for name in sorted(current.keys() | recorded.code.keys())
        if current.get(name) != recorded.code.get(name)
    ]


def changed_outputs(recorded: RunManifest, repeated: RunManifest) -> list[str]:
    """The names of the files whose bytes differ."""
    names = sorted(recorded.outputs.keys() | repeated.outputs.keys())
    return [name for name in names if recorded.outputs.get(name) != repeated.outputs.get(name)]


@cache
def code() -> Mapping[str, str]:
    """Name → version: Eddy's sources, Python, the processor, libraries and plug-ins."""
    groups = ("eddy.features", "eddy.detectors")
    plugins = [plugin for group in groups for plugin in entry_points(group=group)]
    return {
        "sources": _sources_digest(),
        "python": platform.python_version(),
        "processor": f"{platform.machine()} {llvmlite.binding.get_host_cpu_name()}",
        **{name: version(name) for name in LIBRARIES},
        **{plugin.dist.name: plugin.dist.version for plugin in plugins if plugin.dist is not None},
    }


def _sources_digest() -> str:
    digest = xxhash.xxh3_128()
    for package in (schemas, detectors, stream):
        root = Path(package.__path__[0])
        for path in sorted(root.rglob("*.py")):
            digest.update(f"{package.__name__}/{path.relative_to(root)}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()
