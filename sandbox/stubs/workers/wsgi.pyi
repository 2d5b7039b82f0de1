from collections.abc import Callable
from typing import Any, TypeAlias

from workers import Context, Request, Response, WorkerEntrypoint

Application: TypeAlias = Callable[..., Any]

async def fetch(app: Application, req: Request, env: Any, ctx: Context | None = None) -> Response: ...
def build_environ(req: Request, env: Any, body: Any) -> dict[str, Any]: ...
def entrypoint(app: Application) -> type[WorkerEntrypoint]: ...
