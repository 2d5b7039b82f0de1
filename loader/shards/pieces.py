"""A batch for many tenants, divided among their shards, in pieces that can be sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from cloister.engine import PinnedCode
from cloister.engine.workflow import MAX_EACH

from .options import packed, size
from .place import number_of

LARGE: Final = 4 << 20
"""Bytes of code and params after which another piece begins."""


@dataclass(slots=True)
class Piece:
    """What one shard is sent at once: the entries, and where in the batch they were."""

    shard: int
    places: list[int] = field(default_factory=list)
    entries: list[tuple[str, bytes, bytes, Mapping[str, Any]]] = field(default_factory=list)
    size: int = 0


def divided(batch: Sequence[tuple[str, PinnedCode, Mapping[str, Any]]], shards: int) -> list[Piece]:
    """The pieces of a batch of (tenant id, code, options)."""
    pieces: list[Piece] = []
    filling: dict[int, Piece] = {}
    for place, (tenant_id, code, options) in enumerate(batch):
        shard = number_of(tenant_id, shards)
        piece = filling.get(shard)
        sent = packed(options)
        more = len(code.stored) + size(sent)
        if piece is None or piece.size + more > LARGE or len(piece.entries) == MAX_EACH:
            piece = filling[shard] = Piece(shard)
            pieces.append(piece)
        piece.places.append(place)
        piece.entries.append((tenant_id, code.digest, code.stored, sent))
        piece.size += more
    return pieces
