"""What one side has granted to the other, as numbers in a table that belongs to one connection.

A guest can name only numbers that were granted on its own connection, and a number is never used twice, so a forged or
stale one is an error and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, Final

from . import values
from .capabilities import Capability, RpcTarget, serve
from .codec import MAX_NUMBER
from .errors import CapabilityError, CodecError, PayloadError, RemoteProtocolError
from .stubs import Channel, RemoteCall, RemoteMethod, Stub

if TYPE_CHECKING:
    from .answer import Answer

MAX_GRANTS: Final = 65_536
_LIGHT: Final = 2048  # bytes of a reference that are not counted where there are few
_FEW: Final = 32  # of which that is so: most connections have fewer
_LEAST, _LEAST_OF_A_STREAM = 1024, 4096  # bytes that each takes with what it stands for; a stream has a task of its own
_MINE, _YOURS, _STREAM = range(3)


class _Reference(values.Named):
    names = ("kind", "number", "attributes")


class Exports:
    """What this side has granted on one connection. `hold` says whether it, and what is said of it, such as the body of
    a response, may take so many bytes more, and so many in all; it hears when they take less."""

    def __init__(self, hold: Callable[[int, int], bool] = lambda more, held: True) -> None:
        self._granted: dict[int, list[Any]] = {}
        """Number: capability, references held over there, key in `_numbers`, bytes of the reference if they count."""
        self._hold, self._held = hold, 0
        self.most = MAX_GRANTS
        self._numbers: dict[Hashable, int] = {}
        self._next = 0
        self._over = False

    def __len__(self) -> int:
        return len(self._granted)

    def grant(self, capability: Capability) -> int:
        """The number of a capability; the same object has one number while it is held."""
        key = getattr(capability, "key", None) or id(capability)
        number = self._numbers.get(key)
        if number is None:
            if len(self._granted) >= self.most:
                raise CodecError(f"{self.most:,} capabilities are granted on this connection; dispose of some")
            number = self._next
            self._next += 1
            if self._over:  # an answer that nobody will get
                return number
            self._numbers[key] = number
            self._granted[number] = [capability, 0, key, 0]
            if (granted := getattr(capability, "granted", None)) is not None:
                granted()
        self._granted[number][1] += 1
        return number

    def weigh(self, number: int, size: int) -> None:
        """So many bytes are said of what has a number, and held as long as it is. `CodecError` if it is too much."""
        if size <= _LIGHT and len(self._granted) <= _FEW:
            return
        if (entry := self._granted.get(number)) is not None and size > entry[3]:
            more, entry[3] = size - entry[3], size
            self._held += more
            if not self._hold(more, self._held):
                raise CodecError("what is granted on this connection, or on all, holds too many bytes; dispose of some")

    def get(self, number: int) -> Capability:
        """The capability of a number. `CapabilityError` if it is not granted on this connection."""
        entry = self._granted.get(number)
        if entry is None:
            raise CapabilityError(f"capability {number} is not granted on this connection")
        return entry[0]  # type: ignore[no-any-return]

    def pledging(self, number: int) -> Callable[[str, bytes, Channel], Answer | None] | None:
        """How the capability of a number, if there is one, gives its word for an answer: see `Capability`."""
        entry = self._granted.get(number)
        return None if entry is None else getattr(entry[0], "pledge", None)

    def release(self, number: int, count: int) -> None:
        """The other side let go. `RemoteProtocolError` if it did not hold that many."""
        if self._over:
            return
        entry = self._granted.get(number)
        if entry is None or entry[1] < count:
            raise RemoteProtocolError(f"a release of capability {number}, which is not held that often")
        entry[1] -= count
        if not entry[1]:
            del self._granted[number], self._numbers[entry[2]]
            self._lighten(entry[3])
            _drop(entry[0])

    def clear(self) -> None:
        """The connection is over: nothing is granted any longer."""
        self._over = True
        dropped = [entry[0] for entry in self._granted.values()]
        self._granted.clear()
        self._numbers.clear()
        self._lighten(self._held)
        for capability in dropped:
            _drop(capability)

    def _lighten(self, size: int) -> None:
        if size:
            self._held -= size
            self._hold(-size, self._held)


def _drop(capability: Capability) -> None:
    if (dropped := getattr(capability, "dropped", None)) is not None:
        dropped()


def refer(subject: object, channel: Channel, exports: Exports, granted: list[int]) -> bytes | None:
    """The reference that is sent in place of an object; None if the object cannot be sent.

    A number that is granted for it is added to `granted`.
    """
    if isinstance(subject, Stub):
        subject._check()
        if subject._channel.base is channel:
            return values.dumps([_YOURS, subject._target])
    elif isinstance(subject, RemoteCall | RemoteMethod):
        raise CodecError(f"{subject!r} cannot be sent; await it, and send its result", subject)
    capability = serve(subject)
    if capability is None:
        return None
    granted.append(exports.grant(capability))
    if getattr(capability, "streams", False):
        exports.weigh(granted[-1], _LEAST_OF_A_STREAM)
        return values.dumps([_STREAM, granted[-1]])
    reference = values.dumps(_Reference((_MINE, granted[-1], dict(capability.attributes))))
    exports.weigh(granted[-1], max(len(reference), _LEAST))
    return reference


def resolve(reference: bytes, channel: Channel, exports: Exports) -> object:
    """What a reference that was received stands for: a new stub, or an object of this side that came home.

    The reference was checked with the value that it stood in, if its sender is not trusted.
    """
    match values.loads(reference, trusted=True):
        case [_, int(number), *_] if type(number) is not int or not 0 <= number < MAX_NUMBER:
            pass
        case [0, int(number), dict(attributes)]:
            return Stub(channel, number, attributes)
        case [1, int(number)]:
            capability = exports.get(number)
            subject = getattr(capability, "subject", capability)
            if isinstance(subject, RpcTarget):
                return subject.rpc_returned(capability.attributes)
            return subject.dup() if isinstance(subject, Stub) else subject  # the one that was granted stays
        case [2, int(number)]:
            from .streams import RemoteStream

            return RemoteStream(channel, number, {})
    raise PayloadError("a capability reference of an unknown form")


def take_back(reference: bytes, exports: Exports) -> None:
    """Undo what `refer` did for a reference that never left."""
    kind, number, *_ = values.loads(reference, trusted=True)
    if kind != _YOURS:
        exports.release(number, 1)
