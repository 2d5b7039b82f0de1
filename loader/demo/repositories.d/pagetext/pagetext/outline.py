"""The headings of a text, each with an anchor, and a table of contents made of them."""

from collections.abc import Iterable
from dataclasses import dataclass

from pagetext import blocks
from pagetext.slug import shorten, slugify, unique

ANCHOR_LENGTH = 40


@dataclass(frozen=True)
class Heading:
    """A heading and the anchor under which the rendered page has it."""

    level: int
    title: str
    anchor: str


def headings(text: str) -> list[Heading]:
    """Return the headings of `text`; no two have the same anchor."""
    return list_headings(blocks.parse(text))


def list_headings(parsed: Iterable[blocks.Block]) -> list[Heading]:
    """Return the headings among blocks, for a caller that has parsed the text already."""
    found: list[Heading] = []
    taken: set[str] = set()
    for block in parsed:
        if isinstance(block, blocks.Title):
            anchor = unique(shorten(slugify(block.text), ANCHOR_LENGTH) or "section", taken)
            taken.add(anchor)
            found.append(Heading(block.level, block.text, anchor))
    return found


def contents(text: str, deepest: int = 3) -> str:
    """Return a table of contents in Markdown, indented by level, down to level `deepest`."""
    listed = [heading for heading in headings(text) if heading.level <= deepest]
    highest = min((heading.level for heading in listed), default=1)
    return "\n".join(
        f"{'  ' * (heading.level - highest)}- [{heading.title}](#{heading.anchor})"
        for heading in listed
    )
