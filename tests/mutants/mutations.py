"""Small changes to source text: which there are, and how one is applied.

A mutation replaces one expression or one statement inside a function. Left out is what no test
could or should notice: docstrings, annotations, decorators, assertions, error texts, formatted
texts, log calls, and everything at module level, which is settings and declarations.
"""

import ast
from collections.abc import Iterator
from typing import Final, NamedTuple

KERNEL: Final = "kernel"
COMPARISONS: Final[dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
ARITHMETIC: Final[dict[type[ast.operator], type[ast.operator]]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitAnd,
}
SWAPPED: Final = {
    "min": "max",
    "max": "min",
    "minimum": "maximum",
    "maximum": "minimum",
    "any": "all",
    "all": "any",
    "floor": "ceil",
    "ceil": "floor",
}
LOGGERS: Final = {"log", "logger", "console", "print", "say", "warn"}


class Mutation(NamedTuple):
    """One change: `before`, the text from `start` to `end` (line from 1, character), is `after`.

    function: its qualified name. kernel: whether the function is compiled. line: the first line of
    the statement that holds the change.
    """

    function: str
    kernel: bool
    kind: str
    line: int
    start: tuple[int, int]
    end: tuple[int, int]
    before: str
    after: str


def mutations(source: str) -> list[Mutation]:
    """All mutations of a module, in the order of its text."""
    tree = ast.parse(source)
    lines = source.splitlines(keepends=True)
    found = [
        mutation
        for name, function in _functions(tree, "")
        for mutation in _of_function(name, function, lines)
    ]
    return sorted(found, key=lambda one: (one.start, one.end, one.after))


def applied(source: str, mutation: Mutation) -> str:
    """The module with that change."""
    lines = source.splitlines(keepends=True)
    (first, start), (last, end) = mutation.start, mutation.end
    head = "".join(lines[: first - 1]) + lines[first - 1][:start]
    tail = lines[last - 1][end:] + "".join(lines[last:])
    return head + mutation.after + tail


def _functions(node: ast.AST, prefix: str) -> Iterator[tuple[str, ast.FunctionDef]]:
    """Every function outside of other functions, with its qualified name."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef):
            yield prefix + child.name, child
        elif isinstance(child, ast.ClassDef):
            yield from _functions(child, f"{prefix}{child.name}.")
        elif not isinstance(child, ast.expr):
            yield from _functions(child, prefix)


def _of_function(name: str, function: ast.FunctionDef, lines: list[str]) -> Iterator[Mutation]:
    kernel = any(isinstance(d, ast.Name) and d.id == KERNEL for d in function.decorator_list)
    returns_none = isinstance(function.returns, ast.Constant) and function.returns.value is None
    body = _without_docstring(function.body)
    for node in body:
        for change in _changes(node, node.lineno):
            yield _mutation(name, kernel, change, lines)
        if returns_none and not isinstance(
            node, ast.Return | ast.Raise | ast.Pass | ast.FunctionDef
        ):
            yield _mutation(
                name, kernel, Change("early return", node, "return", node.lineno), lines
            )


def _without_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    first = body[0]
    is_text = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    return body[1:] if is_text else body


def _mutation(name: str, kernel: bool, change: "Change", lines: list[str]) -> Mutation:
    node = change.node
    assert node.end_lineno is not None
    assert node.end_col_offset is not None
    start = node.lineno, _character(lines[node.lineno - 1], node.col_offset)
    end = node.end_lineno, _character(lines[node.end_lineno - 1], node.end_col_offset)
    if start[0] == end[0]:
        before = lines[start[0] - 1][start[1] : end[1]]
    else:
        whole = lines[start[0] - 1 : end[0]]
        before = "".join([whole[0][start[1] :], *whole[1:-1], whole[-1][: end[1]]])
    return Mutation(name, kernel, change.kind, change.line, start, end, before, change.after)


def _character(line: str, offset: int) -> int:
    """The place of a character, of which the parser gives the place in UTF-8."""
    return len(line.encode()[:offset].decode())


class Change(NamedTuple):
    """The node to replace, the text in its place, and the line where its statement begins."""

    kind: str
    node: ast.expr | ast.stmt
    after: str
    line: int


def _changes(node: ast.AST, line: int) -> Iterator[Change]:
    """The changes of a node and of all below it."""
    if _is_left_out(node):
        return
    line = node.lineno if isinstance(node, ast.stmt) else line
    for kind, part, after in (*_of_statement(node), *_of_expression(node)):
        yield Change(kind, part, after, line)
    for field, value in ast.iter_fields(node):
        if field in {"annotation", "returns", "decorator_list", "args"} and not isinstance(
            node, ast.Call
        ):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _changes(child, line)


def _is_left_out(node: ast.AST) -> bool:
    if isinstance(node, ast.Assert | ast.Raise | ast.JoinedStr | ast.Import | ast.ImportFrom):
        return True
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return True
    return isinstance(node, ast.Call) and _called(node.func) in LOGGERS


def _called(function: ast.expr) -> str:
    """The name at the root of `log.info` and the like."""
    while isinstance(function, ast.Attribute):
        if function.attr.strip("_") in LOGGERS:
            return function.attr.strip("_")
        function = function.value
    return function.id.strip("_") if isinstance(function, ast.Name) else ""


Part = tuple[str, ast.expr | ast.stmt, str]


def _of_statement(node: ast.AST) -> Iterator[Part]:
    match node:
        case ast.Expr(value=ast.Call() as call) if not _is_left_out(call):
            yield "dropped statement", node, "pass"
        case ast.Assign(targets=[ast.Subscript() | ast.Attribute()]):
            yield "dropped statement", node, "pass"
        case ast.AugAssign():
            yield "dropped statement", node, "pass"
            if type(node.op) in ARITHMETIC:
                new = ast.AugAssign(node.target, ARITHMETIC[type(node.op)](), node.value)
                yield "arithmetic", node, ast.unparse(ast.fix_missing_locations(new))
        case ast.Break():
            yield "loop", node, "continue"
        case ast.Continue():
            yield "loop", node, "break"
        case ast.If() | ast.While() | ast.IfExp() if not isinstance(
            node.test, ast.Compare | ast.UnaryOp
        ):
            yield "condition", node.test, _text(ast.UnaryOp(ast.Not(), node.test))
        case _:
            pass


def _of_expression(node: ast.AST) -> Iterator[Part]:
    match node:
        case ast.Compare(left=left, ops=[op], comparators=[right]):
            for other in COMPARISONS[type(op)]:
                yield "comparison", node, _text(ast.Compare(left, [other()], [right]))
        case ast.Compare(left=left, ops=[*ops], comparators=[*rights]):
            for k, op in enumerate(ops):
                other = COMPARISONS[type(op)][0]
                yield (
                    "comparison",
                    node,
                    _text(ast.Compare(left, [*ops[:k], other(), *ops[k + 1 :]], rights)),
                )
        case ast.BinOp(left=left, op=op, right=right) if type(op) in ARITHMETIC:
            if not (_is_text(left) or _is_text(right)):
                yield "arithmetic", node, _text(ast.BinOp(left, ARITHMETIC[type(op)](), right))
        case ast.BoolOp(op=op, values=[*values]):
            swapped = ast.Or() if isinstance(op, ast.And) else ast.And()
            yield "boolean", node, _text(ast.BoolOp(swapped, values))
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield "boolean", node, _text(operand)
        case ast.Call(func=ast.Name(id=name) as function) if name in SWAPPED:
            yield "minimum and maximum", function, SWAPPED[name]
        case ast.Call(func=ast.Attribute(value=value, attr=name) as function) if name in SWAPPED:
            yield "minimum and maximum", function, f"{ast.unparse(value)}.{SWAPPED[name]}"
        case ast.Constant(value=bool() as value):
            yield "constant", node, str(not value)
        case ast.Constant(value=int() | float() as value):
            yield "constant", node, repr(value + 1)
            yield "constant", node, f"({value - 1!r})" if value < 1 else repr(value - 1)
        case _:
            pass


def _is_text(node: ast.expr) -> bool:
    """Whether it is a text, so that `+` joins and `%` formats."""
    if isinstance(node, ast.BinOp):
        return _is_text(node.left) or _is_text(node.right)
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str | bytes)
    )


def _text(node: ast.expr) -> str:
    """The node's text, in parentheses: it may stand inside another expression."""
    return f"({ast.unparse(ast.fix_missing_locations(node))})"
