"""The pages of the documentation and the code blocks in them."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parents[2]
SOURCES: Final = ROOT / "deploy" / "docs"
PAGES: Final = tuple(sorted(SOURCES.rglob("*.md")))

_FENCE: Final = re.compile(r"^(?P<fence>`{3,})(?:\{code-block\} )?(?P<language>\w+)$")
_OPTION: Final = re.compile(r"^:(?P<name>[a-z]+): (?P<value>.*)$")


class Block(NamedTuple):
    """A fenced code block. line: of its opening fence, from 1. caption: the name of the file that it
    holds; "" where it is none."""

    page: Path
    line: int
    language: str
    caption: str
    text: str

    def __str__(self) -> str:
        """As an editor can jump to it."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    """The code blocks of a page, in order."""
    lines = page.read_text().splitlines()
    at = 0
    while at < len(lines):
        opening = _FENCE.match(lines[at])
        if opening is None:
            at += 1
            continue
        end = lines.index(opening["fence"], at)
        body = lines[at + 1 : end]
        options: dict[str, str] = {}
        while body and (option := _OPTION.match(body[0])):
            options[option["name"]] = option["value"]
            body = body[1:]
        text = "\n".join(body).strip("\n") + "\n"
        yield Block(page, at + 1, opening["language"], options.get("caption", ""), text)
        at = end + 1


def blocks_in(language: str) -> list[Block]:
    """Every block of a language, in README.md too."""
    return [
        block
        for page in (ROOT / "README.md", *PAGES)
        for block in blocks(page)
        if block.language == language
    ]
