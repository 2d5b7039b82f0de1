"""What is kept for each place that a sandbox can be in, and used again by the next one: number, user id, control group.

A host has one set for all its zygotes, so that no two sandboxes that live at once share any of it.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from typing import Final

from .errors import LayerMissing
from .lockdown.cgroups import Group, Groups
from .lockdown.identity import FIRST_ID
from .policy import Limits

_UIDS_PER_HOST, _HOSTS = 100_000, 1000
_USUAL: Final = Limits()
_free_uids: Final[list[int]] = []
_uids: Final = itertools.count()
"""Those of this process, which may have several hosts, and more sets of slots than that."""


class Slots:
    """All places of one host. `groups` is "active", or says why there are no control groups."""

    def __init__(self) -> None:
        self._free: list[int] = []
        self._numbers = itertools.count()
        self._groups_of: dict[int, Group] = {}
        self._uids: dict[int, int] = {}
        self._first_uid = FIRST_ID + os.getpid() % _HOSTS * _UIDS_PER_HOST
        self._groups: Groups | None = None
        try:
            self._groups = Groups()
            self.groups = "active"
        except (LayerMissing, OSError) as error:
            self.groups = f"not available: {error}"

    def take(self) -> int:
        """One that nobody is in."""
        return self._free.pop() if self._free else next(self._numbers)

    def prepare(self) -> None:
        """Have the group of the one that is taken next, so that nobody waits while it is made."""
        if not self._free:
            self._free.append(next(self._numbers))
            with contextlib.suppress(OSError):  # whoever takes it finds out
                self.group(self._free[0])

    def give_back(self, slot: int) -> None:
        """Its sandbox is gone."""
        self._free.append(slot)

    def uid(self, slot: int) -> int:
        """The user that a sandbox in it is to be, where the host may choose."""
        if slot not in self._uids:
            self._uids[slot] = _free_uids.pop() if _free_uids else next(_uids)
        return self._first_uid + self._uids[slot] % _UIDS_PER_HOST

    def group(self, slot: int) -> Group | None:
        """Its control group, where there are such."""
        if self._groups is None:
            return None
        if slot not in self._groups_of:
            self._groups_of[slot] = self._groups.acquire(str(slot))
            with contextlib.suppress(OSError):  # they are set again when it is known what for
                self._groups_of[slot].limit(_USUAL.memory_bytes, _USUAL.threads)
        return self._groups_of[slot]

    def close(self) -> bool:
        """Remove the groups. Whether that is done: one whose last process is still dying cannot go yet."""
        _free_uids.extend(self._uids.values())
        self._uids.clear()
        return self._groups is None or self._groups.close()
