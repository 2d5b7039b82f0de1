"""Parts of a page as its handlers have them: what was written, and what is to be written instead, before and after.

Kept with the standard library, for those who ask.
"""

from __future__ import annotations

import html as escapes
import re
from collections.abc import Callable, Iterator
from typing import Any, Final, Self

_ATTRIBUTE: Final = re.compile(
    r"""(?P<name>[^\s/=][^\s/=]*)(?:\s*=\s*(?:"(?P<double>[^"]*)"|'(?P<single>[^']*)'|(?P<bare>[^\s]+)))?"""
)
_DOCTYPE: Final = re.compile(
    r"""\s*(?P<name>\S+)(?:\s+(?:PUBLIC\s+["'](?P<public>[^"']*)["']|SYSTEM))?(?:\s*["'](?P<system>[^"']*)["'])?""",
    re.IGNORECASE,
)

_VOID: Final = frozenset("area base br col embed hr img input link meta source track wbr".split())


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


def _content(content: Any, options: Any, html: bool) -> str:
    return str(content) if html or (options or {}).get("html") else escapes.escape(str(content), quote=False)


def _attributes(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for one in _ATTRIBUTE.finditer(text):
        value = next((one[form] for form in ("double", "single", "bare") if one[form] is not None), "")
        found.setdefault(one["name"].lower(), value)
    return found
