"""What runs ask their steps for beside `do` and `sleep`: an event, a date; and the time, a number or an id, which are
recorded so that a replay has them again.

Imported before the fork, since most runs that are long wait for something: a guest that did it would take a third of a
millisecond.
"""

from __future__ import annotations

import datetime
import functools
import random
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from cloister.ipc import values

from .journal import exception
from .steps import WorkflowStep, _span
from .values import JsDict


def sleep_until(step: WorkflowStep, name: str, timestamp: Any) -> Awaitable[None]:
    """Sleep until a datetime, or a number of milliseconds since 1970. It starts when called."""
    return step._start("sleep_until", name, None, _moment(timestamp))


async def wait_for_event(
    step: WorkflowStep, name: str, event_type: Any = None, /, timeout: Any = "24 hours", **more: Any
) -> Any:
    """Wait for an event of a type. A map of `payload`, `timestamp` and `type`; an error when the time is over."""
    if isinstance(event_type, dict):  # options, as in JavaScript
        event_type, timeout = event_type["type"], event_type.get("timeout", timeout)
    kind = event_type if event_type is not None else more.pop("type", more.pop("event_type", None))
    if kind is None or more:
        wrong = f"takes no {', '.join(more)}" if more else "has no event type"
        raise TypeError(f"wait_for_event({name!r}) {wrong}: name, event_type, timeout='24 hours'")
    count = step._count("wait", name)
    record = await step._journal.visit("wait", name, count)
    match record:
        case ["done", _, value, *_]:
            got = values.loads(value, hook=JsDict, trusted=True)
        case ["failed", _, _, error, *_]:
            raise exception(error)
        case None if (event := step._journal.take(name, count, kind, _span(timeout))) is not None:
            got = values.loads(event, hook=JsDict, trusted=True)
        case _:
            got = await step._journal.record("wait_for_event", (name, count, kind, _span(timeout)))
            if "error" in got:
                raise exception(got["error"])
    moment = datetime.datetime.fromtimestamp(got["timestamp"] / 1000, datetime.UTC).replace(tzinfo=None)
    return JsDict(payload=got["payload"], timestamp=moment, type=got["type"])


async def now(step: WorkflowStep) -> datetime.datetime:
    """The time in UTC."""
    moment = await _kept(step, "now", lambda: time.time_ns() // 1_000_000)
    return datetime.datetime.fromtimestamp(moment / 1000, datetime.UTC)


async def random_number(step: WorkflowStep) -> float:
    """A number from 0 to below 1."""
    return float(await _kept(step, "random", random.random))


async def random_id(step: WorkflowStep) -> uuid.UUID:
    """A UUID."""
    return uuid.UUID(await _kept(step, "uuid", lambda: str(uuid.uuid4())))


async def _kept(step: WorkflowStep, name: str, make: Callable[[], Any]) -> Any:
    count = step._count("value", name)
    record = await step._journal.visit("value", name, count)
    match record:
        case ["done", _, value, *_]:
            return values.loads(value, trusted=True)
        case ["failed", _, _, error, *_]:
            raise exception(error)
    value = make()
    await step._journal.record("keep", (name, count, values.dumps(value)))
    return value


_METHODS: Final[dict[str, Callable[..., Any]]] = {
    "sleep_until": sleep_until,
    "sleepUntil": sleep_until,
    "wait_for_event": wait_for_event,
    "waitForEvent": wait_for_event,
    "now": now,
    "random": random_number,
    "uuid": random_id,
}


def method(step: WorkflowStep, name: str) -> Callable[..., Any]:
    """A method of `step` that is not often asked for."""
    if name == "child":
        from . import children

        return functools.partial(children.child, step)
    if name not in _METHODS:
        raise AttributeError(f"step has no method {name!r}")
    return functools.partial(_METHODS[name], step)


def in_milliseconds(config: Any, name: object = None) -> Any:
    """A config whose lengths of time may be timedeltas, and whose delay a function."""
    if isinstance(config, Mapping):
        return {key: in_milliseconds(value, key) for key, value in config.items()}
    return "dynamic" if name == "delay" and callable(config) else _span(config)


def _moment(timestamp: Any) -> Any:
    if isinstance(timestamp, datetime.datetime):
        aware = timestamp if timestamp.tzinfo else timestamp.replace(tzinfo=datetime.UTC)
        return aware.timestamp() * 1000
    return timestamp
