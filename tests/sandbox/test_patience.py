"""The body of a step as it is begun and waited for, without a sandbox around it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cloister.sandbox.guest.patience import begin


def run(work: Any) -> Any:
    async def main() -> Any:
        waits, result = begin(work())
        return ("waited", await result) if waits else ("at once", result)

    return asyncio.run(main())


def test_a_coroutine_that_waits_for_nothing_is_done_at_once() -> None:
    """However deep it goes; and what it raises is raised at once."""

    async def inner() -> int:
        return 5

    async def outer() -> int:
        return await inner()

    async def fails() -> None:
        raise KeyError("x")

    assert run(outer) == ("at once", 5)
    with pytest.raises(KeyError):
        run(fails)


def test_the_rest_of_one_that_waits_is_awaited() -> None:
    """Each wait and each turn in between, and what it raises in the end."""
    seen: list[int] = []

    async def body() -> str:
        for number in range(3):
            await asyncio.sleep(0)
            await asyncio.sleep(0.001)
            seen.append(number)
        return "done"

    async def fails() -> None:
        await asyncio.sleep(0)
        raise KeyError("x")

    assert run(body) == ("waited", "done")
    assert seen == [0, 1, 2]
    with pytest.raises(KeyError):
        run(fails)


@pytest.mark.parametrize("given", [5, None, [1]])
def test_what_is_no_coroutine_is_the_result(given: Any) -> None:
    """A plain function has returned by then."""
    assert run(lambda: given) == ("at once", given)


def test_other_awaitables_are_awaited() -> None:
    """A task or a future that a function gives."""

    async def body() -> int:
        return 7

    assert run(lambda: asyncio.ensure_future(body())) == ("waited", 7)


def test_what_a_coroutine_returns_is_not_awaited_as_well() -> None:
    """Whatever it is, as where it would have been awaited."""

    async def body() -> Any:
        return asyncio.get_running_loop().create_future()

    kind, result = run(body)
    assert kind == "at once"
    assert isinstance(result, asyncio.Future)


def test_a_time_limit_reaches_the_body() -> None:
    """It is cancelled where it waits, may tidy up meanwhile, and may take another limit of its own."""
    seen: list[str] = []
    limit = asyncio.timeout_at(None)

    async def body() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await asyncio.Event().wait()
        limit.reschedule(0.0)  # on a busy machine it might be over together with the other
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            await asyncio.sleep(0)
            seen.append("tidied")
            raise

    async def main() -> None:
        waits, rest = begin(body())
        assert waits
        with pytest.raises(TimeoutError):
            async with limit:
                await rest

    asyncio.run(main())
    assert seen == ["cancelled", "tidied"]


def test_a_body_that_nobody_awaits_any_longer_is_closed() -> None:
    """Its `finally` is run, as if it had been the coroutine itself."""
    seen: list[str] = []

    async def body() -> None:
        try:
            await asyncio.sleep(0)
        finally:
            seen.append("closed")

    async def main() -> None:
        _, rest = begin(body())
        rest.send(None)
        rest.close()

    asyncio.run(main())
    assert seen == ["closed"]
