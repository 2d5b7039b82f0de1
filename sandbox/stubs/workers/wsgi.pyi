from collections.abc import Callable
from typing import Any, TypeAlias

from workers import Context, Request, Response, WorkerEntrypoint
from workers.gateway import BaseOptions

Application: TypeAlias = Callable[..., Any]

class Options(BaseOptions): ...

async def fetch(
    app: Application, req: Request, env: Any, ctx: Context | None = None, *, options: Options | None = None
) -> Response: ...
def build_environ(req: Request, env: Any, body: Any) -> dict[str, Any]: ...
def entrypoint(app: Application, *, options: Options | None = None) -> type[WorkerEntrypoint]: ...
