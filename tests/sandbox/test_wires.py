"""The host's end of the wire, with the guest's in the test's hands."""

from __future__ import annotations

from typing import Any

import pytest

from cloister.ipc import zmtp
from cloister.ipc.link import Transport
from cloister.ipc.sockets import Sockets
from cloister.sandbox import SandboxUnavailable
from cloister.sandbox.wires import Wires


async def test_a_guest_is_greeted_before_it_is_there_and_heard_before_anybody_listens(until: Any) -> None:
    """It waits for nothing, and what it says at once is told to whoever listens later; so is its end."""
    wires = Wires(Sockets)
    try:
        wire = await wires.lay()
        guest = wire.end
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


async def test_nobody_can_connect_to_what_has_no_name() -> None:
    """Neither end: not the guest, if it could, and nobody on the machine."""
    wires = Wires(Sockets)
    wire = await wires.lay()
    with wire.end as guest:
        assert guest.getsockname() == guest.getpeername() == ""
    wires.close()


def test_a_transport_without_means_is_told_of() -> None:
    """It may want a folder, and there is none."""

    def make() -> Transport:
        raise FileNotFoundError("there is no folder")

    with pytest.raises(SandboxUnavailable, match="there is no folder"):
        Wires(make)
