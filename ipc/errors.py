"""What can go wrong between two processes, named by the situation and by whose fault it is.

A protocol error is raised as `LocalProtocolError` when this side asked for something that the protocol does not
allow, and as `RemoteProtocolError` when the other side sent it: the first is a bug to mend, the second ends the peer.
"""

from __future__ import annotations

from typing import TypeVar

Recast = TypeVar("Recast", bound="RemoteError")


class IpcError(Exception):
    """Base of everything that this package raises."""


class LocalProtocolError(IpcError):
    """This side tried to do what the protocol does not allow: a bug on this side."""


class RemoteProtocolError(IpcError):
    """The peer sent what the protocol does not allow. It cannot be talked to any further."""


class CodecError(LocalProtocolError):
    """This value cannot be sent: its type, size or depth is outside what the wire carries. `part`: what of it."""

    def __init__(self, words: str = "", part: object = None) -> None:
        super().__init__(words)
        self.part = part


class PayloadError(RemoteProtocolError):
    """A value that the peer sent cannot be read: malformed, too deep, too many elements, or keys that are not text."""


class ConnectionClosed(IpcError):
    """The connection is closed; its `reason` says why. Calls in flight have failed with the same words."""


class DeadlineExceeded(IpcError):
    """The answer did not come within the time that the caller gave. The call has been cancelled at the other end."""


class TooManyCalls(IpcError):
    """As many calls are in flight to this peer as it may have. Wait for some of them, then try again."""


class CapabilityError(IpcError):
    """The capability was never granted to the caller, or is not granted any longer, or has no such method."""


class RemoteError(IpcError):
    """The call reached the other side and raised there.

    `name` is the class over there, `message` its text, `trace` its traceback as text (empty where this side is not to
    be told). Its notes are notes here, and its causes are causes: `RemoteError`s, as a rule.
    """

    def __init__(self, name: str, message: str, trace: str = "") -> None:
        super().__init__(f"{name}: {message}" if message else name)
        self.name = name
        self.message = message
        self.trace = trace

    def recast(self, kind: type[Recast]) -> Recast:
        """The same as an error of another class of this kind, notes and cause included."""
        error = kind(self.name, self.message, self.trace)
        for note in getattr(self, "__notes__", ()):
            error.add_note(note)
        error.__cause__ = self.__cause__
        return error
