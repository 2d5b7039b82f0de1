"""A hostile tenant: what it says goes through a process of ours to the front, and does no more there than in a host."""

from __future__ import annotations

from pathlib import Path

from cloister.ipc import Stub
from cloister.loader import Shards


async def test_no_tenant_makes_the_front_hold_what_was_not_granted(
    host: Shards, tenants: list[str], hostile: str
) -> None:
    """Such as the way to the whole host: whoever holds that by a number may let go of it, and then nobody has it."""
    _, stream = await host.tenant(hostile).forged(0)
    found = await anext(stream)
    assert isinstance(found, Stub)
    assert found._target != 0
    found.dispose()
    stream.dispose()
    assert await host.tenant(hostile).greet("Eve") == "Hello Eve"
    assert await host.tenant(tenants[0]).greet("Alice") == "Hello Alice"


async def test_what_a_web_socket_says_by_itself_is_no_subrequest(host: Shards, hostile: str) -> None:
    """As in a host: else one would fall silent after so many messages, and nobody be told."""
    async with await host.tenant(hostile).fetch("https://shop.example/") as response:
        assert response.web_socket is not None
        for number in range(20):
            assert await anext(response.web_socket) == str(number)


async def test_a_web_socket_that_one_tenant_has_of_another_is_passed_on(host: Shards, hostile: str) -> None:
    """Whoever passes it on connects the other one to the front."""
    async with await host.tenant(hostile).fetch("https://shop.example/on") as response:
        assert response.web_socket is not None
        assert [await anext(response.web_socket) for _ in range(20)] == [*map(str, range(20))]


async def test_an_idle_web_socket_of_an_object_takes_no_sandbox_from_others(tmp_path: Path, service: str) -> None:
    """Whoever opens one and leaves it there holds nobody up: its sandbox leaves, and is back for the next message."""
    (tmp_path / "places").write_text("1")
    async with (
        Shards(tmp_path, f"{service}:make_host", count=1) as host,
        await host.tenant("hostile").fetch("https://shop.example/room") as response,
    ):
        assert response.web_socket is not None
        for said in ("one", "two"):
            await response.web_socket.send(said)
            assert await anext(response.web_socket) == f"heard {said}"
            assert await host.tenant("neighbour").greet("Alice") == "Hello Alice"
