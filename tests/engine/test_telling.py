"""In which order those who wait for a commit hear of it."""

from __future__ import annotations

import asyncio
from typing import Any

from cloister.engine.telling import Telling
from cloister.engine.writes import PromptWrite, Write


class Books:
    """Knows nothing, and so has nothing to keep in step."""

    def wrote(self, write: Write) -> None:
        """Durable."""

    def failed(self, write: Write, error: BaseException) -> None:
        """Or not."""


def prompt(heard: list[Any], name: str) -> PromptWrite:
    """A write that says its name when it is told of, and what went wrong."""
    return PromptWrite(Books(), lambda _, error: heard.append(name if error is None else (name, error)), True, None)


def waiting(heard: list[Any], name: str) -> asyncio.Future[None]:
    """A future whose waiter says its name when it goes on."""
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.add_done_callback(lambda _: heard.append(name))
    return future


async def turns() -> None:
    """Let everybody go on who can."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_who_is_told_within_a_call_comes_neither_before_nor_after_their_turn() -> None:
    heard: list[Any] = []
    telling = Telling(asyncio.get_running_loop())
    between: list[asyncio.Future[None] | PromptWrite] = [prompt(heard, "c"), prompt(heard, "d")]
    telling.tell([prompt(heard, "a"), waiting(heard, "b"), *between, waiting(heard, "e")], [None] * 5)
    telling.tell([prompt(heard, "f")], [None])
    telling.tell([waiting(heard, "g")], [None])
    await turns()
    assert heard == ["a", "b", "c", "d", "e", "f", "g"]


async def test_what_comes_between_is_called_when_those_before_have_gone_on_and_none_behind() -> None:
    heard: list[Any] = []
    telling = Telling(asyncio.get_running_loop())
    waiters = [prompt(heard, name) for name in "abc"]
    telling.tell(waiters, [None] * 3, [(1, lambda: heard.append("after a")), (3, lambda: heard.append("after all"))])
    await turns()
    assert heard == ["a", "after a", "b", "c", "after all"]


async def test_one_that_is_alone_is_told_at_once_and_behind_others_when_they_have_been() -> None:
    heard: list[Any] = []
    telling = Telling(asyncio.get_running_loop())
    telling.tell([prompt(heard, "a")], [None])
    assert heard == ["a"]
    telling.tell([waiting(heard, "b")], [None])
    telling.tell([prompt(heard, "c")], [None])
    assert heard == ["a"]
    await turns()
    telling.tell([prompt(heard, "d")], [None])
    assert heard == ["a", "b", "c", "d"]


async def test_who_has_given_up_is_passed_over_and_an_error_is_told_like_a_result() -> None:
    heard: list[Any] = []
    telling = Telling(asyncio.get_running_loop())
    gone, error = waiting(heard, "gone"), ValueError("not stored")
    gone.cancel()
    failing: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    telling.tell([prompt(heard, "a"), gone, prompt(heard, "b"), failing], [None, None, error, error])
    await turns()
    assert heard == ["gone", "a", ("b", error)]
    assert failing.exception() is error


async def test_what_becomes_of_one_keeps_no_other_from_hearing() -> None:
    heard: list[Any] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: heard.append(context["exception"]))
    wrong = RuntimeError("whoever was told")

    def fail(_: Any, error: BaseException | None) -> None:
        raise wrong

    telling = Telling(loop)
    failing = PromptWrite(Books(), fail, True, None)
    telling.tell([prompt(heard, "a"), failing, prompt(heard, "b")], [None] * 3)
    await turns()
    assert heard == ["a", wrong, "b"]
