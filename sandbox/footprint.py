"""What a sandbox takes of the machine for as long as it lives: memory, threads, and the kernel's tables of its pages.

Its control group holds it to its limits where it has one, and says when it was short of memory; where not, somebody has
to look from time to time. What it uses up, CPU time, is no part of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Final

from .errors import LimitExceeded, SandboxError
from .lockdown.cgroups import Group
from .policy import Limits
from .process import Process

_TABLES: Final = 4 << 20
_TABLES_OF_MEMORY: Final = 8
"""Bytes of page tables that a process may have, and one more for so many of its memory: pages side by side take one for
each five hundred."""


class Footprint:
    """That of one process. `end` ends it, for a reason."""

    __slots__ = ("_end", "_group", "_limits", "_process")

    def __init__(self, process: Process, group: Group | None, end: Callable[[SandboxError], None]) -> None:
        self._process, self._group, self._end = process, group, end
        self._limits = Limits()
        if group is not None:
            group.watch(self._short_of_memory)

    def bound(self, limits: Limits) -> None:
        """Let it have so much from now on."""
        self._limits = limits
        if self._group is not None:
            with contextlib.suppress(OSError):  # the fuse on address space holds all the same
                self._group.limit(limits.memory_bytes, limits.threads)

    def bytes(self) -> int:
        """What its control group is charged for, or its proportional share; where neither may be looked at, what is
        resident, which counts what it shares with its zygote."""
        charged = self._group.charged_bytes() if self._group is not None else 0
        return charged or self._process.memory_bytes() or self._process.resident_bytes()

    def look(self) -> None:
        """Where no group counts: threads, of which some thousand have room in what memory it may use, and the tables of
        its pages, which take twice as much as the pages do that are scattered."""
        if self._group is not None:
            return
        self.count()
        most = _TABLES + self._limits.memory_bytes // _TABLES_OF_MEMORY
        if self._process.table_bytes() > most:
            self._exceeded(f"{most >> 20:,} MiB of page tables")

    def count(self) -> None:
        """The threads alone, where no group does: that takes a tenth of the time, and may have to be often."""
        if self._group is None and self._process.threads() > self._limits.threads:
            self._exceeded(f"{self._limits.threads} threads")

    def _short_of_memory(self) -> None:
        self._exceeded(f"{self._limits.memory_bytes >> 20:,} MiB of memory")

    def _exceeded(self, what: str) -> None:
        self._end(LimitExceeded(f"the sandbox exceeded {what}"))
