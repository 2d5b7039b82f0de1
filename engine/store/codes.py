"""What instances are tied to: each distinct code once, compressed, for as long as an unfinished instance may wake up on
it.

It is found by its digest and called by its number. No number comes back: an instance that has ended, and is begun anew
from one of its steps, must not find another one's code under the number of its own.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, NamedTuple

from ..errors import JournalBreach
from .rows import Rows

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..records import PinnedCode
    from .store import Store

MOST_KNOWN = 1_024
"""Of how many codes it is remembered that they are kept."""
SWEEP_CHUNK = 256
PACKED = b"\xc1p"
"""How code begins that was packed. No code does, and neither does what a `Compression` has made."""
SMALL = 4_096
"""Bytes of code that are packed in less time than it takes two busy threads to hand Python's lock over and back."""
_WINDOW, _MEMORY = SMALL.bit_length() - 1, 5
"""What zlib looks back over, and has room for, as it counts them: what is small has no more. Most of the time that a
small program takes to be packed is that of clearing memory."""
_KEEP = "INSERT INTO codes (number, digest, code) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
_LAST_OF_CHUNK = "SELECT max(number) FROM (SELECT number FROM codes WHERE number > ? ORDER BY number LIMIT ?)"
_DROP = (
    "DELETE FROM codes WHERE number > ? AND number <= ?"
    " AND NOT EXISTS (SELECT 1 FROM instances WHERE instances.code = codes.number AND ended IS NULL)"
)


class Packed(NamedTuple):
    """Code as it is kept."""

    digest: bytes
    kept: bytes


def pack_ahead(code: PinnedCode | None, done: dict[bytes, Packed]) -> PinnedCode | Packed | None:
    """The same, packed by whoever asks if it is small, once of each digest in `done`; else the store packs it."""
    if code is None or len(code.stored) > SMALL:
        return code
    packed = done.get(code.digest)
    if packed is None:
        packed = done[code.digest] = Packed(code.digest, _pack(code.stored))
    return packed


class Codes:
    """The verbs about them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[bytes, int] = {}
        self._swept: int | None = 0

    def keep(self, codes: Iterable[PinnedCode | Packed]) -> dict[bytes, int]:
        """Have all of these, and none twice; the number of each, by its digest."""
        store, found, rows = self._store, dict[bytes, int](), Rows(_KEEP)
        for code in codes:
            digest = code.digest
            if (number := found.get(digest) or self._known.get(digest)) is None:
                number = store.next_number()
                rows.add((number, digest, store.seal(code.kept if isinstance(code, Packed) else _pack(code.stored))))
            found[digest] = number
        asked = len(rows)
        if asked and rows.insert(store.run) < asked:
            query = "SELECT number FROM codes WHERE digest = ?"
            found = {digest: store.run(query, (digest,)).fetchone()[0] for digest in found}
        if len(self._known) + len(found) > MOST_KNOWN:
            self._known.clear()
        if len(found) < MOST_KNOWN:
            self._known.update(found)
        return found

    def known(self, digest: bytes) -> bool:
        """Whether it is remembered that this one is kept."""
        return digest in self._known

    def pin(self, number: int, code: PinnedCode) -> None:
        """Tie an instance to it."""
        digest = code.digest
        kept = self._known.get(digest) or self.keep([code])[digest]
        self._store.run("UPDATE instances SET code = ? WHERE number = ?", (kept, number))

    def of(self, number: int) -> bytes:
        """What an instance is tied to."""
        row = self._store.execute(
            "SELECT codes.code FROM codes JOIN instances ON instances.code = codes.number WHERE instances.number = ?",
            (number,),
        ).fetchone()
        if row is None:
            raise JournalBreach("no code was pinned for this instance")
        return _unpack(self._store.unseal(row[0]))

    def sweep(self) -> bool:
        """Drop what nobody can wake up on, of the next few of what a host found when it began; whether there are more.
        What comes to be of no use later goes under the next host.
        """
        if self._swept is None:
            return False
        last = self._store.execute(_LAST_OF_CHUNK, (self._swept, SWEEP_CHUNK)).fetchone()[0]
        if last is not None and self._store.execute(_DROP, (self._swept, last)).rowcount:
            self._known.clear()
        self._swept = last
        return last is not None


def pin(store: Store, number: int, code: PinnedCode) -> None:
    """Tie an instance to a code."""
    store.codes.pin(number, code)


def pinned(store: Store, number: int) -> bytes:
    """What an instance is tied to."""
    return store.codes.of(number)


def _pack(stored: bytes) -> bytes:
    """Smaller, and marked as such. What looks as if it were is packed in any case, so that it is read as it was."""
    packer = zlib.compressobj(wbits=_WINDOW, memLevel=_MEMORY) if len(stored) <= SMALL else zlib.compressobj()
    packed = PACKED + packer.compress(stored) + packer.flush()
    return packed if len(packed) < len(stored) or stored.startswith(PACKED) else stored


def _unpack(kept: bytes) -> bytes:
    """The same back; earlier versions have left some that were not packed."""
    return zlib.decompress(kept[len(PACKED) :]) if kept.startswith(PACKED) else kept
