import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from workers import Context, Request, Response, WorkerEntrypoint
from workers.gateway import BaseOptions

Application: TypeAlias = Callable[..., Awaitable[Any]]

env: Any

class Options(BaseOptions): ...

async def fetch(
    app: Application, req: Request, env: Any, ctx: Context | None = None, *, options: Options | None = None
) -> Response: ...
async def websocket(app: Application, req: Request, env: Any = None) -> Response: ...
def entrypoint(app: Application, *, options: Options | None = None) -> type[WorkerEntrypoint]: ...
def run_in_background(coro: Awaitable[Any]) -> asyncio.Future[Any]: ...
def request_to_scope(
    req: Request, env: Any, ws: bool = False, state: dict[str, Any] | None = None
) -> dict[str, Any]: ...
