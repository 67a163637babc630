"""The house rules that no linter knows, each with what to do instead.

They hold the design's promises where code is written: packages depend in one direction, what is
learned is pure, nothing is pickled, no file names a package registry. Style is ruff's business and
types are mypy's, not this module's.
"""

import ast
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OWN = ("schemas", "detectors", "stream")
MAY_IMPORT = {
    "schemas": {"schemas"},
    "detectors": {"schemas", "detectors"},
    "stream": set(OWN),
    "deploy": set[str](),
}
ORDER = {
    "schemas": "schemas schemas/codecs",
    "detectors": "detectors/numeric detectors detectors/features detectors/models detectors/scoring "
    "detectors/monitor detectors/fusion",
    "stream": "stream stream/kafka stream/config stream/pipeline stream/telemetry stream/checkpoints "
    "stream/inputs stream/simulator stream/runtime stream/evaluation stream/replay stream/report "
    "stream/demo stream/cli",
}
"""The folders of each package: one imports only itself and those before it."""

LINES_MAX, FUNCTION_LINES_MAX = 400, 60
TOP_LEVEL = {
    "pyproject.toml",
    "README.md",
    "Makefile",
    "LICENSE",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "tests",
    "deploy",
    *OWN,
}

CLOCKS = {
    *(f"time.{name}" for name in ("time", "monotonic", "perf_counter", "process_time")),
    *(f"time.{name}_ns" for name in ("time", "monotonic", "perf_counter", "process_time")),
    *(f"time.{name}" for name in ("ctime", "gmtime", "localtime", "sleep")),
    *(f"datetime.datetime.{name}" for name in ("now", "utcnow", "today")),
    "datetime.date.today",
}
SEEDABLE = {"default_rng", "Generator", "MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64"}
SEEDABLE |= {"SeedSequence", "RandomState", "Random"}
ENTROPY = {"os.urandom", "uuid.uuid1", "uuid.uuid4", "uuid.uuid6", "uuid.uuid7"}
PICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
IO_MODULES = {
    *("asyncio", "ftplib", "glob", "http", "httpx", "io", "mmap", "multiprocessing", "os"),
    *("pathlib", "requests", "select", "shutil", "smtplib", "socket", "sqlite3", "ssl"),
    *("subprocess", "tempfile", "threading", "urllib", "concurrent", "confluent_kafka"),
}
IO_CALLS = {"open", "print", "input"}

# In pieces, so that this file does not name what it forbids.
REGISTRIES = [
    ".".join(parts)
    for parts in (
        *(("pypi", "org"), ("pythonhosted", "org"), ("npmjs", "org"), ("npmjs", "com")),
        *(("yarnpkg", "com"), ("crates", "io"), ("rubygems", "org"), ("docker", "io")),
        *(("ghcr", "io"), ("quay", "io"), ("gcr", "io"), ("conda", "anaconda", "org")),
        *(("repo", "maven", "apache", "org"), ("maven", "org"), ("sonatype", "org")),
        *(("sonatype", "com"), ("jfrog", "io"), ("proxy", "golang", "org")),
    )
]
REGISTRY = re.compile(
    "|".join(map(re.escape, REGISTRIES)) + r"|https?://\S+/simple\b", re.IGNORECASE
)
UNFINISHED = re.compile(
    r"\b(" + "|".join(map("".join, (("TO", "DO"), ("FIX", "ME"), ("X", "XX")))) + r")\b"
)


@dataclass(frozen=True)
class Finding:
    """One broken rule: where, what, and what to do instead."""

    path: str
    line: int
    banned: str
    instead: str

    def __str__(self) -> str:
        """As an editor can jump to it."""
        return f"{self.path}:{self.line}: {self.banned}; {self.instead}"


@dataclass(frozen=True)
class Use:
    """A dotted name as a module uses it, its imports resolved, with the call if it is called."""

    name: str
    line: int
    call: ast.Call | None


class Module:
    """A Python file: its syntax tree, its imports, and the names it uses."""

    def __init__(self, path: str, text: str) -> None:
        self.path = path
        self.package = path.split("/", maxsplit=1)[0]
        self.tree = ast.parse(text, path)
        self.lines = text.count("\n")

    def imports(self) -> Iterator[tuple[str, str, int]]:
        """Every import as local name, full dotted name and line."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    local = alias.asname or alias.name.partition(".")[0]
                    yield local, alias.name if alias.asname else local, node.lineno
            elif isinstance(node, ast.ImportFrom):
                above = self.path.split("/")[: -node.level] if node.level else []
                base = ".".join([*above, *([node.module] if node.module else [])])
                for alias in node.names:
                    yield alias.asname or alias.name, f"{base}.{alias.name}", node.lineno

    def uses(self) -> Iterator[Use]:
        """Every use of an imported or built-in name, longest form only."""
        known = {local: full for local, full, _ in self.imports()}
        inner: set[ast.AST] = set()
        calls: dict[ast.AST, ast.Call] = {}
        for node in ast.walk(self.tree):  # parents come before their children
            if isinstance(node, ast.Call):
                calls[node.func] = node
            if not isinstance(node, ast.Attribute | ast.Name) or node in inner:
                continue
            parts: list[str] = []
            head: ast.expr = node
            while isinstance(head, ast.Attribute):
                parts.append(head.attr)
                head = head.value
                inner.add(head)
            if isinstance(head, ast.Name):
                name = ".".join([known.get(head.id, head.id), *reversed(parts)])
                yield Use(name, node.lineno, calls.get(node))

    def finding(self, line: int, banned: str, instead: str) -> Finding:
        """A finding in this module."""
        return Finding(self.path, line, banned, instead)


# -- the files ------------------------------------------------------------------------------------


@cache
def project_files() -> tuple[str, ...]:
    """The project's files, as git sees them; without git, all but what .gitignore names."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True
        ).stdout

    try:
        if Path(git("rev-parse", "--show-toplevel").strip()) == ROOT:
            listed = git("ls-files", "-co", "--exclude-standard", "-z").split("\0")
            return tuple(sorted(each for each in set(listed) if (ROOT / each).is_file()))
    except (OSError, subprocess.CalledProcessError):
        pass  # an unpacked archive, or no git: walk
    lines = (ROOT / ".gitignore").read_text().splitlines()
    ignored = {".git", *(line.rstrip("/") for line in lines if line.endswith("/"))}
    relative = (each.relative_to(ROOT) for each in ROOT.rglob("*") if each.is_file())
    return tuple(sorted(str(each) for each in relative if not ignored & set(each.parts)))


@cache
def modules() -> tuple[Module, ...]:
    """Every Python file of the project."""
    paths = (path for path in project_files() if path.endswith(".py"))
    return tuple(Module(path, (ROOT / path).read_text()) for path in paths)


def lines_with(pattern: re.Pattern[str]) -> Iterator[tuple[str, int, str]]:
    """Every place in a text file of the project that matches."""
    for path in project_files():
        try:
            text = (ROOT / path).read_text()
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            for match in pattern.finditer(line):
                yield path, number, match[0]


# -- the rules ------------------------------------------------------------------------------------


def layering(module: Module) -> Iterator[Finding]:
    """Imports go one way: schemas ← detectors ← stream; deploy imports none of them, but for the
    documentation, whose reference is made from the code."""
    allowed = MAY_IMPORT.get(module.package)
    if allowed is None or module.path.startswith("deploy/docs/"):
        return
    for _, full, line in module.imports():
        root = full.partition(".")[0]
        if root in OWN and root not in allowed:
            yield module.finding(
                line,
                f"{module.package}/ imports {full}",
                "packages depend one way, schemas ← detectors ← stream, and deploy on none: move "
                "what is shared down, or pass it in",
            )
        if root == "confluent_kafka" and not module.path.startswith("stream/kafka/"):
            yield module.finding(
                line, "confluent_kafka imported", "only stream/kafka does; use what it offers"
            )


def folder(path: str) -> str:
    """The folder of a module in `ORDER`: of nested folders the outermost below the package."""
    return "/".join(path.split("/")[:-1][:2])


def folder_order(module: Module) -> Iterator[Finding]:
    """Inside a package folders depend one way, too."""
    order = ORDER.get(module.package, "").split()
    if module.package not in ORDER or folder(module.path) not in order:
        if module.package in ORDER:
            yield module.finding(1, f"unknown folder {folder(module.path)}", "add it to ORDER")
        return
    own = order.index(folder(module.path))
    known = {each.path for each in modules()}
    for _, full, line in module.imports():
        target = full.replace(".", "/")
        while target and not {f"{target}.py", f"{target}/__init__.py"} & known:
            target = target.rpartition("/")[0]
        if not target.startswith(module.package):
            continue
        found = folder(f"{target}.py" if f"{target}.py" in known else f"{target}/__init__.py")
        if found in order and order.index(found) > own:
            yield module.finding(
                line, f"{order[own]} imports {full}", f"folders depend one way: {' ← '.join(order)}"
            )


def size(module: Module) -> Iterator[Finding]:
    """A module says one thing, and a function does one; a compiled kernel is one loop."""
    if module.package not in OWN:
        return
    if module.lines > LINES_MAX:
        yield module.finding(
            LINES_MAX, f"{module.lines} lines", f"at most {LINES_MAX}: split it by concern"
        )
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or any(
            isinstance(each, ast.Name) and each.id.endswith("kernel")
            for each in node.decorator_list
        ):
            continue
        lines = (node.end_lineno or node.lineno) - node.lineno + 1
        if lines > FUNCTION_LINES_MAX:
            yield module.finding(
                node.lineno,
                f"{node.name} has {lines} lines",
                f"at most {FUNCTION_LINES_MAX}: give a step a name of its own",
            )


def type_names() -> Iterator[Finding]:
    """No two types of the three packages share a name, private ones of a module excepted."""
    first: dict[str, str] = {}
    for module in modules():
        if module.package not in OWN:
            continue
        for node in module.tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                if node.name in first:
                    yield module.finding(
                        node.lineno,
                        f"class {node.name}",
                        f"{first[node.name]} has a type of this name: one word, one meaning",
                    )
                first.setdefault(node.name, module.path)


def clocks(module: Module) -> Iterator[Finding]:
    """What is learned and what crosses a wire knows no wall clock."""
    if module.package not in {"schemas", "detectors"}:
        return
    for use in module.uses():
        now = use.name == "numpy.datetime64" and use.call is not None
        if now and use.call is not None:
            first = use.call.args[0] if use.call.args else None
            now = isinstance(first, ast.Constant) and first.value in {"now", "today"}
        if use.name in CLOCKS or now:
            yield module.finding(
                use.line,
                f"{use.name} (a wall clock)",
                "use the event's time, or take one as argument",
            )


def randomness(module: Module) -> Iterator[Finding]:
    """A fold gives the same bytes again: every random number comes from a seed."""
    if module.package not in {"schemas", "detectors"}:
        return
    for use in module.uses():
        root, _, tail = use.name.rpartition(".")
        seeded = use.call is None or bool(use.call.args or use.call.keywords)
        if root in {"random", "numpy.random"} and not (tail in SEEDABLE and seeded):
            yield module.finding(
                use.line, f"{use.name} without a seed", "use numpy.random.default_rng(seed)"
            )
        elif use.name in ENTROPY or root == "secrets":
            yield module.finding(
                use.line, f"{use.name} (new every time)", "derive it from the event by a keyed hash"
            )
        elif use.name == "hash":
            yield module.finding(
                use.line, "hash() (differs in every process)", "use xxhash with the configured seed"
            )


def purity(module: Module) -> Iterator[Finding]:
    """Detectors do no input or output."""
    if module.package != "detectors":
        return
    instead = "detectors are pure: do it in stream/ and pass the result in"
    for _, full, line in module.imports():
        if full.partition(".")[0] in IO_MODULES:
            yield module.finding(line, f"{full} imported", instead)
    for use in module.uses():
        if use.name in IO_CALLS and use.call is not None:
            yield module.finding(use.line, f"{use.name}()", instead)


def pickles(module: Module) -> Iterator[Finding]:
    """State and messages have formats of their own; unpickling runs what it reads."""
    for _, full, line in module.imports():
        if full.partition(".")[0] in PICKLES:
            yield module.finding(line, f"{full} imported", "write arrays and a manifest")
    for node in ast.walk(module.tree):
        if (
            isinstance(node, ast.keyword)
            and node.arg == "allow_pickle"
            and not (isinstance(node.value, ast.Constant) and node.value.value is False)
        ):
            yield module.finding(node.value.lineno, "allow_pickle", "use arrays without objects")


def docstrings(module: Module) -> Iterator[Finding]:
    """A module says what it is for, a test what it holds."""
    if module.tree.body and not ast.get_docstring(module.tree):
        yield module.finding(
            1, "no module docstring", "say in a paragraph what it is for, and what it is not"
        )
    if module.package != "tests":
        return
    for node in ast.walk(module.tree):
        if (
            isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            and node.name.startswith("test_")
            and not ast.get_docstring(node)
        ):
            yield module.finding(
                node.lineno, f"{node.name} without a docstring", "say in a sentence what must hold"
            )


Rule = Callable[[Module], Iterator[Finding]]
RULES: list[Rule] = [layering, folder_order, size, clocks, randomness, purity, pickles, docstrings]


def fail_on(findings: list[Finding]) -> None:
    """Fail with one finding a line."""
    if findings:
        pytest.fail("\n".join(map(str, findings)), pytrace=False)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule_holds_in_every_module(rule: Rule) -> None:
    """No Python file of the project breaks the rule."""
    fail_on([finding for module in modules() for finding in rule(module)])


def test_no_two_types_share_a_name() -> None:
    """One word, one meaning: a type's name says which it is."""
    fail_on(list(type_names()))


def test_no_file_names_a_package_registry() -> None:
    """Where packages come from is the machine's business: no host name of a registry anywhere."""
    instead = "leave it to the configuration of pip, uv, Maven or Docker"
    fail_on([Finding(*where, instead) for where in lines_with(REGISTRY)])


def test_nothing_is_left_unfinished() -> None:
    """No marks of unfinished work: what is open is an issue."""
    fail_on([Finding(*where, "do it, or open an issue") for where in lines_with(UNFINISHED)])


def test_top_level_holds_only_what_belongs_there() -> None:
    """The top level is fixed."""
    roots = {path.split("/", maxsplit=1)[0] for path in project_files()}
    strangers = sorted(each for each in roots - TOP_LEVEL if not each.startswith("."))
    fail_on([Finding(each, 1, "a stranger at the top level", "move it") for each in strangers])


@pytest.mark.parametrize(
    ("rule", "path", "bad", "good"),
    [
        (layering, "schemas/a.py", "from detectors import spec", "from schemas import events"),
        (layering, "schemas/a.py", "from ..stream import cli", "from . import events"),
        (layering, "detectors/b/a.py", "import stream.cli", "from ..spec import Monitor"),
        (layering, "deploy/a.py", "import schemas", "import json"),
        (
            layering,
            "stream/runtime/worker.py",
            "import confluent_kafka",
            "from stream import kafka",
        ),
        (
            folder_order,
            "stream/replay/a.py",
            "from stream import cli",
            "from stream.evaluation import database",
        ),
        (size, "stream/a.py", "x = 1\n" * 401, "x = 1\n" * 400),
        (size, "stream/a.py", "def f():\n" + " x = 1\n" * 60, "def f():\n" + " x = 1\n" * 59),
        (clocks, "detectors/a.py", "import time as t\nt.time()", "import time\ntime.strptime"),
        (clocks, "schemas/a.py", "from time import time_ns as n\nf(clock=n)", "time = 1\ntime + 1"),
        (
            clocks,
            "schemas/a.py",
            "import datetime as d\nd.datetime.now(d.UTC)",
            "from datetime import datetime\ndatetime.fromtimestamp(1)",
        ),
        (
            clocks,
            "detectors/a.py",
            "import numpy as np\nnp.datetime64('now')",
            "import numpy as np\nnp.datetime64('2026-01-01')",
        ),
        (
            randomness,
            "detectors/a.py",
            "import numpy as np\nnp.random.rand(3)",
            "import numpy as np\ndef f(g: np.random.Generator): g.random(3)",
        ),
        (
            randomness,
            "detectors/a.py",
            "from numpy.random import default_rng\ndefault_rng()",
            "from numpy.random import default_rng\ndefault_rng(7)",
        ),
        (
            randomness,
            "detectors/a.py",
            "import random\nrandom.random()",
            "import random\nrandom.Random(7)",
        ),
        (randomness, "schemas/a.py", "import uuid\nuuid.uuid4()", "import uuid\nuuid.UUID(x)"),
        (randomness, "detectors/a.py", "hash('a')", "a.hash('a')"),
        (purity, "detectors/a.py", "from pathlib import Path", "import math"),
        (purity, "detectors/a.py", "open('x')", "self.open('x')"),
        (pickles, "stream/a.py", "from pickle import loads", "import msgspec"),
        (pickles, "tests/a.py", "load(f, allow_pickle=True)", "load(f, allow_pickle=False)"),
        (docstrings, "stream/a.py", "x = 1", ""),
        (docstrings, "tests/a.py", "'''A.'''\ndef test_a(): pass", "'''A.'''\ndef a(): pass"),
    ],
)
def test_rules_find_what_they_ban(rule: Rule, path: str, bad: str, good: str) -> None:
    """Each rule finds its own example, and only that."""
    assert len(list(rule(Module(path, bad)))) == 1
    assert not list(rule(Module(path, good)))
