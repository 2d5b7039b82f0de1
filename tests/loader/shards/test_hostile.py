"""A hostile tenant: what it says goes through a process of ours to the front, and does no more there than in a host."""

from __future__ import annotations

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
