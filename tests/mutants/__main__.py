"""`make mutants`: a sample of small changes to the code, each tested; a table, and out/mutants.json.

    python -m tests.mutants [--sample N] [--seed N] [--jobs N]

Half of the sample are changes in compiled kernels. A change is drawn from the code that a test
without a broker reaches, and tested by the tests that reach it, the most specific first; it is
killed when one fails or hangs. A survivor is listed with its change. One that cannot change any
result stands in `equivalent.toml` with the reason, and does not count.

Results are kept in out/mutants/: a run that is broken off goes on where it was, and a survivor is
tested again only when a test has changed.
"""

import argparse
import difflib
import os
import sys
import tomllib
from collections import Counter
from collections.abc import Iterable
from itertools import zip_longest
from math import sqrt
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, Final, NamedTuple

import orjson
from rich.console import Console
from rich.table import Table

from tests.mutants.covered import PACKAGES, Covered, Recorded
from tests.mutants.mutations import Mutation, applied, mutations
from tests.mutants.running import (
    CPU_S,
    ROOT,
    copy_tree,
    digest,
    record,
    rounds,
    run_all,
    test_files,
)

OUT: Final = ROOT / "out"
SAMPLE: Final = 300
SEED: Final = 1
Z95: Final = 1.959964


class Mutant(NamedTuple):
    """A mutation of a file, and the tests that reach it."""

    file: str
    mutation: Mutation
    tests: list[str]

    def key(self) -> str:
        """What tells it from all others."""
        change = self.mutation
        return f"{self.file}:{change.function}:{change.start}-{change.end}:{change.after}"

    def change(self) -> str:
        """The lines that differ."""
        before = (ROOT / self.file).read_text()
        after = applied(before, self.mutation)
        lines = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=0)
        return "\n".join(line for line in list(lines)[2:] if not line.startswith("@@"))


class Equivalent(NamedTuple):
    """A change that cannot be noticed, and why: its file, function, the line on which it begins, text
    before and after."""

    file: str
    function: str
    line: str
    before: str
    after: str
    reason: str

    def is_of(self, mutant: Mutant) -> bool:
        """Whether it is this mutant."""
        change = mutant.mutation
        mine = (mutant.file, change.function, change.before, change.after)
        if mine != (self.file, self.function, self.before, self.after):
            return False
        return (ROOT / self.file).read_text().splitlines()[change.start[0] - 1].strip() == self.line


def sources() -> list[Path]:
    """The modules that are changed."""
    return [file for name in PACKAGES for file in sorted((ROOT / name).rglob("*.py"))]


def mutants(covered: Covered) -> tuple[list[Mutant], int]:
    """All that a test reaches, and how many others there are."""
    found: list[Mutant] = []
    unreached = 0
    for path in sources():
        file = str(path.relative_to(ROOT))
        for one in mutations(path.read_text()):
            if one.kernel:
                tests = covered.of_kernel(file, one.function)
            else:
                tests = covered.of_lines(
                    file, one.line, one.end[0] if "\n" in one.before else one.start[0]
                )
            if tests:
                found.append(Mutant(file, one, tests))
            else:
                unreached += 1
    return found, unreached


def drawn(found: list[Mutant], sample: int, seed: int) -> list[Mutant]:
    """By turns one of a kernel and another; a larger sample holds a smaller one of the same seed."""
    kinds: list[list[Mutant]] = []
    for kernel in (True, False):
        of_kind = [one for one in found if one.mutation.kernel == kernel]
        Random(seed).shuffle(of_kind)
        kinds.append(of_kind)
    pairs = zip_longest(*kinds)
    return [one for pair in pairs for one in pair if one is not None][:sample]


def recorded(trees: list[Path], cache: Path) -> Recorded:
    """What the tests reach; recorded again are only files of tests that have changed since."""
    code = digest(sources())
    old: dict[str, Any] = orjson.loads(cache.read_bytes()) if cache.exists() else {}
    if old.get("code") != code:
        old = {"code": code, "files": {}, "parts": {"tests": {}, "unusable": []}}
    files = {name: digest([ROOT / name]) for name in test_files()}
    changed = [name for name, text in files.items() if old["files"].get(name) != text]
    kept = {
        "tests": {
            name: one
            for name, one in old["parts"]["tests"].items()
            if name.partition("::")[0] in files and name.partition("::")[0] not in changed
        },
        "unusable": [n for n in old["parts"]["unusable"] if n.partition("::")[0] not in changed],
    }
    parts = [kept]
    if changed:
        parts.append(record(trees, changed).to_json())
    whole = Recorded.of_json(parts)
    text = {"code": code, "files": files, "parts": whole.to_json()}
    cache.write_bytes(orjson.dumps(text))
    return whole


def wilson(hits: int, count: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson, 1927)."""
    if not count:
        return 0.0, 1.0
    share, z2 = hits / count, Z95**2
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = Z95 * sqrt(share * (1 - share) / count + z2 / (4 * count**2)) / (1 + z2 / count)
    return middle - half, middle + half


def main(arguments: list[str], out: Path = OUT) -> int:
    """Test a sample; 1 where fewer than the target are killed."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants")
    parser.add_argument("--sample", type=int, default=SAMPLE, help=f"how many (default: {SAMPLE})")
    parser.add_argument("--seed", type=int, default=SEED, help=f"which (default: {SEED})")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="at a time")
    asked = parser.parse_args(arguments)
    console, folder = Console(), out / "mutants"
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="eddy-mutants-") as work:
        trees = [copy_tree(Path(work) / str(k)) for k in range(asked.jobs)]
        console.print("recording which tests reach what …")
        covered = Covered(recorded(trees, folder / "recording.json"))
        found, unreached = mutants(covered)
        chosen = drawn(found, asked.sample, asked.seed)
        results = tested(chosen, covered, trees, folder / "results.json", console)
    show(console, chosen, results, len(found), unreached)
    figures = summary(chosen, results)
    (out / "mutants.json").write_bytes(orjson.dumps(figures, option=orjson.OPT_INDENT_2))
    console.print(figures)
    return 0


def tested(
    chosen: list[Mutant], covered: Covered, trees: list[Path], file: Path, console: Console
) -> dict[str, str]:
    """What killed each mutant, empty where nothing did, by its key."""
    known: dict[str, dict[str, str]] = orjson.loads(file.read_bytes()) if file.exists() else {}
    tests = digest(sorted((ROOT / "tests").rglob("*.py")))
    tasks = []
    for one in chosen:
        source = (ROOT / one.file).read_text()
        asked = rounds(one.tests, covered)
        code = digest([ROOT / one.file])
        former = known.get(one.key(), {})
        if former.get("code") == code and (former["failed"] or former["tests"] == tests):
            continue
        tasks.append(
            {
                "key": one.key(),
                "code": code,
                "file": one.file,
                "source": applied(source, one.mutation),
                "rounds": asked,
                "cpu_s": CPU_S + 5 * round(sum(map(covered.seconds, asked))),
            }
        )
    left = len(tasks)

    def done(task: dict[str, Any], answer: dict[str, Any]) -> None:
        nonlocal left
        left -= 1
        known[task["key"]] = {"code": task["code"], "tests": tests, "failed": answer["failed"]}
        file.write_bytes(orjson.dumps(known, option=orjson.OPT_INDENT_2))
        how = f"killed by {answer['failed']}" if answer["failed"] else "SURVIVED"
        console.print(
            f"{left:4} left  {answer['seconds']:5.1f} s  {task['key']}  {how}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )

    run_all(trees, tasks, done)
    return {one.key(): known[one.key()]["failed"] for one in chosen}


def equivalents() -> list[Equivalent]:
    """The mutants that were looked at and cannot be noticed."""
    text = Path(__file__).with_name("equivalent.toml").read_text()
    return [Equivalent(**one) for one in tomllib.loads(text).get("mutant", [])]


def reason_of(mutant: Mutant, known: Iterable[Equivalent]) -> str:
    """Why a survivor cannot be noticed; empty where that is not known."""
    return next((one.reason for one in known if one.is_of(mutant)), "")


def summary(chosen: list[Mutant], results: dict[str, str]) -> dict[str, float]:
    """The figures, flat."""
    known = equivalents()
    killed = sum(bool(results[one.key()]) for one in chosen)
    equivalent = sum(bool(not results[one.key()] and reason_of(one, known)) for one in chosen)
    count = len(chosen) - equivalent
    low, high = wilson(killed, count)
    return {
        "killed_share": round(killed / max(1, count), 4),
        "killed_share_low": round(low, 4),
        "killed_share_high": round(high, 4),
        "sampled": len(chosen),
        "in_kernels": sum(one.mutation.kernel for one in chosen),
        "killed": killed,
        "survived": count - killed,
        "equivalent": equivalent,
    }


def show(
    console: Console, chosen: list[Mutant], results: dict[str, str], reached: int, unreached: int
) -> None:
    """The survivors, and the table."""
    known = equivalents()
    totals: dict[str, Counter[str]] = {}
    for one in chosen:
        name = one.file.partition("/")[0] + (", kernels" if one.mutation.kernel else "")
        reason = reason_of(one, known)
        how = "killed" if results[one.key()] else "equivalent" if reason else "survived"
        totals.setdefault(name, Counter())[how] += 1
        if how != "killed":
            line = one.mutation.start[0]
            text = f"\n{one.file}:{line} {one.mutation.function}: {one.mutation.kind}, {how}"
            console.print(text, markup=False, highlight=False)
            console.print(one.change(), markup=False, highlight=False)
            if reason:
                console.print(f"  equivalent: {reason}", markup=False, highlight=False)
    table = Table("", "sampled", "killed", "survived", "equivalent", title="mutants")
    for name, counts in sorted(totals.items()):
        cells = (counts[how] for how in ("killed", "survived", "equivalent"))
        table.add_row(name, str(counts.total()), *map(str, cells))
    console.print(table)
    console.print(f"drawn from {reached} mutants that a test without a broker reaches; ", end="")
    console.print(f"{unreached} others are reached by none")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
