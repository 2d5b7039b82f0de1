"""The host's way to a guest, whatever moves the bytes: in which order what arrived is handed over."""

from __future__ import annotations

from cloister.ipc import zmtp
from cloister.ipc.link import Link


class Still(Link):
    """One that moves nothing."""

    def close(self) -> None:
        """There is nothing to forget."""

    def _write(self, data: bytes) -> None:
        pass


async def test_what_comes_alone_waits_behind_what_was_kept_and_overtakes_nothing() -> None:
    """A short message that is all of its piece is handed over on a way of its own, unless the guest is not listened to
    or has said something before that still waits."""
    heard: list[bytes] = []

    def hear(frame: bytes) -> None:
        heard.append(frame)
        link._stuffed = frame == b"asks for much"

    link = Still(hear, lambda _: None)
    link._take(zmtp.GREETING + b"\x04" + bytes([len(zmtp.READY)]) + zmtp.READY)
    link._take(zmtp.message(b"asks for much") + zmtp.message(b"second"))
    link._take(zmtp.message(b"third"))
    assert heard == [b"asks for much"]
    link._stuffed = False
    link._take(zmtp.message(b"fourth"))
    assert heard == [b"asks for much", b"second", b"third", b"fourth"]
    link._stuffed, link._later = True, []
    link._take(zmtp.message(b"fifth"))
    assert link._later == [b"fifth"]
