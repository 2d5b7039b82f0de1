"""As much of JavaScript's global names as there is. See `cloister check` for which."""

from typing import Any

from workers import Request, Response
from workers import WebSocket as WebSocket

class WebSocketPair(dict[str, WebSocket]):
    @classmethod
    def new(cls) -> tuple[WebSocket, WebSocket]: ...

class Cache:
    async def match(self, request: Request | str, options: Any = None, **more: Any) -> Response | None: ...
    async def put(self, request: Request | str, response: Response) -> None: ...
    async def delete(self, request: Request | str, options: Any = None, **more: Any) -> bool: ...

class CacheStorage:
    default: Cache
    async def open(self, name: str) -> Cache: ...

caches: CacheStorage

def __getattr__(name: str) -> Any: ...
