"""The wire to each sandbox: a link, whose other end the guest is given when it is forked."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from cloister.ipc.arguments import Arguments
from cloister.ipc.link import Link, Transport

from .alarms import Alarms
from .errors import SandboxUnavailable


class Wire:
    """One that is being laid: `end` is what the guest is to be given, `link` the host's own end.

    The host greets before there is a guest, which so finds everything there when it looks, and need not wait for it.
    """

    link: Link
    end: socket.socket

    def __init__(self) -> None:
        self._early: list[Callable[[], None]] = []

    async def lay(self, transport: Transport) -> None:
        """Make both ends."""
        self.link, self.end = await transport.lay(
            lambda frame: self._early.append(lambda: self.link.on_frame(frame)),
            lambda error: self._early.append(lambda: self.link.on_lost(error)),
        )

    def listened_to(self) -> None:
        """Somebody listens to the link from now on, and is told what it has said before."""
        for tell in self._early:
            tell()


class Wires:
    """All wires of one host. `make` makes what moves the bytes; open it inside the event loop that serves them."""

    def __init__(self, make: Callable[[], Transport]) -> None:
        try:
            self._transport = make()
        except OSError as error:
            raise SandboxUnavailable(f"the transport has no means to move anything: {error}") from error
        self.arguments = Arguments()
        """What the calls of all sandboxes at their ends hold."""
        self.granted = Arguments()
        """What is said to them of what they are granted, such as the bodies of responses, and held as long as it is."""
        self.alarms = Alarms(asyncio.get_running_loop())
        """When their limits could be crossed."""

    async def lay(self) -> Wire:
        """A wire, whose end the caller closes. `OSError`."""
        wire = Wire()
        await wire.lay(self._transport)
        return wire

    def close(self) -> None:
        """Close every link."""
        self._transport.close()
