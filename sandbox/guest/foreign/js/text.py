"""Text and bytes: encodings."""

from __future__ import annotations

import base64
from typing import Any
from urllib.parse import quote, unquote

from cloister.sandbox.guest.readers import Piece


def encodeURIComponent(text: Any) -> str:  # noqa: N802
    """For a part of a URL."""
    return quote(str(text), safe="!'()*-._~")


def encodeURI(text: Any) -> str:  # noqa: N802
    """For a URL."""
    return quote(str(text), safe="!'()*-._~;/?:@&=+$,#")


def decodeURIComponent(text: Any) -> str:  # noqa: N802
    """The reverse."""
    return unquote(str(text))


decodeURI = decodeURIComponent  # noqa: N816


def btoa(text: str) -> str:
    """Base64 of text that is bytes."""
    return base64.b64encode(text.encode("latin-1")).decode()


def atob(text: str) -> str:
    """The reverse."""
    return base64.b64decode(text).decode("latin-1")


class TextEncoder:
    """Text to bytes."""

    @classmethod
    def new(cls) -> TextEncoder:
        """One of them."""
        return cls()

    def encode(self, text: str = "") -> Piece:
        """As UTF-8."""
        return Piece(text.encode())


class TextDecoder:
    """Bytes to text."""

    def __init__(self, encoding: str = "utf-8") -> None:
        import codecs

        self._decoder = codecs.getincrementaldecoder(encoding)("replace")

    @classmethod
    def new(cls, encoding: str = "utf-8", *_: Any, **__: Any) -> TextDecoder:
        """One of them."""
        return cls(encoding)

    def decode(self, data: Any = b"", options: Any = None, *, stream: bool = False) -> str:
        """As text; with `stream` there is more to come."""
        more = stream or bool((options or {}).get("stream"))
        return self._decoder.decode(bytes(data), not more)
