"""The host's end of the wire, with the guest's in the test's hands."""

from __future__ import annotations

import os
import socket
from typing import Any

from cloister.ipc import zmtp
from cloister.ipc.sockets import Sockets
from cloister.sandbox.wires import Wires


async def test_a_guest_is_greeted_before_it_is_there_and_heard_before_anybody_listens(until: Any) -> None:
    """It waits for nothing, and what it says at once is told to whoever listens later; so is its end."""
    wires = Wires(Sockets)
    try:
        with wires.lay() as wire, socket.socket(fileno=os.dup(wire.end)) as door:
            door.setblocking(False)
            guest, _ = door.accept()
            guest.setblocking(False)
            assert guest.recv(4096) == zmtp.OPENING_OF_A_ROUTER
            guest.sendall(zmtp.OPENING + zmtp.message(b"first") + zmtp.message(b"second"))
            guest.close()
            await until(lambda: len(wire._early) == 3)
            told: list[Any] = []
            wire.link.on_frame, wire.link.on_lost = told.append, told.append
            wire.listened_to()
            assert told == [b"first", b"second", None]
    finally:
        wires.close()
