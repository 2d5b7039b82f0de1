"""Messages, codec, connection and stubs. Knows no tenant, no process, no workflow.

The names here are the pure half, which both ends of a connection use. What moves the bytes is imported by its own name
and only on the host: `cloister.ipc.sockets`, or `cloister.ipc.router`, the one module that imports libzmq.
"""

from .capabilities import Capability, RpcTarget
from .connection import Connection
from .errors import (
    CapabilityError,
    CodecError,
    ConnectionClosed,
    DeadlineExceeded,
    IpcError,
    LocalProtocolError,
    PayloadError,
    RemoteError,
    RemoteProtocolError,
    TooManyCalls,
)
from .observation import Seen
from .peer import Peer
from .revocation import Grant, expiring, revocable
from .stubs import Stub

__all__ = [
    "Capability",
    "CapabilityError",
    "CodecError",
    "Connection",
    "ConnectionClosed",
    "DeadlineExceeded",
    "Grant",
    "IpcError",
    "LocalProtocolError",
    "PayloadError",
    "Peer",
    "RemoteError",
    "RemoteProtocolError",
    "RpcTarget",
    "Seen",
    "Stub",
    "TooManyCalls",
    "expiring",
    "revocable",
]
