"""A run can be run again from its manifest, with the same bytes, and says what keeps it from that."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from stream.cli import replay as cli_replay
from stream.errors import InputError
from stream.replay import TimeSplit, manifest, replay, rerun
from stream.replay.manifest import MANIFEST, RunManifest
from stream.replay.run_files import TIMING_FILES
from tests.replay.test_labels import config as labelled
from tests.replay.test_labels import label_table, payments, verdicts
from tests.replay.test_replay import CONFIG, config, events, ndjson, run


def bytes_in(folder: Path) -> dict[str, bytes]:
    """Every file of a run but for those that say how long it took."""
    return {
        each.name: each.read_bytes() for each in folder.iterdir() if each.name not in TIMING_FILES
    }


def repeated(of: Path, out: Path, secret: str | None = None) -> list[str]:
    """Run it again; the files that differ."""
    given = None if secret is None else config(f'secret = "{secret}"\n{CONFIG}')
    return rerun(manifest.read(of), given, out, lambda _records, _share: None).changed_files


def test_again_gives_the_same_bytes(tmp_path: Path) -> None:
    """Every file is the same, the manifest too, that of one file, a folder or several inputs."""
    for k, part in enumerate((events(1_200)[:600], events(1_200)[600:])):
        (tmp_path / "shop").mkdir(exist_ok=True)
        ndjson(tmp_path / "shop" / f"{k}", part)
    run([("shop", tmp_path / "shop")], tmp_path / "out")
    assert repeated(tmp_path / "out", tmp_path / "again") == []
    before, after = bytes_in(tmp_path / "out"), bytes_in(tmp_path / "again")
    assert before == after
    assert len(before["alerts.ndjson"].splitlines()) > 5
    found = manifest.read(tmp_path / "out" / MANIFEST)
    assert found.outputs.keys() == before.keys() - {MANIFEST}
    assert [Path(file.name).name for file in found.inputs[0].files] == ["0", "1"]


def test_again_resolves_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path, a folder and a glob mean the same files from elsewhere."""
    (tmp_path / "in").mkdir()
    ndjson(tmp_path / "in" / "shop", events(20))
    for name in ("in/shop", "in", "in/*", f"file://{tmp_path}/in"):
        monkeypatch.chdir(tmp_path)
        replay(config(), [("shop", name)], tmp_path / "out", lambda *_: None)
        monkeypatch.chdir("/")
        assert repeated(tmp_path / "out", tmp_path / "again") == []


@pytest.mark.parametrize(
    ("option", "given"),
    [
        ("--input", {"inputs": ["shop=x"]}),
        ("--labels", {"labels": ["x"]}),
        ("--warm-up", {"warm_up": "1d"}),
        ("--score-from", {"score_from": "2026-03-01"}),
        ("--score-until", {"score_until": "2026-03-01"}),
        ("--save-state", {"save_state": "x"}),
        ("--features", {"features": True}),
    ],
)
def test_options_recorded_in_the_manifest_cannot_be_overridden(
    tmp_path: Path, option: str, given: dict[str, Any]
) -> None:
    """An option that would make it another run is refused, not passed over."""
    with pytest.raises(InputError, match=f"expected no {option}$"):
        cli_replay.replay(rerun=tmp_path, **given)


def test_other_inputs_are_named_and_nothing_is_run(tmp_path: Path) -> None:
    """A file that changed, one that is new in its folder and one that is gone are all named."""
    folder = tmp_path / "shop"
    folder.mkdir()
    for k in range(2):
        ndjson(folder / f"{k}", events(20)[10 * k : 10 * k + 10])
    run([("shop", folder)], tmp_path / "out")
    (folder / "0").write_bytes((folder / "0").read_bytes() + b"\n")
    (folder / "1").rename(folder / "2")
    with pytest.raises(InputError) as caught:
        repeated(tmp_path / "out", tmp_path / "again")
    said = str(caught.value)
    for line in ("0 has changed", "1 is missing", "2 is new"):
        assert f"shop: {folder}/{line}" in said
    assert not (tmp_path / "again").exists()


def test_the_secret_is_never_written_and_must_be_given_again(tmp_path: Path) -> None:
    """Without the run's secret, or with another one, it is not run; with it, the bytes are the
    same."""
    shop = ndjson(tmp_path / "shop", events(300))
    out, secret = tmp_path / "out", "swordfish-1947"
    hidden = config(f'secret = "{secret}"\n{CONFIG}\n[kafka]\n"sasl.password" = "{secret}"\n')
    replay(hidden, [("shop", shop)], out, lambda _records, _share: None)
    assert secret.encode() not in (out / MANIFEST).read_bytes()
    for wrong in (None, "another"):
        with pytest.raises(InputError, match="another secret"):
            repeated(out, tmp_path / "again", wrong)
    assert repeated(out, tmp_path / "again", secret) == []


def test_other_code_and_other_results_are_named(tmp_path: Path) -> None:
    """A manifest of other sources, and one whose results were others, say which."""
    shop = ndjson(tmp_path / "shop", events(300))
    run([("shop", shop)], tmp_path / "out")
    found = manifest.read(tmp_path / "out")
    assert manifest.code_differences(found) == []
    other = msgspec.structs.replace(
        found,
        code=found.code | {"sources": "0", "numpy": "1.0"},
        outputs=found.outputs | {"scores.parquet": "0"},
    )
    assert [line.split(" ")[0] for line in manifest.code_differences(other)] == ["numpy", "sources"]
    (tmp_path / "other.json").write_bytes(msgspec.json.encode(other))
    assert repeated(tmp_path / "other.json", tmp_path / "again") == ["scores.parquet"]


@pytest.mark.parametrize("content", [b"{}", b"junk", b""])
def test_an_invalid_manifest_is_named(tmp_path: Path, content: bytes) -> None:
    """A file of another kind is an input error."""
    (tmp_path / "m").write_bytes(content)
    with pytest.raises(InputError, match="expected the manifest of a replay"):
        manifest.read(tmp_path / "m")


def test_a_manifest_is_the_same_at_any_time(tmp_path: Path) -> None:
    """It decodes to what it was, and holds no clock."""
    shop = ndjson(tmp_path / "shop", events(20))
    run([("shop", shop)], tmp_path / "one")
    run([("shop", shop)], tmp_path / "two")
    one, two = ((tmp_path / name / MANIFEST).read_bytes() for name in ("one", "two"))
    assert one == two
    assert isinstance(msgspec.json.decode(one, type=RunManifest), RunManifest)


def test_labels_and_time_split_belong_to_the_run(tmp_path: Path) -> None:
    """Run again, it is judged in the same span and learns from the same labels; a label file that
    changed is named as an input is."""
    rows = payments()
    shop = ndjson(tmp_path / "shop", rows)
    labels = label_table(tmp_path / "labels", verdicts(rows))
    given, out = [("verdicts", labels)], tmp_path / "out"
    inputs = [("shop", shop)]
    replay(labelled(), inputs, out, lambda *_: None, given, TimeSplit(warm_up_s=3_600.0))
    assert repeated(out, tmp_path / "again") == []
    assert bytes_in(out) == bytes_in(tmp_path / "again")
    label_table(tmp_path / "labels", verdicts(rows)[1:])
    with pytest.raises(InputError, match="labels has changed"):
        repeated(out, tmp_path / "again")
