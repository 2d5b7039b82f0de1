"""Code that instances are tied to: kept once, small, and never mistaken for another's."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cloister.engine import Compression, Engine, Journal, PinnedCode, WorkflowEntrypoint
from cloister.engine.store.codes import PACKED

if TYPE_CHECKING:
    from cloister.engine.testing import VirtualClock

OpenEngine = Callable[..., Engine]
LONG = b"print('the same line, time and again')\n" * 100


class Teller(WorkflowEntrypoint):
    """Pins what its env says, if anything; tells what it is tied to, sleeps, and ends."""

    async def run(self, event: Any, step: Any) -> list[Any]:
        journal: Journal = step.journal
        seen, code = self.env
        if code is not None and journal.code_digest is None:
            journal.pin(*code)
        seen[journal.scope, journal.instance_id] = (journal.code_digest, await pinned(journal))
        await step.do("before", lambda: None)
        await step.sleep("night", "1 hour")
        return []


async def pinned(journal: Journal) -> bytes | None:
    return None if journal.code_digest is None else await journal.pinned_code()


def stored(path: Path) -> list[tuple[int, bytes, int]]:
    """Number, digest and size of each code that is kept."""
    with closing(sqlite3.connect(path)) as database:
        return database.execute("SELECT number, digest, length(code) FROM codes ORDER BY number").fetchall()


async def test_many_scopes_begin_in_one_transaction_on_code_that_is_kept_once(
    open_engine: OpenEngine, clock: VirtualClock, path: Path
) -> None:
    """Each in its own scope, tied from the start, whatever it is run with; what exists already is left alone."""
    seen: dict[Any, Any] = {}
    one, two = PinnedCode(b"one", LONG), PinnedCode(b"two", b"other")
    async with open_engine() as engine:
        workflow = engine.workflow("w", Teller, env=(seen, None))
        options = {"id": "x"}
        before = engine.statistics().commits
        made = await workflow.create_each([("a", options, one), ("b", options, one), ("c", options, two)])
        assert made == [True, True, True]
        assert engine.statistics().operations >= engine.statistics().commits > before
        assert await workflow.create_each([("b", options, two), ("d", options, None)]) == [False, True]
        await clock.run_until_idle()
    assert seen == {("a", "x"): one, ("b", "x"): one, ("c", "x"): two, ("d", "x"): (None, None)}
    assert [(digest, size) for _, digest, size in stored(path)] == [(b"one", pytest.approx(90, abs=40)), (b"two", 5)]


async def test_a_batch_for_many_scopes_has_its_bounds(open_engine: OpenEngine) -> None:
    """None is not a batch, and neither are more than a thousand."""
    async with open_engine() as engine:
        workflow = engine.workflow("w", Teller, env=({}, None))
        entry: tuple[str, dict[str, str], None] = ("a", {}, None)
        for entries in ([], [entry] * 1001):
            with pytest.raises(ValueError, match="1 to 1,000"):
                await workflow.create_each(entries)


@pytest.mark.parametrize("codec", [None, Compression(above=64)])
@pytest.mark.parametrize(
    "code", [LONG, LONG * 2, b"short", b"", PACKED, PACKED + b"is not" * 100, Compression.MARK + b"z" * 100]
)
async def test_code_comes_back_as_it_was(
    open_engine: OpenEngine, clock: VirtualClock, codec: Compression | None, code: bytes
) -> None:
    """Packed or not, sealed or not, and even if it looks like something packed."""
    seen: dict[Any, Any] = {}
    async with open_engine(codec=codec) as engine:
        workflow = engine.workflow("w", Teller, env=(seen, None))
        await workflow.create_each([("a", {"id": "x"}, PinnedCode(b"digest", code))])
        await clock.run_until_idle()
    assert seen["a", "x"] == (b"digest", code)


async def test_code_that_an_earlier_version_kept_as_it_was_is_read(
    open_engine: OpenEngine, clock: VirtualClock, path: Path
) -> None:
    """It was not packed then."""
    seen: dict[Any, Any] = {}
    async with open_engine() as engine:
        await engine.workflow("w", Teller, env=(seen, (b"digest", LONG))).create(id="x")
        await clock.run_until_idle()
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE codes SET code = ?", (LONG,))
    async with open_engine() as engine:
        seen.clear()
        engine.workflow("w", Teller, env=(seen, None))
        await clock.advance(3600)
    assert seen["", "x"] == (b"digest", LONG)


async def test_what_nobody_can_wake_up_on_goes_under_the_next_host(
    open_engine: OpenEngine, clock: VirtualClock, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few at a time, all in the end; what a sleeper needs stays."""
    monkeypatch.setattr("cloister.engine.store.codes.SWEEP_CHUNK", 2)
    codes = [PinnedCode(bytes([65 + n]), b"code") for n in range(7)]
    async with open_engine() as engine:
        workflow = engine.workflow("w", Teller, env=({}, None))
        await workflow.create_each([(f"s{n}", {"id": "x"}, code) for n, code in enumerate(codes)])
        await clock.run_until_idle()
        await asyncio.gather(*[(await workflow.get("x", scope=f"s{n}")).terminate() for n in range(7) if n != 3])
    assert len(stored(path)) == 7
    async with open_engine():
        await clock.run_until_idle()
    assert [digest for _, digest, _ in stored(path)] == [b"D"]


async def test_an_instance_begun_anew_never_wakes_up_on_the_code_of_another_one(
    open_engine: OpenEngine, clock: VirtualClock, path: Path
) -> None:
    """Its own is gone by then, and its number has not been given away."""
    seen: dict[Any, Any] = {}
    async with open_engine() as engine:
        workflow = engine.workflow("w", Teller, env=(seen, None))
        await workflow.create_each([("old", {"id": "x"}, PinnedCode(b"old", b"its own"))])
        await clock.advance(3600)
        assert (await (await workflow.get("x", scope="old")).status())["status"] == "complete"
    async with open_engine() as engine:
        await clock.run_until_idle()
        assert stored(path) == []
        workflow = engine.workflow("w", Teller, env=(seen, None))
        await workflow.create_each([("new", {"id": "x"}, PinnedCode(b"new", b"another's"))])
        await (await workflow.get("x", scope="old")).restart(from_step={"name": "before"})
        await clock.run_until_idle()
    assert seen == {("old", "x"): (None, None), ("new", "x"): (b"new", b"another's")}
