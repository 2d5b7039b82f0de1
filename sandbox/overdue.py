"""What a sandbox may not put off for ever, since the host keeps bytes for it meanwhile: to finish a frame that it has
begun, and to read what waits for it.
"""

from __future__ import annotations

from typing import Final

from cloister.ipc.link import Link
from cloister.ipc.unread import MUCH

from .errors import ProtocolViolation

UNFINISHED: Final = 60.0
"""Seconds that a frame may take to arrive, of which the host keeps what there is."""
UNREAD: Final = 600.0
"""Seconds that it may leave more unread than the kernel keeps for it: as long as an attempt of a step may take."""
MUCH_UNREAD: Final = 60.0
"""The same for so much that it is not listened to meanwhile: as long as a call may take."""


def overdue(link: Link) -> ProtocolViolation | None:
    """What has been put off for too long over this link, if anything has."""
    if link.unfinished_for() > UNFINISHED:
        words = f"a frame that was not finished within {UNFINISHED:.0f} s"
        return ProtocolViolation(f"the sandbox broke the protocol: {words}")
    most = MUCH_UNREAD if link.unread() > MUCH else UNREAD
    if link.unread_for() > most:
        return ProtocolViolation(f"the sandbox read nothing of what waits for it for {most:.0f} s")
    return None
