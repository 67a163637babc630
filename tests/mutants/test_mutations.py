"""Which changes are made to source text, and which are not."""

import ast
from textwrap import dedent

import pytest

from tests.mutants.__main__ import Mutant, drawn, equivalents, wilson
from tests.mutants.mutations import Mutation, applied, mutations
from tests.mutants.running import ROOT

MODULE = '''
"""A module."""

LIMIT = 3


@kernel
def count(values: list[int], at_least: int = 2) -> int:
    """Count them."""
    assert len(values) < 1000
    if not values:
        raise ValueError(f"no values: expected {at_least + 1}")
    log.info("counting %d", 5)
    return sum(1 for x in values if x >= at_least and x < 10)


class Store:
    def put(self, name: "str") -> None:
        self.names.append(name)
        self.size += 2
'''


def changes(source: str) -> set[tuple[str, str]]:
    """What is replaced by what in the body of a function."""
    text = dedent(source).strip().replace("\n", "\n    ")
    return {(one.before, one.after) for one in mutations(f"def f() -> int:\n    {text}\n")}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("return a < b", {("a < b", "(a <= b)"), ("a < b", "(a >= b)")}),
        ("return a in b", {("a in b", "(a not in b)")}),
        ("return a + b", {("a + b", "(a - b)")}),
        ("return 'a' + b", set()),
        ("return a and b", {("a and b", "(a or b)")}),
        ("return not a", {("not a", "(a)")}),
        ("return 5", {("5", "6"), ("5", "4")}),
        ("return 0.5", {("0.5", "1.5"), ("0.5", "(-0.5)")}),
        ("return True", {("True", "False")}),
        ("return min(a, b)", {("min", "max")}),
        ("return np.minimum(a, b)", {("np.minimum", "np.maximum")}),
        ("a += b", {("a += b", "pass"), ("a += b", "a -= b")}),
        ("a[b] = c", {("a[b] = c", "pass")}),
        ("send(a)", {("send(a)", "pass")}),
        ("while a:\n    break", {("a", "(not a)"), ("break", "continue")}),
        ("log.warning('x', 3)", set()),
        ("raise ValueError(a + 1)", set()),
        ("a: Final[int] = b", set()),
    ],
)
def test_each_kind_of_change(source: str, expected: set[tuple[str, str]]) -> None:
    """Operators, constants, boundaries, statements: each has its changes, and no other."""
    assert changes(source) == expected


def test_only_the_code_of_functions_is_changed() -> None:
    """No docstring, annotation, default, assertion, error text, log call or module's constant."""
    found = [(one.function, one.kernel, one.before, one.after) for one in mutations(MODULE)]
    expected = [
        ("count", True, "not values", "(values)"),
        ("count", True, "1", "2"),
        ("count", True, "1", "0"),
        ("count", True, "x >= at_least and x < 10", "(x >= at_least or x < 10)"),
        ("count", True, "x >= at_least", "(x < at_least)"),
        ("count", True, "x >= at_least", "(x > at_least)"),
        ("count", True, "x < 10", "(x <= 10)"),
        ("count", True, "x < 10", "(x >= 10)"),
        ("count", True, "10", "11"),
        ("count", True, "10", "9"),
        ("Store.put", False, "self.names.append(name)", "pass"),
        ("Store.put", False, "self.names.append(name)", "return"),
        ("Store.put", False, "self.size += 2", "pass"),
        ("Store.put", False, "self.size += 2", "return"),
        ("Store.put", False, "self.size += 2", "self.size -= 2"),
        ("Store.put", False, "2", "1"),
        ("Store.put", False, "2", "3"),
    ]
    assert sorted(found) == sorted(expected)


def test_every_change_is_a_module_that_differs_in_that_place() -> None:
    """Applied, it parses, and all text around it stays."""
    for one in mutations(MODULE):
        text = applied(MODULE, one)
        assert ast.dump(ast.parse(text)) != ast.dump(ast.parse(MODULE))
        assert len(text) == len(MODULE) - len(one.before) + len(one.after)


def test_a_larger_sample_holds_the_smaller_one() -> None:
    """Half are of kernels; the same seed draws the same."""
    found = [
        Mutant("a.py", Mutation("f", k % 2 == 0, "x", 1, (1, k), (1, k + 1), "a", "b"), ["t"])
        for k in range(100)
    ]
    small, large = (drawn(found, count, 3) for count in (10, 40))
    assert sum(one.mutation.kernel for one in large) == 20
    assert {one.key() for one in small} < {one.key() for one in large}
    assert small == drawn(found, 10, 3)
    assert small != drawn(found, 10, 4)


def test_the_interval_of_a_share_is_wilsons() -> None:
    """As in Newcombe (1998), table I: 81 of 263, and 0 of 20."""
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)


def test_every_equivalent_is_a_change_of_the_code() -> None:
    """An entry whose line is no more excuses nothing: the code has changed, and so may the reason."""
    for known in equivalents():
        found = mutations((ROOT / known.file).read_text())
        assert any(known.is_of(Mutant(known.file, one, [])) for one in found), known
