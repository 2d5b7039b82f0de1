"""From text to blocks: the line-by-line half of a small Markdown.

Known are headings (`#` to `######`), fenced code, lists of `- ` or `* ` items, and paragraphs. A
block keeps its text as it was written; what stands inside a line is the business of `render`.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class Title:
    """A heading of level 1 to 6."""

    level: int
    text: str


@dataclass(frozen=True)
class Code:
    """The lines between two fences; `language` is what follows the first fence."""

    language: str
    text: str


@dataclass(frozen=True)
class Items:
    """Neighbouring list items."""

    texts: tuple[str, ...]


@dataclass(frozen=True)
class Paragraph:
    """Neighbouring lines, joined by spaces."""

    text: str


Block: TypeAlias = Title | Code | Items | Paragraph

FENCE = "```"
TITLE = re.compile(r"(#{1,6}) +(.*?)(?: +#+)?")
ITEM = re.compile(r"[-*] +(.*)")


def parse(text: str) -> list[Block]:
    """Return the blocks of `text`, in order."""
    return list(_blocks(text.splitlines()))


def _blocks(lines: list[str]) -> Iterator[Block]:
    place = 0
    while place < len(lines):
        line = lines[place].strip()
        end = place + 1
        if line.startswith(FENCE):
            end = _find(lines, end, lambda other: other.startswith(FENCE))
            yield Code(line.removeprefix(FENCE).strip(), "\n".join(lines[place + 1 : end]))
            end += 1
        elif title := TITLE.fullmatch(line):
            yield Title(len(title[1]), title[2])
        elif ITEM.fullmatch(line):
            end = _find(lines, end, lambda other: not ITEM.fullmatch(other))
            matches = (ITEM.fullmatch(item.strip()) for item in lines[place:end])
            yield Items(tuple(match[1] for match in matches if match))
        elif line:
            end = _find(lines, end, _ends_paragraph)
            yield Paragraph(" ".join(part.strip() for part in lines[place:end]))
        place = end


def _find(lines: list[str], start: int, wanted: Callable[[str], object]) -> int:
    """Return the place of the first line from `start` on that is wanted, else the end."""
    places = (place for place in range(start, len(lines)) if wanted(lines[place].strip()))
    return next(places, len(lines))


def _ends_paragraph(line: str) -> bool:
    starts_another = line.startswith(FENCE) or TITLE.fullmatch(line) or ITEM.fullmatch(line)
    return not line or bool(starts_another)
