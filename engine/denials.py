"""What a run was refused, on record: its program may catch that and go on, and no replay must be told otherwise.

Whether there is room, or a place in a queue, is another question an hour later. That it was refused takes a few words,
which have room where nothing else has; the run that has used up even that ends with it.
"""

from __future__ import annotations

from .errors import EngineError, QuotaExceeded
from .parking import Parking
from .recorder import Known
from .records import DEFAULT_CONFIG, ErrorRecord, Key
from .rules import brief
from .store import undoing


class Denials(Parking):
    """What refuses a step for good."""

    __slots__ = ()

    async def _deny(self, key: Key, refusal: EngineError, within: str | None) -> None:
        """To be raised when this returns, in the words that are on record."""
        error = _in_short(refusal)
        refusal.args = (error.message,)
        try:
            await self._record(key, Known("failed", 0, None, DEFAULT_CONFIG), error=error, within=within)
        except QuotaExceeded as second:
            await self._fail(second)
        await self._turn(key)

    async def _fail(self, refusal: EngineError) -> None:
        """The instance ends with this, once its steps are taken back; the program hears nothing more."""
        await self._write(undoing.undo, self._number, _in_short(refusal), self._clock.now())
        self._host.on_drained()
        self._check_open()


def _in_short(refusal: EngineError) -> ErrorRecord:
    return brief(ErrorRecord(type(refusal).__name__, str(refusal)))
