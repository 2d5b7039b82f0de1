"""Bytes, and numbers in bytes. Each of these is the bytes themselves, so that whatever takes bytes takes it."""

from __future__ import annotations

import array
from collections.abc import Iterator
from typing import Any, Self

from cloister.sandbox.guest.readers import Piece


class Uint8Array(Piece):
    """Bytes."""

    __module__ = "workers"
    CODE = "B"

    @classmethod
    def new(cls, given: Any = b"", offset: int = 0, length: int | None = None) -> Self:
        """Of bytes, of which a part may be meant, of numbers, or of so many zeros."""
        each = array.array(cls.CODE).itemsize
        if isinstance(given, bytes | bytearray | memoryview):
            end = None if length is None else offset + length * each
            return cls(bytes(given)[offset:end])
        return cls(bytes(given * each) if isinstance(given, int) else array.array(cls.CODE, map(cls.fit, given)))

    @classmethod
    def of(cls, *items: Any) -> Self:
        """Of these numbers."""
        return cls.new(items)

    @staticmethod
    def fit(number: Any) -> Any:
        """A number as it is kept."""
        return int(number) & 0xFF

    @property
    def buffer(self) -> ArrayBuffer:
        """The bytes that they are in."""
        return ArrayBuffer(self)

    @property
    def byteOffset(self) -> int:  # noqa: N802 - the names of JavaScript
        """Where they begin."""
        return 0

    @property
    def numbers(self) -> array.array[Any]:
        """The numbers."""
        return array.array(self.CODE, bytes(self))

    def subarray(self, start: int = 0, end: int | None = None) -> Self:
        """A part of them."""
        return type(self)(self.numbers[start:end].tobytes())

    slice = subarray


class ArrayBuffer(Uint8Array):
    """Bytes that are looked at by way of others."""


DataView = ArrayBuffer


class Uint8ClampedArray(Uint8Array):
    """Bytes, and what is no byte is the nearest one."""

    @staticmethod
    def fit(number: Any) -> Any:
        """The nearest byte."""
        return min(max(round(number), 0), 255)


class _Wide(Uint8Array):
    """Numbers of more than a byte, or of a sign."""

    @staticmethod
    def fit(number: Any) -> Any:
        """As it is: one that is too large is an `OverflowError`."""
        return number

    def __iter__(self) -> Iterator[Any]:
        return iter(self.numbers)

    def __getitem__(self, place: Any) -> Any:
        return self.numbers[place]

    @property
    def length(self) -> int:
        """How many there are."""
        return len(self.numbers)


class Int8Array(_Wide):
    """Whole numbers of a byte."""

    CODE = "b"


class Int16Array(_Wide):
    """Of two bytes."""

    CODE = "h"


class Uint16Array(_Wide):
    """Of two bytes, and no sign."""

    CODE = "H"


class Int32Array(_Wide):
    """Of four bytes."""

    CODE = "i"


class Uint32Array(_Wide):
    """Of four bytes, and no sign."""

    CODE = "I"


class Float32Array(_Wide):
    """Numbers with a point, of four bytes."""

    CODE = "f"


class Float64Array(_Wide):
    """Of eight."""

    CODE = "d"
