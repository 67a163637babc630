"""The command line as a user meets it: help, messages, exit codes, and what a command leaves."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import orjson
import pytest

from stream.cli import app, refuse_renamed_options
from stream.config import fingerprint, load
from stream.errors import InputError
from stream.replay.inputs import with_label_input
from stream.simulator import shop_config

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.slow  # each test starts a process


def eddy(*arguments: str, code: int = 0) -> str:
    """What the command said; fails unless it ends with that exit code."""
    done = subprocess.run(
        [sys.executable, "-m", "stream.cli", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_help_is_quick() -> None:
    """Nothing heavy is imported before a command needs it."""
    heavy = "{'numba', 'pyarrow', 'river', 'confluent_kafka', 'plotly'}"
    code = f"import sys, stream.cli; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
    said = eddy("--help")
    for command in ("run", "replay", "compare", "demo", "simulate", "config", "topics", "version"):
        assert command in said


def test_every_command_shows_an_example() -> None:
    """Each command's help ends with a line that can be copied."""
    groups = [(app, "eddy")] + [
        (group.typer_instance, f"eddy {group.name}")
        for group in app.registered_groups
        if group.typer_instance is not None
    ]
    commands = [(one, name) for group, name in groups for one in group.registered_commands]
    assert len(commands) > 5
    for command, group_name in commands:
        assert command.callback is not None
        text = command.callback.__doc__ or ""
        name = command.name or command.callback.__name__
        assert "Example: " in text
        assert f"{group_name} {name}" in text


def test_config_check_names_every_mistake_at_once(tmp_path: Path) -> None:
    """Each mistake is a line with its path; the exit code is 2, and there is no traceback."""
    path = tmp_path / "wrong.toml"
    text = shop_config().read_text()
    path.write_text(
        text.replace('group = "eddy-shop"', 'gruop = "eddy-shop"').replace(
            "capacity = 50_000", "capacity = -1"
        )
    )
    said = eddy("config", "check", str(path), code=2)
    assert "gruop" in said
    assert said.count("capacity") >= 3
    assert "Correct each line listed" in said
    assert "Traceback" not in said


def test_config_check_shows_the_read_path_of_each_monitor(tmp_path: Path) -> None:
    """A right configuration: one line a monitor, with the internal topic if any, and the reason."""
    said = eddy("config", "check", str(shop_config()))
    assert "monitor card: direct: its topic has one partition" in said
    path = tmp_path / "wide.toml"
    path.write_text(shop_config().read_text().replace("partitions = 1", "partitions = 4"))
    said = eddy("config", "check", str(path))
    assert (
        "monitor card: over the internal topic eddy-shop-card-events with 4 partitions: it watches "
        "card, but shop has 4 partitions, without keyed_by"
    ) in said


def test_config_diff_shows_the_kept_state(tmp_path: Path) -> None:
    """Of each monitor whether it keeps its state, and of each that does not why; a policy may
    change."""
    text = shop_config().read_text()
    path = tmp_path / "new.toml"
    path.write_text(text + "\n# a remark\n")
    said = eddy("config", "diff", str(shop_config()), str(path))
    assert "all state is kept" in said
    at = text.index('entity = "card"')
    text = text[:at] + text[at:].replace("capacity = ", "capacity = 1", 1)
    text = text.replace("p_max = ", "p_max = 0.00", 1)
    path.write_text(text.replace("partitions = 1", "partitions = 4"))
    said = eddy("config", "diff", str(shop_config()), str(path), code=4)
    assert "inputs.shop: 4 partitions instead of 1: the worker will refuse to start" in said
    assert "eddy replay CONFIG" in said
    assert "--drop-state" not in said
    path.write_text(text)
    said = eddy("config", "diff", str(shop_config()), str(path), code=4)
    assert "monitor account: keeps its state" in said
    assert "monitor card: drops its state: its capacity changed" in said
    argument = f"  --drop-state card@{fingerprint(load(shop_config()))}\n"
    assert said.endswith(f"refuse to start without these arguments:\n{argument}")
    assert "partitions" not in said


def test_config_diff_names_missing_and_dropped_state(tmp_path: Path) -> None:
    """Another group begins with nothing, or with a saved state; checkpoints that are elsewhere are
    not found. A policy alone costs nothing, another secret everything."""
    text, path = shop_config().read_text(), tmp_path / "new.toml"

    def diff(changed: str, code: int) -> str:
        path.write_text(changed)
        return eddy("config", "diff", str(shop_config()), str(path), code=code)

    group = text.replace('group = "eddy-shop"', 'group = "eddy-new"')
    output = diff(group, 4)
    assert "group: eddy-new instead of eddy-shop: no state is kept" in output
    assert "begins with empty state, at the start of its topics" in output
    begun = re.sub(r"(?m)^url = .*", 'url = "x"\nstart_from = "saved"', group)
    assert "begins with the state saved in saved" in diff(begun, 0)
    output = diff(re.sub(r"(?m)^url = .*", 'url = "elsewhere"', text), 4)
    assert "checkpoints.url: elsewhere instead of" in output
    output = diff(re.sub(r"(?m)^url = .*", 'url = "s3://user:swordfish@bucket"', text), 4)
    assert "checkpoints.url: s3://(hidden)@bucket instead of" in output
    assert "monitor card: keeps its state" in diff(text.replace("p_max = ", "p_max = 0.00", 1), 0)
    output = diff(re.sub(r"(?m)^secret = .*", 'secret = "another of sixteen bytes"', text), 4)
    assert output.count("drops its state: the secret changed") == 4
    assert output.count("--drop-state") == 1
    assert "--drop-state all@" in output


def test_a_live_worker_refuses_a_weak_secret_and_other_commands_warn(tmp_path: Path) -> None:
    """`eddy run` in live mode ends with exit 2 before anything is reached, alone and supervised;
    the check and a replay say why and go on."""
    path = tmp_path / "weak.toml"
    path.write_text(re.sub(r"(?m)^secret = .*", 'secret = "hunter2"', shop_config().read_text()))
    weak = "secret: got one that is shorter; expected at least 16 random bytes"
    for options in ([], ["--processes", "2"]):
        output = eddy("run", str(path), *options, code=2)
        assert weak in output
    assert weak in eddy("config", "check", str(path))
    events = tmp_path / "shop.ndjson"
    eddy("simulate", str(path), "--to", str(events), "--events", "50")
    out = ("--input", f"shop={events}", "--out", str(tmp_path / "out"))
    output = eddy("replay", str(path), *out)
    assert f"warning: {path}: {weak}" in output
    assert "hunter2" not in output


def test_a_kafka_property_that_eddy_sets_itself_is_a_mistake(tmp_path: Path) -> None:
    """The check finds it without a broker, and says why it may not be set."""
    path = tmp_path / "owned.toml"
    text = shop_config().read_text()
    path.write_text(text.replace("[kafka]", '[kafka]\n"enable.auto.commit" = true'))
    said = eddy("config", "check", str(path), code=2)
    assert "kafka.enable.auto.commit: may not be set: offsets are committed" in said


def test_a_property_unknown_to_the_client_is_a_mistake(tmp_path: Path) -> None:
    """The check asks Kafka's client and the object store without connecting, and names both."""
    path = tmp_path / "unknown.toml"
    text = shop_config().read_text()
    text = re.sub(r'^url = ".*"', 'url = "htp://x/y"', text, flags=re.MULTILINE)
    path.write_text(text.replace("[kafka]", '[kafka]\n"sasl.pasword" = "x"'))
    said = eddy("config", "check", str(path), code=2)
    assert 'checkpoints.url: got "htp://x/y"; expected a writable folder' in said
    assert 'kafka: No such configuration property: "sasl.pasword"' in said


def test_the_same_seed_gives_the_same_simulated_file(tmp_path: Path) -> None:
    """Same seed, same bytes; malformed records come on top."""
    for name, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        to = ["--to", str(tmp_path / name), "--events", "500", "--seed", seed]
        eddy("simulate", str(shop_config()), *to, "--malformed", "0.05")
    one, same, other = ((tmp_path / name).read_bytes() for name in "abc")
    assert one == same != other
    assert len(one.splitlines()) > 500


def test_simulate_keeps_the_rate(tmp_path: Path) -> None:
    """A rate makes the stream take its time."""
    started = time.perf_counter()
    to = ["--to", str(tmp_path / "slow"), "--events", "100", "--rate", "100"]
    eddy("simulate", str(shop_config()), *to)
    assert time.perf_counter() - started > 0.95


def test_replay_with_labels_a_time_split_and_a_saved_state(tmp_path: Path) -> None:
    """What became of the labels, what is judged and where the state lies is said; a second replay
    does not save over it."""
    made = tmp_path / "labelled.toml"
    labels = """
[inputs.labels]
topic = "labels"
type = "label"
[inputs.labels.fields]
event_id = { position = true }
time = "known"
labelled_event_id = "of"
verdict = "is"
account = "account"
"""
    made.write_text(shop_config().read_text() + labels)
    events = tmp_path / "events"
    eddy(
        "simulate", str(shop_config()), "--events", "2000", "--malformed", "0", "--to", str(events)
    )
    rows = [orjson.loads(line) for line in events.read_bytes().splitlines()]
    known = [{"of": one["event_id"], "known": one["time"], "is": "honest"} for one in rows[:50]]
    known.append({"of": "nowhere", "known": rows[0]["time"], "is": "fraud"})
    (tmp_path / "labels").write_bytes(b"\n".join(map(orjson.dumps, known)))
    arguments = [
        *("replay", str(made), "--input", f"shop={events}", "--labels", str(tmp_path / "labels")),
        *("--warm-up", "10min", "--out", str(tmp_path / "out")),
        *("--save-state", str(tmp_path / "state")),
    ]
    said = eddy(*arguments)
    assert "51 labels, 50 joined to their events, 1 of events that were not read" in said
    assert re.search(
        r"evaluated: [1-9][\d,]* events from 20\S+Z, \d+ alerts in \d+ incidents; all others", said
    )
    assert f'checkpoints.start_from = "{tmp_path / "state"}"' in said
    assert "expected an empty store" in eddy(*arguments, code=2)
    # with an input of labels that was only added for them, live would refuse the state
    arguments[1], arguments[-1] = str(shop_config()), str(tmp_path / "other")
    assert "has no label input" in " ".join(eddy(*arguments, code=2).split())


def test_simulate_then_replay(tmp_path: Path) -> None:
    """What the simulator writes, replay reads: every event has a score, all counts add up."""
    to, out = tmp_path / "shop.ndjson", tmp_path / "out"
    eddy("simulate", str(shop_config()), "--to", str(to), "--events", "1000")
    said = eddy("replay", str(shop_config()), "--input", f"shop={to}", "--out", str(out))
    assert "1,000 events" in said
    summary = orjson.loads((out / "summary.json").read_bytes())
    assert summary["events"] == 1000
    assert all(summary["adds_up"].values())
    rerun = ("replay", str(shop_config()), "--rerun", str(out))
    said = eddy(*rerun)
    assert "the same bytes in every file (except index.html and summary.json" in said
    assert "is the folder of the run itself" in eddy(*rerun, "--out", f"{out}/../out", code=2)
    (out / "manifest.json").write_text(
        (out / "manifest.json").read_text().replace('"sources": "', '"sources": "0')
    )
    assert "the code has changed: sources is" in eddy(*rerun)
    to.write_bytes(to.read_bytes()[:-2])
    assert "shop.ndjson has changed" in eddy(*rerun, code=2)


def test_ineffective_options_raise_warnings(tmp_path: Path) -> None:
    """An empty file, and labels of other events, are most often a mistake."""
    empty, label = tmp_path / "empty.ndjson", tmp_path / "label.ndjson"
    empty.write_bytes(b"")
    label.write_bytes(
        b'{"type": "label", "event_id": "l", "time": 1767225600000, "labelled_event_id": "gone", '
        b'"verdict": "fraud"}\n'
    )
    given = ("--input", f"shop={empty}", "--labels", str(label), "--out", str(tmp_path / "out"))
    said = eddy("replay", str(shop_config()), *given)
    assert "warning: no event was read" in said
    assert "warning: no label of labels belongs to these events" in said


def test_labels_may_use_the_mapping_of_another_candidate() -> None:
    """A configuration without an input of labels borrows that of another, else has Eddy's own
    shape; one that has its own keeps it."""
    configs = ROOT / "deploy" / "configs"
    without, own = (load(configs / f"sparkov{more}.toml") for more in ("", "-labels"))
    borrowed = with_label_input(without, [without, own])
    assert borrowed.inputs["label"] == own.inputs["label"]
    assert with_label_input(own, [without]) is own
    [(_, shape), *_] = with_label_input(without).inputs.items()
    assert (shape.type, shape.fields) == ("label", None)


def test_simulate_then_compare(tmp_path: Path) -> None:
    """Two configurations over one simulated file end in a verdict and a page that is there."""
    events, out = tmp_path / "shop.ndjson", tmp_path / "compared"
    eddy("simulate", str(shop_config()), "--to", str(events), "--events", "1000")
    other = tmp_path / "fewer.toml"
    other.write_text(shop_config().read_text("utf-8").replace("p_max = 3e-4", "p_max = 1e-4"))
    both = (str(shop_config()), str(other))
    said = eddy("compare", *both, "--input", f"shop={events}", "--out", str(out))
    assert "Without labels of events it is unknown whether shop or fewer is better: " in said
    assert str(out / "index.html") in said.replace("\n", "")
    for folder in (out, out / "shop", out / "fewer"):
        assert (folder / "index.html").is_file()


def test_compare_names_the_configuration_with_the_mistake(tmp_path: Path) -> None:
    """Each mistake's line begins with the file that it stands in."""
    wrong = tmp_path / "new.toml"
    wrong.write_text(shop_config().read_text("utf-8").replace('half_life = "30d"', "half_lfe = 1"))
    both = (str(shop_config()), str(wrong))
    said = eddy("compare", *both, "--input", "shop=x", "--out", str(tmp_path / "out"), code=2)
    assert f"{wrong}: monitors[0].detectors[0].half_lfe: unknown key" in said


def interrupt_when(folder: Path, begun: str, *arguments: str) -> str:
    """What a command says that gets Ctrl-C, as a terminal sends it, once a file like that is there;
    fails unless it ends as shells expect."""
    heard = (
        "signal.signal(signal.SIGINT, signal.default_int_handler)"  # what a shell's & takes away
    )
    program = f"import signal; {heard}; from stream.cli import main; main()"
    command = subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
    )
    while command.poll() is None and not list(folder.glob(begun)):
        time.sleep(0.05)
    time.sleep(0.5)
    os.killpg(command.pid, signal.SIGINT)
    said, _ = command.communicate(timeout=60)
    assert command.returncode == 130, said
    return said


@pytest.mark.slow
def test_ctrl_c_leaves_no_partial_output_and_keeps_the_previous_run(tmp_path: Path) -> None:
    """Ctrl-C ends a replay and a query without a traceback."""
    few, many, out = tmp_path / "few.ndjson", tmp_path / "many.ndjson", tmp_path / "out"
    config = str(shop_config())
    eddy("simulate", config, "--to", str(few), "--events", "1000")
    eddy("simulate", config, "--to", str(many), "--events", "200000")
    eddy("replay", config, "--input", f"shop={few}", "--out", str(out))
    before = {each.name: each.read_bytes() for each in out.iterdir()}
    replay = ("replay", config, "--input", f"shop={many}", "--out", str(out))
    assert "Traceback" not in interrupt_when(tmp_path, "out/scores.parquet.part", *replay)
    assert {each.name: each.read_bytes() for each in out.iterdir()} == before
    endless = "SELECT sum(a.range * b.range) FROM range(1000000) a, range(10000000) b"
    assert "Traceback" not in interrupt_when(tmp_path, "eddy-query-*", "query", str(out), endless)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--input", "shop", "--out", "x"], "expected NAME=PATH"),
        (["--input", "shop=nowhere.ndjson", "--out", "x"], "nowhere.ndjson"),
        (["--input", "stop=nowhere.ndjson", "--out", "x"], "stop"),
    ],
)
def test_an_unreadable_input_is_named(arguments: list[str], expected: str) -> None:
    """A wrong name or path is an error of two lines, not a traceback."""
    said = eddy("replay", str(shop_config()), *arguments, code=2)
    assert expected in said
    assert "Traceback" not in said


@pytest.mark.parametrize("option", ["--again", "--jobs", "--jobs=2"])
def test_an_option_of_an_earlier_version_is_refused_with_the_remedy(option: str) -> None:
    """`eddy replay` names a renamed or removed option, and other commands may use its name."""
    with pytest.raises(InputError, match=option.partition("=")[0]):
        refuse_renamed_options(["replay", "shop.toml", option, "2"])
    refuse_renamed_options(["query", "out", option])


def test_a_missing_configuration_is_named() -> None:
    """The path that cannot be read is in the message."""
    assert "nowhere.toml" in eddy("config", "check", "nowhere.toml", code=2)


def test_version_is_the_package_version() -> None:
    """`eddy version` prints what the package says of itself."""
    assert eddy("version").strip().count(".") == 2
