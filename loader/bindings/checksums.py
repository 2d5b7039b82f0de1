"""Checksums: what the content of an object is to have, where whoever puts it says so."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

SUMS: Final = "md5 sha1 sha256 sha384 sha512"
"""The options of a call that give one."""


class Checksum:
    """Of one object; nothing is checked where none was given."""

    def __init__(self, name: str, expected: bytes) -> None:
        self._name, self._expected = name, expected
        self._digest = hashlib.new(name, usedforsecurity=False) if name else None

    @classmethod
    def read(cls, found: Mapping[str, Any]) -> Checksum:
        """Of the options of a call. `ValueError`."""
        names = [name for name in SUMS.split() if name in found]
        if not names:
            return cls("", b"")
        value = found[names[0]]
        try:
            expected = bytes.fromhex(value) if isinstance(value, str) else value
        except ValueError:
            expected = None
        if len(names) > 1 or not isinstance(expected, bytes):
            raise ValueError("one checksum is given at most, in hexadecimal digits or as bytes")
        return cls(names[0], expected)

    async def of(self, content: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The content, looked at as it goes by."""
        async with contextlib.aclosing(content) as pieces:  # type: ignore[type-var]
            async for piece in pieces:
                if self._digest is not None:
                    self._digest.update(piece)
                yield piece

    def check(self) -> None:
        """`ValueError` if it has another one."""
        if self._digest is not None and not hmac.compare_digest(self._digest.digest(), self._expected):
            raise ValueError(f"the content has another {self._name.upper()} digest than was given")
