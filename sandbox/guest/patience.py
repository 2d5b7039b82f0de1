"""How the body of a step is waited for: no longer than it may, and not at all if it waits for nothing itself."""

from __future__ import annotations

import asyncio
import inspect
import types
from typing import TYPE_CHECKING, Any

from .values import JsDict

if TYPE_CHECKING:
    from .journal import Journal

WHOLE = frozenset({type(None), bool, int, float, str, bytes, list, tuple, dict, JsDict})
"""What is there when it is returned."""
_NOTE_AFTER = 0.02  # seconds: a body that is done sooner is not announced


def begin(work: Any) -> tuple[bool, Any]:
    """Whether what a body gave is to be awaited, and that, or else its result. A coroutine has begun by then, and if it
    waits for nothing it is done.
    """
    if type(work) is not types.CoroutineType:
        return type(work) not in WHOLE and inspect.isawaitable(work), work
    try:
        waited = work.send(None)
    except StopIteration as done:
        return False, done.value
    return True, _rest(work, waited)


@types.coroutine
def _rest(work: types.CoroutineType[Any, Any, Any], waited: Any) -> Any:
    """The rest of a coroutine that waits for this."""
    while True:
        try:
            told = yield waited
        except GeneratorExit:
            work.close()
            raise
        except BaseException as error:
            go_on: Any = work.throw
            told = error
        else:
            go_on = work.send
        try:
            waited = go_on(told)
        except StopIteration as done:
            return done.value


class Patience:
    """How long an attempt may take that is waited for, and from when on the host is told of it. Most are done before
    the second, so the first has a timer only from then on."""

    def __init__(
        self, journal: Journal, attempt: tuple[str, int, int], began: float, milliseconds: float, at_once: bool
    ) -> None:
        self._journal, self._attempt = journal, attempt
        self._end = began + milliseconds / 1000
        self.noted = attempt[2] > 1  # the host has told the number of this one, and counts it
        self.timer = asyncio.timeout_at(self._end if at_once or milliseconds / 1000 <= _NOTE_AFTER else None)

    async def __aenter__(self) -> asyncio.Timeout:
        self._noting = asyncio.get_running_loop().call_later(_NOTE_AFTER, self._note)
        return await self.timer.__aenter__()

    async def __aexit__(self, *error: object) -> None:
        self._noting.cancel()
        await self.timer.__aexit__(*error)  # type: ignore[arg-type] # as it came

    def _note(self) -> None:
        self.noted = True
        self._journal.started(*self._attempt)
        if self.timer.when() is None:
            self.timer.reschedule(self._end)
