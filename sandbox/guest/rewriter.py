"""`HTMLRewriter`: a page with some of its elements changed, all the rest as it was written.

Handlers are called in the order of the page, as it is read by whoever asks for the new body; they may be coroutines.
What is not touched is not written anew. Kept with the standard library, for those who ask.
"""

from __future__ import annotations

import html as escapes
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Final, Self

from .headers import Headers
from .selection import Selector
from .worker import result

_TOKEN: Final = re.compile(
    r"<!--(?P<comment>.*?)(?:--!?>|\Z)|<![dD][oO][cC][tT][yY][pP][eE](?P<doctype>[^>]*)>|</(?P<end>[A-Za-z][^\s/>]*)[^>]*>"
    r"""|<(?P<start>[A-Za-z][^\s/>]*)(?P<attributes>(?:=\s*+"[^"]*+"|=\s*+'[^']*+'|[^>])*+)>""",
    re.DOTALL,
)
_ATTRIBUTE: Final = re.compile(
    r"""(?P<name>[^\s/=][^\s/=]*)(?:\s*=\s*(?:"(?P<double>[^"]*)"|'(?P<single>[^']*)'|(?P<bare>[^\s]+)))?"""
)
_DOCTYPE: Final = re.compile(
    r"""\s*(?P<name>\S+)(?:\s+(?:PUBLIC\s+["'](?P<public>[^"']*)["']|SYSTEM))?(?:\s*["'](?P<system>[^"']*)["'])?""",
    re.IGNORECASE,
)
_VOID: Final = frozenset("area base br col embed hr img input link meta source track wbr".split())
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


class Part:
    """Something on the page, and what comes before it, after it, or in its place."""

    def __init__(self, written: str) -> None:
        self._written, self._before, self._after = written, "", ""
        self.removed = False

    def before(self, content: str, options: Any = None, *, html: bool = False) -> Self:
        """Put this before it: text, unless it is said to be HTML."""
        self._before += _content(content, options, html)
        return self

    def after(self, content: str, options: Any = None, *, html: bool = False) -> Self:
        """Put this after it, and before what was put there already."""
        self._after = _content(content, options, html) + self._after
        return self

    def replace(self, content: str, options: Any = None, *, html: bool = False) -> Self:
        """Have this in its place."""
        self._before += _content(content, options, html)
        return self.remove()

    def remove(self) -> Self:
        """Have it no longer."""
        self.removed = True
        return self

    def whole(self) -> str:
        """What is written."""
        return f"{self._before}{'' if self.removed else self._written}{self._after}"


class Element(Part):
    """An element, as it begins."""

    def __init__(self, token: re.Match[str], nth: int, nth_alike: int) -> None:
        super().__init__(token[0])
        self._tag, self.nth, self.nth_alike = token["start"].lower(), nth, nth_alike
        self.tag = self._tag
        """As it is on the page, whatever it is called now."""
        self.closed = self.tag in _VOID
        self._attributes = _attributes(token["attributes"])
        self._slash = token["attributes"].rstrip().endswith("/")
        self._changed = self._unwrapped = self.emptied = False
        self._prepended = self._appended = ""
        self.ending: list[Callable[[Any], Any]] = []
        self.meant: list[int] = []
        """The places of the handlers that it is meant by."""
        self.hides = False
        """Whether what is in it is left out, as its handlers left it."""

    @property
    def tagName(self) -> str:  # noqa: N802 - the names of the SDK
        """Its name, in small letters."""
        return self._tag

    @tagName.setter
    def tagName(self, name: str) -> None:  # noqa: N802
        self._tag, self._changed = name, True

    @property
    def attributes(self) -> Iterator[tuple[str, str]]:
        """Names and values."""
        return iter(list(self._attributes.items()))

    def getAttribute(self, name: str) -> str | None:  # noqa: N802
        """The value of one, None if it has none of that name."""
        return self._attributes.get(name.lower())

    def hasAttribute(self, name: str) -> bool:  # noqa: N802
        """Whether it has one of that name."""
        return name.lower() in self._attributes

    def setAttribute(self, name: str, value: Any) -> Self:  # noqa: N802
        """Give it one."""
        self._attributes[name.lower()], self._changed = str(value), True
        return self

    def removeAttribute(self, name: str) -> Self:  # noqa: N802
        """Take one away."""
        self._attributes.pop(name.lower(), None)
        self._changed = True
        return self

    def prepend(self, content: str, options: Any = None, *, html: bool = False) -> Self:
        """Put this first into it."""
        self._prepended = _content(content, options, html) + self._prepended
        return self

    def append(self, content: str, options: Any = None, *, html: bool = False) -> Self:
        """Put this last into it."""
        self._appended += _content(content, options, html)
        return self

    def setInnerContent(self, content: str, options: Any = None, *, html: bool = False) -> Self:  # noqa: N802
        """Have this in it, and nothing else."""
        self._prepended, self._appended, self.emptied = _content(content, options, html), "", True
        return self

    def removeAndKeepContent(self) -> Self:  # noqa: N802
        """Have what is in it in its place."""
        self._unwrapped = True
        return self

    def onEndTag(self, handler: Callable[[Any], Any]) -> None:  # noqa: N802
        """What is called when it ends."""
        self.ending.append(handler)

    def opened(self) -> str:
        """What is written where it begins."""
        tag = "" if self.removed or self._unwrapped else self._anew() if self._changed else self._written
        inner = "" if self.removed or self.closed else self._prepended
        return f"{self._before}{tag}{inner}{self._after if self.closed else ''}"

    def ended(self, tag: str) -> str:
        """What is written where it ends, around its tag."""
        if self.removed or self._unwrapped:
            tag = ""
        elif tag and self._tag != self.tag:
            tag = f"</{self._tag}>"
        return f"{'' if self.removed else self._appended}{tag}{self._after}"

    def _anew(self) -> str:
        said = "".join(f' {name}="{value.replace(chr(34), "&quot;")}"' for name, value in self._attributes.items())
        return f"<{self._tag}{said}{' /' if self._slash else ''}>"


class Text(Part):
    """Text between two tags, as it is written."""

    lastInTextNode = True  # noqa: N815 - the name of the SDK

    @property
    def text(self) -> str:
        """The text."""
        return self._written


class Comment(Part):
    """A comment."""

    @property
    def text(self) -> str:
        """What is in it."""
        return self._written.removeprefix("<!--").removesuffix("-->")

    @text.setter
    def text(self, words: str) -> None:
        self._written = f"<!--{words}-->"


class Doctype(Part):
    """What the page says of its kind."""

    def __init__(self, token: re.Match[str]) -> None:
        super().__init__(token[0])
        found = _DOCTYPE.match(token["doctype"])
        parts: tuple[str | None, ...] = found.group("name", "public", "system") if found else (None, None, None)
        self.name, self.publicId, self.systemId = parts


class EndTag(Part):
    """Where an element ends."""

    def __init__(self, written: str, name: str) -> None:
        super().__init__(written)
        self.name = name


class DocumentEnd:
    """Where the page ends."""

    def __init__(self) -> None:
        self.written = ""

    def append(self, content: str, options: Any = None, *, html: bool = False) -> Self:
        """Put this last."""
        self.written += _content(content, options, html)
        return self


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


def _content(content: Any, options: Any, html: bool) -> str:
    return str(content) if html or (options or {}).get("html") else escapes.escape(str(content), quote=False)


def _attributes(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for one in _ATTRIBUTE.finditer(text):
        value = next((one[form] for form in ("double", "single", "bare") if one[form] is not None), "")
        found.setdefault(one["name"].lower(), value)
    return found
