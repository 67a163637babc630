"""A codec of another package: named in a configuration with its options, it decodes files of its own
format in a replay, and the laws of codecs run over it."""

from pathlib import Path

import orjson
import pytest

from tests.packages import install, python

CODEC = '''
"""Acme's records: lines of KEY=VALUE; in files, a blank line ends a record."""

from collections.abc import Iterable, Iterator
from typing import Annotated

import numpy as np
import pyarrow as pa
from msgspec import Meta

from schemas.codecs.decoded import DecodedColumns, RawColumns, assemble
from schemas.codecs.interface import CodecSpec, FileFormat, SchemaSource
from schemas.codecs.values import number_column
from schemas.dead_letters import Fault
from schemas.mapping import Mapping, Path
from schemas.records import Records


class PairsSpec(CodecSpec, frozen=True, kw_only=True, tag="pairs"):
    """Lines of KEY=VALUE. separator: the character between a key and its value."""

    separator: Annotated[str, Meta(min_length=1, max_length=1)] = "="

    def build(self, mapping: Mapping, schemas: SchemaSource) -> "PairsCodec":
        return PairsCodec(mapping, self.separator)

    def problems(self) -> list[str]:
        if self.separator.isspace():
            return ["separator: got a space; expected a character that no key holds"]
        return []

    def file_formats(self) -> tuple[FileFormat, ...]:
        return (FileFormat((".pairs",), b"", split_at_blank_lines),)

    def examples(self) -> list[bytes]:
        pairs = {"event_id": "e1", "time": "1772409600000", "type": "transaction", "amount": "7"}
        return ["\\n".join(self.separator.join(pair) for pair in pairs.items()).encode()]


def split_at_blank_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for chunk in chunks:
        *records, rest = (rest + chunk).split(b"\\n\\n")
        yield from records
    if rest.strip():
        yield rest


class PairsCodec:
    def __init__(self, mapping: Mapping, separator: str) -> None:
        self.mapping = mapping
        self.separator = separator

    def decode(self, records: Records) -> DecodedColumns:
        parsed: list[dict[str, str]] = []
        faults: list[Fault] = []
        for row, payload in enumerate(records.values):
            lines = payload.decode("utf-8", "replace").splitlines()
            pairs = [line.partition(self.separator) for line in lines if line]
            if pairs and all(key and separator for key, separator, _ in pairs):
                parsed.append({key: value for key, _, value in pairs})
            else:
                faults.append(Fault(row, "malformed", "pairs: expected lines of KEY=VALUE"))
        rows = np.delete(np.arange(len(records)), [fault.row for fault in faults])
        return assemble(self.mapping, PairColumns(parsed), records, rows, faults)


class PairColumns(RawColumns):
    def __init__(self, parsed: list[dict[str, str]]) -> None:
        super().__init__(len(parsed))
        self.parsed = parsed

    def text(self, path: Path) -> pa.StringArray:
        return pa.array([pairs.get(".".join(path)) for pairs in self.parsed], pa.string())

    def number(self, path: Path) -> pa.DoubleArray:
        column, wrong = number_column(self.text(path).to_pylist())
        self.note(path, "wrong_type", wrong)
        return column
'''
ENTRY_POINTS = "[eddy.codecs]\npairs = acme_pairs.codec:PairsSpec\n"
CONFIG = """
[inputs.shop]
topic = "shop"
type = "transaction"
codec = {codec}

[[monitors]]
name = "account"
entity = "account"
inputs = ["shop"]
features = [{{ name = "events_1h", kind = "count", half_life = "1h" }}]
"""
EVENTS = 40


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of installed packages with the codec's package in it."""
    folder = tmp_path_factory.mktemp("site")
    install(folder, "acme_pairs", {"codec": CODEC}, ENTRY_POINTS)
    return folder


def config(folder: Path, codec: str) -> Path:
    """A configuration that names the codec."""
    path = folder / "acme.toml"
    path.write_text(CONFIG.format(codec=codec))
    return path


def errors(site: Path | None, path: Path) -> str:
    """The problems that `eddy config check` finds."""
    done = python(site, "-m", "stream.cli", "config", "check", str(path))
    assert done.returncode == 2, done.stdout
    return " ".join((done.stdout + done.stderr).split())


@pytest.mark.slow
def test_a_packages_codec_decodes_files_of_its_own_format(site: Path, tmp_path: Path) -> None:
    """A replay of a .pairs file scores every record, with the option applied, and the codec words
    the dead letter of the one that it cannot decode."""
    log, out = tmp_path / "log.pairs", tmp_path / "out"
    records = [
        f"event_id:e{k}\ntime:{1_772_409_600_000 + 60_000 * k}\naccount:a\n" for k in range(EVENTS)
    ]
    log.write_text("\n".join([*records, "no pair\n"]))
    arguments = (
        *("replay", str(config(tmp_path, '{ name = "pairs", separator = ":" }'))),
        *("--input", f"shop={log}", "--out", str(out)),
    )
    done = python(site, "-m", "stream.cli", *arguments)
    assert done.returncode == 0, done.stderr
    summary = orjson.loads((out / "summary.json").read_bytes())
    assert summary["monitors"]["account"]["scored"] == EVENTS
    (letter,) = (out / "dead_letters.ndjson").read_bytes().splitlines()
    fields = orjson.loads(letter)
    assert fields["eddy-message"] == "pairs: expected lines of KEY=VALUE"
    assert fields["eddy-offset"] == str(EVENTS)


@pytest.mark.slow
def test_the_laws_of_codecs_include_a_packages_codec(site: Path) -> None:
    """Every law is run over the codec, and holds."""
    done = python(site, "-m", "pytest", "tests/laws/test_codecs.py", "-k", "pairs", "-v")
    assert done.returncode == 0, done.stdout
    for law in ("examples_are_decoded", "batch_cuts_do_not_matter", "hostile_bytes_are_faults"):
        assert f"test_{law}[pairs] PASSED" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("codec", "problem"),
    [
        ('{ name = "pairs", separator = "::" }', 'inputs.shop.codec.separator: got "::"'),
        ('{ name = "pairs", separator = " " }', "inputs.shop.codec.separator: got a space"),
        ('{ name = "pairs", seperator = ":" }', "seperator: unknown key; nearest: separator"),
    ],
)
def test_options_of_a_codec_are_checked(
    site: Path, tmp_path: Path, codec: str, problem: str
) -> None:
    """A wrong option is named with its key and what the codec expects."""
    assert problem in errors(site, config(tmp_path, codec))


def test_a_codec_that_is_not_installed_is_named(tmp_path: Path) -> None:
    """The error names the unknown codec and those that there are."""
    found = errors(None, config(tmp_path, '"pairs"'))
    assert 'inputs.shop.codec: got "pairs"; expected one of access_log, json' in found
