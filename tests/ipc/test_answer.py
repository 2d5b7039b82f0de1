"""What a call waits for: its waiter goes on within `settle` where that can be, and a turn later where it cannot."""

from __future__ import annotations

import asyncio
import contextvars

import pytest

from cloister.ipc.answer import Answer

WHOSE: contextvars.ContextVar[str] = contextvars.ContextVar("whose", default="nobody's")


async def waiting(told: list[object]) -> tuple[Answer, asyncio.Task[None]]:
    """An answer, and a task of somebody's that waits for it and tells what came of that, and whose it was."""
    answer = Answer(asyncio.get_running_loop())

    async def wait() -> None:
        WHOSE.set("somebody's")
        try:
            told.append(await answer)
        except (ValueError, asyncio.CancelledError) as error:
            told.append(repr(error))
        told.append(WHOSE.get())

    task = asyncio.ensure_future(wait())
    await asyncio.sleep(0)
    return answer, task


async def from_outside(action: object, *args: object) -> None:
    """Call something as the loop calls it for a descriptor: while no task runs."""
    done = asyncio.get_running_loop().create_future()

    def act() -> None:
        try:
            done.set_result(action(*args))  # type: ignore[operator]
        except BaseException as error:
            done.set_exception(error)
            raise

    asyncio.get_running_loop().call_soon(act)
    await done


async def test_a_waiter_goes_on_at_once() -> None:
    """Before `settle` returns, and in its own context."""
    told: list[object] = []
    answer, task = await waiting(told)
    seen: list[list[object]] = []

    def settle() -> None:
        answer.settle(b"it")
        seen.append(list(told))

    await from_outside(settle)
    assert seen == [[b"it", "somebody's"]]
    await task
    assert WHOSE.get() == "nobody's"


async def test_not_while_another_task_runs() -> None:
    """That one cannot be interrupted by its like: the waiter goes on when its turn comes."""
    told: list[object] = []
    answer, task = await waiting(told)
    answer.settle(b"it")
    assert told == []
    await task
    assert told == [b"it", "somebody's"]


async def test_a_failure_is_told_a_turn_later() -> None:
    """Whoever says it may be in the midst of something that the waiter would find half done."""
    told: list[object] = []
    answer, task = await waiting(told)
    seen: list[list[object]] = []

    def fail() -> None:
        answer.fail(ValueError("no"))
        seen.append(list(told))

    await from_outside(fail)
    assert seen == [[]]
    await task
    assert told == ["ValueError('no')", "somebody's"]


@pytest.mark.parametrize("message", [None, "enough"])
async def test_a_task_that_waits_can_be_cancelled(message: str | None) -> None:
    """It is told so, with what was said; an answer that comes after that is nobody's."""
    told: list[object] = []
    answer, task = await waiting(told)
    task.cancel(*([] if message is None else [message]))
    answer.settle(b"late")
    await task
    assert told == [f"CancelledError({message!r})" if message else "CancelledError()", "somebody's"]


async def test_the_first_word_stands() -> None:
    """Whatever is said after it."""
    loop = asyncio.get_running_loop()
    settled, failed = Answer(loop), Answer(loop)
    settled.settle(b"first")
    settled.settle(b"second")
    settled.fail(ValueError())
    assert not settled.cancel()
    assert await settled == b"first"
    failed.fail(ValueError("first"))
    failed.settle(b"second")
    with pytest.raises(ValueError, match="first"):
        await failed


async def test_time_limits_hold_around_it() -> None:
    """They cancel the task that waits, like any other."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001):
            await Answer(asyncio.get_running_loop())


async def test_many_that_come_in_one_go_are_each_told_in_that_order() -> None:
    """Each goes on before the next is settled."""
    told: list[object] = []
    waiters = [await waiting(told) for _ in range(3)]

    def settle() -> None:
        for number, (answer, _) in enumerate(waiters):
            answer.settle(b"%d" % number)
            told.append("then")

    await from_outside(settle)
    assert told == [part for number in (b"0", b"1", b"2") for part in (number, "somebody's", "then")]
    await asyncio.gather(*(task for _, task in waiters))
