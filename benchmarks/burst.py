"""What spares that follow the demand are worth: to fifty cold boots at once, to as many soon after, and to fifty a
second for a while; each beside a number of spares that stays what it is.

The limit is a warm call, which is what a cold boot from a spare comes nearest to.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time

from harness import Row, main, options, report, say, tenant

from cloister.loader import Loader, Policy

SPARES, AT_ONCE, A_SECOND = 4, 50, 50
QUIET = 60.0  # seconds, by the clock of the spares alone: nobody has to wait for them
LIMIT = "limit: a warm call"
_numbers = itertools.count()


async def boot(loader: Loader) -> float:
    """A tenant that was never seen: seconds to its first answer. It is gone after that."""
    number = next(_numbers)
    began = time.perf_counter()
    await loader.get(f"t{number}", lambda: tenant(number)).get_entrypoint().greet("Alice")
    took = time.perf_counter() - began
    loader.evict(f"t{number}")
    return took


async def settled(loader: Loader) -> int:
    """How many spares there are when no more are being made."""
    seen = -1
    while seen != (seen := loader.statistics().spares) or seen < SPARES:
        await asyncio.sleep(0.25)
    return seen


async def quiet(loader: Loader) -> None:
    """As it is after a minute in which nothing happened."""
    spares = loader._profiles.plain._spares
    spares._demand.wanted(spares._now() + QUIET)
    spares._demand._seen = spares._now()
    spares.trim()
    await settled(loader)


async def steady(loader: Loader, seconds: int) -> list[float]:
    """So many a second, at times that chance has it."""
    chance, booting = random.Random(1), []
    for _ in range(seconds * A_SECOND):
        booting.append(asyncio.ensure_future(boot(loader)))
        await asyncio.sleep(chance.expovariate(A_SECOND))
    return list(await asyncio.gather(*booting))


async def measure(name: str, policy: Policy, *, bursts: int, seconds: int) -> list[Row]:
    """All three with one way to keep spares."""
    first: list[list[float]] = []
    again: list[list[float]] = []
    async with Loader(max_sandboxes=256, spares=SPARES, policy=policy) as loader:
        for _ in range(bursts):
            await quiet(loader)
            first.append(list(await asyncio.gather(*(boot(loader) for _ in range(AT_ONCE)))))
            kept = await settled(loader)
            again.append(list(await asyncio.gather(*(boot(loader) for _ in range(AT_ONCE)))))
        await quiet(loader)
        steadily = [await steady(loader, seconds) for _ in range(3)]
        say(f"{name}: {kept} spares after a burst, {await settled(loader)} after {A_SECOND} a second")
        await loader.get("warm", lambda: tenant(0)).get_entrypoint().greet("Alice")
        warm = []
        for _ in range(500):
            began = time.perf_counter()
            await loader.get("warm", lambda: tenant(0)).get_entrypoint().greet("Alice")
            warm.append(time.perf_counter() - began)
    return [
        Row(f"{AT_ONCE} at once after quiet, {name}", first),
        Row(f"{AT_ONCE} at once soon after, {name}", again),
        Row(f"{A_SECOND} a second, {name}", steadily),
        Row(LIMIT, [warm]),
    ]


async def benchmark(*, bursts: int, seconds: int) -> None:
    """First as many spares as ever, then as many as are asked for."""
    fixed = await measure(f"always {SPARES} spares", Policy(most_spares=SPARES), bursts=bursts, seconds=seconds)
    following = await measure("following", Policy(), bursts=bursts, seconds=seconds)
    rows = [row for pair in zip(fixed[:-1], following[:-1], strict=True) for row in pair]
    report("burst: from a tenant's id to its first answer", [*rows, following[-1]], limit=LIMIT)


if __name__ == "__main__":
    asked = options(__doc__, bursts=5, seconds=5)
    main(lambda: benchmark(bursts=asked.bursts, seconds=asked.seconds))
