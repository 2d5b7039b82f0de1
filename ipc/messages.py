"""The messages that cross the wire, and nothing about how they are written or what they mean.

Both sides speak the same language: either may call the other. A `payload` is an encoded value (`cloister.ipc.values`)
that only the party it is meant for takes apart.
"""

from __future__ import annotations

from typing import NamedTuple

VERSION = 1


class Hello(NamedTuple):
    """The first message, from the guest: the protocol it speaks, and an account of how it came to be."""

    version: int
    payload: bytes


class Call(NamedTuple):
    """Ask `target`, a number that the other side granted, for `method`. `call` names the answer to come."""

    call: int
    target: int
    method: str
    payload: bytes


class Result(NamedTuple):
    """The answer to a call."""

    call: int
    payload: bytes


class Failure(NamedTuple):
    """The other answer to a call: it raised. The payload is an encoded list of class name, message and traceback."""

    call: int
    payload: bytes


class Cancel(NamedTuple):
    """The caller no longer wants the answer. One still comes, and is dropped."""

    call: int


class Release(NamedTuple):
    """The other side has let go of so many references to `target`."""

    target: int
    references: int


class Note(NamedTuple):
    """Something said without expecting an answer, such as a line of a log."""

    topic: str
    payload: bytes


class Goodbye(NamedTuple):
    """The last message: no more will come, for the reason in the payload (text)."""

    payload: bytes


Message = Hello | Call | Result | Failure | Cancel | Release | Note | Goodbye
