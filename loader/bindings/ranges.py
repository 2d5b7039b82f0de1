"""Ranges: which bytes of an object are asked for, by an offset and a length, by a suffix, or by a request's header."""

from __future__ import annotations

import re
from typing import Final

from . import options as given

_BYTES: Final = re.compile(r"bytes=([0-9]{0,15})-([0-9]{0,15})")


def read(wanted: object, size: int) -> tuple[int, int]:
    """Where it begins in an object of so many bytes, and how many it has. All of them for what asks for none."""
    if (told := given.headers(wanted)) is not None:
        wanted = _of_header(told.get("range", ""))
    found = given.options(wanted, {}, "offset length suffix", "range")
    if "suffix" in found:
        length = min(given.number(found, "suffix", 0, 0, 1 << 53), size)
        return size - length, length
    start = min(given.number(found, "offset", 0, 0, 1 << 53), size)
    return start, min(given.number(found, "length", size - start, 0, 1 << 53), size - start)


def _of_header(header: str) -> dict[str, int]:
    """One range of bytes; all of them for what is none, as HTTP has it."""
    first, last = found.groups() if (found := _BYTES.fullmatch(header)) else ("", "")
    if not first:
        return {"suffix": int(last)} if last else {}
    if last and int(last) < int(first):
        return {}
    return {"offset": int(first)} | ({"length": int(last) - int(first) + 1} if last else {})
