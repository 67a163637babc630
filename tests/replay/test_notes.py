"""What a replay tells of odd inputs: on the terminal, in the summary and by its exit code."""

import tomllib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import orjson
import pytest
from typer.testing import CliRunner

from detectors.fusion.model_state import learning_status, new_learner
from stream.cli import app
from stream.config import load, parse
from stream.errors import InputError
from stream.replay import replay
from stream.replay.notes import ReplayNotes
from stream.replay.summary import Tally

ROOT = Path(__file__).resolve().parents[2]
CONFIG = """
group = "notes"

[inputs.pay]
topic = "pay"
type = "transaction"

[inputs.pay.fields]
event_id = "id"
time = "at"
card = "card"
amount = "amount"

[[monitors]]
name = "card"
entity = "card"
inputs = ["pay"]
features = [{ name = "amount", kind = "value", field = "amount" }]
detectors = [{ kind = "tail" }]
"""
START_MS = 1_767_225_600_000


def rows(**other: object) -> list[dict[str, object]]:
    """Payments of one card; other: what stands there instead, None to leave it out."""
    each = [{"id": f"e{i}", "at": START_MS + i, "card": "c", "amount": 1.0} for i in range(20)]
    return [{k: v for k, v in (one | other).items() if v is not None} for one in each]


def replay_output(tmp_path: Path, lines: Sequence[object], code: int = 0) -> str:
    """What `eddy replay` says of these rows, or of what is no row."""
    (tmp_path / "config.toml").write_text(CONFIG)
    written = [one if isinstance(one, bytes) else orjson.dumps(one) for one in lines]
    (tmp_path / "pay").write_bytes(b"\n".join(written))
    given = ["--input", f"pay={tmp_path / 'pay'}", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, ["replay", str(tmp_path / "config.toml"), *given])
    if code:
        assert isinstance(done.exception, InputError)
        assert done.exception.exit_code == code
        return f"{done.output}{done.exception.message}"
    assert done.exit_code == 0, done.output
    return done.output


def test_a_replay_without_oddities_has_no_note(tmp_path: Path) -> None:
    """How many alerts there were is said, and nothing else."""
    output = replay_output(tmp_path, rows())
    assert "0 alerts in 0 incidents" in output
    assert "note:" not in output
    assert "duplicates" not in output


def test_a_mapped_column_found_nowhere_is_noted(tmp_path: Path) -> None:
    """The field, its path and the monitor that scores nothing for want of it are named."""
    output = replay_output(tmp_path, rows(card=None, kard="c"))
    assert (
        "pay: no event has card, mapped from card; expected inputs.pay.fields.card to name"
        in output
    )
    assert "monitor card scored none of 20 events: no event has its entity, card" in output


def test_duplicates_and_late_events_are_counted_by_whom_they_concern(tmp_path: Path) -> None:
    """Left-out events are on the terminal, and lateness is said of each monitor by itself."""
    output = replay_output(tmp_path, [*rows(), *rows()[:3], {**rows()[0], "id": "late"}])
    assert "3 duplicates" in output
    assert "scored as late: 1 by card" in output


def test_records_of_which_none_is_an_event_are_an_error(tmp_path: Path) -> None:
    """With exit code 2, the commonest reason, an example and, for what is no JSON, the hint."""
    output = replay_output(tmp_path, [b"id,at,card", b"e1,5,c", *rows(at="soon")[:1]], code=2)
    assert "pay: 3 dead letters, 2 of them malformed, such as record 0: JSON is malformed" in output
    assert "a CSV must be named .csv" in output
    assert "none of 3 records became an event" in output


def test_values_with_a_registrys_prefix_are_explained(tmp_path: Path) -> None:
    """As in the log of a worker: the cause is a schema registry's prefix, and no CSV."""
    add_prefix = [b"\0\0\0\0\7" + orjson.dumps(row) for row in rows()]
    output = replay_output(tmp_path, add_prefix, code=2)
    assert "values written with a schema registry" in output
    assert "CSV" not in output


def test_repaired_fields_are_noted_and_their_events_counted(tmp_path: Path) -> None:
    """How many values were bad, of which field most and why, with an example; they are no dead
    letters, and every record is an event."""
    odd = [*rows(), *({**row, "id": f"n{i}", "amount": "x"} for i, row in enumerate(rows()[:3]))]
    output = replay_output(tmp_path, [*odd, {**rows()[0], "id": "long", "card": "c" * 300}])
    assert "24 events" in output
    assert (
        "pay: 4 bad values of fields, 3 of them amount/wrong_type, such as record 20: amount: "
        "expected a number, or one as decimal text; absent; their events are kept"
    ) in output.replace("\n", " ")
    assert "dead letters" not in output
    summary = orjson.loads((tmp_path / "out" / "summary.json").read_bytes())
    assert summary["dead_letters"] == 0
    assert summary["inputs"]["pay"]["field_repaired/amount/wrong_type"] == 3
    assert all(summary["adds_up"].values())
    lines = (tmp_path / "out" / "dead_letters.ndjson").read_bytes().splitlines()
    kept = [orjson.loads(line) for line in lines]
    assert [(one["eddy-field"], one["eddy-code"]) for one in kept] == [
        ("amount", "wrong_type"),
        ("card", "text_too_long"),
    ]
    assert {one["eddy-disposition"] for one in kept} == {"event_kept"}


def test_inputs_without_a_record_are_warned_of(tmp_path: Path) -> None:
    """An hour in which nothing happened is no error."""
    assert "warning: no event was read" in replay_output(tmp_path, [])


def test_seconds_taken_for_milliseconds_are_noted(tmp_path: Path) -> None:
    """Events of January 1970 are most often that."""
    output = replay_output(tmp_path, rows(at=START_MS // 1000))
    assert "the latest event is of 1970-01-21" in output
    assert 'unit = "s"' in output


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({"learning_frauds": 12, "learning_honest": 900}, "12 frauds and 900 honest events"),
        ({"learning_frauds": 60, "learning_honest": 900}, "no better than the harmonic mean"),
        ({"learning_active": 1}, "was in use at the end"),
    ],
)
def test_use_of_learning_is_noted(counts: dict[str, int], expected: str) -> None:
    """A note says whether assess used the learned model at the end and, if not, why."""
    notes = ReplayNotes(load(ROOT / "deploy" / "configs" / "sparkov-labels.toml"))
    [output] = notes.sentences(Tally(monitors={"assess": Counter(counts)}))
    assert expected in output
    assert not any(learning_status(new_learner(8, 2, [])).values())


def test_the_hint_under_an_input_error_fits_every_option() -> None:
    """It sends nobody to look at a path where the path is right."""
    assert "NAME=PATH" not in InputError.remedy


def test_words_for_no_value_and_numbers_for_ids_are_noted(tmp_path: Path) -> None:
    """Over one per cent of a text column, and ids that differ by .0 alone, as the file has them; not
    where the input declares its null values."""
    path = tmp_path / "shop.csv"
    ids = ["7", "7.0", "NA", "None", *(f"a{i}" for i in range(100))]
    lines = [f"e{i},{i * 1000},{one},{'NA' if i == 3 else 'x'}" for i, one in enumerate(ids)]
    path.write_text("\n".join(["id,t,who,note", *lines]))
    text = """
group = "t"
[inputs.shop]
topic = "shop"
type = "transaction"
fields = { event_id = "id", time = "t", account = "who", kind = "note" }
[[monitors]]
name = "account"
entity = "account"
inputs = ["shop"]
features = [{ name = "n", kind = "count", half_life = "1h" }]
"""

    def notes(text: str) -> list[str]:
        using = parse(tomllib.loads(text), {})
        found = replay(using, [("shop", path)], tmp_path / "out", lambda *_: None).notes
        return [note for note in found if "account" in note and "shop" in note]

    words, forms = notes(text)
    assert words.startswith("shop: 2 of 104 values of account are NA, None; ")
    assert forms.startswith("shop: 1 ids of account occur with and without .0")
    [forms] = notes(text.replace("fields", 'null_values = ["NA", "None"]\nfields'))
    assert "without .0" in forms
