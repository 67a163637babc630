"""Pieces of Markdown from which the generated parts of the reference are put together."""

from collections.abc import Iterable


def table(names: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    head = list(names)
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(_cell(cell) for cell in line)} |\n" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def code(text: str) -> str:
    """The text as inline code; nothing where it is empty."""
    return f"`{text}`" if text else ""


def sentence(text: str) -> str:
    """The text with a capital at its start and a full stop at its end."""
    text = " ".join(text.split())
    first = text[:1] if text.startswith("eddy ") else text[:1].upper()
    return first + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")
