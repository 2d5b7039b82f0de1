"""Streams: as fast as they are read, ended by either side, and nothing to be flooded or held up with."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.ipc import (
    CapabilityError,
    ConnectionClosed,
    PayloadError,
    RemoteError,
    RemoteProtocolError,
    RpcTarget,
    codec,
    values,
)
from cloister.ipc.capabilities import serve
from cloister.ipc.messages import Call, Release, Result
from cloister.ipc.streams import BATCH_BYTES, BATCH_ITEMS
from cloister.ipc.supply import AHEAD, AHEAD_BYTES, AHEAD_IN_ALL

OpenPair = Callable[..., Any]
Until = Callable[[Callable[[], object]], Any]


class Source:
    """A generator that tells how far it has come, and how it ended."""

    def __init__(self, size: int = 1_000_000, *, item: Callable[[int], Any] = lambda n: n) -> None:
        self.made = 0
        self.ended = ""
        self._size, self._item = size, item

    async def items(self) -> AsyncIterator[Any]:
        try:
            for n in range(self._size):
                self.made += 1
                yield self._item(n)
            self.ended = "itself"
        except BaseException as error:
            self.ended = type(error).__name__
            raise


async def settle(turns: int = 50) -> None:
    """Let everything happen that can."""
    for _ in range(turns):
        await asyncio.sleep(0)


def cross(pair: Any, thing: object, *, to: str = "guest") -> Any:
    """The same value on the other side."""
    giver, taker = (pair.host, pair.guest) if to == "guest" else (pair.guest, pair.host)
    return taker.decode(giver.encode(thing))[0]


@pytest.mark.parametrize("to", ["guest", "host"])
async def test_what_is_yielded_arrives_in_order_and_ends(open_pair: OpenPair, to: str) -> None:
    """Any values, generators that are asynchronous and those that are not, and other iterators; nothing is left."""
    pair = open_pair()
    items: list[Any] = [None, 1, "two", b"\0" * 5, {"deep": [{1, 2}]}, []]

    def plain() -> Iterator[Any]:
        yield from items

    async def later() -> AsyncIterator[Any]:
        for item in items:
            await asyncio.sleep(0)
            yield item

    class Iterable:
        def __aiter__(self) -> AsyncIterator[Any]:
            return later()

    for source in (plain(), later(), Iterable()):
        stream = cross(pair, {"in": [source]}, to=to)["in"][0]
        assert [item async for item in stream] == items
        assert [item async for item in stream] == []
    await settle()
    assert (len(pair.host.exports), len(pair.guest.exports)) == (0, 0)


async def test_nothing_is_made_before_it_is_asked_for_and_little_ahead(open_pair: OpenPair) -> None:
    """A stream that is never read costs its entry; one that is read slowly is made slowly."""
    pair = open_pair()
    source = Source()
    stream = cross(pair, source.items())
    await settle()
    assert source.made == 0
    for n in range(100):
        assert await anext(stream) == n
        await settle()
        assert source.made <= n + 2 * AHEAD + BATCH_ITEMS
    assert source.ended == ""


async def test_what_is_large_is_made_with_less_ahead(open_pair: OpenPair) -> None:
    """Counted in bytes, whatever form they come in."""
    for item in (lambda _: bytes(100_000), lambda _: {"a": "x" * 100_000}, lambda _: ["x" * 50_000, bytes(50_000)]):
        source = Source(item=item)
        stream = cross(open_pair(), source.items())
        await anext(stream)
        await settle()
        assert source.made <= 2 * (AHEAD_BYTES // 100_000 + 1)


async def test_what_is_large_deep_inside_is_made_with_less_ahead(open_pair: OpenPair) -> None:
    """As a key, in a set or some levels down; and a value that has itself inside is looked at for a while only."""
    itself: list[Any] = []
    itself.append(itself)
    within = [
        lambda _: [[[bytes(100_000)]]], lambda _: {"a": {"b": bytes(100_000)}}, lambda _: {"x" * 100_000: 1},
        lambda _: [{"x" * 100_000}], lambda _: [[[] for _ in range(1_600)]],
    ]  # fmt: skip
    for item in within:
        source = Source(item=item)
        stream = cross(open_pair(), source.items())
        await anext(stream)
        await settle()
        assert source.made <= 2 * (AHEAD_BYTES // 100_000 + 1)
    with pytest.raises(RemoteError, match="contains itself"):
        await anext(cross(open_pair(), Source(1, item=lambda _: itself).items()))


async def test_however_many_streams_are_begun_little_is_ready_for_one_connection(open_pair: OpenPair) -> None:
    """A hostile reader begins them all and leaves them there. Each still goes on when it is read, to its end; and what
    is read over another connection is no slower for it."""
    pair, other = open_pair(), open_pair()
    sources = [Source(20, item=lambda _: bytes(100_000)) for _ in range(200)]
    streams = [cross(pair, source.items()) for source in sources]
    nothing = values.dumps([[], {}])
    answers = [await pair.guest.call(stream._target, "pull", nothing) for stream in streams]
    pieces = [len(values.loads(answer)) - 1 for answer in answers]
    await settle()
    ready = sum(source.made for source in sources) - sum(pieces)
    assert ready * 100_000 <= AHEAD_IN_ALL + 100_000
    elsewhere = Source(item=lambda _: bytes(100_000))
    await anext(cross(other, elsewhere.items()))
    await settle()
    assert elsewhere.made > 3
    for stream, had in zip(streams, pieces, strict=True):
        assert len([item async for item in stream]) == 20 - had
    await settle()
    assert len(pair.host.exports) == 0
    more = Source(item=lambda _: bytes(100_000))  # all of it was given back
    await anext(cross(pair, more.items()))
    await settle()
    assert more.made > 3


async def test_what_is_ready_of_a_stream_that_is_let_go_of_counts_no_longer(open_pair: OpenPair) -> None:
    """Nor of one that was taken back."""
    pair = open_pair()
    for _ in range(200):
        stream = cross(pair, Source(item=lambda _: bytes(100_000)).items())
        await anext(stream)
        await settle(5)
        stream.dispose()
        await settle(5)
    source = Source(item=lambda _: bytes(100_000))
    await anext(cross(pair, source.items()))
    await settle()
    assert source.made > 3


async def test_what_is_ready_goes_together(open_pair: OpenPair) -> None:
    """A thousand items take far fewer round trips, and no answer is larger than a batch and an item."""
    pair = open_pair()
    stream = cross(pair, Source(1000).items())
    assert [item async for item in stream] == list(range(1000))
    assert pair.count(Call) <= 1000 // AHEAD + 2
    stream = cross(pair, Source(20, item=lambda _: bytes(100_000)).items())
    assert [len(item) async for item in stream] == [100_000] * 20
    sizes = [len(message.payload) for _, message in pair.said if isinstance(message, Result)]
    assert max(sizes) <= BATCH_BYTES + 100_100


@pytest.mark.parametrize("way", ["aclose", "dispose", "with", "forget", "cancel the reader"])
async def test_a_reader_that_lets_go_ends_the_generator(open_pair: OpenPair, until: Until, way: str) -> None:
    """Wherever it is: waiting for room here. Its `finally` runs, and nothing is left."""
    pair = open_pair()
    source = Source()
    stream = cross(pair, source.items())
    assert await anext(stream) == 0
    match way:
        case "aclose":
            await stream.aclose()
        case "dispose":
            stream.dispose()
        case "with":
            async with stream:
                pass
        case "forget":
            del stream
            gc.collect()
        case "cancel the reader":

            async def read() -> None:
                async with stream:
                    async for _ in stream:
                        await asyncio.Event().wait()

            task = asyncio.ensure_future(read())
            await settle()
            task.cancel()
    await until(lambda: source.ended in {"GeneratorExit", "CancelledError"})
    await settle()
    assert (len(pair.host.exports), len(pair.guest.exports)) == (0, 0)
    if way == "aclose":
        with pytest.raises(CapabilityError, match="disposed"):
            await anext(stream)


async def test_a_generator_that_waits_is_cancelled_when_its_reader_goes(open_pair: OpenPair, until: Until) -> None:
    """Within whatever it awaits, while the reader waits for it."""
    pair = open_pair()
    ended: list[str] = []

    async def silent() -> AsyncIterator[int]:
        try:
            await asyncio.Event().wait()
            yield 1
        finally:
            ended.append("yes")

    stream = cross(pair, silent())
    reading = asyncio.ensure_future(anext(stream))
    await settle()
    stream.dispose()
    with pytest.raises(CapabilityError):
        await reading
    await until(lambda: ended == ["yes"])


async def test_a_reader_that_gives_up_waiting_loses_nothing(open_pair: OpenPair) -> None:
    """What comes after it has given up is there when it asks again."""
    pair = open_pair()
    gate = asyncio.Event()

    async def slow() -> AsyncIterator[int]:
        for n in range(5):
            await gate.wait()
            yield n

    stream = cross(pair, slow())
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(stream), 0.001)
    gate.set()
    await settle()
    assert [item async for item in stream] == list(range(5))


@pytest.mark.parametrize("error", [ValueError("bad"), StopAsyncIteration("sly"), asyncio.CancelledError()])
async def test_an_error_of_the_generator_comes_after_what_it_yielded(open_pair: OpenPair, error: BaseException) -> None:
    """Once; then the stream is over."""
    pair = open_pair()

    async def breaks() -> AsyncIterator[int]:
        yield 1
        yield 2
        raise error

    stream = cross(pair, breaks())
    assert [await anext(stream), await anext(stream)] == [1, 2]
    with pytest.raises(RemoteError):
        await anext(stream)
    assert [item async for item in stream] == []


async def test_an_item_that_cannot_be_sent_ends_the_stream_and_says_so(open_pair: OpenPair, until: Until) -> None:
    """By type or by size, after those before it; the generator is closed."""
    pair = open_pair()
    for bad in (object(), bytes(17 << 20)):
        source = Source(item=[0, 1, 2, bad].__getitem__)
        stream = cross(pair, source.items())
        assert [await anext(stream) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(RemoteError, match=r"an item of the stream cannot be sent"):
            await anext(stream)
        await until(lambda source=source: bool(source.ended))  # type: ignore[misc]
    assert not pair.closed


async def test_capabilities_are_yielded_like_anything_else(open_pair: OpenPair, until: Until) -> None:
    """They live until they are disposed of; those that nobody has read go with the stream."""
    pair = open_pair()
    stream = cross(pair, Source(40, item=lambda n: lambda: n).items())
    first, second = await anext(stream), await anext(stream)
    assert [await first(), await second()] == [0, 1]
    stream.dispose()
    await until(lambda: len(pair.host.exports) == 2)
    assert await second() == 1
    del first, second
    await until(lambda: len(pair.host.exports) == 0)


async def test_a_stream_belongs_to_whoever_was_given_it(open_pair: OpenPair, until: Until) -> None:
    """It outlives the call that it came with, until it is let go of. A duplicate goes on where the other one was."""
    pair = open_pair()
    kept: list[Any] = []

    class Reader(RpcTarget):
        async def some(self, stream: Any) -> int:
            kept.append(stream)
            return int(await anext(stream))

        async def keep(self, stream: Any) -> int:
            kept.append(stream.dup())
            return int(await anext(stream))

    stub = cross(pair, Reader())
    first, second = Source(100), Source(100)
    assert await stub.some(first.items()) == 0
    assert await anext(kept[0]) == 1
    kept.pop().dispose()
    await until(lambda: first.ended != "")
    assert await stub.keep(second.items()) == 0
    assert [item async for item in kept[0]] == list(range(1, 100))


async def test_what_a_generator_is_given_lives_as_long_as_it(open_pair: OpenPair, until: Until) -> None:
    """A stream in, a stream out; and what is called in between."""
    pair = open_pair()

    async def each(stream: Any, function: Any) -> AsyncIterator[Any]:
        async for item in stream:
            yield await function(item)

    stub = cross(pair, each)
    stream = await stub(Source(100).items(), lambda n: n * n)
    assert [item async for item in stream] == [n * n for n in range(100)]
    source = Source()
    async with stub(source.items(), lambda n: n) as stream:
        assert await anext(stream) == 0
    await until(lambda: source.ended != "")
    await until(lambda: len(pair.guest.exports) == 0)


async def test_a_stream_that_comes_home_goes_on_there(open_pair: OpenPair) -> None:
    """Where it was; it has the same number each time it is sent."""
    pair = open_pair()
    source = Source(50).items()
    stream, again = cross(pair, [source, source])
    assert stream._target == again._target
    assert await anext(stream) == 0
    home = cross(pair, stream, to="host")
    again.dispose()
    rest = [await anext(stream) for _ in range(3)]
    stream.dispose()
    await settle()
    rest += [item async for item in home]
    assert rest[:3] == [1, 2, 3]
    assert rest[-1] == 49


async def test_a_stream_can_be_passed_on(open_pair: OpenPair, until: Until) -> None:
    """The host stands between, ahead by no more than a stream is; the end of the last reader ends it everywhere."""
    owner, user = open_pair(), open_pair()
    source = Source()
    held = cross(owner, source.items(), to="host")
    stream = cross(user, held)
    held.dispose()
    assert [await anext(stream) for _ in range(100)] == list(range(100))
    await settle()
    assert source.made < 100 + 4 * (AHEAD + BATCH_ITEMS)
    stream.dispose()
    await until(lambda: source.ended != "")
    assert len(owner.guest.exports) == 0


class Told:
    """A capability as a hostile guest makes it: it answers everything with the same bytes, and one key is many's."""

    key = "one"
    attributes: dict[str, Any] = {}

    def __init__(self, answer: bytes, *, streams: bool = False) -> None:
        self._answer, self.streams = answer, streams

    async def answer(self, method: str, payload: bytes, channel: object) -> bytes:
        return self._answer


@pytest.mark.parametrize("order", [1, -1])
async def test_what_an_object_answers_is_never_read_as_a_stream(open_pair: OpenPair, order: int) -> None:
    """Whoever says of one number that it is an object and a stream has two of it passed on: else it would choose what
    capabilities of a connection that is not its own are read of what it hands over."""
    owner, user = open_pair(), open_pair()
    user.host.exports.grant(serve(Source().items))  # number 0, which nobody over there was given
    forged = values.dumps([object()], export=lambda _: values.dumps([0, 0, {}]))
    told = values.dumps([True, forged])
    given = [Told(told), Told(told, streams=True)][::order]
    received, _ = owner.host.decode(owner.guest.encode(given))
    passed_on, _ = user.guest.decode(user.host.encode(received))
    assert len({each._target for each in passed_on}) == 2
    (stream,) = [each for each in passed_on if hasattr(type(each), "__aiter__")]
    (found,) = await anext(stream)
    assert found._target != 0  # but a number for what its own connection has as 0


async def test_the_end_of_either_side_ends_the_stream(open_pair: OpenPair, until: Until) -> None:
    """The generator is closed, and the reader told why."""
    pair = open_pair()
    source = Source()
    stream = cross(pair, source.items())
    await anext(stream)
    pair.host.close(ConnectionClosed("the machine is on fire"))
    pair.guest.close(ConnectionClosed("the machine is on fire"))
    await until(lambda: source.ended != "")
    with pytest.raises(ConnectionClosed, match="on fire"):
        [item async for item in stream]


async def test_a_generator_runs_in_the_context_it_was_sent_from(open_pair: OpenPair) -> None:
    """All of it in one task, so that time limits and groups of tasks hold across what it yields."""
    pair = open_pair()
    place: contextvars.ContextVar[str] = contextvars.ContextVar("place", default="nowhere")
    place.set("home")

    async def told() -> AsyncIterator[Any]:
        async with asyncio.timeout(100), asyncio.TaskGroup():
            for _ in range(30):
                yield [place.get(), id(asyncio.current_task())]

    stream = cross(pair, told())
    place.set("elsewhere")
    items = [item async for item in stream]
    assert {item[0] for item in items} == {"home"}
    assert len({item[1] for item in items}) == 1


async def test_a_stream_has_no_methods_and_is_not_called(open_pair: OpenPair) -> None:
    """Whoever takes it for something else is told what it is, also on the wire."""
    pair = open_pair()
    stream = cross(pair, Source(3).items())
    with pytest.raises(AttributeError, match="async for"):
        stream.read()
    with pytest.raises(TypeError, match="async for"):
        stream()
    for method in ("aclose", "asend", "", "answer", "pull.pull"):
        with pytest.raises(CapabilityError, match="async for"):
            await pair.guest.call(stream._target, method, values.dumps([[], {}]))
    assert await stream.next() == {"done": False, "value": 0}


async def test_several_readers_of_one_stream_share_it(open_pair: OpenPair) -> None:
    """Each item goes to one of them."""
    pair = open_pair()
    stream = cross(pair, Source(200).items())

    async def read(stream: Any) -> list[int]:
        found = []
        async for item in stream:
            found.append(item)
            await asyncio.sleep(0)
        return found

    found = await asyncio.gather(read(stream), read(stream))
    assert sorted(found[0] + found[1]) == list(range(200))


# What a hostile side may hand over


HOSTILE = [
    None, 1, [], [1], ["yes"], [True], [True, 1], [True, "x"], [True, [b""]], {"a": 1}, [True, *[b"\xc0"] * 65],
    [[[[True]]]], [True, *[[]] * 60_000],
]  # fmt: skip


@pytest.mark.parametrize("answer", HOSTILE, ids=lambda answer: repr(answer)[:40])
async def test_an_answer_that_is_no_batch_ends_the_stream(open_pair: OpenPair, answer: object) -> None:
    """Before anything is built of it; no answer makes a reader ask again and again without an item."""
    pair = open_pair()
    stream = cross(pair, Source(3).items(), to="host")
    reading = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    pair.host.deliver(codec.encode(Result(1, values.dumps(answer))))
    with pytest.raises(PayloadError):
        await reading
    assert [item async for item in stream] == []
    pair.guest.close(ConnectionClosed("over"))


async def test_a_stream_that_was_never_granted_yields_nothing(open_pair: OpenPair) -> None:
    """A reference to a number of another connection's, or of none, is a stream of errors."""
    pair, other = open_pair(), open_pair()
    kept = [cross(other, Source(3).items(), to="host") for _ in range(3)]
    forged = values.dumps([object()], export=lambda _: values.dumps([2, 2]))
    (stream,), _ = pair.host.decode(forged)
    with pytest.raises(CapabilityError, match="capability 2 is not granted"):
        await anext(stream)
    assert len(kept) == 3


async def test_a_stream_that_is_let_go_of_twice_is_a_violation(open_pair: OpenPair, until: Until) -> None:
    """As for everything that is granted."""
    pair = open_pair()
    stream = cross(pair, Source(3).items())
    for _ in range(2):
        pair.host.deliver(codec.encode(Release(stream._target, 1)))
    await until(lambda: pair.closed)
    assert isinstance(pair.closed[0], RemoteProtocolError)


async def test_an_item_is_checked_like_any_value(open_pair: OpenPair) -> None:
    """When it is read, and it alone: a batch of bombs is bytes until then."""
    pair = open_pair()
    stream = cross(pair, Source(3).items(), to="host")
    reading = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    bomb = values.dumps([[]] * 70_000)
    forged = values.dumps([object()], export=lambda _: values.dumps([1, 77]))
    pair.host.deliver(codec.encode(Result(1, values.dumps([False, bomb, b"\xc1", forged, values.dumps("fine")]))))
    with pytest.raises(PayloadError, match="elements"):
        await reading
    with pytest.raises(PayloadError, match="begins no value"):
        await anext(stream)
    with pytest.raises(CapabilityError, match="77"):
        await anext(stream)
    assert await anext(stream) == "fine"
    pair.guest.close(ConnectionClosed("over"))


async def test_streams_that_are_never_read_are_bounded_like_everything_that_is_granted(
    open_pair: OpenPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A guest that opens one after the other is told to let some go, and nothing was made for it."""
    monkeypatch.setattr("cloister.ipc.exports.MAX_GRANTS", 10)
    pair = open_pair()
    source = Source()
    stub = cross(pair, source.items)
    kept = [await stub() for _ in range(9)]
    with pytest.raises(RemoteError, match="dispose of some"):
        await stub()
    assert (len(kept), source.made) == (9, 0)


async def test_pulls_beside_each_other_are_answered_one_after_the_other(open_pair: OpenPair) -> None:
    """A hostile reader that asks a hundred times at once gets each item once, and makes nobody run ahead."""
    pair = open_pair()
    source = Source()
    stream = cross(pair, source.items())
    nothing = values.dumps([[], {}])
    answers = await asyncio.gather(*(pair.guest.call(stream._target, "pull", nothing) for _ in range(100)))
    pieces = [values.loads(piece) for answer in answers for piece in values.loads(answer)[1:]]
    assert pieces == list(range(len(pieces)))
    await settle()
    assert source.made <= len(pieces) + AHEAD + 1


@given(st.lists(st.integers(0, 3), max_size=60), st.lists(st.integers(0, 4), max_size=60))
def test_whatever_the_pace_nothing_is_lost_and_little_is_ahead(makes: list[int], reads: list[int]) -> None:
    """The maker and the reader each rest for any number of turns at any item."""

    async def run() -> None:
        from .conftest import Pair

        made = 0

        async def source() -> AsyncIterator[int]:
            nonlocal made
            for n, turns in enumerate(makes):
                await settle(turns)
                made += 1
                yield n

        found: list[int] = []
        pauses = iter(reads)
        async for item in cross(Pair(), source()):
            found.append(item)
            assert made <= len(found) + 2 * AHEAD + BATCH_ITEMS
            await settle(next(pauses, 0))
        assert found == list(range(len(makes)))

    asyncio.run(run())


async def test_an_error_that_ended_a_stream_is_told_any_number_of_times(open_pair: OpenPair) -> None:
    """It holds no more for that: neither frames nor what those who asked had sent."""
    pair = open_pair(trace=lambda error: str(len(list(traceback.walk_tb(error.__traceback__)))))

    async def broken() -> AsyncIterator[int]:
        yield int("no more")

    stream = cross(pair, broken())
    depths = []
    for _ in range(10):
        with pytest.raises(RemoteError) as told:
            await pair.guest.call(stream._target, "pull", b"")
        depths.append(told.value.trace)
    assert set(depths) == {depths[0]}


async def test_a_stream_that_came_home_to_nobody_ends(open_pair: OpenPair, until: Until) -> None:
    """Who was given it and does not want it is no reason to keep it going."""
    pair = open_pair()
    source = Source()
    stream, ignore = cross(pair, [source.items(), lambda stream: None])
    assert await anext(stream) == 0
    await ignore(stream)
    await settle()
    assert await anext(stream) == 1
    assert source.ended == ""
    stream.dispose()
    await until(lambda: source.ended != "")


async def test_a_stream_that_came_home_goes_out_again_as_itself(open_pair: OpenPair) -> None:
    """There and back a hundred times, it is not one behind a hundred others."""
    pair = open_pair()
    stream, echo = cross(pair, [Source(50).items(), lambda stream: stream])
    first = stream._target
    for _ in range(100):
        stream = await echo(stream)
    assert stream._target == first
    assert [item async for item in stream] == list(range(50))
