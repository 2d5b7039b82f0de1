"""A tenant's exceptions as the host and later runs see them: class name, message, and the tenant's own lines."""

from __future__ import annotations

import builtins
import traceback
from collections.abc import Container

from cloister.ipc import failures
from cloister.ipc.errors import RemoteError

tenant_paths: Container[str] = ()
"""The names of the tenant's modules: the frames that a traceback shows."""


def trace(error: BaseException) -> str:
    """The traceback without the frames that are not the tenant's."""
    report = traceback.TracebackException.from_exception(error, compact=True)
    seen: set[int] = set()
    left: list[traceback.TracebackException | None] = [report]
    while left:
        part = left.pop()
        if part is not None and id(part) not in seen:
            seen.add(id(part))
            part.stack[:] = [frame for frame in part.stack if frame.filename in tenant_paths]
            left += part.__cause__, part.__context__, *(part.exceptions or ())
    return "".join(report.format())


def text(error: BaseException) -> str:
    """What an exception says, also of one that cannot say it."""
    try:
        return str(error)
    except Exception as second:
        return f"its message cannot be read: {type(second).__name__}"


class StepError(RemoteError):
    """A step failed with an exception of a class that this program cannot be given back. `name` is that class's."""

    __module__ = "workers"


def rebuild(name: str, message: str, trace: str = "") -> Exception:
    """What the host raised, as an exception of the class of that name where Python or the protocol has one."""
    known = getattr(builtins, name, None)
    if isinstance(known, type) and issubclass(known, Exception) and name not in _NOT_FROM_AFAR:
        if known is KeyError and message[:1] == message[-1:] == "'":  # whose text is its key as it is written
            message = message[1:-1]
        try:
            return known(message)
        except TypeError:  # UnicodeError and the like want more than a message
            pass
    return failures.rebuild(name, message, trace)


_NOT_FROM_AFAR = {"StopIteration", "StopAsyncIteration"}  # they would end an iteration that is still going on
