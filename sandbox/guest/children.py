"""Instances that a step creates and awaits, through a workflow binding that the host has granted.

Not imported by the guest itself: it is kept with the standard library, for those who ask.
"""

from __future__ import annotations

import asyncio
from typing import Any

from cloister.ipc import values
from cloister.ipc.stubs import Stub

from .journal import exception
from .steps import WorkflowStep, _span
from .values import JsDict


async def child(
    step: WorkflowStep, name: str, binding: Any, options: Any = None, /, timeout: Any = None, **more: Any
) -> Any:
    """Create an instance of a workflow and await its output; its error, if it ends without one.

    It is terminated when it takes longer than the timeout (a year by default), when whoever awaits it here is
    cancelled, and when this instance ends first.
    """
    journal, count = step._journal, step._count("child", name)
    record = await journal.visit("child", name, count)
    match record:
        case ["done", _, value, *_]:
            told = values.loads(value, hook=JsDict, trusted=True)
        case ["failed", _, _, error, *_]:
            raise exception(error)
        case _:
            if not isinstance(binding, Stub):
                raise TypeError(f"step.child() takes a workflow binding, such as env.WORKFLOWS, not {binding!r:.80}")
            given = {**(options or {}), **more}
            try:
                asked = name, count, binding, given, _span(timeout)
                told = await journal.record("child", asked, binding._channel.encode)
            except asyncio.CancelledError:
                if not journal.run.over:
                    journal._tell("give_up", name, count)
                raise
    if told["status"] == "complete":
        return told["output"]
    raise exception(told["error"] or ["Error", "", ""])
