"""HTTP at the host's end: requests and responses that cross into a sandbox and out of it, and the door to the world."""

from .asgi import asgi
from .asked import HttpLimits
from .messages import Request, Response
from .sockets import WebSocket

__all__ = ["HttpLimits", "Request", "Response", "WebSocket", "asgi"]
