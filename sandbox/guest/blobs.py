"""Blobs and files, as Cloudflare's Python SDK has them: bytes that are all here, and what they are said to be.

Kept with the standard library, for those who ask.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Iterable, Mapping
from typing import Any, Final

from cloister.ipc.capabilities import RpcTarget
from cloister.ipc.stubs import Stub


class BlobEnding(enum.Enum):
    """What becomes of line ends in text."""

    TRANSPARENT = "transparent"
    NATIVE = "native"


class Blob(RpcTarget):
    """`Blob("text")`, `Blob([b"a", other_blob], content_type="image/png")`. It never changes."""

    __module__ = "workers"

    def __init__(self, blob_parts: Any, content_type: str | None = None, endings: Any = None) -> None:
        if isinstance(blob_parts, Blob) and content_type is None:
            content_type = blob_parts.content_type
        whole = isinstance(blob_parts, str | bytes | memoryview | Blob)
        parts = [blob_parts] if whole else blob_parts
        if not isinstance(parts, Iterable):
            raise TypeError(f"Don't know how to handle {type(parts)} for Blob()")
        native = getattr(endings, "value", endings) == "native"
        self._data = b"".join([_part(part, native) for part in parts])
        self.content_type: str = (content_type or "").lower()

    @property
    def size(self) -> int:
        """In bytes."""
        return len(self._data)

    @property
    def type(self) -> str:
        """See `content_type`."""
        return self.content_type

    @property
    def js_object(self) -> Blob:
        """Itself: there is nothing below it."""
        return self

    async def text(self) -> str:
        """The content as text."""
        return self._data.decode("utf-8", "replace")

    async def bytes(self) -> bytes:
        """The content."""
        return self._data

    async def buffer(self) -> memoryview:
        """The content, without copying it."""
        return memoryview(self._data)

    arrayBuffer = buffer  # noqa: N815 - the names of the SDK

    def slice(self, start: int = 0, end: int | None = None, content_type: str | None = None) -> Blob:
        """A part of it."""
        return Blob(self._data[start:end], content_type or "")

    def rpc_attributes(self) -> Mapping[str, Any]:
        """All of it."""
        return {"workers.class": "Blob", "data": self._data, "type": self.content_type}

    def __repr__(self) -> str:
        return f"{type(self).__name__}(size={self.size}, content_type={self.content_type!r})"


class File(Blob):
    """A blob with a name. `last_modified` is in milliseconds since 1970."""

    __module__ = "workers"

    def __init__(
        self,
        blob_parts: Any,
        filename: str,
        content_type: str | None = None,
        endings: Any = None,
        last_modified: int | None = None,
    ) -> None:
        super().__init__(blob_parts, content_type, endings)
        self.name = filename
        self.last_modified = time.time_ns() // 1_000_000 if last_modified is None else last_modified

    def rpc_attributes(self) -> Mapping[str, Any]:
        """All of it."""
        named = {"name": self.name, "last_modified": self.last_modified}
        return {**super().rpc_attributes(), **named, "workers.class": "File"}


def received(attributes: Mapping[str, Any], _: Stub) -> Blob:
    """One that came over the wire."""
    data, kind = attributes["data"], attributes["type"]
    if attributes["workers.class"] == "Blob":
        return Blob(data, kind)
    return File(data, attributes["name"], kind, last_modified=attributes["last_modified"])


def of(data: bytes, message: Any) -> Blob:
    """The body of a message, with the type that its headers say."""
    headers = getattr(message, "_headers", None)
    if headers is not None:
        return Blob(data, headers.get("content-type") or "")
    about = getattr(message, "httpMetadata", None) or {}
    return Blob(data, about.get("contentType") or "")


def _part(part: Any, native: bool) -> bytes:
    if isinstance(part, str):
        return (part.replace("\r\n", "\n") if native else part).encode()
    if isinstance(part, Blob):
        return part._data
    if isinstance(part, _PLAIN):
        return bytes(part)
    raise TypeError(f"Don't know how to handle {type(part)} for Blob()")


_PLAIN: Final = (bytes, bytearray, memoryview)
