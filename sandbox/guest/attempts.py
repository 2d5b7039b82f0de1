"""What few attempts of a step come to: an error, a delay that a function says, a heartbeat, a token.

Not imported by the guest itself: it is kept with the standard library, for those who ask.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Callable
from typing import Any, Final

from cloister.ipc import values
from cloister.ipc.errors import CodecError, IpcError, RemoteError

from . import failure, steps
from .values import JsDict
from .workers.workflows import NonRetryableError

Failed = tuple[bytes, list[str], bool, dict[str, Any] | None]

_REFUSALS: Final = frozenset({"PayloadTooLarge", "QuotaExceeded"})
_DELAY_WITHIN: Final = 5.0
"""Seconds that a function may take to say how long to wait."""


class StreamError(Exception):
    """A step's result is a stream of something else than bytes."""

    __module__ = "workers"


async def failed(context: steps.Context, error: Exception, late: bool) -> Failed:
    """What is said of an attempt that ended with an exception, and whether another one makes sense."""
    name = context["step"]["name"]
    if isinstance(error, TimeoutError) and late:
        report = ["WorkflowTimeoutError", _late(context), ""]
    elif isinstance(error, CodecError):
        return b"", ["TypeError", f'Value returned from step "{name}" is not serialisable: {error}', ""], False, None
    else:
        report = told(error)
    hopeless = isinstance(error, NonRetryableError | StreamError) or report[0] in _REFUSALS
    retries = context.__dict__["resolved"]["retries"]
    if hopeless or "delay" in retries or context["attempt"] > retries["limit"]:
        return b"", report, not hopeless, None
    try:
        async with asyncio.timeout(_DELAY_WITHIN) as timer:
            delay = await by_name(context.__dict__["given"]["retries"]["delay"], {"ctx": context, "error": error})
        return b"", report, True, {"delay": delay}
    except Exception as second:
        slow = isinstance(second, TimeoutError) and timer.expired()
        what = f"did not answer within {_DELAY_WITHIN:g} s" if slow else "raised {}: {}".format(*told(second))
        words = f"the function that says the delay of step {name!r} failed: it {what}"
        return b"", ["NonRetryableDelayError", words, ""], False, None


def refused(error: IpcError) -> list[str]:
    """What the host, or the codec, did not take: as an error for the author of the step."""
    if isinstance(error, RemoteError):
        return [error.name, error.message, ""]
    return ["TypeError" if isinstance(error, CodecError) else type(error).__name__, str(error), ""]


async def watched(context: steps.Context, timer: asyncio.Timeout) -> None:
    """From now on the attempt has to give a sign of life each so often. The host is told as well, for the case that
    this process cannot end it.
    """
    hidden, step = context.__dict__, context["step"]
    allowed = context.__dict__["resolved"]["heartbeatTimeout"]
    hidden["timer"], hidden["end"] = timer, timer.when()
    await hidden["journal"].ask("started", step["name"], step["count"], context["attempt"], allowed)
    _renew(context)


def _renew(context: steps.Context) -> None:
    hidden, allowed = context.__dict__, context.__dict__["resolved"].get("heartbeatTimeout")
    if allowed is not None and not hidden["timer"].expired():
        next_by = asyncio.get_running_loop().time() + allowed / 1000
        with contextlib.suppress(RuntimeError):  # its time is over, and it does not listen
            hidden["timer"].reschedule(min(hidden["end"], next_by))


def _late(context: steps.Context) -> str:
    hidden, config = context.__dict__, context.__dict__["resolved"]
    if "end" in hidden and hidden["timer"].when() < hidden["end"]:
        return f"There was no heartbeat for {config['heartbeatTimeout']}ms"
    return f"Execution timed out after {config['timeout']}ms"


def told(error: Exception) -> list[str]:
    """Class name, message and traceback of an exception, whose class is said beside its words."""
    if isinstance(error, failure.StepError):
        report = [error.name, error.message, failure.trace(error)[-16_384:]]
    else:
        error.args = getattr(error, "__recorded__", error.args)
        report = [type(error).__name__, failure.text(error), failure.trace(error)[-16_384:]]
    return [part.encode("utf-8", "replace").decode() for part in report]


async def by_name(function: Callable[..., Any], given: dict[str, Any]) -> Any:
    """Call with those things that its parameters name. A parameter of another name gets all of them, as a map."""
    parameters = inspect.signature(function).parameters.values()
    wanted = [p for p in parameters if p.name in given or p.default is p.empty]
    result = function(*(given.get(p.name, JsDict(given)) for p in wanted))
    return await result if inspect.isawaitable(result) else result


def attribute(context: steps.Context, name: str) -> Any:
    """What a body may ask its context for."""
    hidden = context.__dict__
    if name == "token":
        return hidden["journal"].state["claims"] << 20 | context["attempt"]
    if name == "details":
        said = hidden["earlier"]
        return None if said is None else values.loads(said, hook=JsDict, trusted=True)

    async def heartbeat(details: Any = None) -> Any:
        step, journal = context["step"], hidden["journal"]
        said = values.dumps(details)
        _renew(context)
        _, settings = await journal.configure(hidden["given"])
        wanted = await journal.ask("beat", step["name"], step["count"], context["attempt"], said, settings)
        hidden["said"][0] = said
        _renew(context)
        return wanted

    return heartbeat
