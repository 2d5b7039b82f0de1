"""What a service holds of its shards: the names of a `Host`, each call on its way to the shard where the tenant lives.

Nothing is kept here of any tenant. What is raised is what the host raises; beyond that `ShardLost` and `ShardFailed`.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from ..code import WorkerCode
from ..errors import LoaderClosed, ShardLost
from ..http.asgi import Application, asgi
from ..http.asked import HttpLimits
from ..stop import served
from .entrypoint import ShardEntrypoint, ShardWorker
from .factory import Factory, named
from .keeper import Keeper
from .pieces import divided
from .place import Shard, claim, note_all_there, number_of, shards_in
from .workflows import ShardWorkflows

PATIENCE: Final = 30.0


class Shards:
    """`async with Shards("data", make_host) as host: await host.tenant("t-42").greet("Alice")`.

    `make_host(shard)`, a function at the top of a module or its name as "module:function", is called in each shard's
    process and gives a `Host` on `shard.path`, not yet opened. There it makes what its tenants are granted; the front
    has none of it. `count` is how many there are, without it one for each core; a folder keeps the number that it was
    begun with, and is refused with another, or when one of its databases is gone. `patience` is for how many seconds a
    call waits for a shard that is being started again.

    A shard whose process ends is started again at once, and goes on with its instances. Whoever waits for a result or
    reads goes on waiting; what may have been done or not raises `ShardLost`.
    """

    def __init__(
        self, folder: str | os.PathLike[str], make_host: Factory | str, *, count: int | None = None,
        patience: float = PATIENCE,
    ) -> None:  # fmt: skip
        self._folder, self._count = Path(folder).absolute(), count
        self._named, self._patience = named(make_host), patience
        self._keepers: list[Keeper] = []
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        async with AsyncExitStack() as stack:
            stack.callback(os.close, claim(self._folder))
            self._keepers = [
                Keeper(shard, self._named, self._patience) for shard in shards_in(self._folder, self._count)
            ]
            stack.push_async_callback(self._close)
            opened = await asyncio.gather(*(each.open() for each in self._keepers), return_exceptions=True)
            for each in opened:
                if each is not None:
                    raise each
            note_all_there(self._folder)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _close(self) -> None:
        await asyncio.gather(*(each.close() for each in self._keepers))

    def __len__(self) -> int:
        return len(self._keepers)

    def shard(self, tenant_id: str) -> Shard:
        """Where a tenant lives."""
        return self._of(tenant_id).shard

    def worker(self, tenant_id: str) -> ShardWorker:
        """The tenant's worker: `get_entrypoint` as of a `WorkerStub`."""
        return ShardWorker(self._of(tenant_id), tenant_id)

    def tenant(self, tenant_id: str) -> ShardEntrypoint:
        """The tenant's default entrypoint."""
        return self.worker(tenant_id).get_entrypoint()

    def workflows(self, tenant_id: str) -> ShardWorkflows:
        """The tenant's workflow binding."""
        return ShardWorkflows(self._of(tenant_id), tenant_id)

    def asgi(self, tenant_id: str, *, limits: HttpLimits | None = None, strip_root_path: bool = False) -> Application:
        """See `Host.asgi`."""
        return asgi(self.tenant(tenant_id), limits=limits, strip_root_path=strip_root_path)

    async def begin_each(self, entries: Sequence[tuple[str, WorkerCode, Mapping[str, Any]]], /) -> list[bool]:
        """See `Host.begin_each`. Those of each shard are one transaction, or several if their code is large."""
        pieces = divided([(tenant_id, code.pinned(), options) for tenant_id, code, options in entries], len(self))
        answers = await asyncio.gather(
            *(self._keepers[piece.shard].ask("begin_each", piece.entries) for piece in pieces)
        )
        created: dict[int, bool] = {}
        for piece, answer in zip(pieces, answers, strict=True):
            created.update(zip(piece.places, answer, strict=True))
        return [created[place] for place in range(len(entries))]

    async def evict(self, tenant_id: str) -> bool:
        """See `Host.evict`."""
        return bool(await self._of(tenant_id).ask("evict", tenant_id))

    async def redeploy(self, tenant_id: str) -> bool:
        """See `Host.redeploy`."""
        return bool(await self._of(tenant_id).ask("redeploy", tenant_id))

    async def drain(self, tenant_id: str | None = None, *, timeout: float | None = None) -> bool:
        """See `Host.drain`; of all shards, or of the tenant's. One that ends meanwhile has not come to its end."""
        those = self._keepers if tenant_id is None else [self._of(tenant_id)]
        ended = await asyncio.gather(*(each.ask("drain", tenant_id, timeout) for each in those), return_exceptions=True)
        for each in ended:
            if isinstance(each, BaseException) and not isinstance(each, ShardLost):
                raise each
        return all(each is True for each in ended)

    async def serve(self, *signals: signal.Signals) -> bool:
        """See `Host.serve`."""
        return await served(lambda timeout: self.drain(timeout=timeout), signals)

    async def statistics(self) -> list[dict[str, Any]]:
        """For each shard a dict of `pid`, and of what `Loader.statistics` (`loader`) and `Engine.statistics` (`engine`)
        have."""
        return list(await asyncio.gather(*(each.ask("statistics", again=True) for each in self._keepers)))

    def _of(self, tenant_id: str) -> Keeper:
        if not self._keepers:
            raise LoaderClosed("use the shards inside `async with Shards(...) as host`")
        return self._keepers[number_of(tenant_id, len(self._keepers))]
