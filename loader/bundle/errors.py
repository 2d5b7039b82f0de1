"""What cannot be bundled."""

from __future__ import annotations

from ..errors import InvalidCode


class CannotBundle(InvalidCode):
    """It cannot be made a worker. `reasons` says each thing that is in the way, and what to do about it."""

    def __init__(self, *reasons: str) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = reasons
