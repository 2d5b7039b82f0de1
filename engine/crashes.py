"""A story is told once, and again from each moment at which its host could have died: it must come to the same end.

The moments are those after a commit, of which a copy is kept: nothing else of a host outlives it.
"""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .engine import Engine
from .virtual_clock import VirtualClock

if TYPE_CHECKING:
    from .store.store import Store

Play = Callable[[Engine, VirtualClock], Awaitable[Any]]
"""Registers workflows, does what is to be done with an engine and its clock, and returns what came of it."""


class RecordingEngine(Engine):
    """Keeps a copy of its database after each commit, in a folder that must exist."""

    def __init__(self, path: Path, folder: Path, **options: Any) -> None:
        super().__init__(path, **options)
        self.copies: list[Path] = []
        self._folder = folder

    def _open_store(self) -> Store:
        store = super()._open_store()
        commit = store.commit

        def keep() -> None:
            commit()
            copy = self._folder / f"{len(self.copies):05}.db"
            copy_database(self._path, copy)
            self.copies.append(copy)

        store.commit = keep  # type: ignore[method-assign]
        return store


def copy_database(source: Path, target: Path) -> None:
    """What a host that dies now leaves behind."""
    shutil.copyfile(source, target)
    log, copied = source.with_name(f"{source.name}-wal"), target.with_name(f"{target.name}-wal")
    if log.exists():
        shutil.copyfile(log, copied)
    else:
        copied.unlink(missing_ok=True)


async def crash_after_every_commit(
    folder: Path, play: Play, *, depth: int = 1, now: int = 1_800_000_000_000, **options: Any
) -> Any:
    """Play, then play again from each copy that was kept on the way, and compare: what came of it, which is returned.

    A play may be repeated at any point: it names its instances, takes `InstanceAlreadyExists` for an answer, and gives
    its events ids. `depth=2` lets each second host die after each of its commits as well. Each host finds the time that
    the play begins with. `AssertionError` names the commits after which it came to another end.
    """
    expected, copies = await _play(folder, folder / "whole.db", play, depth > 0, now, options)
    await _again(folder, play, expected, copies, depth, "", now, options)
    return expected


async def _again(
    folder: Path, play: Play, expected: Any, copies: list[Path], depth: int, place: str, now: int, options: Any
) -> None:
    for number, copy in enumerate(copies):
        where = f"{place} after commit {number}"
        below = folder / f"{copy.stem}-again"
        below.mkdir()
        found, more = await _play(below, copy, play, depth > 1, now, options)
        if found != expected:
            raise AssertionError(f"a host that died{where} comes to {found!r}, and not to {expected!r}")
        await _again(below, play, expected, more, depth - 1, f"{where}, then", now, options)
        shutil.rmtree(below)


async def _play(
    folder: Path, path: Path, play: Play, keep: bool, now: int, options: dict[str, Any]
) -> tuple[Any, list[Path]]:
    clock = VirtualClock(now)
    engine = RecordingEngine(path, folder, clock=clock, **options) if keep else Engine(path, clock=clock, **options)
    async with engine:
        outcome = await play(engine, clock)
        copies = list(engine.copies) if isinstance(engine, RecordingEngine) else []
    return outcome, copies
