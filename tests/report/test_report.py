"""The pages of a run and of a comparison: every number comes from the file beside it, names stay
text, and a reader who sees nothing is told the same."""

import math
import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pyarrow.parquet as pq
import pytest

import stream.report
from stream import formatting
from stream.cli.run_output import describe_evaluation
from stream.evaluation.comparison import Comparison
from stream.evaluation.labelled_run import OTHERS
from stream.replay import Summary, TimeSplit, replay
from stream.report.comparison import render_comparison
from stream.report.run_page import COUNTING_NOTE, DEFINITIONS, render_run
from tests.replay.test_compare_runs import (
    BY_GAP,
    CONFIG,
    DAY_MS,
    FRAUDS_EVERY,
    START_MS,
    candidate,
    compared,
    config,
    files,
)
from tests.report.test_page import HOSTILE, Parsed, elements

__all__ = ["files"]  # a fixture

TIME = re.compile(r"\d{4}-\d\d-\d\d")
OURS = {
    *(
        "low",
        "medium",
        "high",
        "critical",
        "opened",
        "updated",
        "closed",
        "replay",
        "all",
        "a",
        "b",
    ),
    *("review", "challenge", "throttle", "block", "events", "new_events", "entities"),
    *(
        "entity_days",
        "incidents",
        "fraud",
        "honest",
        "amount",
        "frauds",
        "fraud entities",
        "fraud amount",
    ),
}
"""Words that a page chooses by: no other than these can stand there."""
NAMED_BY_OTHERS = {"inputs", "monitors", "adds_up", "alerts_per_day", "labels", "entities"}
"""Where keys are names of a configuration."""
NUMBER = re.compile(r"[−+-]?(?:\d[\d\N{NO-BREAK SPACE}]*)?\.?\d+(?:e[−+-]?\d+)?")
PROSE = {"95", "1", "0.1", "0.25", "10", "-10", "4"}
"""Numbers that the pages' own sentences hold: of intervals, logarithms, stability, p ≥ 0.1."""


class Rendered(NamedTuple):
    """The text of a page, the file beside it, and how to draw that again."""

    page: str
    beside: Any
    draw: Callable[[Any], str]


@pytest.fixture(scope="module")
def folder(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison of two runs with labels."""
    out = tmp_path_factory.mktemp("report") / "out"
    compared([candidate("a", CONFIG, files), candidate("b", BY_GAP, files)], files, out)
    return out


@pytest.fixture(scope="module", params=["run", "comparison"])
def rendered(folder: Path, request: pytest.FixtureRequest) -> Rendered:
    """A page with the file beside it."""
    if request.param == "run":
        return Rendered(
            (folder / "a" / "index.html").read_text("utf-8"),
            msgspec.json.decode((folder / "a" / "summary.json").read_bytes()),
            lambda document: render_run(msgspec.convert(document, Summary)),
        )
    return Rendered(
        (folder / "index.html").read_text("utf-8"),
        msgspec.json.decode((folder / "comparison.json").read_bytes()),
        lambda document: render_comparison(msgspec.convert(document, Comparison)),
    )


def leaves(document: Any) -> Iterator[Any]:
    """Every value and every key in a document."""
    if isinstance(document, dict):
        yield from document
        for inner in document.values():
            yield from leaves(inner)
    elif isinstance(document, list):
        for inner in document:
            yield from leaves(inner)
    else:
        yield document


def displayed_texts(leaf: Any) -> Iterator[str]:
    """A value in every form in which a page writes one."""
    if isinstance(leaf, str):
        yield leaf
        if TIME.match(leaf):
            yield leaf[:16].replace("T", " ")
    elif isinstance(leaf, int | float) and not isinstance(leaf, bool) and math.isfinite(leaf):
        yield from (
            formatting.format_number(leaf),
            formatting.format_value(leaf),
            formatting.format_count(round(leaf)),
        )
        yield from (
            formatting.format_percent(leaf),
            formatting.format_ratio(leaf),
            formatting.format_difference(leaf),
            formatting.format_difference(-leaf),
        )
        yield formatting.format_score(leaf)
        yield from (
            f"{leaf * 100:.0f}",
            f"{leaf:.1f}",
            formatting.format_amount(leaf),
            f"{leaf:.2g}",
        )
        yield from (
            formatting.format_bytes(leaf),
            formatting.format_duration(leaf),
            formatting.format_duration(leaf * 1000),
        )
        if 0 <= leaf < 4e12:
            yield formatting.format_time(int(leaf))


def test_the_page_is_rendered_from_the_json_file(rendered: Rendered) -> None:
    """Drawing what summary.json or comparison.json holds gives the same page, byte for byte."""
    assert rendered.draw(rendered.beside) == rendered.page


def test_every_number_on_the_page_is_in_the_json_file(rendered: Rendered) -> None:
    """Each number that a page shows is one of its file, only written for reading: none is computed
    on the page."""
    known = {
        number
        for leaf in leaves(rendered.beside)
        for s in displayed_texts(leaf)
        for number in NUMBER.findall(s)
    }
    days = rendered.beside["traffic"]["bucket_ms"] if "traffic" in rendered.beside else None
    starts = (
        formatting.format_time(rendered.beside["traffic"]["start_ms"] + i * days)
        for i in range(400)
        if days
    )
    known |= {number for text in starts for number in NUMBER.findall(text)}
    told = set(NUMBER.findall(Parsed(rendered.page).said))
    assert told - known - PROSE == set()
    assert len(told) > 100


def with_hostile_names(document: Any, name: str, keyed: bool = False) -> Any:
    """The document with a name in place of every text that anybody else chose. keyed: its own keys
    are such texts."""
    if isinstance(document, dict):
        return {
            f"{name}{i}" if keyed else key: with_hostile_names(
                # "entities" is also a level, whose figures have names of ours
                inner,
                name,
                key in NAMED_BY_OTHERS
                and "recall" not in (inner if isinstance(inner, dict) else ()),
            )
            for i, (key, inner) in enumerate(document.items())
        }
    if isinstance(document, list):
        return [with_hostile_names(inner, name) for inner in document]
    chosen = isinstance(document, str) and document not in OURS and not TIME.match(document)
    return name if chosen else document


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_stay_text(rendered: Rendered, name: str) -> None:
    """Whatever entities, features, kinds, settings and events are called, the page has the same
    elements and attributes."""
    harmless, hostile = (
        Parsed(rendered.draw(with_hostile_names(rendered.beside, one)))
        for one in ("harmless", name)
    )
    assert elements(hostile) == elements(harmless)
    assert not set("<>&") & set(hostile.data)


def test_a_screen_reader_can_navigate(rendered: Rendered) -> None:
    """A page has its landmarks, one first heading and no level left out, contents that lead to
    every section, a caption or a heading for every table, and for every chart a label and the same
    as a table."""
    parsed = Parsed(rendered.page)
    tags = [tag for tag, _ in parsed.elements]
    assert [tags.count(one) for one in ("header", "nav", "main", "footer", "h1")] == [1] * 5
    levels = [int(tag[1]) for tag in tags if re.fullmatch(r"h\d", tag)]
    assert all(after - before <= 1 for before, after in pairwise(levels))
    ids = [a["id"] for _, a in parsed.elements if "id" in a]
    assert len(ids) == len(set(ids))
    anchors = {
        str(a["href"])[1:] for t, a in parsed.elements if t == "a" and str(a["href"])[0] == "#"
    }
    assert anchors <= set(ids)
    assert anchors >= {str(a["aria-labelledby"]) for tag, a in parsed.elements if tag == "section"}
    charts = [a for _, a in parsed.elements if str(a.get("id")).startswith("chart-")]
    assert all(chart["aria-label"] and chart["role"] == "img" for chart in charts)
    figures = re.findall(r"<figure>.*?</figure>", rendered.page, re.DOTALL)
    assert len(figures) == len(charts) > 0
    assert all('<table role="table"><caption>' in figure for figure in figures)
    assert tags.count("table") == tags.count("caption") + rendered.page.count('class="parts"')
    assert all(a.get("scope") in {"col", "row"} for tag, a in parsed.elements if tag == "th")


def test_headings_follow_their_levels() -> None:
    """A column is styled by what stands in it, never by a heading that may be the name of a file;
    no column is left out on a phone; a browser without alternative texts shows headings, too."""
    css = (Path(stream.report.__file__).parent / "page.css").read_text("utf-8")
    assert "[data-label" not in css
    assert (
        "display: none"
        not in css.partition("@media screen and (max-width: 1080px)")[2].partition("@media print")[
            0
        ]
    )
    for said in re.findall(r"content: ([^;]+) / \"\";", css):
        assert f"content: {said}; content: {said} / " in css


def test_scrolling_regions_can_be_focused(rendered: Rendered) -> None:
    """Each table that scrolls by itself is a region with a name that the keyboard reaches."""
    scrolled = [a for _, a in Parsed(rendered.page).elements if a.get("class") == "scroll"]
    assert scrolled
    assert all(a["role"] == "region" and a["tabindex"] == "0" and a["aria-label"] for a in scrolled)


def test_a_run_is_summarised_by_catches_and_costs(folder: Path) -> None:
    """The first words of a run's page are its verdict: the frauds of frauds.parquet that are judged
    and caught, by the alerts and incidents of its tables."""
    frauds = pq.read_table(folder / "a" / "frauds.parquet").to_pylist()
    caught = sum(row["caught"] for row in frauds if row["evaluated"])
    alerts, incidents = (
        pq.read_metadata(folder / "a" / f"{name}.parquet").num_rows
        for name in ("alerts", "incidents")
    )
    said = Parsed((folder / "a" / "index.html").read_text("utf-8").partition("<header>")[2]).said
    assert said.startswith(f"{caught} of {len(frauds)} frauds caught, and ")
    assert f" by {alerts} alerts in {incidents} incidents " in said
    assert 0 < caught < len(frauds)


def test_pages_define_what_they_count(folder: Path) -> None:
    """Alerted, caught, with an alert and found are told apart, and so is that alerts are counted by
    monitor; the terminal says what its recall and precision are of, and how many were caught."""
    for page in (folder / "index.html", folder / "a" / "index.html"):
        said = " ".join(Parsed(page.read_text("utf-8")).said.split())
        assert all(f"{word} {meaning}" in said for word, meaning in DEFINITIONS)
        assert COUNTING_NOTE in said
        assert "Entities found" not in said
    summary = msgspec.json.decode((folder / "a" / "summary.json").read_bytes(), type=Summary)
    assert summary.evaluation is not None
    line = describe_evaluation(summary.evaluation)
    caught = summary.evaluation.frauds - summary.evaluation.missed.frauds
    assert f" events, {caught} caught: AUC " in line
    assert ", precision of events with an alert " in line
    assert ", recall of alerted " in line


def test_the_conclusion_comes_first(folder: Path) -> None:
    """The first words of a comparison's page are its verdict, then by how much."""
    told = msgspec.json.decode((folder / "comparison.json").read_bytes(), type=Comparison)
    page = (folder / "index.html").read_text("utf-8")
    first = Parsed(page.partition("<header>")[2]).said.replace("  ", " ")
    because = told.pairs[0].reason
    assert first.startswith(f"{told.conclusion} {because[0].upper()}{because[1:]}.")


def header(folder: Path) -> str:
    """What a page says before its contents, and of what was missed."""
    page = (folder / "index.html").read_text("utf-8")
    missed = page.partition('<h2 id="missed">')[2].partition("</section>")[0]
    return " ".join(Parsed(page.partition("<nav")[0] + missed).said.split())


@pytest.mark.parametrize(
    ("labels", "from_ms", "said"),
    [
        (None, None, "No labels were given, so nothing here says which alerts were right."),
        ("all", START_MS + 99 * DAY_MS, "labels were given, but no event lies in the time that is"),
        ("others", None, "Of the 300 labels none belongs to an event that was read."),
        ("honest", None, "There was no fraud to be missed."),
    ],
)
def test_the_reason_for_no_evaluation_is_shown(
    files: dict[str, Path], tmp_path: Path, labels: str | None, from_ms: int | None, said: str
) -> None:
    """No labels, labels of no event, no event to be judged, and no fraud are told apart."""
    events = files["shop"].read_bytes().splitlines()[:300]
    known = files["labels"].read_bytes().splitlines()[:300]
    if labels == "others":
        known = [line.replace(b'"payment":"', b'"payment":"x') for line in known]
    if labels == "honest":
        known = [line.replace(b'"fraud"', b'"honest"') for line in known]
    for name, lines in (("shop", events), ("labels", known)):
        (tmp_path / name).write_bytes(b"\n".join(lines))
    given = [("verdicts", tmp_path / "labels")] if labels else []
    inputs, out = [("shop", tmp_path / "shop")], tmp_path / "out"
    replay(
        config(CONFIG),
        inputs,
        out,
        lambda _r, _s: None,
        given,
        TimeSplit(from_ms=from_ms),
        render=render_run,
    )
    assert said in header(out)
    assert ("No labels" in header(out)) == (labels is None)
    assert "Every fraud was caught" not in header(out)


def test_entities_that_never_get_an_alert_are_in_the_headline(folder: Path) -> None:
    """Beside the median delay, which is of those found alone, stands the share that never is."""
    summary = msgspec.json.decode((folder / "b" / "summary.json").read_bytes(), type=Summary)
    assert summary.evaluation is not None
    delay = summary.evaluation.views[0].delay
    assert delay.never.value is not None
    assert 0 < delay.never.value < 1
    never = f"{formatting.format_percent(delay.never.value)} of {delay.entities} never had one"
    assert " ".join(never.split()) in header(folder / "b")


def test_rare_fraud_types_are_evaluated_together(files: dict[str, Path], tmp_path: Path) -> None:
    """Beyond 32 kinds the rarest stand as one, and none is lost."""
    known = []
    for i, line in enumerate(files["labels"].read_bytes().splitlines()):
        kind = min(i // FRAUDS_EVERY, 39)
        known.append(line.replace(b'"takeover"', b'"kind %d"' % kind))
    (tmp_path / "labels").write_bytes(b"\n".join(known))
    inputs, given = [("shop", files["shop"])], [("verdicts", tmp_path / "labels")]
    summary = replay(config(CONFIG), inputs, tmp_path / "out", lambda _r, _s: None, given)
    assert summary.evaluation is not None
    scenarios = {one.name: one.frauds for one in summary.evaluation.views[0].scenarios}
    assert len(scenarios) == 32
    assert scenarios[OTHERS] == 40 - 31
    assert scenarios["kind 39"] == 60 - 39
    assert sum(scenarios.values()) == summary.evaluation.frauds == 60


def test_a_page_links_only_to_its_own_files(folder: Path) -> None:
    """Links go to a place on the page or, in a comparison, to its runs' own pages, which are
    there."""
    for page in (folder / "index.html", folder / "a" / "index.html"):
        parsed = Parsed(page.read_text("utf-8"))
        links = [str(a["href"]) for _, a in parsed.elements if "href" in a]
        others = [link for link in links if not link.startswith("#")]
        assert others == (["a/index.html", "b/index.html"] if page.parent == folder else [])
        assert all((page.parent / link).is_file() for link in others)
        assert not [a for _, a in parsed.elements if {"src", "action"} & a.keys()]
        assert page.read_text("utf-8").count("plotly.js v") == 1


def test_incidents_show_their_outcome(folder: Path) -> None:
    """Beside its explanation each incident has the verdict and the events that incidents.parquet
    has of it."""
    summary = msgspec.json.decode((folder / "a" / "summary.json").read_bytes(), type=Summary)
    rows = pq.read_table(folder / "a" / "incidents.parquet").to_pylist()
    known = {row["incident_id"]: row for row in rows}
    assert summary.incidents_opened >= len(summary.incidents) > 3
    for one in summary.incidents:
        row = known[one.top_alert.incident_id]
        assert (one.verdict, one.events, one.amount, one.top_alert.score) == (
            *(row["verdict"], row["events"], row["amount"], row["top_score"]),
        )
    assert {one.verdict for one in summary.incidents} == {"fraud"}


def test_a_missed_fraud_shows_the_required_threshold(folder: Path) -> None:
    """Why a fraud was missed names its score and the least that alerts, and no difference alone."""
    page = (folder / "a" / "index.html").read_text()
    assert re.search(r"\d(\.\d+)? of \d(\.\d+)? needed for an alert by \w+", page)
    assert "too low" not in page
