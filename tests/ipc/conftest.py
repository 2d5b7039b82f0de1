"""What the tests of the wire share: async tests, and two peers that are joined by memory."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings

from cloister.ipc import Connection, Peer, codec
from cloister.ipc.messages import Message

settings.register_profile("wire", max_examples=150, deadline=None, print_blob=True, database=None)
settings.load_profile("wire")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """An async test runs on an event loop of its own, and fails if something raises where nobody listens."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    wanted = pyfuncitem._fixtureinfo.argnames
    unheard: list[dict[str, Any]] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context))
        await pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in wanted})

    asyncio.run(main())
    assert not unheard
    return True


class Pair:
    """The host's and the guest's peer of one connection. `said` has every message that passed, with who said it."""

    def __init__(self, *, max_calls: int = 1024, guest: dict[str, Any] | None = None, **host: Any) -> None:
        self.said: list[tuple[str, Message]] = []
        self.closed: list[Exception] = []
        self.notes: list[tuple[str, bytes]] = []
        self.host = Peer(
            Connection(max_calls=max_calls),
            lambda frame: self._carry("host", frame),
            on_note=lambda topic, payload: self.notes.append((topic, payload)),
            on_closed=self.closed.append,
            **host,
        )
        self.guest = Peer(
            Connection(greeted=True, max_calls=max_calls), lambda frame: self._carry("guest", frame), **(guest or {})
        )
        self.host.deliver(self.guest.connection.hello(b""))

    def _carry(self, sender: str, frame: bytes) -> None:
        self.said.append((sender, codec.decode(frame)))
        receiver = self.guest if sender == "host" else self.host
        asyncio.get_running_loop().call_soon(receiver.deliver, frame)

    def count(self, kind: type[Message]) -> int:
        """How many messages of a kind have passed."""
        return sum(isinstance(message, kind) for _, message in self.said)


@pytest.fixture
def open_pair() -> Callable[..., Pair]:
    """Two joined peers, made inside the test's loop."""
    return Pair


@pytest.fixture
def until() -> Callable[[Callable[[], object]], Any]:
    """Wait for a condition, turn by turn of the loop."""

    async def wait(condition: Callable[[], object]) -> None:
        async with asyncio.timeout(250):
            while not condition():  # noqa: ASYNC110 - nobody could set an event for any condition
                await asyncio.sleep(0.001)

    return wait
