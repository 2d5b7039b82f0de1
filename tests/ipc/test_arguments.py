"""What waiting calls hold of arguments: bounded in all, at the cost of who holds much."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest

from cloister.ipc import CodecError, RpcTarget, TooManyCalls, values
from cloister.ipc.answering import MAX_HELD
from cloister.ipc.arguments import Arguments
from cloister.ipc.unread import MUCH

OpenPair = Callable[..., Any]
Until = Callable[[Callable[[], object]], Any]


def test_one_guest_may_hold_so_much() -> None:
    """However little the others hold."""
    arguments = Arguments(most=10 * MAX_HELD)
    assert arguments.hold(MAX_HELD, MAX_HELD)
    assert not arguments.hold(1, MAX_HELD + 1)


def test_where_all_hold_too_much_who_holds_little_is_served() -> None:
    """And who holds much is not, until some of it all was let go of, whoever did that."""
    arguments = Arguments(most=4 * MUCH)
    assert arguments.hold(3 * MUCH, 3 * MUCH)
    assert not arguments.hold(2 * MUCH, 2 * MUCH)
    assert arguments.hold(MUCH, MUCH)
    arguments.hold(-2 * MUCH, 0)
    assert arguments.hold(0, 2 * MUCH)
    assert not arguments.hold(1, 2 * MUCH)


def test_a_few_that_hold_all_of_it_do_not_keep_others_from_a_part() -> None:
    """The more of them hold something, the less that is, and it is bounded for all."""
    arguments = Arguments(most=256 * MUCH)
    for _ in range(4):
        assert arguments.hold(64 * MUCH, 64 * MUCH)
    assert arguments.hold(12 * MUCH, 12 * MUCH), "a fifth of what is kept"
    assert not arguments.hold(MUCH, 13 * MUCH)
    arguments.hold(-MUCH, 12 * MUCH)
    assert not arguments.hold(12 * MUCH, 12 * MUCH), "a sixth is less"
    arguments.hold(-12 * MUCH, 0)
    assert arguments.hold(0, 12 * MUCH), "those that hold nothing any more have no part"
    for _ in range(1000):
        arguments.hold(MUCH, MUCH)
    assert arguments._bytes < 1300 * MUCH
    assert not arguments.hold(2 * MUCH, 2 * MUCH)
    assert arguments.hold(-MUCH, MUCH)


class Slow:
    """Answers when it is told to, with how much it was given."""

    attributes: Mapping[str, Any] = {}

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.asked = 0

    async def answer(self, method: str, payload: bytes, channel: Any) -> bytes:
        """See `Capability`."""
        self.asked += 1
        await self.go_on.wait()
        return values.dumps(len(payload))


async def test_calls_of_all_guests_are_counted_together(open_pair: OpenPair, until: Until) -> None:
    """Until they are answered, given up, or their guest is gone."""
    arguments, slow = Arguments(most=8 * MUCH), Slow()
    pairs = [open_pair(hold=arguments.hold) for _ in range(3)]
    for pair in pairs:
        pair.host.exports.grant(slow)

    def call(pair: Any, size: int) -> asyncio.Task[bytes]:
        return asyncio.ensure_future(pair.guest.call(0, "take", pair.guest.encode([["x" * size], {}])))

    first, second = call(pairs[0], 4 * MUCH), call(pairs[1], 3 * MUCH)
    await until(lambda: slow.asked == 2)
    with pytest.raises(TooManyCalls, match="those of all sandboxes too much"):
        await call(pairs[2], 2 * MUCH)
    little = call(pairs[2], MUCH // 2)
    await until(lambda: slow.asked == 3)
    first.cancel()
    pairs[1].host.close(ConnectionError("gone"))
    await until(lambda: arguments._bytes < MUCH)
    again = call(pairs[2], 6 * MUCH)
    await until(lambda: slow.asked == 4)
    slow.go_on.set()
    await asyncio.gather(little, again)
    assert arguments._bytes == 0
    second.cancel()


class Large(RpcTarget):
    """Of which much is said."""

    def __init__(self, size: int) -> None:
        self._said = {"body": bytes(size)}

    def rpc_attributes(self) -> dict[str, Any]:
        """What is held as long as this is."""
        return self._said


async def test_what_is_said_of_what_is_granted_counts_as_long_as_it_is(open_pair: OpenPair, until: Until) -> None:
    """A guest that keeps one response after the other would have the host keep their bodies."""
    granted = Arguments(most=8 * MUCH)
    pairs = [open_pair(hold_granted=granted.hold) for _ in range(2)]
    kept = [pairs[0].guest.decode(pairs[0].host.encode(Large(MUCH)))[0] for _ in range(7)]
    again = pairs[0].guest.decode(pairs[0].host.encode(shared := Large(10)))[0]
    with pytest.raises(CodecError, match="holds too many bytes; dispose of some"):
        pairs[0].host.encode([shared, Large(MUCH)])
    little = pairs[1].guest.decode(pairs[1].host.encode(Large(MUCH // 2)))[0]
    assert len(pairs[0].host.exports) == 8  # what was refused is not granted
    kept.pop()
    await until(lambda: len(pairs[0].host.exports) == 7)
    kept.append(pairs[0].guest.decode(pairs[0].host.encode(Large(MUCH)))[0])
    del again, little
    for pair in pairs:
        pair.host.close(ConnectionError("gone"))
    assert granted._bytes == 0


async def test_each_capability_counts_something_once_there_are_many(open_pair: OpenPair, until: Until) -> None:
    """A guest that keeps one object after the other would have the host keep them, small as each of them is."""
    granted = Arguments(most=8 * MUCH)
    pairs = [open_pair(hold_granted=granted.hold) for _ in range(2)]

    def grant(pair: Any, subject: object) -> Any:
        return pair.guest.decode(pair.host.encode(subject))[0]

    few = [grant(pairs[0], Large(0)) for _ in range(32)]
    assert granted._bytes == 0
    kept = []
    with pytest.raises(CodecError, match="holds too many bytes; dispose of some"):  # noqa: PT012 - one of them does
        while True:
            kept.append(grant(pairs[0], Large(0)))
    assert len(kept) == 8 * MUCH // 1024
    assert granted._bytes == 8 * MUCH  # what was refused counts no longer
    assert len(pairs[0].host.exports) == len(few) + len(kept)
    others = [grant(pairs[1], Large(0)) for _ in range(33)]  # who has little is served
    del few, kept
    await until(lambda: len(pairs[0].host.exports) == 0)
    assert granted._bytes == 1024
    del others
    pairs[1].host.close(ConnectionError("gone"))
    assert granted._bytes == 0


async def numbers() -> AsyncIterator[int]:
    """Without end."""
    while True:
        yield 1


async def test_a_stream_counts_more(open_pair: OpenPair) -> None:
    """It has a generator, and once it is read a task and what is ready ahead."""
    granted = Arguments(most=8 * MUCH)
    pair = open_pair(hold_granted=granted.hold)
    kept = [pair.guest.decode(pair.host.encode(numbers()))[0] for _ in range(132)]
    assert granted._bytes == 132 * 4096
    pair.host.close(ConnectionError("gone"))
    assert granted._bytes == 0
    assert len(kept) == 132
