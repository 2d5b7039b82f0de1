"""Exceptions on their way from a shard's process to the front: the same class, arguments and attributes over there.

Between a host and a sandbox an exception is a name and words (`cloister.ipc.failures`), since nobody may choose what is
built here. Both ends of this are the same program. Still nothing is imported or called because a name was sent: a class
is looked up among those there are. What the door raises is a value of its own (`tell`). What an object or a stream of a
tenant's raises comes as any failure does, with its class behind the traceback (`trace`).
"""

from __future__ import annotations

import builtins
import traceback
from collections.abc import Iterator
from typing import Any, Final

from cloister.engine import EngineError
from cloister.ipc import CodecError, IpcError, RemoteError, failures, values
from cloister.sandbox import SandboxError

from ..errors import LoaderError
from ..http.headers import Malformed

_ROOTS: Final[tuple[type[Exception], ...]] = (EngineError, LoaderError, SandboxError, IpcError, Malformed)
_BUILT_IN: Final = {name for name, kind in vars(builtins).items()
                    if isinstance(kind, type) and issubclass(kind, Exception)}  # fmt: skip
_MOST_CAUSES: Final = 4


def tell(error: BaseException, causes: int = _MOST_CAUSES) -> list[Any]:
    """An exception as a value that can be sent."""
    kind, cause = type(error), error.__cause__
    known = kind is _class(kind.__module__, kind.__qualname__)
    trace = "" if known else _text("".join(traceback.format_exception(error)))
    args = [each if _plain(each) else _said(each) for each in _given(error)]
    attributes = {name: value for name, value in vars(error).items() if _plain({name: value})}
    further = None if cause is None or not causes else tell(cause, causes - 1)
    return [kind.__module__, kind.__qualname__, _said(error), args, attributes, trace, further]


def untold(found: list[Any]) -> Exception:
    """The exception to raise for one that was told. What this side has no class for is a `RemoteError`."""
    module, name, words, args, attributes, trace, cause = found
    error = _made(_class(module, name), args)
    if error is None:
        error = RemoteError(name.rpartition(".")[2], words, trace)
        attributes = {"__notes__": attributes.get("__notes__", [])}
    vars(error).update(attributes)
    if cause is not None:
        error.__cause__ = untold(cause)
    return error


def trace(error: BaseException) -> str:
    """The traceback of a tenant's, and in the last line the class here of what was raised: that is what `untraced`
    makes again."""
    lines = error.trace if isinstance(error, RemoteError) else ""
    return f"{lines}\n{type(error).__module__} {type(error).__qualname__}"


def untraced(name: str, message: str, traced: str) -> Exception:
    """The exception to raise for a failure. See `failures.Rebuild`."""
    lines, _, last = traced.rpartition("\n")
    kind = _class(*last.split(" ", 1)) if " " in last else None
    if kind is None:
        return failures.rebuild(name, message, "")
    return (
        kind(name, message, lines)
        if issubclass(kind, RemoteError)
        else _made(kind, [message]) or RemoteError(name, message)
    )


def _given(error: BaseException) -> tuple[Any, ...]:
    """What it was made with, of which a built-in one may not have all among its `args`."""
    made = error.__reduce__() if type(error).__module__ == "builtins" else ""
    return made[1] if isinstance(made, tuple) else error.args  # of what it takes to make one, the second is this


def _made(kind: type[Exception] | None, args: list[Any]) -> Exception | None:
    if kind is None:
        return None
    if kind.__module__ == "builtins":  # which may keep more than their arguments
        try:
            return kind(*args)
        except Exception:  # noqa: BLE001 - such as a group, of exceptions that were told as text
            return None
    error = kind.__new__(kind)  # and not what it does to make its words, which are made
    error.args = tuple(args)
    return error


def _class(module: str, name: str) -> type[Exception] | None:
    if module == "builtins":
        return getattr(builtins, name) if name in _BUILT_IN else None
    return next((kind for kind in _known() if kind.__qualname__ == name and kind.__module__ == module), None)


def _known() -> Iterator[type[Exception]]:
    """Ours: what a service derives from them may want to be made in another way."""
    below = list(_ROOTS)
    for kind in below:
        if kind.__module__.startswith("cloister."):
            yield kind
            below += kind.__subclasses__()


def _plain(value: object) -> bool:
    try:
        values.dumps(value)
    except CodecError:
        return False
    return True


def _said(subject: object) -> str:
    try:
        return _text(str(subject))
    except Exception as second:  # noqa: BLE001 - it cannot even say what it is
        return f"its message cannot be read: {type(second).__name__}"


def _text(words: str) -> str:
    return words.encode("utf-8", "replace").decode()
