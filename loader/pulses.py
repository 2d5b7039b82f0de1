"""Attempts of steps that have to give signs of life, as the host hears them.

The sandbox ends an attempt that is silent for too long by itself, and says so. One whose process does not get round to
that, since it is stuck, is ended from here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cloister.ipc import PayloadError

GRACE: Final = 5.0
"""Seconds beyond an attempt's time in which its sandbox may end it."""

_Key = tuple[str, int]


@dataclass(slots=True)
class _Pulse:
    seconds: float
    timer: asyncio.TimerHandle
    again: bool = False
    """The host may itself have been late to hear of a sign of life, so it looks twice."""


class Pulses:
    """Those of one run. `end` ends its sandbox."""

    def __init__(self) -> None:
        self.end: Callable[[str], None] = lambda reason: None
        self.under_way: dict[_Key, _Pulse] = {}
        """Those that have to give one."""

    def began(self, name: str, count: int, milliseconds: object) -> None:
        """An attempt began that has to give a sign of life each so often."""
        if type(milliseconds) is not int or milliseconds < 1:
            raise PayloadError(f"{milliseconds!r:.40} is no time between signs of life")
        self.ended(name, count)
        key, seconds = (name, count), milliseconds / 1000
        self.under_way[key] = _Pulse(seconds, self._wait(key, seconds + GRACE / 2))

    def beat(self, name: str, count: int) -> None:
        """It gave one."""
        if (pulse := self.under_way.get((name, count))) is not None:
            self.began(name, count, round(pulse.seconds * 1000))

    def ended(self, name: str, count: int) -> None:
        """It gives none any longer."""
        if self.under_way and (pulse := self.under_way.pop((name, count), None)) is not None:
            pulse.timer.cancel()

    def close(self) -> None:
        """The run is over."""
        for key in tuple(self.under_way):
            self.ended(*key)

    def _wait(self, key: _Key, seconds: float) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(seconds, self._missed, key)

    def _missed(self, key: _Key) -> None:
        pulse = self.under_way[key]
        if not pulse.again:
            pulse.again, pulse.timer = True, self._wait(key, GRACE / 2)
            return
        self.close()
        self.end(
            f"the sandbox was ended: step {key[0]!r} gave no sign of life for {pulse.seconds + GRACE:g} s, and its"
            " process did not end it"
        )
