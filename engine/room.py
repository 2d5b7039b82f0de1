"""How much of its results an instance has stored, and which of them are streams that are still being recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from .errors import JournalBreach, PayloadTooLarge
from .rules import MAX_CHUNK, MAX_STATE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .records import Key, StepRecord


class _Stream(NamedTuple):
    """The result in chunks that an attempt has recorded so far."""

    attempt: int
    chunks: int
    size: int


class Room:
    """Keeps the account of one run; what does not fit, or does not follow, is refused."""

    def __init__(self, history: Iterable[StepRecord]) -> None:
        self._stored = sum(len(record.value or b"") + (record.size or 0) for record in history)
        self._streams: dict[Key, _Stream] = {}

    def took(self, size: int) -> bool:
        """Take a result of so many bytes if there is room for it, and none is being recorded in pieces."""
        stored = self._stored + size
        if self._streams or stored > MAX_STATE:
            return False
        self._stored = stored
        return True

    def take(self, size: int, name: str) -> None:
        """A result of so many bytes is stored. `PayloadTooLarge`."""
        if self._stored + size > MAX_STATE:
            self._check(size, name)
        self._stored += size

    def give_back(self, size: int) -> None:
        """It was not stored after all."""
        self._stored -= size

    def add(self, key: Key, attempt: int, number: object, data: object) -> None:
        """A stream goes on with its next chunk; number 0 begins it anew. `JournalBreach`, `PayloadTooLarge`."""
        stream = self._streams.get(key)
        if number == 0 or stream is None:
            stream = _Stream(attempt, 0, 0)
        if (attempt, number) != stream[:2]:
            raise JournalBreach(f"chunk {number!r:.20} of step {key[1]!r} does not follow the one before")
        if not isinstance(data, bytes) or not 0 < len(data) <= MAX_CHUNK:
            raise JournalBreach(f"a chunk is 1 to {MAX_CHUNK:,} bytes")
        size = stream.size + len(data)
        self._check(size + sum(each.size for other, each in self._streams.items() if other != key), key[1])
        self._streams[key] = _Stream(attempt, stream.chunks + 1, size)

    def check_whole(self, key: Key, attempt: int, size: int) -> None:
        """`JournalBreach` if so many bytes are not what was added."""
        if size and self._streams.get(key) != (attempt, -(-size // MAX_CHUNK), size):
            raise JournalBreach(f"the result of step {key[1]!r} is not the stream that was recorded")

    def end(self, key: Key) -> bool:
        """The attempt has ended; whether it had begun a stream."""
        return self._streams.pop(key, None) is not None

    def _check(self, size: int, name: str) -> None:
        if self._stored + size > MAX_STATE:
            raise PayloadTooLarge(f"with the result of step {name!r} the instance has more than {MAX_STATE:,} bytes")
