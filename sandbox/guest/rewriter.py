"""`HTMLRewriter`: a page with some of its elements changed, all the rest as it was written.

Handlers are called in the order of the page, as it is read by whoever asks for the new body; they may be coroutines.
What is not touched is not written anew. Kept with the standard library, for those who ask.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any, Final, Self

from .elements import Comment, Doctype, DocumentEnd, Element, EndTag, Part, Text
from .headers import Headers
from .selection import Selector
from .worker import result

_TOKEN: Final = re.compile(
    r"<!--(?P<comment>.*?)(?:--!?>|\Z)|<![dD][oO][cC][tT][yY][pP][eE](?P<doctype>[^>]*)>|</(?P<end>[A-Za-z][^\s/>]*)[^>]*>"
    r"""|<(?P<start>[A-Za-z][^\s/>]*)(?P<attributes>(?:=\s*+"[^"]*+"|=\s*+'[^']*+'|[^>])*+)>""",
    re.DOTALL,
)
_RAW: Final = frozenset("script style textarea title xmp iframe noembed noframes".split())
_PIECE: Final = 64 * 1024


class HTMLRewriter:
    """`HTMLRewriter().on("a", Handler()).transform(response)`: a handler has `element`, `comments` and `text`."""

    __module__ = "workers"

    def __init__(self) -> None:
        self._handlers: list[tuple[Selector, Any]] = []
        self._document: list[Any] = []

    @classmethod
    def new(cls) -> HTMLRewriter:
        """One of them."""
        return cls()

    def on(self, selector: str, handlers: Any) -> Self:
        """What is called for the elements that a selector means, and for what is in them."""
        self._handlers.append((Selector(selector), handlers))
        return self

    def on_document(self, handlers: Any) -> Self:
        """What is called for the whole page: `doctype`, `comments`, `text` and `end`."""
        self._document.append(handlers)
        return self

    onDocument = on_document  # noqa: N815 - the name of the SDK

    def transform(self, response: Any) -> Any:
        """A response with the same status, whose body is read and changed when somebody asks for it."""
        if response.body is None:
            return response
        headers = Headers(response.headers)
        del headers["content-length"]
        body = _Page(self._handlers, self._document).pieces(response._open())
        return type(response)(body, response.status, response.status_text, headers)


class _Page:
    """One page on its way through the handlers."""

    def __init__(self, handlers: list[tuple[Selector, Any]], document: list[Any]) -> None:
        self._handlers, self._document = list(handlers), list(document)
        self._open: list[Element] = []
        self._tags: Counter[str] = Counter()
        """How many elements of each tag are open."""
        self._hiding = 0
        """How many of them hide what is in them."""
        self._active: Counter[int] = Counter()
        """For how many of them each handler is called that is called for what is in them."""
        self._counts: list[dict[str, int]] = [{}]
        """How many children each open element has had, the page before them, by tag."""

    async def pieces(self, body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        text = b"".join([piece async for piece in body]).decode("utf-8", "surrogateescape")
        kept: list[str] = []
        size = 0
        async for part in self._parts(text):
            kept.append(part)
            size += len(part)
            if size > _PIECE:
                yield "".join(kept).encode("utf-8", "surrogateescape")
                kept, size = [], 0
        if size:
            yield "".join(kept).encode("utf-8", "surrogateescape")

    async def _parts(self, text: str) -> AsyncIterator[str]:
        place = 0
        while place < len(text):
            token = self._next(text, place)
            if (stop := token.start() if token else len(text)) > place:
                yield await self._told("text", Text(text[place:stop]))
            if token is None:
                break
            place = token.end()
            if token["start"] is not None:
                yield await self._begins(token)
            elif token["end"] is not None:
                yield await self._ends(token)
            elif token["doctype"] is not None:
                yield await self._told("doctype", Doctype(token))
            else:
                yield await self._told("comments", Comment(token[0]))
        while self._open:
            yield await self._closes("")
        end = DocumentEnd()
        for handlers in self._document:
            await _call(handlers, "end", end)
        yield end.written

    def _next(self, text: str, place: int) -> re.Match[str] | None:
        if self._open and (tag := self._open[-1].tag) in _RAW:
            end = re.compile(rf"</{tag}(?=[\s/>])", re.IGNORECASE).search(text, place)
            return None if end is None else _TOKEN.search(text, end.start())
        return _TOKEN.search(text, place)

    async def _told(self, kind: str, part: Part) -> str:
        for place, (_, handlers) in enumerate(self._handlers):
            if self._active[place] and kind != "doctype":
                await _call(handlers, kind, part)
        for handlers in self._document:
            await _call(handlers, kind, part)
        return "" if self._hiding else part.whole()

    async def _begins(self, token: re.Match[str]) -> str:
        counts, tag = self._counts[-1], token["start"].lower()
        counts["*"], counts[tag] = counts.get("*", 0) + 1, counts.get(tag, 0) + 1
        element = Element(token, counts["*"], counts[tag])
        if element._slash and (self._tags["svg"] or self._tags["math"]):
            element.closed = True
        self._open.append(element)
        element.meant = [at for at, (selector, _) in enumerate(self._handlers) if selector.matches(self._open)]
        for at in element.meant:
            await _call(self._handlers[at][1], "element", element)
        written = "" if self._hiding else element.opened()
        if element.closed:
            self._open.pop()
        else:
            self._tags[tag] += 1
            element.hides = element.removed or element.emptied
            self._hiding += element.hides
            self._active.update(element.meant)
            self._counts.append({})
        return written

    async def _ends(self, token: re.Match[str]) -> str:
        tag = token["end"].lower()
        if not self._tags[tag]:
            return "" if self._hiding else token[0]
        written = ""
        while self._open[-1].tag != tag:
            written += await self._closes("")
        return written + await self._closes(token[0])

    async def _closes(self, tag: str) -> str:
        element = self._open.pop()
        self._tags[element.tag] -= 1
        self._hiding -= element.hides
        self._active.subtract(element.meant)
        self._counts.pop()
        end = EndTag(tag, element.tagName)
        if tag:
            for handler in element.ending:
                await result(handler, end)
        written = element.ended("" if end.removed else tag)
        return "" if self._hiding else f"{end._before}{written}{end._after}"


async def _call(handlers: Any, name: str, subject: Any) -> None:
    found = handlers.get(name) if isinstance(handlers, dict) else getattr(handlers, name, None)
    if found is not None:
        await result(found, subject)
