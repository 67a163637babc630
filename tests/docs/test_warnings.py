"""Every message that a worker logs as a warning or an error stands in the guide that explains it."""

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.docs.pages import ROOT, SOURCES

PAGE = SOURCES / "how-to" / "react-to-warnings.md"


def messages(module: Path) -> Iterator[str]:
    """The literal messages that a module logs at these levels, named constants among them."""
    tree = ast.parse(module.read_text())
    constants = {
        target.id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        match node:
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id="logger"), attr="warning" | "error"),
                args=[message, *_],
            ):
                if isinstance(message, ast.Name):
                    message = constants.get(message.id, message)
                yield from (
                    part.value
                    for part in ast.walk(message)
                    if isinstance(part, ast.Constant) and isinstance(part.value, str)
                )


def test_each_warning_is_explained() -> None:
    """The guide has each message; of a long one, its first sentence or clause."""
    text = PAGE.read_text()
    found = {one for module in (ROOT / "stream").rglob("*.py") for one in messages(module)}
    assert len(found) > 15
    missing = sorted(
        one for one in found if f"`{one.partition('. ')[0].partition(': events')[0]}" not in text
    )
    assert not missing
