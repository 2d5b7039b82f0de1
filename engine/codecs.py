"""What tenants' data looks like on disk: as it is, or changed by a codec of the host's, which compresses or encrypts.

It is bytes here, before and after: params, results, streams, heartbeats, events, outputs, errors with their tracebacks,
code, and how a rollback ended. What is looked for by SQLite stays as it is: names (of workflows, steps and types of
events), scopes, ids of instances and events, labels, schedules, and the author and reason of an override; and so do
times, statuses, settings of steps, sizes and the digest of code.
"""

from __future__ import annotations

import zlib
from typing import Protocol

from .errors import CodecFailed


class PayloadCodec(Protocol):
    """Give it to an engine: `Engine(path, codec=...)`. It is called in threads.

    What `encode` makes is read back by `decode`, also by one of a later day: what was stored before a change of codec
    or key has to be recognised by the codec itself. No payload begins with the byte `0xC1`, so a mark that does can be
    told from one that was stored as it is.
    """

    def encode(self, data: bytes) -> bytes:
        """What is stored."""
        ...

    def decode(self, data: bytes) -> bytes:
        """What it was made from. Whatever it raises fails what was asked for, and stores nothing."""
        ...


class Tried:
    """A host's codec, whose own errors are told from those of the storage."""

    def __init__(self, codec: PayloadCodec) -> None:
        self._codec = codec

    def encode(self, data: bytes) -> bytes:
        try:
            return self._codec.encode(data)
        except Exception as error:
            raise CodecFailed(f"the codec could not encode a payload: {type(error).__name__}: {error}") from error

    def decode(self, data: bytes) -> bytes:
        try:
            return self._codec.decode(data)
        except Exception as error:
            raise CodecFailed(f"the codec could not decode a payload: {type(error).__name__}: {error}") from error


class Plain:
    """Payloads as they are."""

    def encode(self, data: bytes) -> bytes:
        return data

    def decode(self, data: bytes) -> bytes:
        return data


class Compression:
    """Payloads of at least `above` bytes are compressed, if that makes them smaller. Reads those that were not."""

    MARK = b"\xc1z"

    def __init__(self, *, above: int = 1024, level: int = 6) -> None:
        self._above, self._level = above, level

    def encode(self, data: bytes) -> bytes:
        if len(data) < self._above:
            return data
        packed = self.MARK + zlib.compress(data, self._level)
        return packed if len(packed) < len(data) else data

    def decode(self, data: bytes) -> bytes:
        return zlib.decompress(data[len(self.MARK) :]) if data.startswith(self.MARK) else data
