"""Which elements a selector means: that part of CSS which Cloudflare's HTMLRewriter knows.

An element is looked at when it begins, so nothing can depend on what comes after it. Kept with the standard library,
for those who ask.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

Test = Callable[[Any], bool]
_NAME: Final = r"[-\w\u0080-\uffff]+"
_PART: Final = re.compile(
    rf"(?P<tag>\*|{_NAME})|#(?P<id>{_NAME})|\.(?P<class>{_NAME})"
    rf"|\[\s*(?P<name>{_NAME})\s*(?:(?P<how>[~^$*|]?=)\s*(?:\"(?P<double>[^\"]*)\"|'(?P<single>[^']*)'|(?P<bare>{_NAME}))"
    r"\s*(?P<case>[is])?\s*)?\]"
    r"|:(?P<kind>first-child|nth-child|first-of-type|nth-of-type)(?:\((?P<number>[^)]*)\))?|:not\((?P<not>[^()]*)\)"
)
_NTH: Final = re.compile(r"(?:(?P<step>[+-]?\d*)n)?\s*(?P<first>[+-]?\s*\d+)?")
_COMPARED: Final[Mapping[str, Callable[[str, str], bool]]] = {
    "=": lambda value, wanted: value == wanted,
    "~=": lambda value, wanted: wanted in value.split(),
    "^=": lambda value, wanted: bool(wanted) and value.startswith(wanted),
    "$=": lambda value, wanted: bool(wanted) and value.endswith(wanted),
    "*=": lambda value, wanted: bool(wanted) and wanted in value,
    "|=": lambda value, wanted: value == wanted or value.startswith(f"{wanted}-"),
}


class Selector:
    """Several selectors, with commas between them. `TypeError` for what is none that is known here."""

    def __init__(self, text: str) -> None:
        self._choices = [_chain(choice.strip(), text) for choice in _split(text)]

    def matches(self, path: Sequence[Any]) -> bool:
        """Whether it means the last of these elements, of which each is within the one before."""
        return any(_match(chain, len(chain) - 1, path, len(path) - 1) for chain in self._choices)


def _split(text: str) -> list[str]:
    return re.split(r""",(?=(?:[^"']|"[^"]*"|'[^']*')*$)(?![^(]*\))""", text)


def _chain(choice: str, whole: str) -> list[tuple[str, list[Test]]]:
    """What each element on the way has to be, and how it is within the one before: " " or ">"."""
    chain: list[tuple[str, list[Test]]] = []
    how, place = " ", 0
    while place < len(choice):
        tests: list[Test] = []
        while (part := _PART.match(choice, place)) is not None and part.end() > place:
            tests.append(_test(part, whole))
            place = part.end()
        gap = re.compile(r"\s*(>?)\s*").match(choice, place)
        if not tests or gap is None or (gap.end() == place < len(choice)):
            break
        chain.append((how, tests))
        how, place = gap[1] or " ", gap.end()
    if place < len(choice) or not chain or how == ">" or choice.endswith(">"):
        raise TypeError(f"{whole!r:.100} is no selector that HTMLRewriter knows")
    return chain


def _match(chain: list[tuple[str, list[Test]]], at: int, path: Sequence[Any], depth: int) -> bool:
    if depth < 0:
        return False
    how, tests = chain[at]
    if not all(test(path[depth]) for test in tests):
        return False
    if at == 0:
        return True
    above = range(depth - 1, -1, -1) if how == " " else range(depth - 1, depth - 2, -1)
    return any(_match(chain, at - 1, path, higher) for higher in above)


def _test(part: re.Match[str], whole: str) -> Test:
    if (tag := part["tag"]) is not None:
        return lambda element: tag == "*" or element.tagName == tag.lower()
    if (identity := part["id"]) is not None:
        return lambda element: bool(element.getAttribute("id") == identity)
    if (kind := part["class"]) is not None:
        return lambda element: kind in (element.getAttribute("class") or "").split()
    if (other := part["not"]) is not None:
        refused = Selector(other)
        return lambda element: not refused.matches([element])
    if part["kind"] is not None:
        return _nth(part, whole)
    name, how = part["name"], part["how"]
    if how is None:
        return lambda element: bool(element.hasAttribute(name))
    wanted = next(part[form] for form in ("double", "single", "bare") if part[form] is not None)
    folded: Callable[[str], str] = str.lower if part["case"] == "i" else str

    def compared(element: Any) -> bool:
        value = element.getAttribute(name)
        return value is not None and _COMPARED[how](folded(value), folded(wanted))

    return compared


def _nth(part: re.Match[str], whole: str) -> Test:
    number = {"odd": "2n+1", "even": "2n"}.get(part["number"] or "1", part["number"] or "1")
    found = _NTH.fullmatch(number.strip())
    if found is None or not number.strip():
        raise TypeError(f"{whole!r:.100} is no selector that HTMLRewriter knows")
    step = (
        0 if found["step"] is None else int(f"{found['step']}1" if found["step"] in {"", "+", "-"} else found["step"])
    )
    first = int((found["first"] or "0").replace(" ", ""))
    alike = part["kind"].endswith("of-type")

    def counted(element: Any) -> bool:
        beyond = (element.nth_alike if alike else element.nth) - first
        return bool(beyond == 0 if step == 0 else beyond % step == 0 and beyond // step >= 0)

    return counted
