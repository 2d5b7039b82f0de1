"""What somebody else has said, as it stands in a log of the host's: no line of it looks like one of the log's own."""

from __future__ import annotations

from cloister.ipc import failures
from cloister.ipc.quotes import set_off


def quoted(said: object) -> str:
    """The same, cut to what somebody would read, every line but the first set off."""
    return set_off(str(said)[: failures.MAX_TEXT])
