"""Whether this disk is prompt enough for the event loop to wait for it.

A sync that takes a quarter of a millisecond is waited for in less time than a thread takes to be woken, and to wake the
loop again. One that takes ten must not hold up a loop that others use as well. No clock and no disk: durations come in.
"""

from __future__ import annotations

from typing import Final

PROMPT: Final = 0.001
"""Seconds within which a commit is prompt."""
PROOF: Final = 16
"""Prompt commits in a row that prove it, at the beginning."""
_DEAR: Final = 4
"""How many prompt commits make up for a late one, for each `PROMPT` that it took."""
_BEST, _WORST = 32, -4096


class Promptness:
    """Trust, which is earned with every commit that is prompt and lost with one that is not, the more the later."""

    def __init__(self) -> None:
        self._trust = 0

    def took(self, seconds: float) -> None:
        """So long took a commit, whoever waited for it."""
        if seconds <= PROMPT:
            self._trust = min(self._trust + 1, _BEST)
        else:
            self._trust = max(self._trust - _DEAR * int(min(seconds / PROMPT, 1000)), _WORST)

    @property
    def proven(self) -> bool:
        """Whether the loop may wait for the next one."""
        return self._trust >= PROOF
