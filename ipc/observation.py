"""Seeing the calls of the other side go by: what was called, for how long, how large, and how that ended.

A peer that is not observed knows nothing of this, and pays nothing for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from .capabilities import Served
from .errors import CapabilityError
from .peer import Peer
from .revocation import Guarded


class Seen(NamedTuple):
    """A call that was answered: what was called, for how many seconds, bytes of arguments and result, and what was
    raised. Of a chain `method` holds all names, with dots between. `target` is the name of a class, a function or the
    generator of a stream, or what an object says that it is (`__described__`), and empty where nothing was granted."""

    target: str
    method: str
    seconds: float
    received: int
    sent: int
    error: BaseException | None


def observe(peer: Peer, hear: Callable[[Seen], None], now: Callable[[], float]) -> None:
    """Have `hear` called after each call of the other side's from now on, in the context that it was answered in.

    Calls of what is `uncounted` are left out.
    """
    forward = peer.forward

    async def observed(target: int, method: str, payload: bytes) -> bytes:
        try:
            capability: Any = peer.exports.get(target)
        except CapabilityError:
            capability = None
        if getattr(capability, "uncounted", False):
            return await forward(target, method, payload)
        name, began, answer, failure = _describe(capability), now(), b"", None
        try:
            answer = await forward(target, method, payload)
        except BaseException as error:
            failure = error
            raise
        finally:
            hear(Seen(name, method, now() - began, len(payload), len(answer), failure))
        return answer

    peer.forward = observed  # type: ignore[method-assign]


def _describe(capability: Any) -> str:
    subject: Any = capability.inner if isinstance(capability, Guarded) else capability
    subject = subject.subject if isinstance(subject, Served) else subject
    if subject is None:
        return ""
    if hasattr(type(subject), "__described__"):
        return str(subject.__described__())
    return str(getattr(subject, "__qualname__", None) or type(subject).__name__)
