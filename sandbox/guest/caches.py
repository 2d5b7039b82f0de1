"""`js.caches`: answers that are kept for a while, so that they need not be made again.

They lie in this sandbox and go with it, like everything that a cache holds may; what was used last stays. How long is
for the headers of an answer to say. Kept with the standard library, for those who ask.
"""

from __future__ import annotations

import re
import time
from collections import OrderedDict
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any, Final, NamedTuple

from .headers import Headers
from .http import Request, Response

MOST_BYTES: Final = 16 * 1024 * 1024
MOST_ANSWERS: Final = 1_000
_USUAL: Final = {200: 7200, 206: 7200, 301: 7200, 302: 1200, 303: 1200, 404: 180, 410: 180}
"""Seconds that an answer is kept for which says nothing of it, by its status."""
_AGE: Final = re.compile(r"\b(s-maxage|max-age)\s*=\s*\"?(\d+)")
_RANGE: Final = re.compile(r"bytes=(\d{0,15})-(\d{0,15})")
_NEVER: Final = re.compile(r"\b(no-store|no-cache|private)\b(?!\s*=)")


class _Kept(NamedTuple):
    status: int
    status_text: str
    headers: list[tuple[str, str]]
    body: bytes
    until: float

    @property
    def size(self) -> int:
        return len(self.body) + sum(len(name) + len(value) for name, value in self.headers)


class Shelf:
    """All that is kept in this sandbox, by cache and URL."""

    def __init__(self, most_bytes: int = MOST_BYTES, most_answers: int = MOST_ANSWERS) -> None:
        self._most_bytes, self._most_answers = most_bytes, most_answers
        self._kept: OrderedDict[tuple[str, str], _Kept] = OrderedDict()
        self._bytes = 0

    def put(self, key: tuple[str, str], kept: _Kept) -> None:
        """Keep an answer, and let go of those that were not used for longest. `TypeError` if it has no room at all."""
        if kept.size > self._most_bytes:
            raise TypeError(f"the answer has {kept.size:,} bytes; all that a cache holds has {self._most_bytes:,}")
        self.pop(key)
        self._kept[key] = kept
        self._bytes += kept.size
        while self._bytes > self._most_bytes or len(self._kept) > self._most_answers:
            self.pop(next(iter(self._kept)))

    def get(self, key: tuple[str, str]) -> _Kept | None:
        """What is kept, if its time is not over."""
        kept = self._kept.get(key)
        if kept is None or kept.until <= time.time():
            self.pop(key)
            return None
        self._kept.move_to_end(key)
        return kept

    def pop(self, key: tuple[str, str]) -> bool:
        """Let go of it. Whether there was something that could still be had."""
        kept = self._kept.pop(key, None)
        if kept is None:
            return False
        self._bytes -= kept.size
        return kept.until > time.time()


_shelf = Shelf()


class Cache:
    """One of them: `await cache.match(request)`, `put(request, response)`, `delete(request)`."""

    __module__ = "js"

    def __init__(self, name: str) -> None:
        self._name = name

    async def match(self, request: Any, options: Mapping[str, Any] | None = None, **more: Any) -> Response | None:
        """The answer that is kept for it, None if there is none. Of a HEAD, with `ignoreMethod` of any."""
        asked = _asked(request)
        if asked.method not in {"GET", "HEAD"} and not {**(options or {}), **more}.get("ignoreMethod"):
            return None
        kept = _shelf.get((self._name, asked.url))
        if kept is None:
            return None
        headers = Headers([*kept.headers, ("cf-cache-status", "HIT")])
        if _is_known(asked.headers, headers):
            return Response(None, 304, headers=headers)
        status, text, body = kept.status, kept.status_text, None if asked.method == "HEAD" else kept.body
        if status == 200 and (part := _RANGE.fullmatch(asked.headers.get("range") or "")) is not None:
            status, text, body = _part(part, kept.body, headers)
        return Response(None if asked.method == "HEAD" else body, status, text, headers)

    async def put(self, request: Any, response: Any) -> None:
        """Keep an answer, which is read for it. `TypeError` for what cannot be kept; what is not to be is not."""
        asked, told = _asked(request), str(response.headers.get("cache-control") or "").lower()
        if asked.method != "GET":
            raise TypeError("Cannot cache response to non-GET request.")
        if response.status == 206:
            raise TypeError("Cannot cache response to a range request (206 Partial Content).")
        if "*" in (response.headers.get("vary") or ""):
            raise TypeError("Cannot cache response with 'Vary: *' header.")
        if response.encode_body == "manual" and response.body is not None:
            response = response.replace_body(None)._arrived(response._open())
        body, pairs = await response.bytes(), response.headers.pairs
        seconds = 0 if _NEVER.search(told) else _seconds(response, told)
        if "private=set-cookie" in told.replace('"', ""):
            pairs = [pair for pair in pairs if pair[0].lower() != "set-cookie"]
        elif response.headers.get("set-cookie") is not None:
            return
        if seconds > 0:
            kept = _Kept(response.status, response.status_text, pairs, body, time.time() + seconds)
            _shelf.put((self._name, asked.url), kept)

    async def delete(self, request: Any, *_: Any, **__: Any) -> bool:
        """Whether something was kept, which is no longer."""
        return _shelf.pop((self._name, _asked(request).url))


class CacheStorage:
    """`caches.default`, and `await caches.open("name")`."""

    __module__ = "js"

    def __init__(self) -> None:
        self.default = Cache("")

    async def open(self, name: str) -> Cache:
        """One of its own under each name."""
        return Cache(f"open:{name}")


caches = CacheStorage()


def _asked(request: Any) -> Request:
    return request if isinstance(request, Request) else Request(str(request))


def _part(part: re.Match[str], body: bytes, headers: Headers) -> tuple[int, str, bytes | None]:
    """Some of it, as far as there is so much."""
    first, last = part.groups()
    start = int(first) if first else max(len(body) - int(last or 0), 0)
    end = min(int(last), len(body) - 1) if first and last else len(body) - 1
    if start > end:
        headers["content-range"] = f"bytes */{len(body)}"
        return 416, "", None
    headers["content-range"] = f"bytes {start}-{end}/{len(body)}"
    headers["content-length"] = str(end - start + 1)
    return 206, "", body[start : end + 1]


def _seconds(response: Any, told: str) -> float:
    ages = dict(_AGE.findall(told))
    if ages:
        return float(ages.get("s-maxage") or ages["max-age"])
    if (expires := response.headers.get("expires")) is not None:
        try:
            return parsedate_to_datetime(expires).timestamp() - time.time()
        except ValueError:
            return 0
    return _USUAL.get(response.status, 0)


def _is_known(asked: Headers, kept: Headers) -> bool:
    """Whether who asks has the same already."""
    if (wanted := asked.get("if-none-match")) is not None:
        tags = [tag.strip().removeprefix("W/") for tag in wanted.split(",")]
        return "*" in tags or (kept.get("etag") or "-").removeprefix("W/") in tags
    since, changed = asked.get("if-modified-since"), kept.get("last-modified")
    if since is None or changed is None:
        return False
    try:
        return parsedate_to_datetime(changed) <= parsedate_to_datetime(since)
    except (ValueError, TypeError):
        return False
