"""What was raised on one side, as the other side is told of it: class, message, notes, causes and traceback, as text.

Nothing is imported, or built, because a name was sent. Whatever arrives is cut to what somebody would read, and holds
no character that does something to a terminal. A host tells neither tracebacks nor causes: they say how it works
inside.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from . import values
from .capabilities import MAX_NOTES
from .errors import (
    CapabilityError,
    DeadlineExceeded,
    IpcError,
    PayloadError,
    RemoteError,
    RemoteProtocolError,
    TooManyCalls,
)

MAX_NAME: Final = 128
MAX_TEXT: Final = 8192
MAX_TRACE: Final = 32_768
MAX_CAUSES: Final = 8
MAX_TOLD: Final = 16_384
"""Characters of all notes and causes together."""
_MAX_DEPTH, _MAX_ELEMENTS, _MAX_ESCAPES = 4, 1024, 256
Trace = Callable[[BaseException], str]
"""The traceback of an exception as it is told."""
Rebuild = Callable[[str, str, str], Exception]
"""Given class name, message and traceback of what was raised over there: the exception to raise here."""

_KNOWN: Final[Mapping[str, type[IpcError]]] = {
    error.__name__: error for error in (CapabilityError, DeadlineExceeded, TooManyCalls, PayloadError)
}


def rebuild(name: str, message: str, trace: str) -> Exception:
    """An error of the protocol keeps its class; every other becomes a `RemoteError`."""
    known = _KNOWN.get(name)
    return known(message) if known is not None else RemoteError(name, message, trace)


def tell(error: BaseException, trace: Trace | None = None, *, about: str = "") -> bytes:
    """An exception as it is sent, `about` what it was raised by. Without `trace`, neither a traceback nor causes are.

    One whose class does not let it be told is told as that: somebody waits for it.
    """
    try:
        return _tell(error, trace, about)
    except BaseException as second:
        if not isinstance(second, Exception) and trace is None:  # no tenant's, but what ends the host
            raise
        return values.dumps([_sayable(type(error).__name__[:MAX_NAME]), _join(about, _untold(second)), ""])


def _tell(error: BaseException, trace: Trace | None, about: str) -> bytes:
    told: list[Any] = [*_words(error), ""]
    told[1] = _join(about, told[1])
    notes = _notes(error)
    causes: list[Any] = []
    if trace is not None:
        try:
            told[2] = _sayable(trace(error)[-MAX_TRACE:])
        except Exception as second:  # noqa: BLE001 - the rest is told all the same
            told[2] = _untold(second)
        cause = error.__cause__
        while cause is not None and len(causes) < MAX_CAUSES:
            causes.append([*_words(cause), _notes(cause)])
            cause = cause.__cause__
    return values.dumps([*told, notes, causes] if notes or causes else told)


def read(payload: bytes, rebuild: Rebuild) -> Exception:
    """The exception to raise for one that arrived. `RemoteProtocolError` if it cannot be read."""
    try:
        values.scan(payload, max_depth=_MAX_DEPTH, max_elements=_MAX_ELEMENTS)
        told = values.loads(payload, trusted=True)
    except PayloadError as error:
        raise RemoteProtocolError(f"a failure that cannot be read: {error}") from error
    match told:
        case [str(name), str(message), str(trace), *more]:
            found = _revive(name, message, trace, rebuild)
        case _:
            raise RemoteProtocolError("a failure that is not a name, a message and a traceback")
    room = MAX_TOLD
    match more:
        case []:
            return found
        case [list(notes), list(causes)] if len(causes) <= MAX_CAUSES:
            room = _add_notes(found, notes, room)
        case _:
            raise RemoteProtocolError("a failure with notes and causes that are none")
    effect = found
    for cause in causes:
        match cause:
            case [str(name), str(message), list(notes)]:
                effect.__cause__ = _revive(name, message[:room], "", rebuild)
                effect = effect.__cause__
                room = _add_notes(effect, notes, max(room - len(message), 0))
            case _:
                raise RemoteProtocolError("a cause that is not a name, a message and notes")
    return found


def _revive(name: str, message: str, trace: str, rebuild: Rebuild) -> Exception:
    return rebuild(
        printable(name[:MAX_NAME])[:MAX_NAME] or "Exception",  # a class may have no name
        printable(message[:MAX_TEXT])[:MAX_TEXT],
        printable(trace[-MAX_TRACE:])[-MAX_TRACE:],
    )


def _add_notes(error: Exception, notes: list[Any], room: int) -> int:
    """What is left of the room for characters, beyond which nothing is read."""
    for note in notes[:MAX_NOTES]:
        if not isinstance(note, str):
            raise RemoteProtocolError("a note that is not text")
        if room:
            text = note[: min(MAX_TEXT, room)]
            room -= len(text)
            error.add_note(printable(text)[:MAX_TEXT])
    return room


def printable(text: str) -> str:
    """The same text, characters that are not for the eye written as their codes, or all alike if there are very many
    different ones: that is no text, and each code would cost as much time as a whole line."""
    if text.isprintable():
        return text
    hidden = [char for char in set(text) if not char.isprintable() and char not in "\n\t"]
    if len(hidden) > _MAX_ESCAPES:
        return text.translate(dict.fromkeys(map(ord, hidden), "\ufffd"))
    return text.translate({ord(char): char.encode("unicode_escape").decode() for char in hidden})


def _words(error: BaseException) -> list[str]:
    if isinstance(error, RemoteError):
        name, text = error.name, error.message
    else:
        name, text = type(error).__name__, _text(error)
    return [_sayable(name[:MAX_NAME]), _sayable(text[:MAX_TEXT])]


def _notes(error: BaseException) -> list[str]:
    notes = getattr(error, "__notes__", ())
    if not isinstance(notes, list | tuple):
        return []
    return [_sayable(note[:MAX_TEXT]) for note in notes[:MAX_NOTES] if isinstance(note, str)]


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as second:  # noqa: BLE001 - an exception that cannot even say what it is
        return f"its message cannot be read: {type(second).__name__}"


def _join(about: str, message: str) -> str:
    return ": ".join(filter(None, (about, message)))


def _untold(second: BaseException) -> str:
    return _sayable(f"it cannot be told: {type(second).__name__[:MAX_NAME]}")


def _sayable(part: str) -> str:
    return part.encode("utf-8", "replace").decode()
