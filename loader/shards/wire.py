"""What front and shard have agreed on: how they talk, and how long one waits for the other to end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from cloister.ipc import Connection, Peer

MAX_CALLS: Final = 1 << 20
"""In flight, one way: each waits for something, such as the end of an instance."""
MAX_GRANTS: Final = 1 << 24
"""What one tenant may grant, and more, times as many tenants as a host has."""
CLOSING_SECONDS: Final = 10.0
"""How long a host may take to close, when the front has gone."""


def peer_over(send: Callable[[bytes], None], *, greeted: bool, **hears: Any) -> Peer:
    """Either end, which trusts the other one: arguments are bounded by a frame, and by nothing else."""
    connection = Connection(greeted=greeted, max_calls=MAX_CALLS)
    peer = Peer(connection, send, trusted=True, hold=lambda _more, _held: True, **hears)
    peer.exports.most = MAX_GRANTS
    return peer
